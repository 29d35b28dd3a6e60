"""The bed of the local cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from godwit.cluster.local import LocalCluster
from godwit.cluster.local_steps import Start
from godwit.cluster.port import ConflictError, Manifest

QUOTA = 'pods "x" is forbidden: exceeded quota: no-pods, requested: pods=1, used: pods=0, limited: pods=0'


class LocalBed:
    """See Bed."""

    image = "local"

    def __init__(self, cluster: LocalCluster, silent: asyncio.Server) -> None:
        self.cluster = cluster
        self.namespace = "conformance"
        self._silent = silent

    async def edit(self, kind: str, name: str, change: Callable[[Manifest], None]) -> Manifest:
        while True:
            found = await self.cluster.get(kind, self.namespace, name)
            assert found is not None
            change(found)
            try:
                return self.cluster.replace(found)
            except ConflictError:
                continue

    async def remove(self, kind: str, name: str) -> None:
        self.cluster.remove(kind, self.namespace, name)

    async def secret(self, name: str, **values: str) -> None:
        self.cluster.add_secret(self.namespace, name, values)

    async def refuse_pods(self) -> None:
        self.cluster.refuse_pods(self.namespace, QUOTA)

    async def silent_server(self) -> tuple[str, int]:
        host, port = self._silent.sockets[0].getsockname()
        return host, port

    async def kill(self, job: str) -> None:
        self.cluster.kill(self.namespace, job)

    async def end_namespace(self) -> None:
        self.cluster.remove("Namespace", "", self.namespace)

    async def from_outside(self) -> None:
        """There are no rights here."""

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        return [(e.type, e.reason, e.message) for e in self.cluster.events if e.about.name == name]


@asynccontextmanager
async def local_bed(start: Start) -> AsyncIterator[LocalBed]:
    """A local cluster with the empty namespace `conformance`, whose steps are started by *start*."""
    silences: set[asyncio.StreamWriter] = set()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silences.add(writer)

    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with LocalCluster(namespaces=("conformance",), start=start) as cluster:
            yield LocalBed(cluster, silent)
    finally:
        for writer in silences:
            writer.close()
        silent.close()
        await silent.wait_closed()
