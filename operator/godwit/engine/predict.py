"""Plans that are sure to hold locks for longer than `maxLockHold`, refused before anything runs.

A prediction must never refuse what would have fitted, so it is a lower bound: only work on a whole table that
is there now and that the parse tree and the catalog make certain, at a speed that no machine has. Whatever
it misses is cut off while it runs (`watch.py`). It is made when a plan is, not again under the lock, and is
no part of the plan's digest: the same plan on a table that has grown is the same plan.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from godwit.contract.outcome import Finding
from godwit.contract.policy import Policy, TransactionMode
from godwit.contract.reasons import Reason
from godwit.engine.compare import error
from godwit.engine.model import Mode, PlannedMigration, Statement
from godwit.engine.parse_tree import Node, relation, strings, walk
from godwit.engine.session import Session
from godwit.engine.table_work import WORKING, Kind, Work, checks_added, says_not_null, table_work

# Measured on PostgreSQL 16 on one core of an AMD EPYC, all in memory and without fsync: pages with one wide
# row each were read at 13 GiB/s; a small row took 69 ns to be looked at, 690 ns to be rewritten, and 470 ns
# to get into an index; wide rows were rewritten at 0.13 GiB/s. The bounds are two to fifteen times as fast.
READ_BYTES: Final = 32 * 2**30
READ_ROW: Final = 15e-9
REWRITE_BYTES: Final = 2 * 2**30
REWRITE_ROW: Final = 100e-9
INDEX_ROW: Final = 60e-9
_SMALLEST_ROW: Final = 28
"""Bytes: a row's header and its pointer (manual, section 66.6)."""

# From the catalog and the counters alone: to ask for the size itself waits for whoever has the table locked.
# Whatever makes a table smaller writes the number of its pages down; of its rows the smaller estimate counts.
_TABLE: Final = """
SELECT c.oid::bigint, greatest(c.relpages, 0) * current_setting('block_size')::bigint,
       greatest(0, least(c.reltuples, pg_stat_get_live_tuples(c.oid)))::float8,
       (SELECT count(*) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
          JOIN pg_am a ON a.oid = x.relam
         WHERE i.indrelid = c.oid AND a.amname = 'btree' AND i.indpred IS NULL),
       (SELECT coalesce(sum(s.avg_width * (1 - s.null_frac)), 0)::float8 FROM pg_stats s
         WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND NOT s.inherited),
       current_setting('max_worker_processes')::int
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(%s) AND c.relkind = 'r'"""

# Types that are stored alike, or that a time zone may make alike, are not rewritten; domains are left out.
_TYPE: Final = """
SELECT FROM pg_attribute a JOIN pg_type o ON o.oid = a.atttypid JOIN pg_type t ON t.oid = to_regtype(%s)
 WHERE a.attrelid = %s AND a.attname = %s AND NOT a.attisdropped AND o.oid <> t.oid
   AND o.typtype = 'b' AND t.typtype = 'b' AND o.typcategory <> 'A' AND t.typcategory <> 'A'
   AND NOT (o.typname LIKE 'timestamp%%' AND t.typname LIKE 'timestamp%%')
   AND NOT EXISTS (SELECT FROM pg_cast
                    WHERE castsource = o.oid AND casttarget = t.oid AND castmethod = 'b')"""
_NULLABLE: Final = """
SELECT FROM pg_attribute a
 WHERE a.attrelid = %s AND a.attname = %s AND NOT a.attnotnull AND NOT a.attisdropped
   AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = a.attrelid AND c.contype = 'c')"""
_VOLATILE: Final = """
SELECT FROM pg_proc WHERE proname = ANY (%s) GROUP BY proname HAVING bool_and(provolatile = 'v')"""
_INDEXED: Final = """
SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
 WHERE i.indrelid = %s AND a.attname = ANY (%s)"""
_UNVALIDATED: Final = """
SELECT FROM pg_constraint WHERE conrelid = %s AND conname = %s AND contype = 'c' AND NOT convalidated"""

_THERE: Final = "SELECT EXISTS (SELECT FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NOT NULL)"
_HARMLESS: Final = {
    "AlterTableStmt",
    "CommentStmt",
    "CreateTrigStmt",
    "GrantStmt",
    "IndexStmt",
    "InsertStmt",
    "LockStmt",
    "UpdateStmt",
    "ViewStmt",
}
"""After these a name means the same table as before, with no fewer rows."""
_BLINDING: Final = {"CallStmt", "DoStmt", "ExecuteStmt", "TransactionStmt", "TruncateStmt"}
_DELETING: Final = {"DeleteStmt", "MergeStmt"}
"""They may reach other tables by ON DELETE CASCADE."""
_SETTINGS: Final = {"search_path", "role", "session_authorization"}


@dataclass(frozen=True)
class _Table:
    oid: int
    size: int
    rows: float
    indexes: int
    row_bytes: float
    workers: int

    def seconds(self, work: Work) -> float:
        """The least that the work takes."""
        rows = min(self.rows, self.size / _SMALLEST_ROW)
        match work.kind:
            case Kind.SCAN:
                return max(self.size / READ_BYTES, rows * READ_ROW)
            case Kind.INDEX:
                sorted_ = rows * INDEX_ROW if work.every_row else 0.0
                return max(self.size / READ_BYTES / (1 + self.workers), sorted_)
            case Kind.REWRITE:
                live = min(self.size, rows * (self.row_bytes + _SMALLEST_ROW))
                moved = max(self.size / READ_BYTES, rows * REWRITE_ROW, live / REWRITE_BYTES)
                return moved + self.indexes * rows * INDEX_ROW


@dataclass(frozen=True)
class _Cost:
    """The costliest work of one statement."""

    step: PlannedMigration
    statement: Statement
    seconds: float
    work: Work
    size: int


def hold_findings(session: Session, steps: Sequence[PlannedMigration], policy: Policy) -> list[Finding]:
    """A refusal for each transaction of *steps* that is sure to hold locks for longer than the policy allows.

    None where the role may not look into a schema: the script may take another one. Raises psycopg.Error.
    """
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        return _hold_findings(session, steps, policy)
    return []


def _hold_findings(session: Session, steps: Sequence[PlannedMigration], policy: Policy) -> list[Finding]:
    names = {name for step in steps for statement in step.run.statements for name in statement.locks}
    if not names or session.execute(_THERE, [sorted(names)]).fetchone() != (True,):
        return []  # most often: a plan of new tables
    limit, sight, found = policy.max_lock_hold_ms / 1000, _Sight(session), []
    for transaction in _transactions(steps, policy):
        costs: list[_Cost] = []
        held = False
        for step, statement in transaction:
            cost = sight.cost(step, statement, held=held)
            held = held or sight.holds(statement)
            costs += [cost] if cost else []
            sight.after(statement)
        total = sum(cost.seconds for cost in costs)
        if total > limit:
            found.append(_refusal(max(costs, key=lambda cost: cost.seconds), total, limit))
    return found


def _transactions(
    steps: Sequence[PlannedMigration], policy: Policy
) -> Iterator[list[tuple[PlannedMigration, Statement]]]:
    if policy.transaction is TransactionMode.BATCH:
        yield [(step, statement) for step in steps for statement in step.run.statements]
        return
    for step in steps:
        if step.run.mode is Mode.STATEMENT_WISE:
            yield from ([(step, statement)] for statement in step.run.statements)
        else:
            yield [(step, statement) for statement in step.run.statements]


def _refusal(worst: _Cost, total: float, limit: float) -> Finding:
    work, script, line = worst.work, worst.step.run.script, worst.statement.line
    size = f"{worst.size / 2**30:.1f} GiB" if worst.size >= 2**30 else f"{worst.size / 2**20:.0f} MiB"
    seconds = f"{total:.0f}" if total >= 10 else f"{total:.2g}"
    text = (
        f"{script.path}, line {line}: {work.what} {work.table} ({size}), and the locks would be held for "
        f"at least {seconds} s on the fastest machine; maxLockHold is {limit:g} s. {work.instead}"
    )
    return error(Reason.LOCK_HOLD_PREDICTED, text, worst.step.name, line)


class _Sight:
    """What the catalog says now, and which names still mean it after the statements so far."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tables: dict[str, _Table | None] = {}
        self._unsure: set[str] = set()
        """Tables, without their schemas, that may be others, or smaller, by now."""
        self._checks: set[tuple[str, str]] = set()
        """CHECK constraints that the plan itself has added, each with its table."""
        self._not_null: set[str] = set()
        """TABLE or TABLE.COLUMN: what may be known as NOT NULL by now."""
        self._blind = False

    def holds(self, statement: Statement) -> bool:
        """Whether the statement locks a table against others that is there now."""
        return any(self._table(name) for name in statement.locks)

    def cost(self, step: PlannedMigration, statement: Statement, *, held: bool) -> _Cost | None:
        """The costliest sure work of the statement; *held*: others are kept out already."""
        found: _Cost | None = None
        for work in table_work(statement.tag, _node(statement)) if self._looks(statement) else ():
            table = self._table(work.table)
            if table is None or (work.constraint and not held) or not self._sure(work, table):
                continue
            seconds = table.seconds(work)
            if found is None or seconds > found.seconds:
                found = _Cost(step, statement, seconds, work, table.size)
        return found

    def _looks(self, statement: Statement) -> bool:
        return not self._blind and statement.tag in WORKING

    def after(self, statement: Statement) -> None:
        """Take into account what the statement may have changed."""
        if self._blind or _only_adds(statement):
            return
        node, tag = _node(statement), statement.tag
        self._blind = _blinds(statement, node)
        table = _bare(relation(node.get("relation"))) if tag == "AlterTableStmt" else ""
        works = list(table_work(tag, node))
        rewrites = any(work.kind is Kind.REWRITE for work in works)
        if tag not in _HARMLESS or rewrites:  # what was bloated is small after it was rewritten
            self._unsure |= set(_mentioned(tag, node))
        if table and says_not_null(node):
            self._not_null.add(table)
        self._not_null |= {f"{table}.{work.column}" for work in works if work.may_be_null}
        self._checks |= {(table, check) for check in (checks_added(node) if table else ())}

    def _table(self, name: str) -> _Table | None:
        if self._blind or not name or _bare(name) in self._unsure:
            return None
        if name not in self._tables:
            row = self._session.execute(_TABLE, [name]).fetchone()
            self._tables[name] = _Table(*row) if row else None
        return self._tables[name]

    def _sure(self, work: Work, table: _Table) -> bool:
        """Whether the catalog agrees with what the work asks of it."""
        bare = _bare(work.table)
        if work.new_type:
            return self._any(_TYPE, work.new_type, table.oid, work.column)
        if work.may_be_null:
            known = self._not_null & {bare, f"{bare}.{work.column}"}
            return not known and self._any(_NULLABLE, table.oid, work.column)
        if work.functions:
            return self._any(_VOLATILE, list(work.functions))
        if work.foreign_key:
            return not self._any(_INDEXED, table.oid, list(work.foreign_key))
        if work.missing_index:
            return not self._any("SELECT WHERE to_regclass(%s) IS NOT NULL", work.missing_index)
        if work.constraint:
            added = (bare, work.constraint) in self._checks
            return added or self._any(_UNVALIDATED, table.oid, work.constraint)
        return True

    def _any(self, query: str, *values: Any) -> bool:
        return self._session.execute(query, values).fetchone() is not None


def _only_adds(statement: Statement) -> bool:
    """Whether it is an INSERT and no more: it can be long, and its tree is many times longer."""
    plain = statement.tag == "InsertStmt" and not statement.destructive
    return plain and "set_config" not in statement.text.lower()


def _blinds(statement: Statement, node: Node) -> bool:
    """Whether after the statement nobody can say what a name means, or what is left in a table."""
    tag = statement.tag
    if tag == "VariableSetStmt":
        return node.get("name", "") in _SETTINGS
    if tag == "RenameStmt":
        return bool(node["renameType"] == "OBJECT_SCHEMA")
    found = list(walk({tag: node}))
    called = {strings(inner["funcname"])[-1] for name, inner in found if name == "FuncCall"}
    deletes = any(name in _DELETING for name, _ in found)
    unknown = tag == "SelectStmt" and statement.destructive
    return tag in _BLINDING or deletes or unknown or "set_config" in called


def _bare(name: str) -> str:
    return name.rsplit(".", 1)[-1].strip('"')


def _node(statement: Statement) -> Node:
    from pglast.parser import parse_sql_json  # noqa: PLC0415  loaded by steps that parse, not by all

    node: Node = json.loads(parse_sql_json(statement.text))["stmts"][0]["stmt"][statement.tag]
    return node


def _mentioned(tag: str, value: Any) -> Iterator[str]:
    """Names of all relations in a statement, without their schemas."""
    if isinstance(value, dict):
        if "relname" in value:
            yield value["relname"]
        if tag == "RenameStmt" and "newname" in value:
            yield value["newname"]
        if tag == "DropStmt" and "objects" in value:
            yield from (name for item in value["objects"] for name in strings(item))
        for inner in value.values():
            yield from _mentioned(tag, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mentioned(tag, inner)
