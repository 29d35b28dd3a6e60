"""Undoing exactly what is ours: INVALID indexes that a failed CREATE INDEX or REINDEX CONCURRENTLY left."""

import time
from dataclasses import dataclass, field
from typing import Final

import psycopg

from godwit.engine import journal
from godwit.engine.execute import rolled_back, set_limits
from godwit.engine.model import PlannedMigration, Statement
from godwit.engine.run import Run

_POLL_SECONDS: Final = 0.2
_TOAST: Final = "pg_toast."
# The index, and the table that whoever works on it has locked; a materialized view cannot be locked by name.
_NAMES: Final = """
SELECT format('%%I.%%I', n.nspname, c.relname),
       CASE t.relkind WHEN 'r' THEN format('%%I.%%I', tn.nspname, t.relname) END
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class t ON t.oid = coalesce((SELECT oid FROM pg_class WHERE reltoastrelid = i.indrelid), i.indrelid)
  JOIN pg_namespace tn ON tn.oid = t.relnamespace
 WHERE i.indexrelid = %s AND NOT i.indisvalid AND c.relkind = 'i'"""
# Its time was up, a busy lock, and what only a superuser may: an index of pg_toast by its name.
_KEPT: Final = {"57014", "55P03", "40P01", "42501"}


@dataclass
class Undone:
    """Names of the INVALID indexes that were dropped, and of those that could not be."""

    dropped: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    @property
    def in_the_way(self) -> list[str]:
        """Those of the kept ones that the statement, run again, would meet."""
        return [name for name in self.kept if not name.startswith(_TOAST)]

    @property
    def told(self) -> str:
        """What became of them, for people; nothing where there were none."""
        dropped = f"The INVALID index {', '.join(self.dropped)} was dropped. " if self.dropped else ""
        return dropped + "".join(
            f"The INVALID index {name} stays: drop it concurrently. " for name in self.kept
        )


def drop_invalid(run: Run, oids: tuple[int, ...], planned: PlannedMigration, statement: Statement) -> Undone:
    """Drop these indexes concurrently, as long as they are INVALID, and record it.

    DROP INDEX CONCURRENTLY takes no lock that keeps readers or writers out; it waits for older transactions,
    so lock_timeout must not cut it. Raises psycopg.Error where the step itself is cut off.
    """
    undone = Undone()
    set_limits(run, local=False, concurrent=True)
    for oid in oids:
        row = run.session.execute(_NAMES, [oid]).fetchone()
        if row is None:
            continue
        run.point("before_undo")
        try:
            if row[1] and not _left(run, oid, row[1]):
                continue
            run.session.conn.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row[0]}".encode())
            undone.dropped.append(row[0])
        except psycopg.Error as exc:
            if exc.sqlstate not in _KEPT or run.ctx.cancelled.is_set():
                raise
            rolled_back(run.session)
            undone.kept.append(row[0])
    set_limits(run, local=False)
    if undone.dropped and not undone.in_the_way:
        journal.append(
            run.session,
            run.ctx.request,
            journal.Event.UNDONE,
            verb=run.verb,
            migration=planned.name,
            checksum=planned.checksum,
            statement=statement.index,
            detail={"dropped": undone.dropped},
        )
    if undone.told:
        run.ctx.progress("undone", message=undone.told.strip(), dropped=undone.dropped, kept=undone.kept)
    run.point("after_undo")
    return undone


def _left(run: Run, oid: int, table: str) -> bool:
    """Whether the index is INVALID although nobody is at work on *table*: then nobody will make it valid.

    Who builds an index concurrently holds this lock from the beginning to the end. It is asked for again and
    again: whoever waits for it inside the server is waited for by the builder, and one of both loses. Raises
    psycopg.Error when it is not to be had in time.
    """
    deadline = time.monotonic() + run.policy.concurrent_budget_ms / 1000
    while True:
        try:
            with run.session.transaction():
                run.session.conn.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE NOWAIT".encode())
                return run.session.execute(_NAMES, [oid]).fetchone() is not None
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() >= deadline:
                raise
        run.ctx.cancelled.wait(_POLL_SECONDS)
        run.ctx.cancelled.check()
