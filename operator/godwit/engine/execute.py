"""Running a migration's SQL: in one transaction with everything that is recorded about it, or not at all."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import generators
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus

from godwit.contract.policy import Policy, TransactionMode
from godwit.contract.reasons import Reason
from godwit.engine.blockers import holders
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail, from_postgres
from godwit.engine.guard import Guard
from godwit.engine.model import ParsedScript, Statement
from godwit.engine.patience import Patience
from godwit.engine.reporter import Reporter
from godwit.engine.session import Session
from godwit.engine.watch import HoldWatch

ROLLED_BACK: Final = "The migration was rolled back; nothing of it is left."
_SET_TRANSACTION: Final = re.compile(r"SET\s+(LOCAL\s+)?TRANSACTION\b", re.IGNORECASE)
# What a rollback makes safe to try again: lock_timeout, deadlock, serialization (manual, appendix A).
_BUSY: Final = {"55P03", "40P01", "40001"}
_CANCELED: Final = "57014"
# What migrations cannot do in one transaction with others, and only the server finds out: use a new value of
# an enum, alter a table with pending trigger events, take more locks than there is room for, COMMIT.
_ONLY_TOGETHER: Final = {"55P04", "55006", "53200", "2D000"}
_ERRORS: Final = {ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE}
_COPIES: Final = {ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH}


@dataclass(frozen=True)
class Run:
    """What every migration of one verb shares. `verb` names the fault points and the journal's rows."""

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
    watch = HoldWatch(ctx, session, policy.max_lock_hold_ms)
    key = ctx.format.advisory_key(session)
    reporter = Reporter(ctx, session)
    try:
        yield Run(ctx, session, policy, verb, Guard(session, key, ctx.format.TABLES), watch, key, reporter)
    finally:
        reporter.close()
        watch.close()


@dataclass(frozen=True)
class Piece:
    """SQL to send as one message: a file, or one statement of it, and where it stands."""

    migration: str
    file: str
    body: str
    offset: int
    """Where `body` begins in the file, in characters."""
    statements: tuple[Statement, ...]

    @staticmethod
    def whole(migration: str, parsed: ParsedScript) -> "Piece":
        """The file."""
        return Piece(migration, parsed.script.path, parsed.body, 0, parsed.statements)

    @staticmethod
    def one(migration: str, parsed: ParsedScript, statement: Statement) -> "Piece":
        """One of its statements."""
        return Piece(migration, parsed.script.path, statement.text, statement.offset, (statement,))


class ScriptError(Exception):
    """An error that a script met, and how many of its statements were through before."""

    def __init__(self, error: psycopg.Error, through: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.through = through
        self.worked = 0.0
        """Seconds since its first statement was sent."""


@dataclass(frozen=True)
class Part:
    """A script and what belongs to it in its transaction.

    *before* runs first, inside; *finish* is given the transaction's number (`txid_current()`) after the
    script, inside as well.
    """

    piece: Piece
    before: Callable[[], None]
    finish: Callable[[int], None]


def transactional(
    run: Run, parts: Sequence[Part], *, standing: str = ROLLED_BACK, keep_settings: bool = False
) -> None:
    """Run *parts* in one transaction, tried again while locks are busy: all of them are committed, or none.

    *standing* says where the database stands when nothing of it is left. *keep_settings*: the session's
    settings may stay changed, for the rest of the file. Raises StepFailed; the transaction has ended then.
    """
    patience = Patience(run.ctx, run.session, run.policy, [s for p in parts for s in p.piece.statements])
    while True:
        with _about(parts[0].piece):
            seen = patience.until_free(standing=standing)
        now = _UnderWay(parts[0].piece)
        try:
            _once(run, parts, seen.lock_tables(), now)
        except ScriptError as met:
            piece = now.piece
            rolled_back(run.session)
            if met.error.sqlstate in _BUSY and not run.watch.fired:
                if met.worked * 1000 > run.policy.max_lock_hold_ms:
                    raise _not_again(patience, run, piece, met, standing) from met.error
                with _about(piece):
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
            if not keep_settings:
                run.guard.restore()
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


def _once(run: Run, parts: Sequence[Part], lock: bytes, now: _UnderWay) -> None:
    conn, first = run.session.conn, parts[0]
    try:
        run.session.execute("BEGIN")
        opening, body = _opening(first.piece)
        if opening:
            send(run.session, opening)
        set_limits(run, local=True, statements=first.piece.statements)
        with run.watch.armed():
            first.before()
            if lock:
                # All at once and always in the same order: a try that fails has cost nobody more than a wait.
                conn.execute(lock)
            _script(run, first, body, now)
            for part in parts[1:]:
                now.piece, now.through = part.piece, 0
                # SET LOCAL is meant for its own file, and so is the time at which constraints are asked.
                run.guard.restore()
                set_limits(run, local=True, statements=part.piece.statements)
                run.session.execute("SET CONSTRAINTS ALL DEFERRED")
                part.before()
                _script(run, part, part.piece.body, now)
            run.point("before_commit")
            run.ctx.cancelled.check(standing=ROLLED_BACK)
            if run.watch.fired:
                raise held_too_long(run, now.piece)
            conn.execute("COMMIT")
        run.point("after_commit")
    except (psycopg.Error, ScriptError) as exc:
        met = exc if isinstance(exc, ScriptError) else ScriptError(exc, now.through)
        met.worked = time.monotonic() - now.began if now.began else 0.0
        raise met from exc


def _script(run: Run, part: Part, body: str, now: _UnderWay) -> None:
    """One script of an open transaction, and what is asked of it and recorded about it."""
    statements = part.piece.statements
    opened = run.guard.opened()
    run.point("before_script")
    now.began = now.began or time.monotonic()
    send(run.session, body)
    now.through = len(statements)
    with _about(part.piece):
        run.guard.check_open(opened, statements)
    # Deferred constraints would pass every check here and then fail COMMIT.
    run.session.execute("SET CONSTRAINTS ALL IMMEDIATE")
    # The script may have set its own.
    set_limits(run, local=True, statements=statements)
    part.finish(opened.txid)


def _opening(piece: Piece) -> tuple[str, str]:
    """SET TRANSACTION at a script's start, which must come before any query, and the script without it."""
    first = piece.statements[0] if piece.statements else None
    if first is None or not _SET_TRANSACTION.match(first.text):
        return "", piece.body
    start = first.offset - piece.offset
    blank = re.sub(r"[^\n]", " ", first.text)
    return first.text, piece.body[:start] + blank + piece.body[start + len(first.text) :]


def held_too_long(run: Run, piece: Piece, *, standing: str = ROLLED_BACK) -> StepFailed:
    """The failure of a migration that the watch has cut off."""
    seconds, what = run.policy.max_lock_hold_ms / 1000, run.watch.fired or "its locks"
    return fail(
        Reason.LOCK_HOLD_EXCEEDED,
        f"{piece.migration} held {what} for longer than maxLockHold ({seconds:g} s).",
        standing=standing,
        migration=piece.migration,
        file=piece.file,
        blockers=holders(run.watch.waited_for, show_query=run.policy.show_blocking_queries),
    )


def set_limits(
    run: Run, *, local: bool, concurrent: bool = False, statements: Sequence[Statement] = ()
) -> None:
    """Set lock_timeout and statement_timeout for the transaction, or (not *local*) for the session.

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
        if _all_lock(statements) and not policy.statement_timeout_ms:
            limits["statement_timeout"] = policy.max_lock_hold_ms
    run.session.execute(
        "SELECT set_config(name, value, %s) FROM unnest(%s::text[], %s::text[]) AS s (name, value)",
        (local, list(limits), [str(value) for value in limits.values()]),
    )


def _all_lock(statements: Sequence[Statement]) -> bool:
    return bool(statements) and all(s.locks for s in statements)


def send(session: Session, body: str) -> None:
    """Send *body* as one message of the simple protocol, as Prisma does; psycopg's `%` has no meaning in it.

    Raises ScriptError with the number of statements that were through.
    """
    conn = session.conn
    with conn.lock:
        conn.pgconn.send_query(body.encode())
        results: list[Any] = conn.wait(generators.execute(conn.pgconn))
    for index, result in enumerate(results):
        if result.status in _ERRORS:
            raise ScriptError(psycopg.errors.error_from_result(result, conn.info.encoding), index)
        if result.status in _COPIES:
            conn.close()
            raise ScriptError(psycopg.errors.FeatureNotSupported("COPY from or to the client"), index)
    if conn.pgconn.status != ConnStatus.OK:
        raise ScriptError(psycopg.OperationalError("the connection is closed"), 0)


def rolled_back(session: Session) -> None:
    """End whatever transaction is open by ROLLBACK; a broken connection has done so by itself."""
    if not session.conn.closed and session.conn.info.transaction_status is not TransactionStatus.IDLE:
        with contextlib.suppress(psycopg.Error):
            session.conn.execute("ROLLBACK")


def explain(run: Run, piece: Piece, met: ScriptError, *, standing: str) -> StepFailed:
    """The failure that an error of PostgreSQL becomes, with the statement and line that it belongs to."""
    error = met.error
    statement = _statement(piece, met)
    line = _line(piece, error, statement)
    # A script that catches the cancel is ended by its connection.
    stopped = error.sqlstate == _CANCELED or run.session.conn.closed
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
    if error.sqlstate == _CANCELED and _all_lock(piece.statements) and not run.policy.statement_timeout_ms:
        return held_too_long(
            run, piece, standing=standing
        )  # the server's own clock was faster than the watch
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
    return not session.conn.closed


@contextlib.contextmanager
def _about(piece: Piece) -> Iterator[None]:
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


def _position(error: psycopg.Error) -> int | None:
    """0-based offset in the message, in characters; None where PostgreSQL gives none."""
    text = error.diag.statement_position
    return int(text) - 1 if text else None


def _statement(piece: Piece, met: ScriptError) -> Statement | None:
    """By the error's position, else by how many were through: each statement answers with one result."""
    position = _position(met.error)
    if position is not None:
        at = position + piece.offset
        return next((s for s in reversed(piece.statements) if s.offset <= at), None)
    return piece.statements[met.through] if met.through < len(piece.statements) else None


def _line(piece: Piece, error: psycopg.Error, statement: Statement | None) -> int:
    position = _position(error)
    if statement is None:
        return 0
    if position is None:
        return statement.line
    start = statement.offset - piece.offset
    return statement.line + piece.body.count("\n", start, position)
