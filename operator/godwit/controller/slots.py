"""How many steps may run at once."""

from collections.abc import Callable

from godwit.controller.queue import Key


class NoSlotError(Exception):
    """As many steps run as may; whoever asked is woken when one has ended."""


def _nobody(_: Key) -> None:
    pass


class Slots:
    """The steps that run, by namespace and Job, and what each is for.

    After a restart they are learnt as their objects are looked at.
    """

    def __init__(self, most: int, wake: Callable[[Key], None] = _nobody) -> None:
        """`wake` is told who has waited for longest, as often as a slot becomes free."""
        self._most = most
        self._wake = wake
        self._active: dict[tuple[str, str], Key] = {}
        self._waiting: dict[Key, None] = {}

    def enter(self, owner: Key, job: str) -> None:
        """Count a step in; entering twice counts once. Raises NoSlotError when all slots are taken."""
        if (owner.namespace, job) not in self._active and len(self._active) >= self._most:
            self._waiting[owner] = None
            raise NoSlotError(f"{self._most} steps are running")
        self._waiting.pop(owner, None)
        self._active[owner.namespace, job] = owner

    def learn(self, owner: Key, job: str, *, active: bool) -> None:
        """Take notice of a step that was seen to be there (counted even above the bound) or to have ended."""
        if active:
            self._active[owner.namespace, job] = owner
        else:
            self.leave(owner.namespace, job)

    def leave(self, namespace: str, job: str) -> None:
        """Count a step out."""
        if self._active.pop((namespace, job), None) is not None and self._waiting:
            first = next(iter(self._waiting))
            del self._waiting[first]
            self._wake(first)

    def forget(self, owner: Key) -> None:
        """Count out whatever was for an object that is gone: its Jobs go with it, and nobody will say so."""
        self._waiting.pop(owner, None)
        for namespace, job in [step for step, whose in self._active.items() if whose == owner]:
            self.leave(namespace, job)

    def __len__(self) -> int:
        return len(self._active)
