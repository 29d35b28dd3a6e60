"""The bed on a real cluster: a namespace, and the chart's own service account as the operator's login."""

import asyncio
import contextlib
import json
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
from godwit.cluster.port import Cluster, Manifest, RefusedError
from godwit.cluster.rest import AnswerError, Rest, path_of

CHART = Path(__file__).parents[3] / "helm" / "godwit"
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}
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
        """What kubectl says; fails with its complaint."""
        return _run([self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *words], stdin)

    def helm(self, *words: str) -> str:
        """What helm says; fails with its complaint."""
        return _run([self.helm_program, f"--kubeconfig={self.kubeconfig}", *words])

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
        name = f"{stem}-{next(_numbers)}"
        self.apply(namespace_manifest(name))
        self.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
        return name

    def remove_namespace(self, name: str) -> None:
        """Begin to delete a namespace, with whatever finalizers a failed test left in it."""
        self.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
        for plural in (kind.PLURAL for kind in KINDS.values()):
            for path in self.kubectl("get", plural, "-n", name, "-o", "name", "--ignore-not-found").split():
                patch = json.dumps({"metadata": {"finalizers": None}})
                with contextlib.suppress(CommandError):  # gone by now
                    self.kubectl("patch", path, "-n", name, "--type=merge", "-p", patch)

    def operator_login(self, namespace: str) -> Path:
        """A kubeconfig for the service account that the chart makes, with the chart's own rights there."""
        values = ["--set", "crds.install=false", "--show-only", "templates/rbac.yaml"]
        manifests = self.helm("template", "godwit", str(CHART), "-n", namespace, *values)
        self.kubectl("apply", "--server-side", "-f", "-", stdin=manifests)
        token = self.kubectl("create", "token", "godwit", "-n", namespace).strip()
        config = yaml.safe_load(self.kubeconfig.read_text())
        current = next(c for c in config["contexts"] if c["name"] == config["current-context"])
        login = {"name": "operator", "user": {"token": token}}
        context = {"cluster": current["context"]["cluster"], "user": "operator"}
        config |= {"users": [login], "contexts": [{"name": "operator", "context": context}]}
        made = self.work / f"{namespace}.kubeconfig"
        made.write_text(yaml.safe_dump({**config, "current-context": "operator"}))
        return made


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


@asynccontextmanager
async def kubernetes_bed(node: Node) -> AsyncIterator["KubernetesBed"]:
    """A bed in a namespace of its own."""
    namespace = node.namespace("conformance")
    admin = await Rest.connect(str(node.kubeconfig))
    cluster = await KubernetesCluster.connect(str(node.operator_login(namespace)))
    try:
        yield KubernetesBed(node, namespace, cluster, admin)
    finally:
        await cluster.close()
        await admin.close()
        node.remove_namespace(namespace)


class KubernetesBed:
    """See conformance.bed.Bed."""

    def __init__(self, node: Node, namespace: str, cluster: Cluster, admin: Rest) -> None:
        self.node = node
        self.namespace = namespace
        self.cluster = cluster
        self.image = node.image
        self._admin = admin

    async def edit(self, kind: str, name: str, change: Callable[[Manifest], None]) -> Manifest:
        path = path_of(kind, self.namespace, name)
        while True:
            found = await self._admin.call("GET", path)
            change(found)
            try:
                return await self._admin.call("PUT", path, found)
            except AnswerError as error:
                if error.status != 409:
                    raise RefusedError(str(error)) from error

    async def remove(self, kind: str, name: str) -> None:
        await self._admin.call("DELETE", path_of(kind, self.namespace, name))

    async def secret(self, name: str, **values: str) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
        await asyncio.to_thread(self.node.apply, manifest)

    async def refuse_pods(self) -> None:
        metadata = {"name": "none", "namespace": self.namespace}
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": metadata,
            "spec": {"hard": {"pods": "0"}},
        }
        await asyncio.to_thread(self.node.apply, quota)
        # The quota counts from when its controller has seen it.
        await asyncio.to_thread(
            self.node.kubectl, "wait", "--for=jsonpath={.status.hard.pods}=0", "resourcequota/none",
            "-n", self.namespace, "--timeout=30s",
        )  # fmt: skip

    async def silent_server(self) -> tuple[str, int]:
        await asyncio.to_thread(self.node.apply, silent_server_pod(self.namespace, self.image))
        pod = path_of("Pod", self.namespace, "silent")
        running = await eventually(
            lambda: self._admin.call("GET", pod),
            lambda p: (
                p["status"].get("podIP") and all(c["ready"] for c in p["status"].get("containerStatuses", []))
            ),
        )
        return running["status"]["podIP"], 5432

    async def kill(self, job: str) -> None:
        options = {"gracePeriodSeconds": 0}
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job}"}
        found = await self._admin.call("GET", path_of("Pod", self.namespace), query=query)
        for pod in found["items"]:
            await self._admin.call("DELETE", path_of("Pod", self.namespace, pod["metadata"]["name"]), options)

    async def end_namespace(self) -> None:
        await self._admin.call("DELETE", path_of("Namespace", "", self.namespace))

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        query = {"fieldSelector": f"regarding.name={name}"}
        found = await self._admin.call("GET", path_of("Event", self.namespace), query=query)
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
