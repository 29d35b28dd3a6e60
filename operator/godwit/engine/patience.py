"""The lock budget of one migration: when a try may be made, and how long to wait after a refused one."""

import random
import time
from collections.abc import Sequence
from typing import Final

from godwit.contract.policy import Policy
from godwit.contract.reasons import Reason
from godwit.engine.blockers import Blocker, Look, holders, look, named, still_there
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail
from godwit.engine.model import Statement
from godwit.engine.session import Session

_LOOK_SECONDS: Final = 0.5
_BACKOFF_SECONDS: Final = (1.0, 30.0)


class Patience:
    """Waits outside the server, where nobody queues behind it, until *statements* may be tried."""

    def __init__(
        self, ctx: StepContext, session: Session, policy: Policy, statements: Sequence[Statement]
    ) -> None:
        self._ctx = ctx
        self._session = session
        self._policy = policy
        self._statements = statements
        self._deadline = time.monotonic() + policy.lock_budget_ms / 1000
        self._tries = 0
        self._met: Sequence[Blocker] = ()
        """Whom the last try waited for: the server locks more than a statement says."""
        self._first_seen: dict[tuple[int | None, str], float] = {}

    def until_free(self, *, standing: str) -> Look:
        """Wait until no holder older than lock_timeout conflicts, nor any that a try has met; the last look.

        Raises StepFailed(LockBudgetExceeded).
        """
        told = False
        while True:
            seen = look(self._session, self._statements)
            long = [b for b in seen.blockers if self._is_long(b)] or still_there(self._session, self._met)
            if not long:
                return seen
            if time.monotonic() >= self._deadline:
                raise self.spent(long, standing=standing)
            if not told:
                told = True
                self._ctx.progress("lock.busy", message=f"waiting for {named(long)}")
            self._pause(_LOOK_SECONDS, standing)

    def after_refusal(self, waited_for: Sequence[Blocker], *, standing: str) -> None:
        """Wait before the next try, longer each time. *waited_for*: whom the try was seen to wait for.

        Raises StepFailed(LockBudgetExceeded).
        """
        seen = waited_for or look(self._session, self._statements).blockers
        if time.monotonic() >= self._deadline:
            raise self.spent(seen, standing=standing)
        self._met = waited_for
        low, high = _BACKOFF_SECONDS
        seconds = min(high, low * 2**self._tries) * random.uniform(0.5, 1)  # noqa: S311  jitter, no secret
        self._tries += 1
        self._ctx.progress("lock.refused", message=f"try {self._tries} met a busy lock: {named(seen)}")
        self._pause(min(seconds, max(0.05, self._deadline - time.monotonic())), standing)

    def spent(self, seen: Sequence[Blocker], *, standing: str, why: str = "") -> StepFailed:
        """The failure that ends the tries; *why* instead of the budget's own sentence."""
        why = why or f"The lock budget of {self._policy.lock_budget_ms / 1000:g} s is used up."
        return fail(
            Reason.LOCK_BUDGET_EXCEEDED,
            f"{why} In the way: {named(seen)}.",
            standing=standing,
            blockers=holders(seen, show_query=self._policy.show_blocking_queries),
        )

    def _is_long(self, blocker: Blocker) -> bool:
        """By its transaction's age, or by how long we have seen it where the age is hidden."""
        first = self._first_seen.setdefault((blocker.pid, blocker.transaction), time.monotonic())
        age = time.monotonic() - first if blocker.age is None else blocker.age
        return age > self._policy.lock_timeout_ms / 1000

    def _pause(self, seconds: float, standing: str) -> None:
        self._ctx.cancelled.wait(seconds)
        self._ctx.cancelled.check(standing=standing)
