"""Who stands in a migration's way, asked before it queues for a lock.

A waiting request for a strong lock makes every later reader wait behind it. So nobody queues behind a holder
that has been in its transaction for longer than `lock_timeout`: the try is not made, and looked again later.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import psycopg
from pglast.parser import parse_sql_json
from psycopg.types.json import Json

from godwit.contract.outcome import LockHolder
from godwit.engine.beyond import ALONE, Beyond, Kind, Way, locked_beyond
from godwit.engine.dependents import DEPENDENTS
from godwit.engine.locks import CONFLICTS, MODES, strongest, table_locks
from godwit.engine.model import Statement
from godwit.engine.redact import redact
from godwit.engine.repeated import Repeated
from godwit.engine.session import Session

_SHOWN: Final = 5
_BY_HEIRS: Final = {Way.HEIRS, Way.PARTITIONS, Way.DEFAULT}
"""Ways that a glance sees; the others lead through more of the catalog."""
_OF_TABLES: Final = {Kind.CONSTRAINT, Kind.RELATION}
_QUERY_LIMIT: Final = 200

# Statements that take long, or after which a name may mean another table: what comes later is not locked in
# advance, or others would be kept out for all that time.
_WORK: Final = {
    "CallStmt",
    "CopyStmt",
    "CreateTableAsStmt",
    "DeleteStmt",
    "DoStmt",
    "ExecuteStmt",
    "InsertStmt",
    "MergeStmt",
    "RefreshMatViewStmt",
    "SelectStmt",
    "UpdateStmt",
    "VariableSetStmt",
}

# A DROP INDEX locks the index's table. The foreign keys of partitions are their table's: that alone points.
# An autovacuum gives way by itself when somebody waits for its table (manual, section 25.1.6), unless the
# table is so old that it must be. Of a process without a user a plain role sees nothing else, and none but
# an autovacuum's has a lock on a table.
# LOCK TABLE takes tables alone, of a role that may write them (manual, LOCK).
_WAYS: Final = """
WITH RECURSIVE asked AS (
  SELECT *, CASE WHEN kind IN ('', 'pg_class', 'pg_constraint') THEN to_regclass(name)::oid END AS oid
    FROM unnest(%(names)s::text[], %(conflicts)s::text[], %(take)s::text[], %(ways)s::text[],
                %(parts)s::text[], %(kinds)s::text[]) AS w (name, conflicts, take, way, part, kind)
), ways AS (
  SELECT coalesce(i.indrelid, c.oid) AS relation, w.conflicts, w.take, w.way, w.part
    FROM asked w JOIN pg_class c ON c.oid = w.oid LEFT JOIN pg_index i ON i.indexrelid = c.oid
), heirs AS (
  SELECT w.relation, w.conflicts FROM ways w JOIN pg_class c ON c.oid = w.relation
   WHERE w.way = 'heirs' OR w.way = 'partitions' AND c.relkind = 'p'
   UNION SELECT i.inhrelid, h.conflicts FROM heirs h JOIN pg_inherits i ON i.inhparent = h.relation
), parents AS (
  SELECT i.inhparent AS relation, w.conflicts
    FROM ways w JOIN pg_class c ON c.oid = w.relation JOIN pg_inherits i ON i.inhrelid = c.oid
   WHERE w.way = 'parent' AND c.relispartition
), keys AS (
  SELECT CASE w.way WHEN 'pointed' THEN k.confrelid ELSE k.conrelid END AS relation, w.conflicts
    FROM ways w JOIN pg_constraint k
      ON k.contype = 'f'
     AND (w.way = 'pointed' AND k.conrelid = w.relation AND k.conparentid = 0
          OR w.way = 'pointing' AND k.confrelid = w.relation)
   WHERE w.part = ''
      OR EXISTS (SELECT FROM pg_attribute a
                  WHERE a.attrelid = w.relation AND a.attname = w.part
                    AND a.attnum = ANY (CASE w.way WHEN 'pointed' THEN k.conkey ELSE k.confkey END))
), sequences AS (
  SELECT d.objid AS relation, w.conflicts
    FROM ways w JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = w.relation
     AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
   WHERE w.way = 'sequences'
     AND (w.part = '' OR d.refobjsubid = (SELECT attnum FROM pg_attribute
                                           WHERE attrelid = w.relation AND attname = w.part))
), """
_FOUND: Final = """, wanted AS (
  SELECT relation, conflicts, take FROM ways WHERE way = ''
   UNION SELECT relation, conflicts, '' FROM heirs
   UNION SELECT relation, conflicts, '' FROM parents
   UNION SELECT p.partdefid, w.conflicts, ''
           FROM (SELECT relation, conflicts FROM ways WHERE way = 'default'
                  UNION SELECT relation, conflicts FROM parents) AS w
           JOIN pg_partitioned_table p ON p.partrelid = w.relation
   UNION SELECT relation, conflicts, '' FROM keys
   UNION SELECT relation, conflicts, '' FROM sequences
   UNION SELECT relation, conflicts, '' FROM dependents
), held AS MATERIALIZED (
  SELECT l.relation, l.mode, l.pid, l.virtualtransaction, a.application_name, a.usename, a.state,
         a.query_start, a.query, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age,
         a.pid IS NOT NULL AND a.usesysid IS NULL
           AND coalesce(a.backend_type, 'autovacuum worker') = 'autovacuum worker' AS gives_way
    FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
   WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT CASE WHEN c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
                 AND has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
            THEN format('%%I.%%I', n.nspname, c.relname) ELSE '' END, w.take,
       h.pid, coalesce(h.application_name, ''), coalesce(h.usename::text, ''), coalesce(h.state, ''),
       h.relation::regclass::text, h.mode, h.age, coalesce(h.virtualtransaction, ''), h.query_start,
       coalesce(h.query, '')
  FROM wanted w JOIN pg_class c ON c.oid = w.relation JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN held h
    ON h.relation = w.relation AND h.mode = ANY (string_to_array(w.conflicts, ','))
       AND NOT (h.gives_way AND age(c.relfrozenxid) <= current_setting('autovacuum_freeze_max_age')::int)
 WHERE w.take <> '' OR h.relation IS NOT NULL"""
_LOOK: Final = _WAYS + DEPENDENTS + _FOUND


# The same, as far as it goes in a sixth of the time: whether there is anybody, or any heir, at all. Its plan
# is made while there are few tables, and so that it looks into the catalog by key (OFFSET 0). For arrays,
# whose elements the server counts, it would make a plan each time.
_GLANCE: Final = Repeated(
    """
WITH held AS MATERIALIZED (
  SELECT relation, mode FROM pg_locks
   WHERE locktype = 'relation' AND granted AND database = %(database)s
     AND pid IS DISTINCT FROM pg_backend_pid()
)
SELECT CASE WHEN c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
                 AND has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
            THEN format('%%I.%%I', n.nspname, c.relname) ELSE '' END, w.take,
       w.beyond AND c.relhassubclass
       OR EXISTS (SELECT FROM held h
                   WHERE h.relation = c.oid AND h.mode = ANY (string_to_array(w.conflicts, ',')))
  FROM json_to_recordset(%(wanted)s) AS w (name text, conflicts text, take text, beyond boolean)
 CROSS JOIN LATERAL (
    SELECT coalesce(i.indrelid, r.oid) AS oid
      FROM pg_class r LEFT JOIN pg_index i ON i.indexrelid = r.oid
     WHERE r.oid = to_regclass(w.name) OFFSET 0) AS one
 CROSS JOIN LATERAL (SELECT * FROM pg_class WHERE oid = one.oid OFFSET 0) AS c
  JOIN pg_namespace n ON n.oid = c.relnamespace""",
    database="oid",
    wanted="json",
)


@dataclass(frozen=True)
class Blocker:
    """A session, or a prepared transaction (no pid), that holds a conflicting lock."""

    pid: int | None
    application: str
    user: str
    state: str
    relation: str
    mode: str
    age: float | None
    """Seconds since its transaction began; None where the role may not see it."""
    transaction: str
    query_start: datetime | None = None
    query: str = ""

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "a prepared transaction"
        what = f"{self.application or 'no application name'}, user {self.user or 'hidden'}"
        since = "a hidden time" if self.age is None else f"{self.age:.0f} s"
        where = f" on {self.relation}" if self.relation else ""
        return f"{who} ({what}, {self.state or 'state hidden'}, for {since}){where}"

    def holder(self, *, show_query: bool) -> LockHolder:
        """As the contract tells it; its query's text, which may hold row data, only where that is allowed."""
        query = " ".join(redact(self.query).split())
        return LockHolder(
            pid=self.pid,
            user=self.user,
            application=self.application,
            query_start=self.query_start,
            relation=self.relation,
            mode=self.mode,
            query=query[:_QUERY_LIMIT] if show_query else "",
        )


_WORDS: Final = {m: re.sub("(?<=[a-z])(?=[A-Z])", " ", m.removesuffix("Lock")).upper() for m in MODES}
"""`ShareRowExclusiveLock` is SHARE ROW EXCLUSIVE in SQL."""


@dataclass(frozen=True)
class Look:
    """What a look at the locks saw."""

    blockers: tuple[Blocker, ...] = ()
    lockable: tuple[tuple[str, str], ...] = ()
    """Tables that are there and that the role may lock by LOCK TABLE, quoted; with the mode, by name."""

    def lock_tables(self) -> list[bytes]:
        """The statements that take them."""
        return [f"LOCK TABLE ONLY {name} IN {_WORDS[mode]} MODE".encode() for name, mode in self.lockable]


def locks_of(statements: Iterable[Statement]) -> dict[str, str]:
    """The relations that *statements* lock against readers or writers, each with its strongest mode."""
    found: dict[str, str] = {}
    for statement in statements:
        if not statement.locks:
            continue
        for name, mode in _locked(statement.text)[0]:
            if name in statement.locks:
                found[name] = strongest((mode, found.get(name, mode)))
    return found


@lru_cache(maxsize=1024)
def _locked(text: str) -> tuple[tuple[tuple[str, str], ...], tuple[Beyond, ...]]:
    """What one statement locks, by name and beyond; looks at the same statements follow each other."""
    ((tag, node),) = json.loads(parse_sql_json(text))["stmts"][0]["stmt"].items()
    return tuple(table_locks(tag, node)), tuple(locked_beyond(tag, node))


def _beyond(statement: Statement) -> Iterable[Beyond]:
    """Of tables that the same file makes nothing; of a type, a function or a schema, which it names alone."""
    if not statement.locks and statement.tag not in ALONE:
        return ()
    found = _locked(statement.text)[1]
    return found if statement.locks else [b for b in found if b.kind not in _OF_TABLES]


def before_work(statements: Sequence[Statement]) -> Sequence[Statement]:
    """Those that come before the first one that may take long: their locks can be taken in advance."""
    for index, statement in enumerate(statements):
        validates = statement.tag == "AlterTableStmt" and not statement.locks
        if statement.tag in _WORK or validates:
            return statements[:index]
    return statements


def look(session: Session, statements: Sequence[Statement]) -> Look:
    """Who holds a lock that conflicts with what *statements* will take, and what can be taken in advance.

    None where nothing is locked, or where the role must not look: the script may take another one. One round
    trip where nobody is in the way. Raises psycopg.Error.
    """
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):  # of to_regclass, for a schema
        return _look(session, statements)
    return Look()


def _look(session: Session, statements: Sequence[Statement]) -> Look:
    locks, ahead = locks_of(statements), locks_of(before_work(statements))
    beyond = [b for s in statements for b in _beyond(s)]
    if not locks and not beyond:
        return Look()
    if all(b.way in _BY_HEIRS for b in beyond):
        begins = {b.name for b in beyond}
        wanted = [
            {
                "name": name,
                "conflicts": _conflicts(locks.get(name, "")),
                "take": ahead.get(name, ""),
                "beyond": name in begins,
            }
            for name in {**locks, **dict.fromkeys(begins)}
        ]
        rows = _glance(session, wanted)
        if not any(busy for _, _, busy in rows):
            return Look(lockable=_lockable((name, take) for name, take, _ in rows))
    begun = [(name, _conflicts(mode), ahead.get(name, ""), "", "", "") for name, mode in locks.items()]
    begun += [(b.name, _conflicts(b.mode), "", b.way, b.part, b.kind) for b in beyond]
    columns = ("names", "conflicts", "take", "ways", "parts", "kinds")
    params = dict(zip(columns, map(list, zip(*begun, strict=True)), strict=True))
    found: dict[tuple[int | None, str], Blocker] = {}
    rows = session.execute(_LOOK, params).fetchall()
    for _, _, *row in rows:
        if row[4] is not None:  # its relation: somebody is there
            blocker = Blocker(*row)
            found.setdefault((blocker.pid, blocker.relation), blocker)
    return Look(tuple(found.values()), _lockable((name, take) for name, take, *_ in rows))


def _conflicts(mode: str) -> str:
    return ",".join(CONFLICTS.get(mode, ()))


def _glance(session: Session, wanted: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    session.flush()
    params = {"database": session.identity.database_oid, "wanted": Json(wanted)}
    try:
        return session.repeat(_GLANCE, params).fetchall()
    except psycopg.errors.InvalidSqlStatementName:
        session.repeats = False  # a script did DEALLOCATE ALL
        return session.repeat(_GLANCE, params).fetchall()


def _lockable(named: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those that have a name and are to be taken, each in the strongest mode that is asked for."""
    found: dict[str, str] = {}
    for name, mode in named:
        if name and mode:
            found[name] = strongest((mode, found.get(name, mode)))
    return tuple(sorted(found.items()))


_OLD: Final = """
SELECT pid, coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(state, ''),
       '', '', extract(epoch FROM clock_timestamp() - xact_start)::float8, '', query_start, query
  FROM pg_stat_activity
 WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'
   AND xact_start < clock_timestamp() - make_interval(secs => %s) ORDER BY xact_start"""


def old_transactions(session: Session, *, seconds: float) -> list[Blocker]:
    """Transactions older than that in this database, which a CONCURRENTLY waits for (manual, CREATE INDEX).

    Those whose age the role may not see are not among them.
    """
    return [Blocker(*row) for row in session.execute(_OLD, [seconds])]


_WAITED_FOR: Final = """
SELECT nullif(b.pid, 0), coalesce(a.application_name, ''), coalesce(a.usename::text, ''),
       coalesce(a.state, ''),
       coalesce((SELECT min(l.relation::regclass::text) FROM pg_locks l
                  WHERE l.pid = %(pid)s AND NOT l.granted AND l.locktype IN ('relation', 'tuple')), ''),
       coalesce((SELECT min(l.mode) FROM pg_locks l WHERE l.pid = %(pid)s AND NOT l.granted), ''),
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
       coalesce((SELECT min(l.virtualxid) FROM pg_locks l
                  WHERE l.pid = b.pid AND l.virtualxid = l.virtualtransaction), ''),
       a.query_start, coalesce(a.query, '')
  FROM unnest(pg_blocking_pids(%(pid)s)) AS b (pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid"""


def waited_for(session: Session, pid: int) -> list[Blocker]:
    """Whom the server process *pid* waits for now, holders of row locks included. Raises psycopg.Error."""
    return [Blocker(*row) for row in session.execute(_WAITED_FOR, {"pid": pid})]


# Each transaction holds a lock on its own virtual number until it ends (manual, section 54.12).
_STILL: Final = """
SELECT l.virtualxid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8
  FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.virtualxid = l.virtualtransaction AND l.virtualxid = ANY (%s)"""


def still_there(session: Session, seen: Sequence[Blocker]) -> list[Blocker]:
    """Those of *seen* whose transactions have not ended. Raises psycopg.Error."""
    wanted = [b.transaction for b in seen if b.transaction]
    ages: dict[str, float | None] = dict(session.execute(_STILL, [wanted]).fetchall()) if wanted else {}
    return [replace(b, age=ages[b.transaction]) for b in seen if b.transaction in ages]


def named(seen: Sequence[Blocker]) -> str:
    """The first of them, for people."""
    return "; ".join(str(b) for b in seen[:_SHOWN]) or "nobody who can be seen now"


def holders(seen: Sequence[Blocker], *, show_query: bool) -> tuple[LockHolder, ...]:
    """The first of them, for the outcome."""
    return tuple(b.holder(show_query=show_query) for b in seen[:_SHOWN])
