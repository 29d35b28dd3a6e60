"""The migration lock and the fence: one migrator at a time, and only the one that was meant to come now."""

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import psycopg

from godwit.contract.reasons import Reason
from godwit.engine import journal
from godwit.engine.context import APPLICATION_NAME_LIMIT, StepContext
from godwit.engine.errors import StepFailed, fail, utc
from godwit.engine.session import Session

WAIT_SECONDS: Final = 10.0
"""As long as Prisma's own command line waits. An orphaned backend of a killed step is gone after some 2 s."""
_POLL_SECONDS: Final = 0.2
_ALIKE_SECONDS: Final = 60
"""Clocks that differ by more do not show the same time."""
_ATTEMPT: Final = re.compile(r"#\d+")

# A bigint key shows in pg_locks as high half in classid, low half in objid, 1 in objsubid (manual, 54.12).
_ON_KEY: Final = """
SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), a.backend_start
  FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (l.classid::bigint << 32 | l.objid::bigint) = %(key)s
   AND l.granted = %(granted)s AND l.pid <> pg_backend_pid()"""


HOLDS: Final = """EXISTS (
SELECT FROM pg_locks AS l
 WHERE l.pid = pg_backend_pid() AND l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
   AND l.database = %(database)s AND (l.classid::bigint << 32 | l.objid::bigint) = %(key)s)"""
"""Whether the session still has the lock: a script may have given it back, a failover has."""


@contextlib.contextmanager
def migration_lock(
    ctx: StepContext, session: Session, *, wait_seconds: float = WAIT_SECONDS, key: int | None = None
) -> Iterator[None]:
    """Hold the session advisory lock *key*, else the tool's own, on the *session* that runs the SQL.

    Polled, never waited for inside the server: a waiter there holds a snapshot that CREATE INDEX CONCURRENTLY
    waits for. Raises StepFailed(LockHeld) naming the holder's process after *wait_seconds*.
    """
    if key is None:
        key = ctx.format.advisory_key(session)
    deadline = time.monotonic() + wait_seconds
    while not _try(session, key):
        ctx.cancelled.check(standing="Nothing was changed.")
        if time.monotonic() >= deadline:
            raise _held(ctx, session, key, wait_seconds)
        ctx.cancelled.wait(_POLL_SECONDS)
    try:
        yield
    finally:
        # A broken connection has given the lock back already.
        with contextlib.suppress(psycopg.Error):
            session.execute("SELECT pg_advisory_unlock(%s)", (key,))


def _try(session: Session, key: int) -> bool:
    row = session.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
    return bool(row and row[0])


def _held(ctx: StepContext, session: Session, key: int, waited: float) -> StepFailed:
    holders = session.execute(_ON_KEY, {"key": key, "granted": True}).fetchall()
    texts = []
    for pid, name, user, since in holders:
        # A long name was cut, and may be another run's.
        whole = len(name) < APPLICATION_NAME_LIMIT
        ours = whole and _ATTEMPT.sub("", name) == _ATTEMPT.sub("", ctx.application_name)
        texts.append(
            f"process {pid} ({name or 'no application name'}, user {user or 'hidden'}, connected since "
            f"{utc(since) if since else 'hidden'}"
            f"{', an earlier attempt of this very step' if ours else ''})"
        )
    return fail(
        Reason.LOCK_HELD,
        f"The migration lock {key} was not free within {waited:g} s: "
        f"{'; '.join(texts) or 'its holder has gone meanwhile'}.",
        standing="Nothing was changed.",
    )


def waiters(session: Session, key: int) -> list[tuple[int, str, str]]:
    """Sessions that wait for the lock *key* inside the server: process id, application name, user."""
    rows = session.execute(_ON_KEY, {"key": key, "granted": False}).fetchall()
    return [(pid, name, user) for pid, name, user, _ in rows]


def check_fence(ctx: StepContext, session: Session) -> None:
    """Under the lock: nobody else wrote since the plan, and it is not too late.

    Raises StepFailed(StateMoved, TooLate). The time is the later one of the runner's clock and the server's:
    of two clocks that differ, the careful answer.
    """
    request = ctx.request
    if request.not_after is not None:
        row = session.execute("SELECT clock_timestamp()").fetchone()
        server: datetime = row[0] if row else datetime.now(UTC)
        ours = ctx.clock()
        now = max(ours, server)
        if now > request.not_after:
            differ = abs(ours - server).total_seconds() > _ALIKE_SECONDS
            raise fail(
                Reason.TOO_LATE,
                f"The step got the lock at {utc(now)}, "
                f"but was allowed to start until {utc(request.not_after)}."
                + (f" Its node says {utc(ours)}, the database's server {utc(server)}." if differ else ""),
                standing="Nothing was changed.",
                hint="One of the two clocks is wrong: the later one counts." if differ else "",
            )
    if request.expected_journal is not None:
        head = journal.head_of_others(session, request.operation)
        if head != request.expected_journal:
            raise fail(
                Reason.STATE_MOVED,
                f"The journal's last row of others is {head}, but {request.expected_journal} was expected.",
                standing="Nothing was changed.",
            )
