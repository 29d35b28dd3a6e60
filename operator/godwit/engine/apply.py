"""Applying a plan upwards: each migration with its history row and its journal row, or nothing of it."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from godwit.contract.outcome import ApplyOutcome, Rung, RungState
from godwit.contract.policy import CheckWhen, TransactionMode
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput
from godwit.engine import journal, ownership
from godwit.engine.attempt import attempt
from godwit.engine.backfill import run_backfill
from godwit.engine.batch import BATCH_ROLLED_BACK
from godwit.engine.besides import destroys_besides
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed
from godwit.engine.execute import Part, transactional
from godwit.engine.journal import Event
from godwit.engine.model import Mode, PlannedMigration, Source
from godwit.engine.operation import Own, facts, planned_again
from godwit.engine.resolve import carry_out
from godwit.engine.rows import row_as_json
from godwit.engine.run import Run, start_run
from godwit.engine.script import Piece
from godwit.engine.session import Session
from godwit.engine.statementwise import Left, Progress, in_transaction, progress_of, run_statements
from godwit.engine.verify import before_commit_checks


def apply_verb(ctx: StepContext, verb: ApplyInput) -> ApplyOutcome:
    """Apply what the plan says and this operation has not applied yet, in order, stopping at a failure.

    Under the lock the plan is made again and must come out the same. Raises StepFailed as `attempt`.
    """
    source = ctx.source()
    return attempt(ctx, verb, ApplyOutcome, lambda session: _Applying(ctx, session, verb, source))


class _Applying:
    """One Apply: what is to do, what this operation did in this or an earlier attempt, what failed."""

    def __init__(self, ctx: StepContext, session: Session, verb: ApplyInput, source: Source) -> None:
        self.ctx = ctx
        self.session = session
        self.verb = verb
        self.source = source
        self.own = Own.read(session, ctx.request.operation)
        self.steps: Sequence[PlannedMigration] = ()
        self.failing: PlannedMigration | None = None
        self.left: Left | None = None
        self.prepared = False

    def perform(self) -> None:
        """Apply the remaining migrations. Raises StepFailed at the first that does not get through."""
        self.own.refuse_after_taking_back()
        plan = planned_again(self.session, self.source, self.verb.plan, policy=self.verb.policy, own=self.own)
        self.steps = plan.steps
        applied = self.own.applied
        todo = [s for s in self.steps if s.name not in applied]
        if plan.resolutions and not self.own.resolved:
            self.ctx.point("apply.before_resolve")
            carry_out(self.ctx, self.session, self.source, plan.resolutions, self.verb.verb)
            self.ctx.point("apply.after_resolve")
        with start_run(self.ctx, self.session, self.verb.policy, self.verb.verb) as run:
            run.reporter.plan([s.name for s in self.steps])
            if self.verb.policy.transaction is TransactionMode.BATCH and len(todo) > 1:
                self._batch(run, todo)
                todo = []
            for step in todo:
                self._begin(run, step)
                self._one(run, step)
                self.prepared = True
                self._ended(step)
                run.point("after_migration")
        self.failing = None

    def _begin(self, run: Run, step: PlannedMigration) -> None:
        self.failing = step
        self.ctx.cancelled.check(standing="Between two migrations; what was committed stands.")
        run.point("before_migration")
        run.reporter.migration(step.name)
        self.ctx.progress("migration.started", message=f"applying {step.name}", migration=step.name)

    def _ended(self, step: PlannedMigration) -> None:
        self.ctx.progress("migration.applied", message=f"applied {step.name}", migration=step.name)

    def _batch(self, run: Run, todo: Sequence[PlannedMigration]) -> None:
        """All of them in one transaction. Raises StepFailed; nothing of any is left then."""

        def part(step: PlannedMigration) -> Part:
            def before() -> None:
                self._begin(run, step)
                if step is todo[0]:
                    self._prepare()

            return self._part(run, step, before)

        transactional(run, [part(step) for step in todo], standing=BATCH_ROLLED_BACK)
        for step in todo:
            self._ended(step)

    def _one(self, run: Run, step: PlannedMigration) -> None:
        progress = progress_of(self.own.entries, step, self.verb.verb)
        if progress.started is None and in_transaction(self.session, step):
            transactional(run, [self._part(run, step, self._prepare)])
            return
        if progress.started is None:
            progress = self._start(run, step)
        outside = run_backfill if step.run.batched else run_statements
        outside(run, step, progress, settle=lambda left: self._settle(run, step, progress, left))
        run.point("before_commit")
        with self.session.transaction():
            self.ctx.format.lock_history(self.session)
            self.ctx.format.record_finished(self.session, progress.row_id)
            self._applied(step, progress.row_id)
        run.point("after_commit")

    def _prepare(self) -> None:
        """First in the transaction: what it is recorded in; a failure leaves nothing of that either."""
        if self.prepared:
            self.ctx.format.lock_history(self.session)
            return
        self.ctx.format.ensure_table(self.session)
        self.ctx.format.lock_history(self.session)
        journal.ensure(self.session)
        ownership.write_stamp(self.session, self.ctx.request.environment)

    def _part(self, run: Run, step: PlannedMigration, before: Callable[[], None]) -> Part:
        piece = Piece.whole(step.name, step.run)
        return Part(piece, lambda: self._record(run, step), before, lambda: self._check(step))

    def _check(self, step: PlannedMigration) -> None:
        """The checks before COMMIT, where this is the last migration. Raises StepFailed."""
        if step is not self.steps[-1]:
            return
        checks = [c for c in self.verb.policy.checks if c.when is CheckWhen.BEFORE_COMMIT]
        if not checks:
            return
        self.session.flush()  # only what the script had to leave alone can be asked
        try:
            before_commit_checks(self.session, checks)
        except StepFailed as failed:
            details = {"migration": step.name, "file": step.run.script.path}
            raise StepFailed(failed.failure.model_copy(update=details)) from None

    def _record(self, run: Run, step: PlannedMigration) -> None:
        """Last of all in the transaction: its rows."""
        run.point("before_history")
        replaced = self._replaced()
        row_id = self.ctx.format.record_applied_in_transaction(self.session, step)
        self._applied(step, row_id, whole=True, **replaced)

    def _applied(self, step: PlannedMigration, row_id: str, *, whole: bool = False, **replaced: Any) -> None:
        """*whole*: its script has run in this transaction."""
        # A trigger may be the migration's own, or of this run.
        adds = step.run.adds
        destructive = step.up_destructive or destroys_besides(self.session, adds, repeated=whole)
        journal.put(
            self.session,
            self.ctx.request,
            Event.APPLIED,
            judged=self.ctx.format.TABLES if whole else None,
            verb=self.verb.verb,
            migration=step.name,
            checksum=step.checksum,
            down=step.down,
            detail={"row": row_id, "destructive": destructive, **replaced},
        )

    def _replaced(self) -> dict[str, Any]:
        """The row that the next one takes the place of, where the history has only one: for the journal."""
        if not self.ctx.format.NEWEST_ONLY:
            return {}
        return {"replaced": [row_as_json(row) for row in self.ctx.format.read_history(self.session).rows]}

    def _start(self, run: Run, step: PlannedMigration) -> Progress:
        """Prisma's row of a migration that starts, and ours, before anything of it runs."""
        run.point("before_start")
        with self.session.transaction():
            self._prepare()
            replaced = self._replaced()
            row_id = self.ctx.format.record_started(self.session, step)
            journal.append(
                self.session,
                self.ctx.request,
                Event.STARTED,
                verb=self.verb.verb,
                migration=step.name,
                checksum=step.checksum,
                detail={"row": row_id, **replaced},
            )
        run.point("after_start")
        entries = journal.entries_of(self.session, self.ctx.request.operation)
        return progress_of(entries, step, self.verb.verb)

    def _settle(self, run: Run, step: PlannedMigration, progress: Progress, left: Left) -> StepFailed:
        """Record a file that failed for good; one of which nothing is left counts as rolled back."""
        self.left = left
        run.point("before_failed_row")
        with self.session.transaction():
            statement = left.failed.failure.statement
            self.ctx.format.record_failed(self.session, progress.row_id, _logs(left.failed), statement)
            if left.clean:
                before = progress.started.detail.get("replaced") if progress.started else None
                previous = before[-1]["name"] if before else ""
                self.ctx.format.record_rolled_back(self.session, progress.row_id, previous)
                journal.append(
                    self.session,
                    self.ctx.request,
                    Event.ABANDONED,
                    verb=self.verb.verb,
                    migration=step.name,
                    checksum=step.checksum,
                )
        run.point("after_failed_row")
        return _explained(step, left)

    def outcome(self, failed: StepFailed | None = None) -> ApplyOutcome:
        """The facts as the database tells them now."""
        with contextlib.suppress(psycopg.Error, StepFailed):
            self.own = Own.read(self.session, self.ctx.request.operation)
        return ApplyOutcome(
            **facts(self.ctx, self.session, self.own, len(self.steps)),
            partial=self.failing.name if self.failing and self._partial(failed) else "",
            rungs=self._rungs(failed),
        )

    def _partial(self, failed: StepFailed | None) -> bool:
        if self.left is not None:
            return not self.left.clean
        return failed is not None and failed.failure.reason is Reason.PARTIALLY_APPLIED

    def _rungs(self, failed: StepFailed | None) -> tuple[RungState, ...]:
        if failed is None or self.failing is None:
            return ()
        whole = self._whole(self.failing)
        lost = failed.failure.reason is Reason.CONNECTION_LOST and not self.ctx.cancelled.is_set()
        undone = self.left.undone.dropped if self.left else ()
        down = self._down()
        if undone:
            undo = RungState(rung=Rung.UNDO, possible=True, taken=True, why=f"dropped {', '.join(undone)}")
        else:
            undo = RungState(rung=Rung.UNDO, possible=False, why="nothing of ours was left to undo")
        return (
            RungState(
                rung=Rung.TRANSACTION,
                possible=whole,
                taken=whole and not lost,
                why=self._transaction_said(whole=whole, lost=lost),
            ),
            undo,
            down,
        )

    def _transaction_said(self, *, whole: bool, lost: bool) -> str:
        if self.failing is None or not whole:
            return "this migration cannot run in a transaction"
        if self.failing.name in self.own.applied:
            return "it had committed when the connection broke"
        return "the connection broke: whether it committed, the journal tells" if lost else "rolled back"

    def _whole(self, step: PlannedMigration) -> bool:
        if self.verb.policy.transaction is TransactionMode.BATCH:
            return True
        if step.run.mode is Mode.ALONE and not self.session.line.closed:
            return not progress_of(self.own.entries, step, self.verb.verb).started and self.left is None
        return step.run.mode is Mode.WHOLE

    def _down(self) -> RungState:
        """Whether what this operation committed before could be taken back by its down scripts."""
        if self.failing is not None and self.left is not None and not self.left.clean:
            why = f"{self.failing.name} is half done: its down script may not fit"
            return RungState(rung=Rung.DOWN, possible=False, why=why)
        return self.own.down_rung()


def _logs(failed: StepFailed) -> str:
    """What a person reads in Prisma's own column; no row data is in it."""
    failure = failed.failure
    place = f"{failure.file}, line {failure.line}: " if failure.line else ""
    state = f" (SQLSTATE {failure.sqlstate})" if failure.sqlstate else ""
    return f"{place}{failure.message}{state}"


def _explained(step: PlannedMigration, left: Left) -> StepFailed:
    """The failure of a file outside a transaction: what was undone, and what of it stands."""
    failure = left.failed.failure
    if left.clean:
        standing = f"{left.undone.told}Nothing of {step.name} is left."
        return StepFailed(failure.model_copy(update={"standing": standing, "migration": step.name}))
    standing = left.told(step)
    if left.unknown:
        return StepFailed(failure.model_copy(update={"standing": standing, "migration": step.name}))
    update = {
        "reason": Reason.PARTIALLY_APPLIED,
        "message": f"{step.name} is half done: {failure.message}",
        "standing": standing,
        "migration": step.name,
    }
    return StepFailed(failure.model_copy(update=update))
