"""How long a migration may hold locks that keep the application out: counted and cut off by a second session.

PostgreSQL's `lock_timeout` bounds waiting for a lock, never holding one. The watch looks at pg_locks while a
migration's transaction is open; the first strong lock on a table that others can see starts the count, and
the query is cancelled when it is held for too long, which rolls everything back. Tables that the same
transaction made are invisible to the second session, and so do not count.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg

from godwit.engine.blockers import Blocker, waited_for
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed
from godwit.engine.session import Session

_POLL_SECONDS: Final = 0.05
"""Between two looks, and from the start of a transaction to the first: what is through by then costs none."""
_CATCHING_SECONDS: Final = 2.0
"""How long a script may go on that catches the cancel (`EXCEPTION WHEN query_canceled`)."""

# The modes that conflict with ROW EXCLUSIVE (writers) or ACCESS SHARE (readers): manual, table 13.2. The
# history table is locked against other migrators on purpose, and the application does not use it. To lock a
# sequence keeps those out who insert.
_LOOK: Final = """
SELECT held.*, (SELECT wait_event_type = 'Lock' FROM pg_stat_get_activity(%(pid)s))
  FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
SELECT l.relation::regclass::text, l.mode
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.pid = %(pid)s AND l.granted AND l.locktype = 'relation'
   AND c.relkind IN ('r', 'p', 'm', 'v', 'f', 'S')
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema', 'godwit')
   AND NOT (n.nspname IN (%(schema)s, c.relname) AND c.relname = ANY (%(history)s))
 ORDER BY l.mode = 'AccessExclusiveLock' DESC LIMIT 1) AS held ON true"""


class HoldWatch:
    """Watches the transactions of one session. `limit_ms` is the policy's `maxLockHold`."""

    def __init__(self, ctx: StepContext, session: Session, limit_ms: int) -> None:
        self.limit_ms = limit_ms
        self._ctx = ctx
        self._watched = session
        self._changed = threading.Condition()
        self._armed_at = 0.0
        """By the monotonic clock; 0 while no transaction is watched."""
        self._blocks = 0
        """How many there were so far."""
        self._closed = False
        self._fired = ""
        self._waited_for: Sequence[Blocker] = ()
        self._thread: threading.Thread | None = None

    @property
    def fired(self) -> str:
        """The lock that was held for too long, when the last armed block was cut off for it; else nothing."""
        return self._fired

    @property
    def waited_for(self) -> Sequence[Blocker]:
        """Whom the transaction of the last armed block waited for when that was last looked at."""
        return self._waited_for

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Count during the block, which holds one transaction."""
        # The thread wakes by itself: to wake it would cost each migration more than the watch is worth to it.
        with self._changed:
            self._armed_at, self._fired, self._waited_for = time.monotonic(), "", ()
            self._blocks += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="godwit-hold-watch", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            # The condition's lock is held while a cancel is sent: none comes after this line.
            with self._changed:
                self._armed_at = 0.0

    def close(self) -> None:
        """End the watch and its session."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _work(self) -> None:
        session: Session | None = None
        opened = False
        try:
            while not self._pause():
                with self._changed:
                    block, armed_at = self._blocks, self._armed_at
                if not armed_at or time.monotonic() - armed_at < _POLL_SECONDS:
                    continue
                if not opened:
                    with contextlib.suppress(StepFailed, psycopg.Error):
                        session = self._ctx.open(cancellable=False).as_login()
                    opened = True
                session = self._watch(session, block, armed_at)
        finally:
            if session is not None:
                session.close()

    def _pause(self) -> bool:
        """Wait a little; True: the watch has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, _POLL_SECONDS)

    def _watch(self, session: Session | None, block: int, free_at: float) -> Session | None:
        """Look again and again until the block ends. Without a session the whole of it counts as holding."""
        told_at: float | None = None
        while self._is_on(block):
            held = "locks that could not be looked at"
            if session is not None:
                try:
                    held = self._look(session)
                except psycopg.Error:
                    session.close()
                    session = None
            now = time.monotonic()
            if not held:
                free_at = now
            with self._changed:
                if self._is_on(block) and held and (now - free_at) * 1000 > self.limit_ms:
                    self._fired = held
                    told_at = told_at or now
                    self._cancel(session, for_good=now - told_at > _CATCHING_SECONDS)
            if self._pause():
                break
        return session

    def _is_on(self, block: int) -> bool:
        return not self._closed and bool(self._armed_at) and self._blocks == block

    def _look(self, session: Session) -> str:
        history = list(self._ctx.format.TABLES)
        params = {"pid": self._watched.backend_pid, "schema": self._watched.schema, "history": history}
        relation, mode, waits = session.execute(_LOOK, params).fetchone() or (None, None, None)
        if waits:
            self._waited_for = waited_for(session, self._watched.backend_pid) or self._waited_for
        return f"{mode} on {relation}" if relation else ""

    def _cancel(self, session: Session | None, *, for_good: bool) -> None:
        """Cancel the statement; *for_good*: end its session, which gives the locks back all the same."""
        with contextlib.suppress(psycopg.Error):
            if session is None:
                self._watched.cancel()
            elif for_good:
                session.execute("SELECT pg_terminate_backend(%s)", [self._watched.backend_pid])
            else:
                session.execute("SELECT pg_cancel_backend(%s)", [self._watched.backend_pid])
