"""What PostgreSQL's errors, and limits that were met, become: failures that say where they belong."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg

from godwit.contract.policy import TransactionMode
from godwit.contract.reasons import Reason
from godwit.engine.blockers import holders
from godwit.engine.errors import StepFailed, fail, from_postgres
from godwit.engine.model import Statement
from godwit.engine.run import Run
from godwit.engine.script import Piece, ScriptError
from godwit.engine.session import Session

ROLLED_BACK: Final = "The migration was rolled back; nothing of it is left."
_CANCELED: Final = "57014"
# What migrations cannot do in one transaction with others, and only the server finds out: use a new value of
# an enum, alter a table with pending trigger events, take more locks than there is room for, COMMIT.
_ONLY_TOGETHER: Final = {"55P04", "55006", "53200", "2D000"}


def held_too_long(run: Run, piece: Piece, *, standing: str = ROLLED_BACK) -> StepFailed:
    """The failure of a migration that the watch has cut off."""
    what, policy = run.watch.fired or "its locks", run.policy
    if run.watch.queued:
        seconds = policy.lock_timeout_ms / 1000
        told = f"waited for {what} for longer than lockTimeout ({seconds:g} s), and others behind it"
    else:
        told = f"held {what} for longer than maxLockHold ({policy.max_lock_hold_ms / 1000:g} s)"
    return fail(
        Reason.LOCK_HOLD_EXCEEDED,
        f"{piece.migration} {told}.",
        standing=standing,
        migration=piece.migration,
        file=piece.file,
        blockers=holders(run.watch.waited_for, show_query=run.policy.show_blocking_queries),
    )


def explain(run: Run, piece: Piece, met: ScriptError, *, standing: str) -> StepFailed:
    """The failure that an error of PostgreSQL becomes, with the statement and line that it belongs to."""
    error = met.error
    statement = _statement(piece, met)
    line = _line(piece, met.position, statement)
    # A script that catches the cancel is ended by its connection.
    stopped = error.sqlstate == _CANCELED or run.session.line.closed
    if stopped and run.watch.fired:
        return held_too_long(run, piece, standing=standing)
    if stopped and run.ctx.cancelled.is_set():
        return fail(
            run.ctx.cancelled.reason,
            run.ctx.cancelled.message,
            standing=standing,
            migration=piece.migration,
            file=piece.file,
        )
    by_clock = all_lock(piece.statements) and met.worked * 1000 > run.policy.max_lock_hold_ms
    if error.sqlstate == _CANCELED and by_clock and not run.policy.statement_timeout_ms:
        # The server's own clock was faster than the watch; sooner it was somebody else's cancel.
        return held_too_long(run, piece, standing=standing)
    failed = from_postgres(
        error,
        default=Reason.MIGRATION_FAILED,
        standing=standing,
        migration=piece.migration,
        file=piece.file,
        line=line,
        statement=statement.text if statement else "",
    )
    if error.sqlstate in _ONLY_TOGETHER and run.policy.transaction is TransactionMode.BATCH:
        hint = "It may run with strategy.transaction: PerMigration, where each migration has its own."
        failed = StepFailed(failed.failure.model_copy(update={"hint": hint}))
    if failed.failure.reason in {Reason.MIGRATION_FAILED, Reason.PERMISSION_DENIED}:
        return failed
    if error.sqlstate and _answers(run.session):
        # RAISE can feign any SQLSTATE: what the server says of a connection counts when it is gone.
        feigned = failed.failure.model_copy(update={"reason": Reason.MIGRATION_FAILED})
        return StepFailed(feigned)
    return StepFailed(
        failed.failure.model_copy(
            update={
                "standing": f"The connection broke during {piece.migration}; the journal in the database "
                "tells whether it was committed."
            }
        )
    )


def _answers(session: Session) -> bool:
    """Whether the connection is still good; its end may not have been noticed yet."""
    with contextlib.suppress(psycopg.Error):
        session.execute("SELECT")
    return not session.line.closed


@contextlib.contextmanager
def about(piece: Piece) -> Iterator[None]:
    """Say in a failure of the block which migration it is about."""
    try:
        yield
    except StepFailed as failed:
        update = {
            "migration": piece.migration,
            "file": piece.file,
            "standing": failed.failure.standing or ROLLED_BACK,
        }
        raise StepFailed(failed.failure.model_copy(update=update)) from failed.__cause__


def _statement(piece: Piece, met: ScriptError) -> Statement | None:
    """By the error's position, else by how many were through: each statement answers with one result."""
    if met.position is not None:
        at = met.position + piece.offset
        return next((s for s in reversed(piece.statements) if s.offset <= at), None)
    return piece.statements[met.through] if met.through < len(piece.statements) else None


def _line(piece: Piece, position: int | None, statement: Statement | None) -> int:
    if statement is None:
        return 0
    if position is None:
        return statement.line
    start = statement.offset - piece.offset
    return statement.line + piece.body.count("\n", start, position)


def all_lock(statements: Sequence[Statement]) -> bool:
    """Whether each of them keeps readers or writers out; False for none."""
    return bool(statements) and all(s.locks for s in statements)
