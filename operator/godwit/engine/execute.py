"""Running a migration's SQL: in one transaction with everything that is recorded about it, or not at all.

Three messages a migration: what opens its transaction, the script, what makes sure of all that the script had
to leave alone, records it and ends the transaction. In a message what comes after an error is not done. A
fourth one looks at others' locks first, where it will keep readers or writers out.
"""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from godwit.engine.errors import StepFailed
from godwit.engine.explain import ROLLED_BACK, about, all_lock, explain, held_too_long
from godwit.engine.guard import Opened
from godwit.engine.model import Statement
from godwit.engine.patience import Patience
from godwit.engine.repeated import FORGOTTEN, Repeated
from godwit.engine.run import Run
from godwit.engine.script import Piece, ScriptError, send
from godwit.engine.session import Session

_SET_TRANSACTION: Final = re.compile(r"SET\s+(LOCAL\s+)?TRANSACTION\b", re.IGNORECASE)
# What a rollback makes safe to try again: lock_timeout, deadlock, serialization (manual, appendix A).
_BUSY: Final = {"55P03", "40P01", "40001"}
# What is said to be committed must survive a crash, whatever the script has set for itself.
_DURABLE: Final = Repeated("""
SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'""")


def _nothing() -> None:
    """What a script without more of its own does besides."""


@dataclass(frozen=True)
class Part:
    """A script and what belongs to it in its transaction.

    *before* runs first, *check* after the script: what it raises rolls all of it back. *record* says that it
    is done, last of all. Neither of the two may count on what `Guard.demand` asks for before it has sent
    something.
    """

    piece: Piece
    record: Callable[[], None]
    before: Callable[[], None] = _nothing
    check: Callable[[], None] = _nothing


def transactional(
    run: Run, parts: Sequence[Part], *, standing: str = ROLLED_BACK, keep_settings: bool = False
) -> None:
    """Run *parts* in one transaction, tried again while locks are busy: all of them are committed, or none.

    *standing* says where the database stands when nothing of it is left. *keep_settings*: the session's
    settings may stay changed, for the rest of the file. Raises StepFailed; the transaction has ended then.
    """
    patience = Patience(run.ctx, run.session, run.policy, [s for p in parts for s in p.piece.statements])
    while True:
        with about(parts[0].piece):
            seen = patience.until_free(standing=standing)
        now = _UnderWay(parts[0].piece)
        try:
            _once(run, parts, seen.lock_tables(), now, keep_settings=keep_settings)
        except ScriptError as met:
            piece = now.piece
            rolled_back(run.session)
            if met.ours and met.error.sqlstate == FORGOTTEN and run.session.repeats:
                run.session.repeats = False  # the script did DEALLOCATE ALL: again, without what it took away
                continue
            if run.watch.queued or (met.error.sqlstate in _BUSY and not run.watch.fired):
                if met.worked * 1000 > run.policy.max_lock_hold_ms:
                    raise _not_again(patience, run, piece, met, standing) from met.error
                with about(piece):
                    patience.after_refusal(run.watch.waited_for, standing=standing)
                continue
            raise explain(run, piece, met, standing=standing) from met.error
        except BaseException as exc:
            rolled_back(run.session)
            if isinstance(exc, StepFailed):
                # What was cut off from outside did not fail by itself.
                if run.watch.fired:
                    raise held_too_long(run, now.piece, standing=standing) from None
                run.ctx.cancelled.check(standing=standing)
            raise
        else:
            return


def _not_again(patience: Patience, run: Run, piece: Piece, met: ScriptError, standing: str) -> StepFailed:
    """A script that works for long is not repeated whole: each try would hold its rows as long again."""
    why = f"After {met.worked:.0f} s of work the migration met a busy lock, and is not tried again whole."
    failed = patience.spent(run.watch.waited_for, standing=standing, why=why)
    details = {
        "migration": piece.migration,
        "file": piece.file,
        "sqlstate": met.error.sqlstate or "",
        "hint": "Change large numbers of rows in batches, apart from changes of the schema.",
    }
    return StepFailed(failed.failure.model_copy(update=details))


@dataclass
class _UnderWay:
    """What of a transaction is being run: for an error to say where it belongs."""

    piece: Piece
    through: int = 0
    began: float = 0.0
    opened: Opened | None = None


def _once(
    run: Run, parts: Sequence[Part], locks: Sequence[bytes], now: _UnderWay, *, keep_settings: bool
) -> None:
    session, first = run.session, parts[0]
    try:
        with run.watch.armed():
            session.later("BEGIN")
            opening, body = _opening(first.piece)
            if opening:
                send(session, opening)
            set_limits(run, local=True, statements=first.piece.statements)
            first.before()
            for lock in locks:
                # All at once and always in the same order: a try that fails has cost nobody more than a wait.
                session.later(lock)
            _script(run, first, body, now)
            for part in parts[1:]:
                session.flush()  # what is wrong with a script is said of its own piece
                now.piece, now.through, now.opened = part.piece, 0, None
                # SET LOCAL is meant for its own file, and so is the time at which constraints are asked.
                run.guard.restore()
                set_limits(run, local=True, statements=part.piece.statements)
                session.later("SET CONSTRAINTS ALL DEFERRED")
                part.before()
                _script(run, part, part.piece.body, now)
            run.point("before_commit")
            run.ctx.cancelled.check(standing=ROLLED_BACK)
            if run.watch.fired:
                raise held_too_long(run, now.piece)
            done = _commit(run, keep_settings=keep_settings)
    except (psycopg.Error, ScriptError) as exc:
        met = exc if isinstance(exc, ScriptError) else ScriptError(exc, now.through, ours=True)
        if met.ours and now.opened is not None:
            with about(now.piece):
                run.guard.judge(now.opened, met.error, now.piece.statements)
        met.worked = time.monotonic() - now.began if now.began else 0.0
        raise met from exc
    if not done:
        run.guard.restore()
        session.flush()
    run.point("after_commit")


def _commit(run: Run, *, keep_settings: bool) -> bool:
    """Send what was recorded, and COMMIT; whether the session is as it was before as well.

    Raises psycopg.Error where the transaction was not committed, as far as anybody can tell.
    """
    run.session.repeat(_DURABLE)
    committed = run.session.later("COMMIT")
    if not keep_settings:
        run.guard.restore()
    try:
        run.session.flush()
    except psycopg.Error:
        if not committed.there:
            raise
        return False
    return True


def _script(run: Run, part: Part, body: str, now: _UnderWay) -> None:
    """One script of an open transaction, and what is demanded of it and recorded about it."""
    opened = run.guard.opened()
    run.point("before_script")
    now.began = now.began or time.monotonic()
    send(run.session, body)
    now.through, now.opened = len(part.piece.statements), opened
    if run.session.line.info.encoding != "utf-8":
        # Files are sent as UTF-8, and so is what is recorded about them, whatever the script has set.
        run.session.execute("SET client_encoding = 'UTF8'")
    with about(part.piece):
        # First of all: a transaction that is not ours says more than what its constraints say.
        run.guard.demand(opened, part.piece.statements)
    # Deferred constraints would pass every check here and then fail COMMIT.
    run.session.later("SET CONSTRAINTS ALL IMMEDIATE")
    # The script may have set its own.
    set_limits(run, local=True, statements=part.piece.statements)
    part.check()
    part.record()


def _opening(piece: Piece) -> tuple[str, str]:
    """SET TRANSACTION at a script's start, which must come before any query, and the script without it."""
    first = piece.statements[0] if piece.statements else None
    if first is None or not _SET_TRANSACTION.match(first.text):
        return "", piece.body
    start = first.offset - piece.offset
    blank = re.sub(r"[^\n]", " ", first.text)
    return first.text, piece.body[:start] + blank + piece.body[start + len(first.text) :]


def set_limits(
    run: Run, *, local: bool, concurrent: bool = False, statements: Sequence[Statement] = ()
) -> None:
    """Set lock_timeout and statement_timeout for the transaction, or (not *local*) for the session: later.

    *concurrent*: for what waits for others by itself and keeps nobody out; it has a budget of its own. The
    *statements* of a transaction that does keep others out are bounded in the server as well, should this
    process stand still.
    """
    policy = run.policy
    limits = {"lock_timeout": policy.lock_timeout_ms, "statement_timeout": policy.statement_timeout_ms}
    if concurrent:
        limits = {"lock_timeout": 0, "statement_timeout": policy.concurrent_budget_ms}
    elif any(s.locks for s in statements):
        limits["idle_in_transaction_session_timeout"] = policy.max_lock_hold_ms
        if all_lock(statements) and not policy.statement_timeout_ms:
            # One statement waits, and then holds.
            limits["statement_timeout"] = policy.lock_timeout_ms + policy.max_lock_hold_ms
    for name, value in limits.items():
        run.session.later(f"SET {'LOCAL' if local else 'SESSION'} {name} = {value}".encode())


def rolled_back(session: Session) -> None:
    """End whatever transaction is open by ROLLBACK; a broken connection has done so by itself."""
    session.forget()
    if not session.conn.closed and session.conn.info.transaction_status is not TransactionStatus.IDLE:
        with contextlib.suppress(psycopg.Error):
            session.conn.execute("ROLLBACK")
