"""The stage on the local cluster: the same controller, the same step processes, an embedded PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from godwit.cli.embedded import EmbeddedPostgres
from godwit.cluster.local import LocalCluster
from godwit.cluster.local_steps import Start
from godwit.cluster.port import Manifest
from godwit.controller.local import LocalEvents
from godwit.controller.loop import Controller
from scenarios.stage import Files, Store, eventually, write_folder

QUOTA = 'pods "x" is forbidden: exceeded quota: no-pods, requested: pods=1, used: pods=0, limited: pods=0'


class LocalStage:
    """See Stage."""

    namespace = "scenario"

    def __init__(self, cluster: LocalCluster, server: EmbeddedPostgres, store: Store, folder: Path) -> None:
        self.cluster = cluster
        self.store = store
        self._server = server
        self._folder = folder
        self.controller: Controller | None = None
        self._events: LocalEvents | None = None
        self._task: asyncio.Task[None] | None = None

    async def apply(self, *manifests: Manifest) -> None:
        for manifest in manifests:
            self.cluster.apply(manifest)

    async def get(self, kind: str, name: str) -> Manifest | None:
        return await self.cluster.get(kind, self.namespace, name)

    async def all(self, kind: str) -> list[Manifest]:
        return await self.cluster.list(kind, self.namespace)

    async def delete(self, kind: str, name: str) -> None:
        if kind == "Namespace":
            self.cluster.remove(kind, "", name)
        else:
            self.cluster.remove(kind, self.namespace, name)

    async def annotate(self, kind: str, name: str, **annotations: str) -> None:
        ours = {f"godwit.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
        self.cluster.annotate(kind, self.namespace, name, ours)

    async def secret(self, name: str, **values: str) -> None:
        self.cluster.add_secret(self.namespace, name, values)

    async def image(self, name: str, files: Files) -> str:
        folder = self._folder / f"image-{name}"
        write_folder(folder, files)
        reference = f"registry.local/{name}@sha256:{'0' * 64}"
        self.cluster.add_image(reference, folder)
        return reference

    async def jobs(self) -> list[str]:
        return list(self.cluster.jobs(self.namespace))

    async def kill_pod(self, job: str) -> None:
        self.cluster.kill(self.namespace, job)

    async def delete_job(self, job: str) -> None:
        await self.cluster.delete_step(self.namespace, job)

    async def orphan_job(self, job: str) -> None:
        self.cluster.lose(self.namespace, job)

    async def lose_next_apply(self) -> Callable[[], Awaitable[None]]:
        delay = self.cluster.delay_steps(
            lambda spec: (spec.request.step, spec.request.attempt) == ("apply", 1)
        )
        names = await eventually(self.jobs, lambda found: [n for n in found if "-apply-" in n])
        self.cluster.lose(self.namespace, next(n for n in names if "-apply-" in n))
        lost = self.cluster._steps._lost[-1]

        async def wake() -> None:
            delay.release()
            assert lost.task is not None
            await lost.task
            assert lost.seen.outcome is not None

        return wake

    async def crash_operator(self) -> None:
        """Every task of the controller is cut off where it stands."""
        assert self._events is not None
        assert self._task is not None
        assert self.controller is not None
        self._events.close()
        serving = [self._task, *self.controller.under_way()]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        self.controller = self._events = self._task = None

    async def start_operator(self) -> None:
        self.controller = Controller(self.cluster, image="local")
        self._events = LocalEvents(self.cluster, self.controller)
        self._task = asyncio.create_task(self.controller.run(asyncio.Event()))
        await self._events.list_all()

    async def refuse_pods(self) -> None:
        self.cluster.refuse_pods(self.namespace, QUOTA)

    async def allow_pods(self) -> None:
        self.cluster.allow_pods(self.namespace)

    async def stop_server(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def start_server(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def events(self, kind: str, name: str) -> list[tuple[str, str, str]]:
        about = [e for e in self.cluster.events if (e.about.kind, e.about.name) == (kind, name)]
        return [(e.type, e.reason, e.message) for e in about]

    async def backup_files(self) -> list[str]:
        volume = self._folder / "backups"
        return sorted(str(p.relative_to(volume)) for p in volume.rglob("*") if p.is_file())


@asynccontextmanager
async def local_stage(
    server: EmbeddedPostgres, store: Store, folder: Path, start: Start
) -> AsyncIterator[LocalStage]:
    """A stage with the operator at work and an empty volume `backups`; *start* starts its steps."""
    async with LocalCluster(
        namespaces=(LocalStage.namespace,), start=start, pg_bin=server.bin_dir
    ) as cluster:
        volume = folder / "backups"
        volume.mkdir()
        cluster.add_volume(LocalStage.namespace, "backups", volume)
        stage = LocalStage(cluster, server, store, folder)
        await stage.start_operator()
        try:
            yield stage
        finally:
            with contextlib.suppress(AssertionError):
                await stage.crash_operator()
