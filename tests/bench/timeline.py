"""When what was seen, by watches of kubectl that stand before the clock starts."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from conformance.kubernetes import Node

_WATCHED = {
    "jobs": r'{.metadata.name}{"|"}{.metadata.annotations.godwit\.dev/owner}{"|"}'
    r'{.status.conditions[?(@.type=="Complete")].status}',
    "pods": r'{.metadata.labels.batch\.kubernetes\.io/job-name}{"|"}{.spec.nodeName}{"|"}'
    r"{.status.containerStatuses[0].state}",
    "databasemigrations.godwit.dev": r'{.metadata.name}{"|"}'
    r'{.status.conditions[?(@.type=="Ready")].status}{"|"}'
    r'{.status.conditions[?(@.type=="Ready")].reason}',
}


@dataclass(frozen=True)
class Sight:
    """An object as it was seen at a time (time.monotonic)."""

    at: float
    kind: str
    name: str
    words: tuple[str, ...]


class Timeline:
    """Everything that was seen of a namespace, in order."""

    def __init__(self) -> None:
        self.sights: list[Sight] = []
        self._new = asyncio.Event()

    def first(self, kind: str, name: str, holds: Callable[[tuple[str, ...]], bool]) -> Sight | None:
        """The first sight of that object that satisfies."""
        for sight in self.sights:
            if sight.kind == kind and sight.name == name and holds(sight.words):
                return sight
        return None

    async def until(
        self, kind: str, name: str, holds: Callable[[tuple[str, ...]], bool], seconds: float = 120
    ) -> Sight:
        """The same, waited for. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while (found := self.first(kind, name, holds)) is None:
                self._new.clear()
                await self._new.wait()
        return found

    def add(self, kind: str, line: str) -> None:
        """Take notice of a line of a watch."""
        name, *words = line.split("|", 2)
        self.sights.append(Sight(time.monotonic(), kind, name, tuple(words)))
        self._new.set()


@asynccontextmanager
async def watched(node: Node, namespace: str) -> AsyncIterator[Timeline]:
    """Watch a namespace for the length of the context."""
    timeline = Timeline()
    processes = []
    tasks = []
    for kind, path in _WATCHED.items():
        process = await asyncio.create_subprocess_exec(
            node.kubectl_program, f"--kubeconfig={node.kubeconfig}", "get", kind, f"--namespace={namespace}",
            "--watch", "--output", f'jsonpath={path}{{"\\n"}}',
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        tasks.append(asyncio.create_task(_read(timeline, kind, process)))
    try:
        yield timeline
    finally:
        for process in processes:
            process.terminate()
        await asyncio.gather(*tasks)
        for process in processes:
            await process.wait()


async def _read(timeline: Timeline, kind: str, process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        timeline.add(kind, line.decode().rstrip("\n"))
