"""What was written since a snapshot, counted exactly by the transaction numbers that rows carry.

A row's `xmin` says which transaction wrote it, also after VACUUM FREEZE, which only marks it (PostgreSQL
manual, section 25.1.5). A row whose writer the snapshot did not see was inserted or updated since; rows that
the snapshot counted and that are no longer there in that form were deleted or updated. Once 2^32 transactions
have passed, very old rows look like new ones: more is counted then than was written, never less.

`pg_current_snapshot()` lists no subtransactions, so it cannot tell a savepoint's rows of a transaction that
was still running from rows committed before. Therefore the writers that the snapshot did see, of those that
began after the oldest running one, are read from the rows themselves while the snapshot is held.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import psycopg
from psycopg import sql

from godwit.contract.base import Model
from godwit.contract.reasons import Reason
from godwit.engine.errors import fail
from godwit.engine.journal import SCHEMA as JOURNAL_SCHEMA
from godwit.engine.session import Session


class TableCount(Model):
    """One table inside a snapshot. `filenode` changes whenever the table is rewritten or truncated."""

    rows: int
    oid: int
    filenode: int
    writers: tuple[int, ...] | None = ()
    """Transaction numbers (32 bit) of the rows whose writer began at or after the snapshot's `xmin`.

    None where there were too many to keep: what is written later can then not be counted.
    """


class Written(Model):
    """What was written to one table since a snapshot; nothing can be counted where it was rewritten."""

    added: int = 0
    """Rows inserted, and new forms of rows updated."""
    gone: int = 0
    """Rows deleted, and former forms of rows updated."""
    unknown: bool = False

    @property
    def rows(self) -> int:
        """How many rows were written, at least: one added and one gone count as one row updated."""
        return max(self.added, self.gone)

    def __bool__(self) -> bool:
        """Whether anything was written."""
        return self.unknown or self.rows > 0


_MOST_WRITERS: Final = 10_000
"""Of one table in a manifest; more run while a transaction stays open for a long time."""

TABLES: Final = """
SELECT n.nspname, c.relname, c.oid::bigint, pg_relation_filenode(c.oid)::bigint
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
 UNION ALL
SELECT 'pg_catalog', c.relname, c.oid::bigint, pg_relation_filenode(c.oid)::bigint
  FROM pg_class c
 WHERE c.oid IN ('pg_catalog.pg_largeobject'::regclass, 'pg_catalog.pg_largeobject_metadata'::regclass)
   AND has_table_privilege(c.oid, 'SELECT') AND EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)
 ORDER BY 1, 2"""
"""Every table that holds rows of its own, partitions and extensions' tables included; and large objects."""

# pg_class as the snapshot sees it, beside the file that the table has now. Catalogs have 0 there.
_REWRITTEN: Final = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%s) AND c.relfilenode NOT IN (0, pg_relation_filenode(c.oid)) ORDER BY 1"""

LARGE_OBJECTS: Final = "pg_catalog.pg_largeobject"
"""Their content, which only a superuser may read; `..._metadata`, who owns them, everybody may."""

# A transaction number without its epoch, as in rows, becomes the newest full number that it can stand for.
# Numbers below 3 are PostgreSQL's own (access/transam.h).
_FULL: Final = """
CASE WHEN t.xmin::text::bigint < 3 THEN 0
     ELSE godwit_next - ((godwit_next - t.xmin::text::bigint) %% 4294967296 + 4294967296) %% 4294967296 END"""
_NEXT: Final = "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS godwit_next) AS moment"

_COUNT: Final = f"""
SELECT count(*),
       coalesce(array_agg(DISTINCT t.xmin::text::bigint) FILTER (WHERE {_FULL} >= %(xmin)s),
                ARRAY[]::bigint[])
  FROM ONLY {{table}} AS t, {_NEXT}"""  # noqa: S608  composed of constants

_SINCE: Final = f"""
SELECT count(*) FILTER (WHERE NOT seen), count(*) FILTER (WHERE seen)
  FROM (SELECT full_xid < %(xmin)s
               OR (full_xid < %(xmax)s AND (full_xid & 4294967295) = ANY (%(writers)s::bigint[])) AS seen
          FROM (SELECT {_FULL} AS full_xid FROM ONLY {{table}} AS t, {_NEXT}) AS numbered) AS judged"""  # noqa: S608


def current_snapshot(session: Session) -> str:
    """The open transaction's snapshot as `xmin:xmax:running,...`, with full (64 bit) transaction numbers."""
    row = session.execute("SELECT pg_current_snapshot()::text").fetchone()
    return str(row[0]) if row else ""


def count_tables(session: Session, snapshot: str) -> dict[str, TableCount]:
    """Every table's rows in the session's open REPEATABLE READ transaction, which has that *snapshot*.

    Reads every row once. Row security is off: rows hidden from the role are an error, not missing. Raises
    StepFailed(StateMoved) where a table was truncated, or rewritten by ALTER TABLE, after the snapshot and
    before its lock: such a table looks empty to an older snapshot, to ours as to pg_dump's (PostgreSQL
    manual, section 13.6).
    """
    session.execute("SET LOCAL row_security = off")
    xmin, _ = _bounds(snapshot)
    counts = {}
    for schema, name, oid, filenode in session.execute(TABLES).fetchall():
        row = session.execute(_on(_COUNT, schema, name), {"xmin": xmin}).fetchone() or (0, [])
        counts[f"{schema}.{name}"] = TableCount(
            rows=row[0],
            oid=oid,
            filenode=filenode or 0,
            writers=tuple(sorted(row[1])) if len(row[1]) <= _MOST_WRITERS else None,
        )
    # The locks of reading are kept to the end of the transaction: from here on nothing is rewritten.
    rewritten = session.execute(_REWRITTEN, [[count.oid for count in counts.values()]]).fetchall()
    if rewritten:
        names = ", ".join(table for (table,) in rewritten[:5])
        raise fail(
            Reason.STATE_MOVED,
            f"Others rewrote or truncated {names} just when the backup began; it would lack those rows.",
            standing="The database was only read; no backup was made.",
        )
    return counts


def written_since(
    session: Session, snapshot: str, tables: Mapping[str, TableCount], history: Collection[str]
) -> dict[str, Written]:
    """What was written to each table since *snapshot*, by `schema.table`; tables without writes are left out.

    The history tables, named by *history*, and the journal do not count: they are the restore's own business.
    A table that is new since counts with all its rows, one that was dropped with all that it had. Row
    security as above.
    """
    found: dict[str, Written] = {}
    there = {f"{s}.{n}": (s, n, oid, filenode) for s, n, oid, filenode in session.execute(TABLES).fetchall()}
    # No transaction around it: each table is locked for its own count only, not until the last one's end.
    session.execute("SET row_security = off")
    try:
        for key, (schema, name, oid, filenode) in there.items():
            if _own(session, history, schema, name):
                continue
            before = tables.get(key)
            same = before is None or (before.oid, before.filenode) == (oid, filenode or 0)
            if not same or (before is not None and before.writers is None):
                found[key] = Written(unknown=True)
                continue
            found[key] = _since(session, snapshot, schema, name, before)
    finally:
        with contextlib.suppress(psycopg.Error):
            session.execute("RESET row_security")
    for key, before in tables.items():
        schema, _, name = key.partition(".")
        if key not in there and not _own(session, history, schema, name):
            found[key] = Written(gone=before.rows)
    if LARGE_OBJECTS not in there and f"{LARGE_OBJECTS}_metadata" in there:
        found[LARGE_OBJECTS] = Written(unknown=True)
    return {key: written for key, written in found.items() if written}


def total(written: Iterable[Written]) -> int:
    """All the rows together; -1 when any table's are unknown."""
    listed = list(written)
    return -1 if any(w.unknown for w in listed) else sum(w.rows for w in listed)


def _since(session: Session, snapshot: str, schema: str, name: str, before: TableCount | None) -> Written:
    xmin, xmax = _bounds(snapshot)
    parameters = {"xmin": xmin, "xmax": xmax, "writers": list(before.writers or ()) if before else []}
    row = session.execute(_on(_SINCE, schema, name), parameters).fetchone() or (0, 0)
    if before is None:
        return Written(added=row[0] + row[1])
    return Written(added=row[0], gone=before.rows - row[1])


def _own(session: Session, history: Collection[str], schema: str, name: str) -> bool:
    return schema == JOURNAL_SCHEMA or (schema in {session.schema, name} and name in history)


def _bounds(snapshot: str) -> tuple[int, int]:
    """The oldest transaction that was running, and the first that had not begun (pg_snapshot's text form)."""
    xmin, xmax, _ = snapshot.split(":")
    return int(xmin), int(xmax)


def _on(query: str, schema: str, name: str) -> sql.Composed:
    return sql.SQL(query).format(table=verbatim(sql.Identifier(schema, name)))


def verbatim(part: sql.Composable) -> sql.SQL:
    """*part* for a query that has placeholders: a `%` in a name or an expression is none of them."""
    return sql.SQL(part.as_string(None).replace("%", "%%"))
