"""Our own work queue: keys, each once, one at a time for each database, when they are due."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass

Group = Hashable
"""Keys of one group are served one after the other; the group of every object of a database is that
database."""

_SPARE = 64
"""Entries of the heap that are not due any more, beyond as many as are, until they are taken out: each key
that was due in a day and is served before leaves one."""


@dataclass(frozen=True, order=True)
class Key:
    """An object of ours."""

    kind: str
    namespace: str
    name: str


class WorkQueue:
    """Deduplicated keys with due times. `clock` gives seconds that never go back (time.monotonic)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._group: dict[Key, Group] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._busy: dict[Key, Group] = {}
        self._begun: dict[Group, float] = {}
        """Since when the one key of the group that is busy has been so."""
        self._moved = 0.0
        """When a key was last taken or given back."""
        self._again: set[Key] = set()
        self._changed = asyncio.Event()

    def add(self, key: Key, group: Group, *, after: float = 0.0) -> None:
        """Serve *key* when *after* seconds have passed, or earlier where it was due earlier.

        A key that is being served is served once more afterwards: what woke it may have come after its look.
        """
        self._group[key] = group
        if key in self._busy and after <= 0:
            self._again.add(key)
            return
        due = self._clock() + max(0.0, after)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        if len(self._heap) > _SPARE + 2 * len(self._due):
            self._heap = [item for item in self._heap if self._due.get(item[2]) == item[0]]
            heapq.heapify(self._heap)
        self._changed.set()

    def forget(self, key: Key) -> None:
        """The object is gone: serve it no more."""
        self._due.pop(key, None)
        self._again.discard(key)
        self._group.pop(key, None)

    def take(self) -> Key | None:
        """A key that is due and whose group is idle, now busy; None when there is none.

        Give it back by `done`.
        """
        now, held, taken = self._clock(), [], None
        busy_groups = set(self._busy.values())
        while self._heap and self._heap[0][0] <= now:
            due, order, key = heapq.heappop(self._heap)
            if self._due.get(key) != due:
                continue  # forgotten, or due at another time since
            if self._group[key] in busy_groups or key in self._busy:
                held.append((due, order, key))
                continue
            taken = key
            break
        for item in held:
            heapq.heappush(self._heap, item)
        if taken is not None:
            del self._due[taken]
            self._busy[taken] = self._group[taken]
            self._begun[self._group[taken]] = self._moved = now
        return taken

    def done(self, key: Key, *, after: float | None) -> None:
        """*key* has been served; serve it again after so many seconds (None: when it is added again)."""
        group = self._busy.pop(key)
        self._begun.pop(group, None)
        self._moved = self._clock()
        self._changed.set()
        if key in self._again:
            self._again.discard(key)
            self.add(key, group)
        elif after is not None and key in self._group:
            self.add(key, group, after=after)

    async def wait(self, longest: float = 1.0) -> None:
        """Wait until something may have become due; at most *longest* seconds."""
        timeout = longest
        if self._heap:
            timeout = min(longest, max(0.0, self._heap[0][0] - self._clock()))
            if timeout == 0.0:
                timeout = longest  # due, but its group is busy: `done` wakes us
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):  # wait_for of Python 3.11 can swallow a cancellation
                await self._changed.wait()

    def poke(self) -> None:
        """Look again now (the clock may have moved)."""
        self._changed.set()

    def oldest_unserved(self) -> float:
        """Seconds for which the oldest due key has been waiting; 0 when none is due."""
        now = self._clock()
        waiting = [now - due for due in self._due.values() if due <= now]
        return max(waiting, default=0.0)

    def standstill(self) -> float:
        """Seconds for which a due key has waited and nothing moved that it waits for; 0 when none is due.

        That is the one pass of its group, or any pass at all: a line may be long after a start.
        """
        now = self._clock()
        since = ((due, self._begun.get(self._group[key], self._moved)) for key, due in self._due.items())
        return max((now - max(due, moved) for due, moved in since if due <= now), default=0.0)

    def __len__(self) -> int:
        return len(self._due)

    @property
    def idle(self) -> bool:
        """Whether nothing is being served and nothing is due now."""
        now = self._clock()
        return not self._busy and not any(due <= now for due in self._due.values())
