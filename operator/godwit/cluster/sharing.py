"""The same question of many askers, asked once, with an answer that is fresh for each of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Asks by *ask*. Whoever asks while the same is being asked gets the next answer.

    The question that is under way may have been put before the asker's own last write; the next one, which is
    put when that is answered, cannot. All who came meanwhile share it: a list of a namespace with hundreds of
    objects costs the API server and us a tenth of a second, and after a start each of them asks for it.

    An answer belongs to all who got it: it must not be changed.
    """

    def __init__(self, ask: Callable[[K], Awaitable[V]]) -> None:
        self._ask = ask
        self._asking: dict[K, asyncio.Task[V]] = {}
        self._next: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """An answer to a question that was put after this call. Raises what *ask* raises."""
        before = self._asking.get(key)
        if before is None:
            task = self._asking[key] = self._begin(key, None)
        elif key in self._next:
            task = self._next[key]
        else:
            task = self._next[key] = self._begin(key, before)
        return await asyncio.shield(task)  # who gives up does not speak for the others

    def _begin(self, key: K, before: asyncio.Task[V] | None) -> asyncio.Task[V]:
        task = asyncio.get_running_loop().create_task(self._answer(key, before))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _answer(self, key: K, before: asyncio.Task[V] | None) -> V:
        if before is not None:
            await asyncio.wait([before])
            self._asking[key] = self._next.pop(key)
        try:
            return await self._ask(key)
        finally:
            if key not in self._next:
                del self._asking[key]
