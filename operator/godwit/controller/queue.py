"""Our own work queue: keys, each once, one at a time for each database, when they are due."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

Group = Hashable
"""Keys of one group are served one after the other; the group of every object of a database is that
database."""

_SPARE = 64
"""Entries that do not stand any more, beyond as many as do, until they are taken out: each key that was due
in a day and is served before leaves one."""
_Entry = tuple[float, int, "Key"]
"""When it is due, the order of asking, and who."""


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
        self._lines: dict[Group, list[_Entry]] = {}
        """A heap for each group: who has it busy keeps its others waiting, however many, at no cost."""
        self._entries = 0
        """In all lines; those too that do not stand any more."""
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
        So is one that goes to another group meanwhile.
        """
        same = self._group.get(key) == group
        self._group[key] = group
        if key in self._busy and (after <= 0 or self._busy[key] != group):
            self._again.add(key)
            return
        due = self._clock() + max(0.0, after)
        if same and key in self._due and self._due[key] <= due:
            return
        self._due[key] = due = min(due, self._due.get(key, due))
        line = self._lines.setdefault(group, [])
        heapq.heappush(line, (due, next(self._order), key))
        self._entries += 1
        if self._entries > _SPARE + 2 * len(self._due):
            self._tidy()
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
        now = self._clock()
        first = min((line for _, line in self._idle()), default=None)
        if first is None or first[0][0] > now:
            return None
        _, _, key = heapq.heappop(first)
        self._entries -= 1
        group = self._group[key]
        del self._due[key]
        self._busy[key] = group
        self._begun[group] = self._moved = now
        return key

    def _idle(self) -> Iterator[tuple[Group, list[_Entry]]]:
        """The lines of groups of which no key is busy, each with its next one first."""
        for group in [group for group in self._lines if group not in self._begun]:
            line = self._lines[group]
            while line and not self._stands(group, line[0]):
                heapq.heappop(line)
                self._entries -= 1
            if line:
                yield group, line
            else:
                del self._lines[group]

    def _tidy(self) -> None:
        """Take out what does not stand any more."""
        stand = {group: [e for e in line if self._stands(group, e)] for group, line in self._lines.items()}
        for line in stand.values():
            heapq.heapify(line)
        self._lines = {group: line for group, line in stand.items() if line}
        self._entries = sum(len(line) for line in stand.values())

    def _stands(self, group: Group, entry: _Entry) -> bool:
        """Whether its key was not served or forgotten since, and is due then, in that group, as before."""
        due, _, key = entry
        return self._due.get(key) == due and self._group.get(key) == group

    def done(self, key: Key, *, after: float | None) -> None:
        """*key* has been served; serve it again after so many seconds (None: when it is added again)."""
        group = self._busy.pop(key)
        self._begun.pop(group, None)
        self._moved = self._clock()
        self._changed.set()
        if key in self._again:
            self._again.discard(key)
            self.add(key, self._group[key])
        elif after is not None and key in self._group:
            self.add(key, self._group[key], after=after)

    async def wait(self, longest: float = 1.0) -> None:
        """Wait until something may have become due; at most *longest* seconds."""
        first = min((line[0][0] for _, line in self._idle()), default=None)
        timeout = longest if first is None else min(longest, max(0.0, first - self._clock()))
        if timeout == 0.0:
            timeout = longest  # due, but as many are served as may be: `done` wakes us
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
