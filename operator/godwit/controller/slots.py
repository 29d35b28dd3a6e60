"""How many steps may run at once."""


class NoSlotError(Exception):
    """As many steps run as may; try again soon."""


class Slots:
    """The steps that run, by namespace and Job.

    After a restart they are learnt as their objects are looked at.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._active: set[tuple[str, str]] = set()

    def enter(self, namespace: str, job: str) -> None:
        """Count a step in; entering twice counts once. Raises NoSlotError when all slots are taken."""
        if (namespace, job) in self._active:
            return
        if len(self._active) >= self._most:
            raise NoSlotError(f"{self._most} steps are running")
        self._active.add((namespace, job))

    def learn(self, namespace: str, job: str, *, active: bool) -> None:
        """Take notice of a step that was seen to be there (counted even above the bound) or to have ended."""
        if active:
            self._active.add((namespace, job))
        else:
            self._active.discard((namespace, job))

    def leave(self, namespace: str, job: str) -> None:
        """Count a step out."""
        self._active.discard((namespace, job))

    def __len__(self) -> int:
        return len(self._active)
