"""The controller on a local cluster: its changes are the events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from godwit.api.kinds import KINDS
from godwit.cluster.local import LocalCluster
from godwit.cluster.local_objects import Change
from godwit.controller.loop import Controller


class LocalEvents:
    """Feeds a controller from a local cluster until it is closed."""

    def __init__(self, cluster: LocalCluster, controller: Controller) -> None:
        self._cluster = cluster
        self._controller = controller
        self._tasks: set[asyncio.Task[None]] = set()
        self._end = cluster.watch(self._noticed)

    async def list_all(self) -> None:
        """Tell of everything that exists, as the first list of a watch does."""
        for kind in KINDS:
            for manifest in await self._cluster.list(kind, ""):
                self._controller.changed(manifest)

    def close(self) -> None:
        """Tell of nothing more."""
        self._end()

    def _noticed(self, change: Change) -> None:
        if change.kind == "Job":
            if change.owner is not None:
                owner = change.owner
                self._controller.step_changed(owner.kind, owner.namespace, owner.name)
            return
        task = asyncio.get_running_loop().create_task(self._tell(change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, change: Change) -> None:
        manifest = await self._cluster.get(change.kind, change.namespace, change.name)
        if manifest is None:
            self._controller.gone(change.kind, change.namespace, change.name)
        else:
            self._controller.changed(manifest)


@asynccontextmanager
async def serving(cluster: LocalCluster, controller: Controller) -> AsyncIterator[Controller]:
    """The controller at work on *cluster* for the length of the context."""
    events = LocalEvents(cluster, controller)
    stop = asyncio.Event()
    task = asyncio.create_task(controller.run(stop))
    try:
        await events.list_all()
        yield controller
    finally:
        events.close()
        stop.set()
        controller.queue.poke()
        await task
