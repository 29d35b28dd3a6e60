"""What taking a migration back would lose: rows and values that were written since it was applied.

The down script is first run inside a savepoint, to see from the catalog what it really drops, rewrites,
deletes or changes, cascades and all. Then it is undone, those tables are locked, and what is there is
counted: rows that the migration's own transactions did not write. A row that was written again since counts
even where only another of its columns changed: the answer errs on the side of the data. Until the locks
others could write: when the script has really run, it must have deleted and changed as much as in the try.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from psycopg import sql

from godwit.engine.session import Session
from godwit.engine.snapshot import verbatim

# Ordinary tables that hold rows; a partitioned one holds them in its partitions.
_TABLES: Final = """
SELECT c.oid::bigint, n.nspname, c.relname, pg_relation_filenode(c.oid)::bigint, row_security_active(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit')
   AND n.nspname NOT LIKE 'pg\\_t%%'
   AND NOT (n.nspname IN (%(schema)s, c.relname) AND c.relname = ANY (%(history)s))"""

# Values of a generated column follow from others.
_COLUMNS: Final = """
SELECT a.attrelid::bigint, a.attnum, a.attname, pg_get_expr(f.adbin, f.adrelid),
       format_type(a.atttypid, a.atttypmod)
  FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
 WHERE a.attrelid = ANY (%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"""

# The parts of each row type; columns of other tables may be of it.
_PARTS: Final = """
SELECT c.oid::bigint, array_agg(a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relkind IN ('c', 'r', 'p') AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.oid"""

# Columns that are of these row types, or of arrays, domains, ranges and other row types made of them.
_HOLDING: Final = """
WITH RECURSIVE made AS (
    SELECT reltype AS type FROM pg_class WHERE oid = ANY (%s::bigint[]::oid[])
    UNION
    SELECT other.type FROM made CROSS JOIN LATERAL (
        SELECT oid FROM pg_type WHERE typelem = made.type OR typbasetype = made.type
        UNION ALL SELECT rngtypid FROM pg_range WHERE rngsubtype = made.type
        UNION ALL SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                   WHERE a.atttypid = made.type AND NOT a.attisdropped) AS other (type))
SELECT attrelid::bigint, attnum FROM pg_attribute
 WHERE atttypid IN (SELECT type FROM made) AND attnum > 0 AND NOT attisdropped"""

_CHANGES: Final = """
SELECT relid::bigint, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables WHERE n_tup_upd + n_tup_del > 0"""

# Who writes to a table has this lock (manual, section 13.3.1). What a foreign one stands for is not counted.
_FAR: Final = """
SELECT c.oid::regclass::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
 WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND c.relkind = 'f'
 ORDER BY 1"""

_TRUE: Final = sql.SQL("true")


@dataclass(frozen=True)
class _Table:
    schema: str
    name: str
    file: int
    hidden: bool
    """Whether row security may hide rows from the role, a table's owner too where it is forced."""
    columns: dict[int, tuple[str, str | None, str]]
    """attnum -> name, default expression, type."""

    @property
    def sql(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class _Touched:
    """What a script did to the rows of a table that it left there."""

    updated: int
    deleted: int
    own: int
    """Rows of the migration's own that are left."""


@dataclass(frozen=True)
class Tried:
    """What a try of a down script came to."""

    lost: list[str]
    """What it would lose, in words."""
    known: frozenset[int] = frozenset()
    """The tables that were there before it, by OID: what it makes itself has another each time."""
    touched: dict[int, _Touched] = field(default_factory=dict)
    begin: dict[int, tuple[int, int]] = field(default_factory=dict)
    """The transaction's counters after it; a savepoint's counts stay in them."""


def lost_by(
    session: Session, down: Callable[[], None], txids: Collection[int], history: Collection[str]
) -> Tried:
    """What *down* would lose; no words when nothing. Inside an open transaction, which it leaves open.

    txids: the transactions that applied the migration (`txid_current()`); what only they wrote is no loss,
    because applying writes it again, and neither is what is in the tables named *history*. The tables
    concerned stay locked against readers and writers until the transaction ends. *down* has been rolled back
    when this returns.
    """
    if session.execute("SHOW track_counts").fetchone() != ("on",):
        return Tried(["what nobody can tell, because the server counts no changes (track_counts is off)"])
    before, changes_before, parts = _tables(session, history), _changes(session), _parts(session)
    session.execute("SAVEPOINT godwit_down")
    down()
    session.execute("SET CONSTRAINTS ALL IMMEDIATE")  # as after the script itself: deferred triggers count
    far = session.execute(_FAR).fetchall()
    after, parts_after = _tables(session, history), _parts(session)
    own = [txid % 2**32 for txid in txids]
    kept = {oid: table for oid, table in after.items() if oid in before}
    written = _touched(session, kept, own, changes_before)
    session.execute("ROLLBACK TO SAVEPOINT godwit_down")
    narrower = [oid for oid, numbers in parts.items() if numbers - parts_after.get(oid, numbers)]
    holding = _holding(session, narrower) if narrower else set()
    dropped = {
        oid: {n for n in table.columns if n not in after[oid].columns or (oid, n) in holding}
        for oid, table in before.items()
        if oid in after
    }
    concerned = {
        oid: table
        for oid, table in before.items()
        if oid not in after or after[oid].file != table.file or dropped[oid] or oid in written
    }
    for table in concerned.values():
        session.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(table.sql))
    losses = [f"rows of {name} on another server, so not countable" for (name,) in far]
    for oid, table in concerned.items():
        same = after.get(oid)
        if table.hidden and _some(session, oid):
            losses.append(f"rows of {table} that row security hides from the role, so not countable")
            continue
        if same is None or same.file != table.file:
            count = _count(session, table, own, _TRUE)
            losses += [f"{count} rows of {table}"] if count else []
            continue
        for number in sorted(dropped[oid]):
            name, default, kind = table.columns[number]
            count = _count(session, table, own, _set(name, default, kind))
            losses += [f"{count} values of {table}.{name}"] if count else []
        if oid in written:
            did = written[oid]
            ours = _count(session, table, own, _TRUE, own_rows=True) - did.own
            others = did.updated + did.deleted - ours
            losses += [f"{others} rows of {table} that the down script deletes or changes"] if others else []
    return Tried(losses, frozenset(before), written, _changes(session))


def lost_since(session: Session, tried: Tried, txids: Collection[int], history: Collection[str]) -> list[str]:
    """The tables of which the script, which has run now, deleted or changed other rows than in the try."""
    tables = {oid: table for oid, table in _tables(session, history).items() if oid in tried.known}
    done = _touched(session, tables, [txid % 2**32 for txid in txids], tried.begin)
    differ = [oid for oid in tables if done.get(oid) != tried.touched.get(oid)]
    return sorted(f"rows of {tables[oid]}" for oid in differ)


def _touched(
    session: Session, tables: dict[int, _Table], own: list[int], begin: dict[int, tuple[int, int]]
) -> dict[int, _Touched]:
    """What was done to the rows of *tables* since the transaction's counters stood at *begin*."""
    now = _changes(session)
    changed = {oid: now[oid] for oid in tables.keys() & now.keys() if now[oid] != begin.get(oid)}
    found = {}
    for oid, (updated, deleted) in changed.items():
        updated_before, deleted_before = begin.get(oid, (0, 0))
        left = _count(session, tables[oid], own, _TRUE, own_rows=True)
        found[oid] = _Touched(updated - updated_before, deleted - deleted_before, left)
    return found


def _tables(session: Session, history: Collection[str]) -> dict[int, _Table]:
    found = {
        oid: _Table(schema, name, file or 0, hidden, {})
        for oid, schema, name, file, hidden in session.execute(
            _TABLES, {"schema": session.schema, "history": list(history)}
        )
    }
    for oid, number, *column in session.execute(_COLUMNS, {"oids": list(found)}):
        name, default, kind = column
        found[oid].columns[number] = (name, default, kind)
    return found


def _some(session: Session, oid: int) -> bool:
    """Whether the locked table may have rows: one without a page has none."""
    row = session.execute("SELECT pg_relation_size(%s::oid) > 0", [oid]).fetchone()
    return bool(row and row[0])


def _parts(session: Session) -> dict[int, set[int]]:
    return {oid: set(numbers) for oid, numbers in session.execute(_PARTS)}


def _holding(session: Session, types: list[int]) -> set[tuple[int, int]]:
    """Table and attnum of each column whose values have a part that is of one of the row *types*."""
    return {(oid, number) for oid, number in session.execute(_HOLDING, [types])}


def _changes(session: Session) -> dict[int, tuple[int, int]]:
    return {oid: (updated, deleted) for oid, updated, deleted in session.execute(_CHANGES)}


def _set(column: str, default: str | None, kind: str) -> sql.Composable:
    """Whether a row's value is another than the default. Expression and type come from the catalog itself."""
    name = sql.Identifier(column)
    if default is None:
        return sql.SQL("{} IS DISTINCT FROM NULL").format(name)
    # By the bytes of the values: not every type has an operator that compares them, json for one.
    value = sql.SQL(f"CAST(({default}) AS {kind})")
    return sql.SQL("record_image_ne(ROW({}), ROW({}))").format(name, value)


def _count(
    session: Session, table: _Table, own: list[int], condition: sql.Composable, *, own_rows: bool = False
) -> int:
    """Rows that others wrote last and that meet *condition*; with *own_rows*, those of *own* instead."""
    query = sql.SQL("SELECT count(*) FROM ONLY {} WHERE (xmin::text::bigint = ANY (%s)) = %s AND {}")
    row = session.execute(query.format(verbatim(table.sql), verbatim(condition)), [own, own_rows]).fetchone()
    return int(row[0]) if row else 0
