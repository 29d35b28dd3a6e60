"""Taking migrations back by their down scripts, newest application first, each with its history row."""

import contextlib
import re
from collections.abc import Sequence
from typing import Final

import psycopg

from godwit.contract.outcome import RevertOutcome, Rung, RungState
from godwit.contract.policy import Environment, TransactionMode
from godwit.contract.reasons import Reason
from godwit.contract.request import RevertInput, RevertScope
from godwit.engine import journal, ownership
from godwit.engine.attempt import attempt
from godwit.engine.backfill import run_backfill
from godwit.engine.batch import BATCH_ROLLED_BACK, batch_findings
from godwit.engine.besides import destroys_besides
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail
from godwit.engine.execute import Part, transactional
from godwit.engine.explain import explain
from godwit.engine.journal import Event
from godwit.engine.loss import Tried, lost_by, lost_since
from godwit.engine.model import PlannedMigration
from godwit.engine.operation import Own, check_base, facts, planned_again
from godwit.engine.resolve import take_back
from godwit.engine.rows import row_as_json
from godwit.engine.run import Run, start_run
from godwit.engine.script import Piece, ScriptError, send
from godwit.engine.session import Session
from godwit.engine.statements import parse
from godwit.engine.statementwise import Left, Progress, in_transaction, progress_of, run_statements

_UNCERTAIN: Final = "What was taken back before stays so; the journal in the database tells."
_UNTOUCHED: Final = "Nothing was taken back by this step."
_MOVES: Final = re.compile(r"\bsetval\b", re.IGNORECASE)
"""Not transactional (PostgreSQL manual, section 9.17): the application would get numbers that it has."""


def revert_verb(ctx: StepContext, verb: RevertInput) -> RevertOutcome:
    """Take back what the plan says (scope Plan), or what this operation applied (scope Operation).

    With scope Operation only what loses nothing, unless the policy consents: all of it, or nothing is begun.
    With scope Plan a person has asked for the older version, and in Production for the downgrade as well.
    Raises StepFailed as `attempt`.
    """
    return attempt(ctx, verb, RevertOutcome, lambda session: _Reverting(ctx, session, verb))


class _Tried(Exception):  # noqa: N818  ends the rehearsal of a way back; nothing went wrong
    """All down scripts ran in one transaction, which is now rolled back."""


class _Reverting:
    """One Revert: what is to do, what this operation took back in this or an earlier attempt."""

    def __init__(self, ctx: StepContext, session: Session, verb: RevertInput) -> None:
        self.ctx = ctx
        self.session = session
        self.verb = verb
        self.own = Own.read(session, ctx.request.operation)
        self.steps: Sequence[PlannedMigration] = ()
        self.total = 0
        self.partial = ""
        self.taken: list[str] = []
        self.next: dict[str, str] = {}
        """Which migration is the newest applied one when the one of the name is taken back; empty: none."""
        self.tried: Tried | None = None
        """What the last try came to, in the transaction that it was in."""
        self.lossless = verb.scope is RevertScope.OPERATION and not verb.policy.allow_data_loss

    def _choose(self) -> str:
        """What is left to take back, newest application first. Returns the name of what stays below it."""
        stamped = ownership.stamp(self.session)
        environment = Environment.stricter(self.ctx.request.environment, stamped)
        if self.verb.scope is RevertScope.PLAN:
            if environment is Environment.PRODUCTION and not self.verb.policy.allow_downgrade:
                raise fail(
                    Reason.DOWNGRADE_FORBIDDEN,
                    "This database is stamped, or declared, as Production.",
                    standing=_UNTOUCHED,
                )
            source = self.ctx.source()
            plan = planned_again(self.session, source, self.verb.plan, policy=self.verb.policy, own=self.own)
            self.steps = [s for s in plan.steps if s.name not in self.own.reverted]
            self.total = len(plan.steps)
            return self.verb.plan.target
        base = check_base(self.session, self.verb.plan, self.own, self.ctx.format)
        half = self.own.unfinished("Apply")
        if half:
            self.partial = half
            raise fail(
                Reason.PARTIALLY_APPLIED,
                f"{half} is half done outside a transaction: down scripts are for whole migrations.",
                standing=_UNTOUCHED,
                migration=half,
            )
        self.steps = [self._way_back(name, environment) for name in reversed(self.own.applied)]
        refused = next(iter(batch_findings(self.steps, self.verb.policy)), None)
        if refused:
            raise fail(
                refused.reason,
                refused.message,
                standing=_UNTOUCHED,
                migration=refused.migration,
                line=refused.line,
            )
        self.total = len(self.steps) + len(self.own.reverted)
        return base.applied[-1].name if base.applied else ""

    def _way_back(self, name: str, environment: Environment) -> PlannedMigration:
        entry = self.own.applied[name]
        if entry.down is None:
            raise fail(
                Reason.DOWN_MISSING,
                f"{name} was applied without a down.sql.",
                standing=_UNTOUCHED,
                migration=name,
            )
        parsed = parse(entry.down, environment, tables=self.ctx.format.TABLES, migration=name)
        step = PlannedMigration(name, entry.checksum, parsed)
        if self.lossless and entry.detail["destructive"]:
            raise _lossy(name, "it destroyed or rewrote data, which its down.sql does not bring back")
        if self.lossless and _MOVES.search(entry.down.text):
            raise _lossy(name, "its down.sql moves a sequence (setval), which no rollback of a try undoes")
        outside = self.lossless and not in_transaction(self.session, step)
        if outside and (parsed.destructive or destroys_besides(self.session, parsed.adds)):
            raise _lossy(name, "its down.sql destroys outside a transaction, where nothing can be counted")
        return step

    def perform(self) -> None:
        """Take back what is left. Raises StepFailed when it must not be, and at the first that fails."""
        below = self._choose()
        names = [step.name for step in self.steps]
        self.next = dict(zip(names, [*names[1:], below], strict=False))
        with start_run(self.ctx, self.session, self.verb.policy, self.verb.verb) as run:
            run.reporter.plan(names)
            if self.together:
                self._batch(run)
                return
            if self.lossless and len(self.steps) > 1:
                self._try_all(run)
            for step in self.steps:
                self._begin(run, step)
                self._one(run, step)
                self._ended(step)
                run.point("after_migration")
            if self.verb.scope is RevertScope.OPERATION and self.own.resolved:
                run.point("before_resolve")
                take_back(self.ctx, self.session, self.own.resolved, self.verb.verb)
                run.point("after_resolve")

    @property
    def together(self) -> bool:
        """Whether one transaction takes all of them back."""
        return self.verb.policy.transaction is TransactionMode.BATCH and len(self.steps) > 1

    def _begin(self, run: Run, step: PlannedMigration) -> None:
        self.ctx.cancelled.check(standing=_UNCERTAIN)
        run.point("before_migration")
        run.reporter.migration(step.name)
        self.ctx.progress("migration.started", message=f"down {step.name}", migration=step.name)

    def _ended(self, step: PlannedMigration) -> None:
        self.taken.append(step.name)
        self.ctx.progress("migration.reverted", message=f"took back {step.name}", migration=step.name)

    def _batch(self, run: Run) -> None:
        """All of them in one transaction. Raises StepFailed; all of them stay applied then."""

        def part(step: PlannedMigration) -> Part:
            def before() -> None:
                self._begin(run, step)
                self._prepare(step)

            piece = Piece.whole(step.name, step.run)
            return Part(piece, lambda: self._taken(run, step), before, lambda: self._refuse_loss_since(step))

        transactional(run, [part(step) for step in self.steps], standing=BATCH_ROLLED_BACK)
        for step in self.steps:
            self._ended(step)

    def _try_all(self, run: Run) -> None:
        """All of them in one transaction that is rolled back: whether any would lose something or fail.

        Otherwise the newest would be gone already when an older one turns out to be kept.
        """
        steps = [s for s in self.steps if in_transaction(self.session, s)]
        if not steps:
            return

        def others() -> None:
            for step in steps[1:]:
                piece = Piece.whole(step.name, step.run)
                try:
                    self._refuse_loss(step)
                    send(self.session, piece.body)
                except ScriptError as met:
                    raise explain(run, piece, met, standing=_UNTOUCHED) from met.error
            self.session.flush()
            raise _Tried

        first = steps[0]
        with contextlib.suppress(_Tried):
            part = Part(Piece.whole(first.name, first.run), others, lambda: self._refuse_loss(first))
            transactional(run, [part], standing=_UNTOUCHED)

    def _refuse_loss(self, step: PlannedMigration) -> None:
        """Under the locks of the open transaction. Raises StepFailed(DataWouldBeLost)."""
        if not self.lossless:
            return

        def down() -> None:
            send(self.session, step.run.body)

        self.tried = lost_by(self.session, down, self.own.txids(step.name), self.ctx.format.TABLES)
        self._refuse(step, "since then was written", self.tried.lost)

    def _refuse_loss_since(self, step: PlannedMigration) -> None:
        """After the script, in its transaction. Raises StepFailed(DataWouldBeLost)."""
        if self.tried is not None:
            lost = lost_since(self.session, self.tried, self.own.txids(step.name), self.ctx.format.TABLES)
            self._refuse(step, "just then was written", lost)

    def _refuse(self, step: PlannedMigration, when: str, lost: Sequence[str]) -> None:
        if lost:
            raise _lossy(step.name, f"{when}: {'; '.join(lost[:5])}", standing=self._standing(step.name))

    def _one(self, run: Run, step: PlannedMigration) -> None:
        progress = progress_of(self.own.of(step.name), step, self.verb.verb)
        if progress.started is None and in_transaction(self.session, step):
            piece = Piece.whole(step.name, step.run)
            part = Part(
                piece,
                lambda: self._taken(run, step),
                lambda: self._prepare(step),
                lambda: self._refuse_loss_since(step),
            )
            transactional(run, [part], standing=self._standing(step.name))
            return
        if progress.started is None:
            progress = self._start(run, step)
        outside = run_backfill if step.run.batched else run_statements
        outside(run, step, progress, settle=lambda left: self._settle(step, left))
        run.point("before_commit")
        with self.session.transaction():
            self.ctx.format.lock_history(self.session)
            self._taken(run, step)
        run.point("after_commit")

    def _standing(self, name: str) -> str:
        before = (
            f"{len(self.taken)} migrations were taken back before it"
            if self.taken
            else "nothing was taken back"
        )
        return f"{name} stays applied, its way back was rolled back; {before}."

    def _prepare(self, step: PlannedMigration) -> None:
        self.ctx.format.lock_history(self.session)
        journal.ensure(self.session)
        ownership.write_stamp(self.session, self.ctx.request.environment)
        self._refuse_loss(step)

    def _taken(self, run: Run, step: PlannedMigration) -> None:
        run.point("before_history")
        rows = self.ctx.format.remove_row(self.session, step.name, self.next[step.name])
        self._append(Event.REVERTED, step, rows=[row_as_json(row) for row in rows])

    def _append(self, event: Event, step: PlannedMigration, **detail: object) -> None:
        journal.put(
            self.session,
            self.ctx.request,
            event,
            verb=self.verb.verb,
            migration=step.name,
            checksum=step.checksum,
            detail=detail,
        )

    def _start(self, run: Run, step: PlannedMigration) -> Progress:
        run.point("before_start")
        with self.session.transaction():
            journal.ensure(self.session)
            ownership.write_stamp(self.session, self.ctx.request.environment)
            self._append(Event.STARTED, step)
        run.point("after_start")
        entries = journal.entries_of(self.session, self.ctx.request.operation)
        return progress_of(entries, step, self.verb.verb)

    def _settle(self, step: PlannedMigration, left: Left) -> StepFailed:
        failure = left.failed.failure
        if left.clean:
            with self.session.transaction():
                self._append(Event.ABANDONED, step)
            standing = f"{left.undone.told}{step.name} stays applied; nothing of its way back is left."
            return StepFailed(failure.model_copy(update={"standing": standing}))
        self.partial = step.name
        update = {
            "reason": Reason.PARTIALLY_APPLIED,
            "message": f"The way back of {step.name} is half done: {failure.message}",
            "standing": left.told(step),
        }
        return StepFailed(failure.model_copy(update=update))

    def outcome(self, failed: StepFailed | None = None) -> RevertOutcome:
        """The facts as the database tells them now."""
        with contextlib.suppress(psycopg.Error, StepFailed):
            self.own = Own.read(self.session, self.ctx.request.operation)
        possible = failed is None
        rung = RungState(
            rung=Rung.DOWN,
            possible=possible,
            taken=bool(self.own.reverted),
            why=failed.failure.message if failed else "",
        )
        return RevertOutcome(
            **facts(self.ctx, self.session, self.own, self.total), partial=self.partial, rungs=(rung,)
        )


def _lossy(name: str, why: str, *, standing: str = _UNTOUCHED) -> StepFailed:
    return fail(
        Reason.DATA_WOULD_BE_LOST,
        f"Taking {name} back would lose data: {why}.",
        standing=standing,
        migration=name,
    )
