"""What a statement that cannot run in a transaction has left behind, judged from the catalog.

Such a statement may die half way and leave no word. Before it is sent, what stands there already is noted in
the journal; afterwards, the difference tells whether it is done, not done, or half done and by whom. What the
catalog does not tell is Unknown, and then nothing is run again: data must never be changed twice.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pglast.parser import parse_sql_json

from godwit.engine.model import Statement
from godwit.engine.parse_tree import Node, option, relation, sql_name, strings
from godwit.engine.same_index import same_index
from godwit.engine.session import Session

_INDEXES: Final = """
SELECT indexrelid::bigint, indisvalid, pg_get_indexdef(indexrelid)
  FROM pg_index WHERE indrelid = to_regclass(%s) ORDER BY 1"""
# What REINDEX CONCURRENTLY names its new index while it builds it, and the old one before it drops that
# (manual, REINDEX), on the tables that it was sent for, their partitions, and their TOAST tables.
_LEFTOVERS: Final = """
WITH root AS (
    SELECT coalesce(i.indrelid, named.oid) AS oid
      FROM (SELECT to_regclass(nullif(%(name)s, ''))::oid AS oid) AS named
      LEFT JOIN pg_index i ON i.indexrelid = named.oid)
SELECT i.indexrelid::bigint
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_class t ON t.oid = coalesce((SELECT oid FROM pg_class WHERE reltoastrelid = i.indrelid), i.indrelid)
 WHERE NOT i.indisvalid AND c.relkind = 'i' AND c.relname ~ '_cc(new|old)[0-9]*$'
   AND CASE WHEN %(schema)s <> '' THEN t.relnamespace = to_regnamespace(%(schema)s)
            WHEN %(name)s <> '' THEN t.oid IN (SELECT oid FROM root UNION ALL
                                               SELECT relid FROM root, pg_partition_tree(root.oid))
            ELSE true END
 ORDER BY 1"""
_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = %s"
_ATTACHED: Final = """
SELECT inhdetachpending FROM pg_inherits WHERE inhparent = to_regclass(%s) AND inhrelid = to_regclass(%s)"""

_RUNNING: Final = {"CreateTableAsStmt", "DoStmt", "InsertStmt", "SelectStmt", "UpdateStmt"}
_MAKING: Final = {"CreateSeqStmt", "CreateStmt", "CreateTableAsStmt", "SelectStmt", "ViewStmt"}


class State(StrEnum):
    """How far a statement got."""

    DONE = "Done"
    NOT_DONE = "NotDone"
    """Nothing of it is there, or what is there does no harm when it runs again."""
    LEFT = "Left"
    """It left INVALID indexes, which are ours to drop."""
    PENDING = "Pending"
    """A DETACH that waits to be finished."""
    BEGUN = "Begun"
    """A DROP that has made its index INVALID; it can be run again."""
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Verdict:
    """A statement's state; with LEFT, the indexes' OIDs; with PENDING, the statement that finishes it."""

    state: State
    indexes: tuple[int, ...] = ()
    finish: str = ""


@dataclass(frozen=True)
class Subject:
    """What a statement works on. `kind` is empty where the catalog can tell nothing about it."""

    kind: str = ""
    table: str = ""
    """Of a REINDEX the table or index that it names."""
    index: str = ""
    partition: str = ""
    schema: str = ""
    """Of a REINDEX that names a schema."""
    wanted: str = ""
    """The CREATE INDEX itself."""
    if_not_exists: bool = False
    excluding: bool = False
    """Whether it may keep readers or writers out; whatever is CONCURRENTLY does not."""


def subject(statement: Statement) -> Subject:
    """What the statement works on, from its parse tree."""
    tag = statement.tag
    node = json.loads(parse_sql_json(statement.text))["stmts"][0]["stmt"][tag]
    match tag:
        case "IndexStmt":
            return Subject(
                "CreateIndex",
                table=relation(node["relation"]),
                index=statement.concurrent_index,
                wanted=statement.text,
                if_not_exists=bool(node.get("if_not_exists")),
            )
        case "DropStmt":
            return Subject("DropIndex", index=statement.concurrent_index)
        case "ReindexStmt":
            schema = node.get("name", "") if node["kind"] == "REINDEX_OBJECT_SCHEMA" else ""
            return Subject(
                "Reindex",
                table=relation(node.get("relation")),
                schema=sql_name([schema]),
                excluding=not option(node, "concurrently", "params"),
            )
        case "AlterTableStmt":
            command = next(c["AlterTableCmd"] for c in node["cmds"])
            return Subject(
                "Detach",
                table=relation(node["relation"]),
                partition=relation(command["def"]["PartitionCmd"]["name"]),
            )
        case "VacuumStmt" | "ClusterStmt":
            return Subject("Maintenance", excluding=tag == "ClusterStmt" or option(node, "full"))
        case _:
            return Subject(excluding=tag in {"CallStmt", "DoStmt"})


def temporary(statements: Iterable[Statement]) -> set[str]:
    """Names of the temporary tables, views and sequences that *statements* leave to their session."""
    found: set[str] = set()
    for statement in statements:
        ((tag, node),) = json.loads(parse_sql_json(statement.text))["stmts"][0]["stmt"].items()
        made = (
            node.get("view")
            or node.get("into", node.get("intoClause", {})).get("rel")
            or node.get("relation")
            or node.get("sequence")
        )
        if tag in _MAKING and made and _is_temporary(made):
            found.add(made["relname"])
        elif tag == "DropStmt":
            found -= {strings(item)[-1] for item in node["objects"] if strings(item)}
        elif tag == "DiscardStmt":
            found.clear()
    return found


def _is_temporary(made: Node) -> bool:
    return made.get("relpersistence") == "t" or made.get("schemaname") == "pg_temp"


def only_sets(statement: Statement) -> bool:
    """Whether the statement only changes settings of its session: it can be run again in another one."""
    if statement.tag != "SelectStmt" or not _sets(statement):
        return statement.tag == "VariableSetStmt"
    node = json.loads(parse_sql_json(statement.text))["stmts"][0]["stmt"]["SelectStmt"]
    values = [target["ResTarget"]["val"].get("FuncCall", {}) for target in node.get("targetList", ())]
    return node.keys() <= {"targetList", "limitOption", "op"} and all(
        value and strings(value["funcname"])[-1] == "set_config" and _constant(value["args"])
        for value in values
    )


def _constant(arguments: Iterable[Node]) -> bool:
    return all("A_Const" in argument for argument in arguments)


def may_have_set(statements: Iterable[Statement]) -> Statement | None:
    """The first that changed settings of its session, and not only these, as far as its text tells."""
    return next((s for s in statements if s.tag in _RUNNING and _sets(s) and not only_sets(s)), None)


def _sets(statement: Statement) -> bool:
    return "set_config" in statement.text.lower()


def note(session: Session, what: Subject) -> dict[str, Any]:
    """What stands there before the statement is sent; JSON for the journal."""
    match what.kind:
        case "CreateIndex":
            return {"indexes": [oid for oid, *_ in session.execute(_INDEXES, [what.table])]}
        case "Reindex":
            return {"invalid": _leftovers(session, what)}
        case "DropIndex":
            row = session.execute("SELECT to_regclass(%s)::oid::bigint", [what.index]).fetchone()
            oid = row[0] if row else None
            return {"index": oid, "valid": _valid(session, oid)}
        case "Detach":
            return {"attached": _detach_pending(session, what) is not None}
        case _:
            return {}


def invalid_namesake(session: Session, what: Subject) -> bool:
    """Whether CREATE INDEX IF NOT EXISTS would silently keep an INVALID index of that name."""
    if what.kind != "CreateIndex" or not what.index or not what.if_not_exists:
        return False
    row = session.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [what.index])
    return row.fetchone() == (False,)


def look(session: Session, what: Subject, before: dict[str, Any]) -> Verdict:
    """How far the statement got, *before* being what `note` saw."""
    match what.kind:
        case "CreateIndex":
            return _created(session, what, set(before["indexes"]))
        case "DropIndex":
            return _dropped(session, before)
        case "Reindex":
            new = tuple(oid for oid in _leftovers(session, what) if oid not in before["invalid"])
            return Verdict(State.LEFT, new) if new else Verdict(State.NOT_DONE)
        case "Detach":
            pending = _detach_pending(session, what)
            if pending is None:  # what was no partition before cannot have been detached
                return Verdict(State.DONE if before.get("attached", True) else State.NOT_DONE)
            finish = f"ALTER TABLE {what.table} DETACH PARTITION {what.partition} FINALIZE"
            return Verdict(State.PENDING, finish=finish) if pending else Verdict(State.NOT_DONE)
        case "Maintenance":
            return Verdict(State.NOT_DONE)
        case _:
            return Verdict(State.UNKNOWN)


def _leftovers(session: Session, what: Subject) -> list[int]:
    names = {"name": what.table, "schema": what.schema}
    return [oid for (oid,) in session.execute(_LEFTOVERS, names)]


def _detach_pending(session: Session, what: Subject) -> bool | None:
    """Whether the partition waits to be detached for good; None where it is none of the table's."""
    row = session.execute(_ATTACHED, [what.table, what.partition]).fetchone()
    return bool(row[0]) if row else None


def _valid(session: Session, oid: int | None) -> bool | None:
    """Whether the index is valid; None where there is no such index."""
    row = session.execute(_VALID, [oid]).fetchone()
    return bool(row[0]) if row else None


def _dropped(session: Session, before: dict[str, Any]) -> Verdict:
    """What was not there before cannot have been dropped: the statement says what it thinks of that."""
    if before.get("index") is None:
        return Verdict(State.NOT_DONE)
    valid = _valid(session, before["index"])
    if valid is None:
        return Verdict(State.DONE)
    return Verdict(State.BEGUN if before["valid"] and not valid else State.NOT_DONE)


def _created(session: Session, what: Subject, before: set[int]) -> Verdict:
    """The index that is new on the table and as wanted: by name where it has one, else the only one."""
    found = [row for row in session.execute(_INDEXES, [what.table]) if row[0] not in before]
    named = None
    if what.index:
        row = session.execute("SELECT to_regclass(%s)::oid::bigint", [what.index]).fetchone()
        named = row[0] if row else None
        if named in before:  # there already: IF NOT EXISTS has nothing to do, without it there is an error
            return Verdict(State.DONE if what.if_not_exists else State.NOT_DONE)
        found = [row for row in found if row[0] == named]
    # Somebody else may have built one as well, while this one was waited for.
    alike = [
        (oid, valid, same)
        for oid, valid, text in found
        if (same := same_index(what.wanted, text)) is not False
    ]
    if not alike:
        return Verdict(State.NOT_DONE)
    if len(alike) > 1:
        return Verdict(State.UNKNOWN)
    ((oid, valid, same),) = alike
    if not valid:
        return Verdict(State.LEFT, (oid,))
    return Verdict(State.DONE if same or named else State.UNKNOWN)
