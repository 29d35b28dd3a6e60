"""What every migration of one verb shares."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from godwit.contract.policy import Policy
from godwit.engine.context import StepContext
from godwit.engine.guard import Guard
from godwit.engine.reporter import Reporter
from godwit.engine.session import Session
from godwit.engine.watch import HoldWatch


@dataclass(frozen=True)
class Run:
    """`verb` names the fault points and the journal's rows."""

    ctx: StepContext
    session: Session
    policy: Policy
    verb: str
    guard: Guard
    watch: HoldWatch
    lock_key: int
    """Of the migration lock, which the session holds."""
    reporter: Reporter

    def point(self, boundary: str) -> None:
        """A boundary of an effect: `<verb>.<boundary>`."""
        self.ctx.point(f"{self.verb.lower()}.{boundary}")


@contextlib.contextmanager
def start_run(ctx: StepContext, session: Session, policy: Policy, verb: str) -> Iterator[Run]:
    """A run on *session*, which holds the migration lock."""
    watch = HoldWatch(ctx, session, policy)
    key = ctx.format.advisory_key(session)
    reporter = Reporter(ctx, session)
    try:
        yield Run(ctx, session, policy, verb, Guard(session, key, ctx.format.TABLES), watch, key, reporter)
    finally:
        reporter.close()
        watch.close()
