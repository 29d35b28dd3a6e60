"""What must be so before a statement is sent outside a transaction, where it may wait for long."""

from typing import Final

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed, fail
from godwit.engine.judge import Subject
from godwit.engine.lock import waiters
from godwit.engine.run import Run
from godwit.engine.script import Piece

_CANCEL_LOOKS: Final = 50
_CANCEL_SECONDS: Final = 0.1


def keeps_invalid(piece: Piece, what: Subject) -> StepFailed:
    """The failure of a CREATE INDEX that would silently keep an INVALID index of that name."""
    statement = piece.statements[0]
    return fail(
        Reason.MIGRATION_FAILED,
        f"The index {what.index} is there and INVALID, from before this run: IF NOT EXISTS would keep it.",
        migration=piece.migration,
        file=piece.file,
        line=statement.line,
        statement=statement.text,
        hint=f"DROP INDEX CONCURRENTLY {what.index};",
    )


def no_waiters(run: Run, piece: Piece) -> None:
    """Nobody may wait for the migration lock inside the server: CONCURRENTLY would be a deadlock's victim.

    Waiters of our own role are timed-out clients' leftovers, and cancelled. Raises StepFailed(LockWaiters).
    """
    found = waiters(run.session, run.lock_key)
    if not found:
        return
    own = run.session.execute("SELECT current_user::text, session_user::text").fetchone() or ()
    ours = [pid for pid, _, user in found if user in own]
    for pid in ours:
        run.session.execute("SELECT pg_cancel_backend(%s)", [pid])
    for _ in range(_CANCEL_LOOKS if len(ours) == len(found) else 0):
        found = waiters(run.session, run.lock_key)
        if not found:
            return
        run.ctx.cancelled.wait(_CANCEL_SECONDS)
        run.ctx.cancelled.check()
    named = "; ".join(f"process {pid} ({name or 'no application name'}, {user})" for pid, name, user in found)
    raise fail(
        Reason.LOCK_WAITERS,
        f"Sessions wait for the migration lock inside the server and would deadlock with it: {named}.",
        migration=piece.migration,
        file=piece.file,
        line=piece.statements[0].line,
        statement=piece.body,
    )
