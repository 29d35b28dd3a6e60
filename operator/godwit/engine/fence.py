"""The fence: no new connections to a database for a moment, and never for longer than was said.

ALLOW_CONNECTIONS false works for a plain owner, is reversible, and keeps superusers out too; it is set from
another database, and sessions that are open already stay (PostgreSQL manual, ALTER DATABASE). The way to lift
it stands in the database's comment, for a person and for the next attempt.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from psycopg import sql

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed, fail, reason_of
from godwit.engine.session import Session

_MARK: Final = "Closed by Godwit"
_FORMER: Final = "Its comment was: "
_POLL_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 30
_RETRY_SECONDS: Final = 0.5

_GONE: Final = {Reason.CONNECTION_LOST, Reason.DATABASE_UNREACHABLE}

_STANDS: Final = """
SELECT datallowconn, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"""

_SESSIONS: Final = """
SELECT pid, usename FROM pg_stat_activity
 WHERE datname = %s AND pid <> ALL (%s) AND usesysid IS NOT NULL"""
"""Clients of every kind. Workers of autovacuum have no user; a rename ends them by itself."""


class Fence:
    """The fence around *database*, set and lifted on *session*, which is on another database of the server.

    *reconnect* gives another such session, for when that one broke: a fence outlives a restart.
    """

    def __init__(self, session: Session, database: str, reconnect: Callable[[], Session]) -> None:
        self.session = session
        self.database = database
        self._reconnect = reconnect
        self.swapped = False
        self.in_doubt = False
        """Whether nobody has heard if the swap is done: the connection broke at its COMMIT."""
        self.left: StepFailed | None = None
        """Why the database was left closed, where it was."""
        self.expired = False
        self._timeout_ms = 0
        self._deadline = 0.0
        self._guard = threading.RLock()

    @contextmanager
    def closed(self, timeout_ms: int, on_expiry: Callable[[], None]) -> Iterator["Fence"]:
        """Closed for the block, lifted at its end unless the swap was done, and after *timeout_ms* anyway.

        *on_expiry* stops what goes on behind the fence. Raises StepFailed(FenceLeft, ConnectionLost,
        RestoreNotPossible).
        """
        timer = threading.Timer(timeout_ms / 1000, self._expire, (on_expiry,))
        timer.daemon = True
        self._timeout_ms = timeout_ms
        self._deadline = time.monotonic() + timeout_ms / 1000
        self._close(timeout_ms)
        timer.start()
        try:
            yield self
        finally:
            timer.cancel()
            with self._guard:
                if not self.swapped:
                    self._lift()

    def end_sessions(self, database: str, keep: int, standing: str) -> None:
        """End every session of *database* but the server process *keep*, and wait until they are gone.

        Raises StepFailed(RestoreNotPossible) when one may not be ended or does not end.
        """
        while True:
            self.check(standing)
            with self._guard:
                left = self.session.execute(_SESSIONS, [database, [keep]]).fetchall()
                for pid, user in left:
                    try:
                        self.session.execute("SELECT pg_terminate_backend(%s)", [pid])
                    except psycopg.errors.InsufficientPrivilege:
                        raise fail(
                            Reason.RESTORE_NOT_POSSIBLE,
                            f"The role may not end process {pid} of user {user}, which uses {database}.",
                            standing=standing,
                            hint="GRANT pg_signal_backend to the role; superusers' sessions stay.",
                        ) from None
            if not left:
                return
            time.sleep(_POLL_SECONDS)

    def check(self, standing: str) -> None:
        """Raise StepFailed(RestoreNotPossible) when the fence's time is over."""
        if self.expired or time.monotonic() > self._deadline:
            raise fail(
                Reason.RESTORE_NOT_POSSIBLE,
                "What had to be done behind the fence took longer than the "
                f"{self._timeout_ms / 1000:g} s that it may stand; it was lifted.",
                standing=standing,
            )

    @contextmanager
    def swapping(self, standing: str) -> Iterator[None]:
        """The block replaces the database, fence and all; the fence's time cannot run out meanwhile."""
        with self._guard:
            self.check(standing)
            yield
            self.swapped = True
            self.in_doubt = False

    def committing(self) -> None:
        """To be called before the COMMIT of the swap."""
        self.in_doubt = True

    def _expire(self, on_expiry: Callable[[], None]) -> None:
        with self._guard:
            if self.swapped:
                return
            self.expired = True
            with suppress(Exception):
                self._lift()
        with suppress(Exception):
            on_expiry()

    def _close(self, timeout_ms: int) -> None:
        row = self.session.execute(_STANDS, [self.database]).fetchone()
        former = row[1] if row else None
        name = sql.Identifier(self.database)
        text = (
            f"{_MARK} for at most {timeout_ms / 1000:g} s, to put a restored database in its place. "
            f"To open it: {_opening(self.session, self.database)} {_FORMER}{json.dumps(former)}"
        )
        try:
            with self.session.transaction():
                self.session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(text)))
                self.session.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        except psycopg.Error as error:
            self._lift()
            raise fail(
                Reason.RESTORE_NOT_POSSIBLE,
                f"The database cannot be closed to connections: {error.diag.message_primary or error}",
                standing="The live database is as it was, and open.",
            ) from None

    def _lift(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            lift(self.session, self.database, ours=True)
        except psycopg.Error:
            self.left = _unanswered(self.session, self.database)
        except StepFailed as failed:
            self.left = failed
        else:
            return
        while time.monotonic() < deadline:
            try:
                with self._reconnect() as session:
                    lift(session, self.database, ours=True)
            except (StepFailed, psycopg.Error) as error:
                if isinstance(error, StepFailed) and error.failure.reason is Reason.FENCE_LEFT:
                    self.left = error
                time.sleep(_RETRY_SECONDS)
            else:
                self.left = None
                return
        raise self.left


def lift(session: Session, database: str, *, ours: bool = False) -> bool:
    """Open *database* again where Godwit closed it, with the comment that it had. Returns whether it did.

    *ours*: it was closed by this process, so also where somebody has given it another comment meanwhile.
    Raises StepFailed: FenceLeft with the statements to run where that may not be, ConnectionLost where the
    connection broke meanwhile. Raises psycopg.Error where nobody knows yet whether it is closed.
    """
    row = session.execute(_STANDS, [database]).fetchone()
    marked = row is not None and (row[1] or "").startswith(_MARK)
    if row is None or not (marked or (ours and not row[0])):
        return False
    name, former = sql.Identifier(database), None if marked else row[1]
    try:
        if marked:
            former = json.loads(row[1].partition(_FORMER)[2] or "null")
        with session.transaction():
            session.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
            session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(former)))
    except (psycopg.Error, ValueError) as error:
        if isinstance(error, psycopg.Error) and reason_of(error, Reason.FENCE_LEFT) in _GONE:
            raise _unanswered(session, database) from None
        # The comment goes as well: with it, the next look would open what somebody closed on purpose.
        comment = sql.SQL("COMMENT ON DATABASE {} IS {}; ").format(name, sql.Literal(former))
        statements = f"{comment.as_string(session.conn)}{_opening(session, database)}"
        raise fail(
            Reason.FENCE_LEFT,
            f"The database {database} is closed to connections and could not be opened again: "
            f"{type(error).__name__}. In another database of the server, let its owner run: {statements}",
            standing=f"The database {database} is as it was, but closed to connections.",
            hint=statements,
        ) from None
    return True


def _unanswered(session: Session, database: str) -> StepFailed:
    return fail(
        Reason.CONNECTION_LOST,
        f"The connection broke while {database} was closed to connections, and the server has not answered "
        "since.",
        standing=f"The database {database} is as it was, but closed to connections. The next attempt opens "
        "it, and so does the next look at its PostgresDatabase.",
        hint=_opening(session, database),
    )


def closed_by_others(session: Session, database: str) -> bool:
    """Whether *database* is closed to connections, and not by Godwit."""
    row = session.execute(_STANDS, [database]).fetchone()
    return row is not None and not row[0] and not (row[1] or "").startswith(_MARK)


def _opening(session: Session, database: str) -> str:
    return (
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true;")
        .format(sql.Identifier(database))
        .as_string(session.conn)
    )
