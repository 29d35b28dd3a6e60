"""The stage on the real cluster: the operator from its image, installed by helm with the chart's own rights.

Each test has an operator of its own, in a namespace beside the one it looks after.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from conformance.kubernetes import CHART, Node, create, fresh_name, namespace_manifest, remove_namespace

from godwit.cluster.jobs import STORE_GROUP
from godwit.cluster.observation import HARMLESS
from godwit.cluster.port import Manifest, RefusedError
from godwit.cluster.rest import APPLY_PATCH, AnswerError, Rest, path_of
from godwit.contract.outcome import StepOutcome
from scenarios.kubernetes_server import ServerPod
from scenarios.stage import Files, Store, eventually, write_folder

NODE_PROGRAM = Path(__file__).parents[1] / "node" / "cluster"
RELEASE = "godwit"
MERGE_PATCH = "application/merge-patch+json"
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Operator:
    """The chart's Deployment in a namespace of its own, and what can befall it."""

    def __init__(self, node: Node, rest: Rest, namespace: str) -> None:
        self.namespace = namespace
        self._node = node
        self._rest = rest
        self._deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/{RELEASE}"

    async def install(self, watched: str, *, cluster_wide: bool = False) -> None:
        """`helm install`, looking after one namespace, or after all."""
        whom = "clusterWide=true" if cluster_wide else f"watchNamespaces={{{watched}}}"
        await asyncio.to_thread(
            self._node.helm,
            "install", RELEASE, str(CHART), f"--namespace={self.namespace}", "--set=crds.install=false",
            f"--set={whom}", self._node.image_values,
        )  # fmt: skip

    async def uninstall(self) -> None:
        """`helm uninstall`: also what belongs to no namespace."""
        await asyncio.to_thread(
            self._node.helm, "uninstall", RELEASE, f"--namespace={self.namespace}", "--wait"
        )

    async def working(self) -> None:
        """Until the operator says that it watches."""
        await eventually(self._answers, bool, 60, "the operator is not ready")

    async def crash(self) -> None:
        """SIGKILL, and no other pod takes its place.

        The kill comes first: nobody has told the process anything when it dies.
        """
        pods = await self._pods()
        for pod in pods:
            for pid in processes(pod["metadata"]["uid"]):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await self._scale(0)
        for pod in pods:
            with suppress(AnswerError):
                path = path_of("Pod", self.namespace, pod["metadata"]["name"])
                await self._rest.call("DELETE", path, {"gracePeriodSeconds": 0})
        for pod in pods:
            await eventually(
                lambda uid=pod["metadata"]["uid"]: asyncio.to_thread(processes, uid),
                lambda left: not left,
                30,
                "the operator's process is still there",
            )

    async def start(self) -> None:
        """One replica again, at work.

        The Lease of the dead one is deleted, as a person does who knows that its holder is dead; that it
        runs out by itself is tested with the Lease.
        """
        with suppress(AnswerError):
            await self._rest.call("DELETE", path_of("Lease", self.namespace, RELEASE))
        await self._scale(1)
        await self.working()

    async def told(self) -> str:
        """The end of the operator's log."""
        logs = []
        for pod in await self._pods():
            path = path_of("Pod", self.namespace, pod["metadata"]["name"], "log")
            with suppress(AnswerError):
                logs.append(await self._rest.text(path, {"tailLines": "60"}))
        return "".join(logs)

    async def _scale(self, replicas: int) -> None:
        patch = {"spec": {"replicas": replicas}}
        await self._rest.call("PATCH", self._deployment, patch, content_type=MERGE_PATCH)

    async def _pods(self) -> list[Manifest]:
        found = await self._rest.call("GET", path_of("Pod", self.namespace))
        pods: list[Manifest] = found["items"]
        return pods

    async def _answers(self) -> bool:
        addresses = [pod["status"].get("podIP") for pod in await self._pods()]
        return any([address and await asyncio.to_thread(_ready, address) for address in addresses])


def _ready(address: str) -> bool:
    try:
        with _NO_PROXY.open(f"http://{address}:8080/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def processes(pod_uid: str) -> list[int]:
    """Our processes of a pod on this machine, by its control group: not its sandbox's."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError):
                ours = pod_uid in (place / "cgroup").read_text()
                if ours and b"godwit" in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
    return found


class KubernetesStage:
    """See Stage."""

    def __init__(  # noqa: PLR0917  each of them is of another type
        self, rest: Rest, namespace: str, operator: Operator, server: ServerPod, store: Store, folder: Path
    ) -> None:
        self.namespace = namespace
        self.store = store
        self.operator = operator
        self._rest = rest
        self._server = server
        self._folder = folder
        self._core = f"/api/v1/namespaces/{namespace}"

    @property
    def volume(self) -> Path:
        """Folder of the backup volume."""
        return self._folder / "backups"

    async def apply(self, *manifests: Manifest) -> None:
        for manifest in manifests:
            try:
                await self._apply(manifest)
            except AnswerError as error:
                raise RefusedError(str(error)) from error

    async def _apply(self, manifest: Manifest) -> None:
        """As `kubectl apply --validate=warn`: unknown fields are pruned, not refused."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        while True:
            found = await self.get(kind, name)
            if found is None:
                await self._rest.call("POST", path_of(kind, self.namespace), manifest)
                return
            kept = {key: found[key] for key in ("metadata", "status") if key in found}
            try:
                await self._rest.call("PUT", path_of(kind, self.namespace, name), {**manifest, **kept})
            except AnswerError as error:
                if error.reason != "Conflict":  # changed meanwhile: once more
                    raise
            else:
                return

    async def get(self, kind: str, name: str) -> Manifest | None:
        try:
            return await self._rest.call("GET", path_of(kind, self.namespace, name))
        except AnswerError as error:
            if error.status == 404:
                return None
            raise

    async def all(self, kind: str) -> list[Manifest]:
        found = await self._rest.call("GET", path_of(kind, self.namespace))
        return sorted(found["items"], key=lambda m: str(m["metadata"]["name"]))

    async def delete(self, kind: str, name: str) -> None:
        await self._rest.call("DELETE", path_of(kind, "" if kind == "Namespace" else self.namespace, name))

    async def annotate(self, kind: str, name: str, **annotations: str) -> None:
        ours = {f"godwit.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
        path = path_of(kind, self.namespace, name)
        await self._rest.call("PATCH", path, {"metadata": {"annotations": ours}}, content_type=MERGE_PATCH)

    async def secret(self, name: str, **values: str) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
        query = {"fieldManager": "kubectl", "force": "true"}
        await self._rest.call(
            "PATCH", f"{self._core}/secrets/{name}", manifest, query=query, content_type=APPLY_PATCH
        )

    async def image(self, name: str, files: Files) -> str:
        folder = self._folder / f"image-{name}"
        write_folder(folder, files)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, NODE_PROGRAM, "push-migrations", folder, f"tests/{self.namespace}/{name}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def jobs(self) -> list[str]:
        return [job["metadata"]["name"] for job in await self.all("Job")]

    async def kill_pod(self, job: str) -> None:
        await self._end_pods(job)

    async def delete_job(self, job: str) -> None:
        with suppress(AnswerError):  # gone already
            options = {"propagationPolicy": "Background"}
            await self._rest.call("DELETE", path_of("Job", self.namespace, job), options)
        await self._end_pods(job)

    async def orphan_job(self, job: str) -> None:
        options = {"propagationPolicy": "Orphan"}
        await self._rest.call("DELETE", path_of("Job", self.namespace, job), options)

    async def lose_next_apply(self) -> Callable[[], Awaitable[None]]:
        """As where a node lost touch: its pod is nobody's any more, and nobody ends it.

        The process is stopped while it still loads its libraries.
        """
        names = await eventually(self.jobs, lambda found: [n for n in found if "-apply-" in n])
        job = next(n for n in names if "-apply-" in n)
        (pod,) = await eventually(lambda: self.pods_of(job), lambda found: len(found) == 1)
        meta = pod["metadata"]
        asleep = await eventually(lambda: asyncio.to_thread(processes, meta["uid"]), bool)
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        path = path_of("Pod", self.namespace, meta["name"])
        nobodys = {"labels": dict.fromkeys(meta["labels"]), "finalizers": None, "ownerReferences": None}
        await self._rest.call("PATCH", path, {"metadata": nobodys}, content_type=MERGE_PATCH)
        await self.delete_job(job)

        async def wake() -> None:
            for pid in asleep:
                os.kill(pid, signal.SIGCONT)
            ended = await eventually(
                lambda: self._rest.call("GET", path), lambda p: p["status"]["phase"] == "Succeeded"
            )
            state = ended["status"]["containerStatuses"][0]["state"]
            StepOutcome.decode(state["terminated"]["message"])

        return wake

    async def pods_of(self, job: str) -> list[Manifest]:
        """The pods of a Job."""
        query = {"labelSelector": f"batch.kubernetes.io/job-name={job}"}
        found = await self._rest.call("GET", path_of("Pod", self.namespace), query=query)
        pods: list[Manifest] = found["items"]
        return pods

    async def _end_pods(self, job: str) -> None:
        for pod in await self.pods_of(job):
            with suppress(AnswerError):
                path = path_of("Pod", self.namespace, pod["metadata"]["name"])
                await self._rest.call("DELETE", path, {"gracePeriodSeconds": 0})

    async def crash_operator(self) -> None:
        await self.operator.crash()

    async def start_operator(self) -> None:
        await self.operator.start()

    async def refuse_pods(self) -> None:
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "no-pods", "namespace": self.namespace},
            "spec": {"hard": {"pods": "0"}},
        }
        await create(self._rest, quota)
        # The quota counts from when its controller has seen it.
        path = f"{self._core}/resourcequotas/no-pods"
        await eventually(lambda: self._rest.call("GET", path), lambda q: q.get("status", {}).get("hard"))

    async def allow_pods(self) -> None:
        await self._rest.call("DELETE", f"{self._core}/resourcequotas/no-pods")

    async def stop_server(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def start_server(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def events(self, kind: str, name: str) -> list[tuple[str, str, str]]:
        query = {"fieldSelector": f"regarding.kind={kind},regarding.name={name}"}
        found = await self._rest.call("GET", path_of("Event", self.namespace), query=query)
        ordered = sorted(found["items"], key=lambda e: str(e["eventTime"]))
        return [(e["type"], e["reason"], e["note"]) for e in ordered]

    async def backup_files(self) -> list[str]:
        return sorted(str(p.relative_to(self.volume)) for p in self.volume.rglob("*") if p.is_file())

    async def tell(self) -> None:
        """Print what happened; pytest shows it of a test that failed."""
        print(await self.operator.told())
        for pod in await self.all("Pod"):
            print(pod["metadata"]["name"], pod["status"])
        for event in await self.all("CoreEvent"):
            if event["type"] == "Warning" and event["reason"] not in HARMLESS:
                print(event["involvedObject"]["name"], event["reason"], event["message"])

    async def make_volume(self) -> None:
        """A claim `backups` on an empty folder that is writable by the steps' group alone."""
        self.volume.mkdir()
        os.chown(self.volume, 0, STORE_GROUP)
        self.volume.chmod(0o2770)
        size = {"storage": "1Gi"}
        spec = {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": f"backups-{self.namespace}",
            "resources": {"requests": size},
        }
        claim = {"name": "backups", "namespace": self.namespace}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": spec["volumeName"]},
            "spec": {
                "capacity": size,
                "accessModes": spec["accessModes"],
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": claim,
                "hostPath": {"path": str(self.volume), "type": "Directory"},
            },
        }
        await create(self._rest, volume)
        await create(
            self._rest,
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "spec": spec},
        )

    async def remove_volume(self) -> None:
        """Nothing of the volume is left in the cluster."""
        with suppress(AnswerError):
            await self._rest.call("DELETE", f"/api/v1/persistentvolumes/backups-{self.namespace}")
        shutil.rmtree(self.volume, ignore_errors=True)


@asynccontextmanager
async def kubernetes_stage(
    node: Node, server: ServerPod, store: Store, folder: Path, *, cluster_wide: bool = False
) -> AsyncIterator[KubernetesStage]:
    """A stage with the operator at work and an empty volume `backups`."""
    namespace, beside = fresh_name("scenario"), fresh_name("operator")
    rest = await Rest.connect(str(node.kubeconfig))
    operator = Operator(node, rest, beside)
    stage = KubernetesStage(rest, namespace, operator, server, store, folder)
    try:
        for name in (namespace, beside):
            await create(rest, namespace_manifest(name))
        await stage.make_volume()
        await operator.install(namespace, cluster_wide=cluster_wide)
        try:
            await operator.working()
            yield stage
        finally:
            await stage.tell()
            if cluster_wide:
                await operator.uninstall()
    finally:
        for name in (beside, namespace):
            await remove_namespace(rest, name)
        await stage.remove_volume()
        await rest.close()
