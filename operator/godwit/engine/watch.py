"""How long a migration may hold locks that keep the application out: counted and cut off by a second session.

PostgreSQL's `lock_timeout` bounds waiting for a lock, never holding one, and a script may set it aside; who
waits for a strong lock keeps others out already, for they queue behind. The watch looks at pg_locks while a
migration's transaction is open; the first strong lock on a table that others can see starts the count, and
the query is cancelled when it is held, or waited for, for too long, which rolls everything back. Tables that
the same transaction made are invisible to the second session, and so do not count.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg

from godwit.contract.policy import Policy
from godwit.engine.blockers import Blocker, waited_for
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed
from godwit.engine.locks import STRONG
from godwit.engine.session import Session

_POLL_SECONDS: Final = 0.05
"""Between two looks, and from the start of a transaction to the first: what is through by then costs none."""
_CATCHING_SECONDS: Final = 2.0
"""How long a script may go on that catches the cancel (`EXCEPTION WHEN query_canceled`)."""
_LATE_MS: Final = 500
"""How long `lock_timeout` may be over, where the server keeps to it by itself."""

# The modes that conflict with ROW EXCLUSIVE (writers) or ACCESS SHARE (readers): manual, table 13.2. The
# history table is locked against other migrators on purpose, and the application does not use it. To lock a
# sequence keeps those out who insert.
_LOOK: Final = """
SELECT held.*, (SELECT wait_event_type = 'Lock' FROM pg_stat_get_activity(%(pid)s)),
       (SELECT l.mode || ' on ' || l.relation::regclass::text FROM pg_locks l
         WHERE l.pid = %(pid)s AND NOT l.granted AND l.locktype = 'relation' AND l.mode = ANY (%(strong)s)
         LIMIT 1)
  FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
SELECT l.relation::regclass::text, l.mode
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.pid = %(pid)s AND l.granted AND l.locktype = 'relation'
   AND c.relkind IN ('r', 'p', 'm', 'v', 'f', 'S')
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.mode = ANY (%(strong)s)
   AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema', 'godwit')
   AND NOT (n.nspname IN (%(schema)s, c.relname) AND c.relname = ANY (%(history)s))
 ORDER BY l.mode = 'AccessExclusiveLock' DESC LIMIT 1) AS held ON true"""


class HoldWatch:
    """Watches the transactions of one session."""

    def __init__(self, ctx: StepContext, session: Session, policy: Policy) -> None:
        self._policy = policy
        self._ctx = ctx
        self._watched = session
        self._changed = threading.Condition()
        self._armed_at = 0.0
        """By the monotonic clock; 0 while no transaction is watched."""
        self._blocks = 0
        """How many there were so far."""
        self._closed = False
        self._fired = ""
        self._queued = False
        self._cautious = True
        self._waited_for: Sequence[Blocker] = ()
        self._thread: threading.Thread | None = None

    @property
    def fired(self) -> str:
        """The lock that was held for too long, when the last armed block was cut off for it; else nothing."""
        return self._fired

    @property
    def queued(self) -> bool:
        """Whether that lock was only waited for, by a script that had set `lock_timeout` aside."""
        return self._queued

    @property
    def waited_for(self) -> Sequence[Blocker]:
        """Whom the transaction of the last armed block waited for when that was last looked at."""
        return self._waited_for

    @contextlib.contextmanager
    def armed(self, *, cautious: bool = True) -> Iterator[None]:
        """Count during the block, which holds one transaction.

        *cautious*: where the locks cannot be looked at, the whole of the block counts as holding.
        """
        # The thread wakes by itself: to wake it would cost each migration more than the watch is worth to it.
        with self._changed:
            self._armed_at, self._fired, self._waited_for = time.monotonic(), "", ()
            self._queued, self._cautious = False, cautious
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
        try:
            while not self._pause():
                with self._changed:
                    block, armed_at = self._blocks, self._armed_at
                if not armed_at or time.monotonic() - armed_at < _POLL_SECONDS:
                    continue
                if session is None:
                    with contextlib.suppress(StepFailed, psycopg.Error):
                        session = self._ctx.open(cancellable=False).as_login()
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
        queue, queued_at = "", 0.0
        while self._is_on(block):
            held, waits = "locks that could not be looked at" if self._cautious else "", ""
            if session is not None:
                try:
                    held, waits = self._look(session)
                except psycopg.Error:
                    session.close()
                    session = None
            now = time.monotonic()
            if not held:
                free_at = now
            if waits != queue:
                queue, queued_at = waits, now
            too_long = bool(held) and (now - free_at) * 1000 > self._policy.max_lock_hold_ms
            queued = bool(waits) and (now - queued_at) * 1000 > self._policy.lock_timeout_ms + _LATE_MS
            with self._changed:
                if self._is_on(block) and (too_long or queued):
                    if not self._fired:
                        self._fired, self._queued = (held, False) if too_long else (waits, True)
                    told_at = told_at or now
                    self._cancel(session, for_good=now - told_at > _CATCHING_SECONDS)
            if self._pause():
                break
        return session

    def _is_on(self, block: int) -> bool:
        return not self._closed and bool(self._armed_at) and self._blocks == block

    def _look(self, session: Session) -> tuple[str, str]:
        """A strong lock that is held, and the one that is waited for."""
        pid = self._watched.backend_pid
        history = list(self._ctx.format.TABLES)
        params = {"pid": pid, "schema": self._watched.schema, "history": history, "strong": list(STRONG)}
        relation, mode, waits, queue = session.execute(_LOOK, params).fetchone() or (None, None, None, None)
        if waits:
            self._waited_for = waited_for(session, pid) or self._waited_for
        return f"{mode} on {relation}" if relation else "", queue or ""

    def _cancel(self, session: Session | None, *, for_good: bool) -> None:
        """Cancel the statement; *for_good*: end its session, which gives the locks back all the same."""
        with contextlib.suppress(psycopg.Error):
            if session is None:
                self._watched.cancel()
            elif for_good:
                session.execute("SELECT pg_terminate_backend(%s)", [self._watched.backend_pid])
            else:
                session.execute("SELECT pg_cancel_backend(%s)", [self._watched.backend_pid])
