"""The stage on the real cluster: a namespace of its own, and an operator that looks after it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from conformance.kubernetes import (
    Node,
    create,
    empty_namespace,
    fresh_name,
    namespace_manifest,
    remove_namespace,
)

from godwit.cluster.jobs import STORE_GROUP
from godwit.cluster.observation import HARMLESS
from godwit.cluster.port import Manifest, RefusedError
from godwit.cluster.rest import APPLY_PATCH, AnswerError, Rest, path_of
from godwit.contract.outcome import StepOutcome
from scenarios.kubernetes_server import ServerPod
from scenarios.operator import MERGE_PATCH, Operator, SharedOperator, processes
from scenarios.stage import Files, Store, eventually, write_folder

NODE_PROGRAM = Path(__file__).parents[1] / "node" / "cluster"


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
        return await self._found(path_of(kind, self.namespace, name))

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

    async def furnish(self) -> None:
        """What a namespace has before anybody uses it: the account that pods run as, and a bound claim.

        The cluster makes both a moment later; pods that come first are refused or wait, with a warning.
        """
        await self._make_volume()
        account = f"{self._core}/serviceaccounts/default"
        await eventually(lambda: self._found(account), bool, what="no service account")
        claim = f"{self._core}/persistentvolumeclaims/backups"
        await eventually(
            lambda: self._found(claim), lambda c: c and c["status"]["phase"] == "Bound", what="no bound claim"
        )

    async def _found(self, path: str) -> Manifest | None:
        try:
            return await self._rest.call("GET", path)
        except AnswerError as error:
            if error.status == 404:
                return None
            raise

    async def _make_volume(self) -> None:
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

    async def clear(self) -> None:
        """Nothing of the scenario is left in the namespace, and nothing of the volume in the cluster."""
        await empty_namespace(self._rest, self.namespace)
        with suppress(AnswerError):
            await self._rest.call("DELETE", f"/api/v1/persistentvolumes/backups-{self.namespace}")
        shutil.rmtree(self.volume, ignore_errors=True)


@asynccontextmanager
async def kubernetes_stage(
    node: Node, server: ServerPod, store: Store, folder: Path, *, cluster_wide: bool = False
) -> AsyncIterator[KubernetesStage]:
    """A stage with an operator of its own at work and an empty volume `backups`."""
    namespace, beside = fresh_name("scenario"), fresh_name("operator")
    async with _login(node) as rest:
        operator = Operator(node, rest, beside)
        try:
            for name in (namespace, beside):
                await create(rest, namespace_manifest(name))
            await operator.install(*([] if cluster_wide else [namespace]))
            try:
                await operator.working()
                async with _opened(
                    KubernetesStage(rest, namespace, operator, server, store, folder)
                ) as stage:
                    yield stage
            finally:
                if cluster_wide:
                    await operator.uninstall()
        finally:
            for name in (beside, namespace):
                await remove_namespace(rest, name)


@asynccontextmanager
async def shared_stage(
    node: Node, shared: SharedOperator, server: ServerPod, store: Store, folder: Path
) -> AsyncIterator[KubernetesStage]:
    """A stage with the shared operator at work and an empty volume `backups`."""
    async with _login(node) as rest:
        operator, namespace = await shared.take(rest)
        try:
            async with _opened(KubernetesStage(rest, namespace, operator, server, store, folder)) as stage:
                yield stage
        finally:
            if operator.is_down:
                await shared.discard(rest)


@asynccontextmanager
async def _login(node: Node) -> AsyncIterator[Rest]:
    rest = await Rest.connect(str(node.kubeconfig))
    try:
        yield rest
    finally:
        await rest.close()


@asynccontextmanager
async def _opened(stage: KubernetesStage) -> AsyncIterator[KubernetesStage]:
    """Furnished; afterwards nothing of it is left."""
    try:
        await stage.furnish()
        try:
            yield stage
        finally:
            await stage.tell()
    finally:
        await stage.clear()
