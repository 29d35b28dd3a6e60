"""Files that hold something that cannot run in a transaction: statement by statement, and never one twice.

A statement that can commits together with its progress row. The rest is announced in the journal, sent,
judged from the catalog, and then recorded. After a crash at any point the same walk goes on where it stands;
what nobody can judge stops it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from godwit.contract.reasons import Reason
from godwit.engine import journal
from godwit.engine.batch import may_end
from godwit.engine.beforehand import keeps_invalid, no_waiters
from godwit.engine.blockers import named, old_transactions
from godwit.engine.errors import STATEMENT_LIMIT, StepFailed, fail
from godwit.engine.execute import Part, rolled_back, set_limits, transactional
from godwit.engine.explain import about, explain
from godwit.engine.journal import Entry, Event
from godwit.engine.judge import (
    State,
    Subject,
    Verdict,
    invalid_namesake,
    look,
    may_have_set,
    note,
    only_sets,
    subject,
    temporary,
)
from godwit.engine.model import Mode, PlannedMigration, Statement
from godwit.engine.patience import Patience
from godwit.engine.redact import redact
from godwit.engine.run import Run
from godwit.engine.script import Piece, ScriptError, send
from godwit.engine.session import Session
from godwit.engine.undo import Undone, drop_invalid

_DEADLOCK: Final = "40P01"
_CANCELED: Final = "57014"
_EXISTS: Final = "42P07"
_TIMED_OUT: Final = "55P03"
_BUSY: Final = {_TIMED_OUT, _DEADLOCK}

_PROCEDURE: Final = """
SELECT coalesce(bool_or(l.lanname NOT IN ('plpgsql', 'sql')
                        OR p.prosrc ~* '\\m(commit|rollback|call)\\M'), false)
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prokind = 'p' AND position(lower(p.proname) IN lower(%s)) > 0"""


def in_transaction(session: Session, planned: PlannedMigration) -> bool:
    """Whether the file runs in one transaction, with its history row and its journal row."""
    if planned.run.mode is Mode.ALONE:
        return not _may_commit(session, planned.run.statements[0])
    return planned.run.mode is Mode.WHOLE


def _may_commit(session: Session, statement: Statement) -> bool:
    """Whether it is a DO or CALL that may commit by itself; else it runs in a transaction like any other.

    Only COMMIT, ROLLBACK and CALL in a procedure's own text can (manual, section 43.8); the text is searched.
    """
    if statement.tag == "DoStmt":
        return may_end(statement.text)
    if statement.tag != "CallStmt":
        return False
    row = session.execute(_PROCEDURE, [statement.text]).fetchone()
    return row is None or bool(row[0])


@dataclass
class Progress:
    """What this operation's journal says of the file."""

    started: Entry | None = None
    done: set[int] = field(default_factory=set)
    sent: dict[int, dict[str, Any]] = field(default_factory=dict)
    batch: Entry | None = None
    """How far a backfill got."""

    @property
    def row_id(self) -> str:
        """The history row of the start."""
        return str(self.started.detail.get("row", "")) if self.started else ""


def progress_of(entries: Sequence[Entry], planned: PlannedMigration, verb: str) -> Progress:
    """From the journal's rows of one operation; an abandoned start does not count."""
    found = Progress()
    for entry in entries:
        if entry.migration != planned.name or entry.verb != verb:
            continue
        match entry.event:
            case Event.STARTED:
                found = Progress(started=entry)
            case Event.BATCH:
                found.batch = entry
            case Event.SENT if entry.statement is not None:
                found.sent[entry.statement] = entry.detail["before"]
            case Event.STATEMENT if entry.statement is not None:
                found.done.add(entry.statement)
                found.sent.pop(entry.statement, None)
            case Event.UNDONE if entry.statement is not None:
                found.sent.pop(entry.statement, None)
            case Event.ABANDONED | Event.APPLIED | Event.REVERTED:
                found = Progress()
            case _:
                pass
    return found


@dataclass(frozen=True)
class Left:
    """A file that failed for good: what failed, what was undone, and what of it stands."""

    failed: StepFailed
    undone: Undone
    standing: tuple[Statement, ...]
    unknown: bool
    """Whether it is not known if the failing statement did something."""
    partly: str = ""
    """How far a backfill got; nothing where none of it stands."""

    @property
    def clean(self) -> bool:
        """Nothing of the file is left."""
        return not (self.standing or self.unknown or self.partly or self.undone.in_the_way)

    def told(self, planned: PlannedMigration) -> str:
        """What of the file is done, for people."""
        if self.partly:
            return f"Of {planned.name} {self.partly}."
        done = ", ".join(f"{s.index + 1} (line {s.line})" for s in self.standing) or "none"
        total = len(planned.run.statements)
        return f"{self.undone.told}Of the {total} statements of {planned.name} these are done: {done}."


def run_statements(
    run: Run, planned: PlannedMigration, progress: Progress, *, settle: Callable[[Left], StepFailed]
) -> None:
    """Run what is not done yet. The start is in the journal already.

    A failure that is tried again by itself leaves everything as it is, to go on from. Any other is handed to
    *settle*, which records it and returns what to raise. Raises StepFailed.
    """
    done = [s for s in planned.run.statements if s.index in progress.done]
    if (gone := _gone(done)) and len(done) < len(planned.run.statements):
        failed = _went(planned, gone)
        raise settle(Left(failed, Undone(), _stands(planned, progress), unknown=False)) from failed
    for statement in planned.run.statements:
        # Session settings do not outlive a crash: they are made again.
        if statement.index in progress.done and not only_sets(statement):
            continue
        step = _Step(run, planned, statement, progress)
        run.ctx.cancelled.check(standing=step.standing)
        run.reporter.statement(statement.index + 1, len(planned.run.statements))
        try:
            alone = planned.run.mode is Mode.ALONE or _may_commit(run.session, statement)
            if alone or not statement.transactional:
                step.outside()
            else:
                step.in_transaction()
        except StepFailed as failed:
            if not failed.failure.terminal:
                raise
            unknown = statement.index in progress.sent
            raise settle(Left(failed, step.undone, _stands(planned, progress), unknown)) from failed
        progress.done.add(statement.index)
    run.guard.restore()
    run.session.flush()


def _gone(done: Sequence[Statement]) -> str:
    """What of *done* went with its session, in words: a table of the same name may be a real one."""
    if tables := temporary(done):
        return f"its temporary table {min(tables)}"
    setting = may_have_set(done)
    return f"what line {setting.line} may have set" if setting else ""


def _went(planned: PlannedMigration, what: str) -> StepFailed:
    """Why a file is not gone on with in another session."""
    return fail(
        Reason.PARTIALLY_APPLIED,
        f"{what} went with the session that made it, and what follows may need it",
        migration=planned.name,
        file=planned.run.script.path,
    )


def record(run: Run, planned: PlannedMigration, statement: Statement, event: Event, **detail: Any) -> int:
    """Add the journal's row of what became of one statement of a file. Returns the row's id."""
    return journal.append(
        run.session,
        run.ctx.request,
        event,
        verb=run.verb,
        migration=planned.name,
        checksum=planned.checksum,
        statement=statement.index,
        detail=detail,
    )


def _stands(planned: PlannedMigration, progress: Progress) -> tuple[Statement, ...]:
    return tuple(s for s in planned.run.statements if s.index in progress.done and not only_sets(s))


class _Step:
    """One statement of the walk."""

    def __init__(self, run: Run, planned: PlannedMigration, statement: Statement, progress: Progress) -> None:
        self.run = run
        self.planned = planned
        self.statement = statement
        self.progress = progress
        self.piece = Piece.one(planned.name, planned.run, statement)
        self.undone = Undone()

    @property
    def standing(self) -> str:
        done, total = len(self.progress.done), len(self.planned.run.statements)
        return f"{done} of {total} statements of {self.planned.name} are done; the journal tells which."

    def record(self, event: Event, **detail: Any) -> None:
        record(self.run, self.planned, self.statement, event, **detail)

    def in_transaction(self) -> None:
        transactional(
            self.run,
            [Part(self.piece, self.applied)],
            standing=f"The statement was rolled back. {self.standing}",
            keep_settings=True,
        )

    def outside(self) -> None:
        """Announce, send, judge, record; after a crash first judge what the announced one did."""
        run, what = self.run, subject(self.statement)
        patience = Patience(run.ctx, run.session, run.policy, [self.statement])
        announced = self.progress.sent.get(self.statement.index)
        if announced is not None and self.resolve(what, announced, patience):
            return
        while True:
            with about(self.piece):
                patience.until_free(standing=self.standing)
            if invalid_namesake(run.session, what):
                raise keeps_invalid(self.piece, what)
            if what.kind:
                no_waiters(run, self.piece)
                self.tell_old_transactions()
            before = note(run.session, what)
            self.record(Event.SENT, before=before, subject={"table": what.table, "index": what.index})
            self.progress.sent[self.statement.index] = before
            run.point("before_statement")
            try:
                self.send(what)
            except ScriptError as met:
                rolled_back(run.session)
                if what.kind and what.excluding and met.error.sqlstate == _TIMED_OUT:
                    self.progress.sent.pop(self.statement.index)  # it may run again, however far it got
                    with about(self.piece):
                        patience.after_refusal(run.watch.waited_for, standing=self.standing)
                    continue
                failed = explain(run, self.piece, met, standing=self.standing)
                cut_off = met.error.sqlstate == _CANCELED and not run.watch.fired
                if what.kind and cut_off and failed.failure.terminal:
                    failed = self.budget_spent(patience)
                if not failed.failure.terminal:
                    raise failed from met.error
                run.point("statement_failed")
                if met.error.sqlstate == _EXISTS and what.kind:  # then it has made nothing
                    self.progress.sent.pop(self.statement.index)
                elif self.resolve(what, before, patience, failed):
                    return
                if met.error.sqlstate != _DEADLOCK and not run.watch.queued:
                    raise failed from met.error
                with about(self.piece):
                    patience.after_refusal(run.watch.waited_for, standing=self.standing)
                continue
            run.point("after_statement")
            self.done()
            run.point("after_progress")
            return

    def tell_old_transactions(self) -> None:
        """Name whom a CONCURRENTLY will wait for: it does so without end, and keeps nobody out meanwhile."""
        old = old_transactions(self.run.session, seconds=self.run.policy.lock_timeout_ms / 1000)
        if old:
            self.run.ctx.progress("concurrently.waits", message=f"it will wait for {named(old)}")

    def budget_spent(self, patience: Patience) -> StepFailed:
        """Why a CONCURRENTLY was cut off by the server's clock; whom it waited for is still there."""
        policy = self.run.policy
        why = f"CONCURRENTLY was not through within its budget of {policy.concurrent_budget_ms / 1000:g} s."
        old = old_transactions(self.run.session, seconds=policy.lock_timeout_ms / 1000)
        failed = patience.spent(old, standing=self.standing, why=why).failure
        place = {"migration": self.planned.name, "file": self.piece.file, "line": self.statement.line}
        told = {**place, "statement": redact(self.statement.text)[:STATEMENT_LIMIT], "sqlstate": _CANCELED}
        return StepFailed(failed.model_copy(update=told))

    def send(self, what: Subject) -> None:
        """Send it outside a transaction; a CONCURRENTLY waits for others by itself, without lock_timeout."""
        session = self.run.session
        try:
            set_limits(self.run, local=False, concurrent=True)
            if what.excluding:
                session.later(f"SET SESSION lock_timeout = {self.run.policy.lock_timeout_ms}".encode())
            # Cut off only for a lock that is seen: what it does cannot always be taken back.
            with self.run.watch.armed(cautious=False):
                send(session, self.piece.body)
            set_limits(self.run, local=False)
            session.flush()
        except psycopg.Error as exc:
            raise ScriptError(exc, 0) from exc

    def applied(self, **detail: Any) -> None:
        """The statement's row in the journal, and its place in the tool's own row where one was started."""
        if self.progress.row_id:
            tool, count = self.run.ctx.format, self.statement.index + 1
            tool.record_statement(self.run.session, self.progress.row_id, self.planned, count)
        self.record(Event.STATEMENT, **detail)

    def done(self, **detail: Any) -> None:
        with self.run.session.transaction():
            self.applied(**detail)
        self.progress.sent.pop(self.statement.index, None)

    def resolve(
        self, what: Subject, before: dict[str, Any], patience: Patience, failed: StepFailed | None = None
    ) -> bool:
        """Judge the announced statement and undo what is ours; True: it is done. Raises PartiallyApplied."""
        verdict = look(self.run.session, what, before)
        match verdict.state:
            case State.UNKNOWN:
                # It stays announced in the journal: whoever comes next cannot judge it either.
                raise self.half_done(failed, "what it did before cannot be known, so it is not run again")
            case State.PENDING:
                self.finish(what, verdict, patience)
            case State.BEGUN if failed is not None and failed.failure.sqlstate != _DEADLOCK:
                again = f"DROP INDEX CONCURRENTLY {what.index};"
                raise self.half_done(failed, f"the index {what.index} is INVALID since then", again)
            case State.LEFT:
                found = drop_invalid(self.run, verdict.indexes, self.planned, self.statement)
                self.undone = Undone([*self.undone.dropped, *found.dropped], found.kept)
                if self.undone.in_the_way and failed is None:
                    raise self.half_done(None, "the INVALID index that it left could not be dropped")
            case _:
                pass
        if verdict.state in {State.DONE, State.PENDING}:
            self.done(judged=True)
            return True
        self.progress.sent.pop(self.statement.index, None)
        return False

    def finish(self, what: Subject, verdict: Verdict, patience: Patience) -> None:
        """Finish a DETACH; it keeps others off the partition while it waits, so it never waits for long."""
        while True:
            set_limits(self.run, local=False)
            try:
                with self.run.watch.armed(cautious=False):
                    self.run.session.conn.execute(verdict.finish.encode())
            except psycopg.Error as exc:
                rolled_back(self.run.session)
                failed = explain(self.run, self.piece, ScriptError(exc, 0), standing=self.standing)
                if not failed.failure.terminal:
                    raise failed from exc
            else:
                return
            half = f"{what.partition} is detached half way"
            if failed.failure.sqlstate not in _BUSY:
                raise self.half_done(failed, half, f"{verdict.finish};")
            try:
                patience.after_refusal(self.run.watch.waited_for, standing=self.standing)
                patience.until_free(standing=self.standing)
            except StepFailed as spent:
                if not spent.failure.terminal:
                    raise
                raise self.half_done(spent, half, f"{verdict.finish};") from None

    def half_done(self, failed: StepFailed | None, what: str, hint: str = "") -> StepFailed:
        place = f"{self.statement.index + 1} of {len(self.planned.run.statements)} of {self.planned.name}"
        end = f"failed ({failed.failure.message})" if failed else "did not end"
        half = fail(
            Reason.PARTIALLY_APPLIED,
            f"Statement {place} began outside a transaction and {end}; {what}.",
            standing=self.standing,
            migration=self.planned.name,
            file=self.planned.run.script.path,
            line=(failed and failed.failure.line) or self.statement.line,
            statement=self.statement.text,
            sqlstate=failed.failure.sqlstate if failed else "",
            hint=hint or (failed.failure.hint if failed else ""),
        )
        blockers = failed.failure.blockers if failed else ()
        return StepFailed(half.failure.model_copy(update={"blockers": blockers}))
