"""The bed on a real cluster: a namespace, and the chart's own service account as the operator's login."""

import asyncio
import contextlib
import functools
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import yaml

from conformance.bed import eventually
from godwit.api.kinds import KINDS
from godwit.cluster.kubernetes import KubernetesCluster
from godwit.cluster.port import Manifest, RefusedError, UnavailableError
from godwit.cluster.rest import AnswerError, Rest, path_of

CHART = Path(__file__).parents[3] / "helm" / "godwit"
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}
PEOPLE = [
    {
        "apiGroups": ["godwit.dev"],
        "resources": ["databasemigrations", "postgresdatabases"],
        "verbs": ["create", "delete"],
    }
]
"""What the chart leaves to people, and the suite does through the port to try it."""
_numbers = count(1)


class CommandError(Exception):
    """kubectl or helm failed; the text is the command and what it said."""


@dataclass(frozen=True)
class Node:
    """A real cluster: an administrator's kubeconfig, the programs that go with it, and our image on it."""

    kubeconfig: Path
    kubectl_program: str
    helm_program: str
    image: str
    work: Path
    """Scratch folder of this test session."""

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl says. Raises CommandError."""
        return _run([self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *words], stdin)

    def helm(self, *words: str) -> str:
        """What helm says. Raises CommandError."""
        return _run([self.helm_program, f"--kubeconfig={self.kubeconfig}", *words])

    @property
    def image_values(self) -> str:
        """The chart's values for our image, as an argument of helm."""
        repository, _, tag = self.image.rpartition(":")
        return f"--set=image.repository={repository},image.tag={tag}"

    def apply(self, *manifests: Manifest) -> None:
        """Create or change these objects."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(listed))

    def read(self, *words: str) -> Manifest:
        """`kubectl get ... -o json`."""
        found: Manifest = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found

    def namespace(self, stem: str) -> str:
        """A fresh namespace under the restricted Pod Security Standard, fit for pods."""
        name = fresh_name(stem)
        self.apply(namespace_manifest(name))
        self.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
        return name

    def remove_namespace(self, name: str) -> None:
        """Begin to delete a namespace, with whatever finalizers a failed test left in it."""
        asyncio.run(self._remove_namespace(name))

    async def _remove_namespace(self, name: str) -> None:
        rest = await Rest.connect(str(self.kubeconfig))
        try:
            await remove_namespace(rest, name)
        finally:
            await rest.close()


def fresh_name(stem: str) -> str:
    """A name that no other test of this session has; namespaces of an earlier one may still be going."""
    return f"{stem}-{_session()}-{next(_numbers)}"


@functools.cache
def _session() -> str:
    return secrets.token_hex(2)


def namespace_manifest(name: str) -> Manifest:
    """A namespace that takes only restricted pods."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}


def _run(command: list[str], stdin: str | None = None) -> str:
    done = subprocess.run(
        command, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise CommandError(f"{' '.join(command)}\n{done.stderr}{done.stdout}".strip())
    return done.stdout


async def create(rest: Rest, manifest: Manifest) -> Manifest:
    """Create an object of any kind whose plural is regular."""
    version, namespace = manifest["apiVersion"], manifest["metadata"].get("namespace")
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return await rest.call("POST", f"{root}{scope}/{manifest['kind'].lower()}s", manifest)


async def remove_namespace(rest: Rest, name: str) -> None:
    """Begin to delete a namespace, with whatever finalizers a failed test left in it."""
    with contextlib.suppress(AnswerError):  # gone already
        await rest.call("DELETE", path_of("Namespace", "", name))
    await _let_go(rest, name)


async def empty_namespace(rest: Rest, name: str) -> None:
    """Delete every object of ours in a namespace; what they own goes with them."""
    for kind in KINDS:
        with contextlib.suppress(AnswerError):  # the kind itself is gone
            await _delete_all(rest, path_of(kind, name))
    await _let_go(rest, name)


async def _delete_all(rest: Rest, path: str) -> None:
    """Many may take longer than one answer is waited for: the request is sent again, for what is left."""
    for _ in range(5):
        with contextlib.suppress(UnavailableError):
            await rest.call("DELETE", path)
            return
    await rest.call("DELETE", path)


async def _let_go(rest: Rest, namespace: str) -> None:
    for kind in KINDS:
        for item in (await rest.call("GET", path_of(kind, namespace)))["items"]:
            if item["metadata"].get("finalizers"):
                with contextlib.suppress(AnswerError):  # gone by now
                    await rest.call(
                        "PATCH",
                        path_of(kind, namespace, item["metadata"]["name"]),
                        {"metadata": {"finalizers": None}},
                        content_type="application/merge-patch+json",
                    )


@functools.cache
def _rights(node: Node) -> str:
    values = ["--show-only=templates/rbac.yaml", "--set=crds.install=false"]
    return node.helm("template", "godwit", str(CHART), "--namespace=namespace-of-the-test", *values)


def rights(node: Node, namespace: str) -> list[Manifest]:
    """The chart's service account in *namespace*, with its Roles and their bindings."""
    text = _rights(node).replace("namespace-of-the-test", namespace)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


async def operator_login(node: Node, admin: Rest, namespace: str) -> Path:
    """A kubeconfig for the service account that the chart makes, with the chart's own rights there."""
    for manifest in rights(node, namespace):
        await create(admin, manifest)
    metadata = {"name": "people", "namespace": namespace}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata}
    await create(admin, {**role, "rules": PEOPLE})
    await create(
        admin,
        {
            **role,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "people"},
            "subjects": [{"kind": "ServiceAccount", "name": "godwit", "namespace": namespace}],
        },
    )
    await _in_force(admin, namespace)
    ask = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/godwit"
    token = (await admin.call("POST", f"{account}/token", ask))["status"]["token"]
    config = yaml.safe_load(node.kubeconfig.read_text())
    current = next(c for c in config["contexts"] if c["name"] == config["current-context"])
    context = {"cluster": current["context"]["cluster"], "user": "operator"}
    config |= {
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "operator", "context": context}],
        "current-context": "operator",
    }
    made = node.work / f"{namespace}.kubeconfig"
    made.write_text(yaml.safe_dump(config))
    return made


async def _in_force(admin: Rest, namespace: str) -> None:
    """Wait until the API server goes by the binding that was made last: it learns of them by watches."""
    right = {"group": "godwit.dev", "resource": "postgresdatabases", "verb": "create", "namespace": namespace}
    user = f"system:serviceaccount:{namespace}:godwit"
    ask = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": right},
    }

    async def asked() -> Manifest:
        return await admin.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", ask)

    await eventually(asked, lambda review: review["status"]["allowed"])


@asynccontextmanager
async def kubernetes_bed(node: Node) -> AsyncIterator["KubernetesBed"]:
    """A bed in a namespace of its own."""
    namespace = fresh_name("conformance")
    admin = await Rest.connect(str(node.kubeconfig))
    try:
        await create(admin, namespace_manifest(namespace))
        cluster = await KubernetesCluster.connect(str(await operator_login(node, admin, namespace)))
        bed = KubernetesBed(node, namespace, cluster, admin)
        try:
            # Pods are refused until the namespace has its default service account.
            await eventually(lambda: bed.missing("serviceaccounts", "default"), lambda gone: not gone)
            yield bed
        finally:
            await bed.close()
            await remove_namespace(admin, namespace)
    finally:
        await admin.close()


class KubernetesBed:
    """See conformance.bed.Bed."""

    def __init__(self, node: Node, namespace: str, cluster: KubernetesCluster, admin: Rest) -> None:
        self.node = node
        self.namespace = namespace
        self.cluster = cluster
        self.image = node.image
        self.admin = admin
        self._inside: list[KubernetesCluster] = []

    async def missing(self, plural: str, name: str) -> bool:
        """Whether the namespace has no such core object."""
        try:
            await self.admin.call("GET", f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")
        except AnswerError:
            return True
        return False

    async def from_outside(self) -> None:
        self._inside.append(self.cluster)
        self.cluster = await KubernetesCluster.connect(str(self.node.kubeconfig))

    async def close(self) -> None:
        """Close every login of the port."""
        for cluster in (*self._inside, self.cluster):
            await cluster.close()

    async def edit(self, kind: str, name: str, change: Callable[[Manifest], None]) -> Manifest:
        path = path_of(kind, self.namespace, name)
        while True:
            found = await self.admin.call("GET", path)
            change(found)
            try:
                return await self.admin.call("PUT", path, found)
            except AnswerError as error:
                if error.status != 409:
                    raise RefusedError(str(error)) from error

    async def remove(self, kind: str, name: str) -> None:
        await self.admin.call("DELETE", path_of(kind, self.namespace, name))

    async def secret(self, name: str, **values: str) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
        if await self.missing("secrets", name):
            await create(self.admin, manifest)
        else:
            await self.admin.call("PUT", f"/api/v1/namespaces/{self.namespace}/secrets/{name}", manifest)

    async def refuse_pods(self) -> None:
        metadata = {"name": "none", "namespace": self.namespace}
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": metadata,
            "spec": {"hard": {"pods": "0"}},
        }
        made = await create(self.admin, quota)
        path = f"/api/v1/namespaces/{self.namespace}/resourcequotas/{made['metadata']['name']}"
        # The quota counts from when its controller has seen it.
        await eventually(lambda: self.admin.call("GET", path), lambda q: q.get("status", {}).get("hard"))

    async def silent_server(self) -> tuple[str, int]:
        await create(self.admin, silent_server_pod(self.namespace, self.image))
        pod = path_of("Pod", self.namespace, "silent")
        running = await eventually(
            lambda: self.admin.call("GET", pod),
            lambda p: (
                p["status"].get("podIP") and all(c["ready"] for c in p["status"].get("containerStatuses", []))
            ),
        )
        return running["status"]["podIP"], 5432

    async def kill(self, job: str) -> None:
        options = {"gracePeriodSeconds": 0}
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job}"}
        found = await self.admin.call("GET", path_of("Pod", self.namespace), query=query)
        for pod in found["items"]:
            await self.admin.call("DELETE", path_of("Pod", self.namespace, pod["metadata"]["name"]), options)

    async def end_namespace(self) -> None:
        await self.admin.call("DELETE", path_of("Namespace", "", self.namespace))

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        query = {"fieldSelector": f"regarding.name={name}"}
        found = await self.admin.call("GET", path_of("Event", self.namespace), query=query)
        return [(e["type"], e["reason"], e["note"]) for e in found["items"]]


def silent_server_pod(namespace: str, image: str) -> Manifest:
    """A pod that accepts connections on 5432, ready once it does, and never answers."""
    program = (
        "import socket\n"
        "server = socket.create_server(('', 5432))\n"
        "open('/tmp/ready', 'w').close()\n"
        "kept = []\n"
        "while True: kept.append(server.accept())\n"
    )
    probe = ["python3", "-c", "import os, sys; sys.exit(not os.path.exists('/tmp/ready'))"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "silent", "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "silent",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", program],
                    "readinessProbe": {"exec": {"command": probe}, "periodSeconds": 1},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
