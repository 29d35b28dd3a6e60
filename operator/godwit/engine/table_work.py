"""What a statement makes the server do to a whole table while it keeps others out, by its parse tree. Pure.

Only what is sure, as far as the catalog agrees (`predict.py` asks it); PostgreSQL manual, ALTER TABLE, notes.
Partitioned tables, REFRESH, ATTACH, and what functions do are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from godwit.engine.parse_tree import Node, commands, option, relation, sql_name, strings, walk

WORKING: Final = {"AlterTableStmt", "ClusterStmt", "IndexStmt", "VacuumStmt"}
"""Statements that have any."""
_SERIAL: Final = {"serial", "serial2", "serial4", "serial8", "smallserial", "bigserial"}


class Kind(StrEnum):
    """What is done to each row, or to each page."""

    SCAN = "Scan"
    INDEX = "Index"
    REWRITE = "Rewrite"


@dataclass(frozen=True)
class Work:
    """One piece of work on a table that is there already. Empty fields ask nothing of the catalog."""

    kind: Kind
    table: str
    what: str
    """What it is, for people; it is followed by the table's name."""
    instead: str
    """The way that keeps nobody out."""
    every_row: bool = False
    """Of an index: whether each row gets an entry that is sorted."""
    new_type: str = ""
    """It is work only where `column` has a type that is not stored as this one is."""
    column: str = ""
    may_be_null: bool = False
    """It is work only where `column` may be NULL by the catalog, and no CHECK could say otherwise."""
    functions: tuple[str, ...] = ()
    """It is work only where one of these is volatile."""
    foreign_key: tuple[str, ...] = ()
    """It is work only where no index has any of these columns."""
    missing_index: str = ""
    """It is work only where this index is not there."""
    constraint: str = ""
    """It is work only where this CHECK is not validated yet, and only if others are kept out already."""


_EXPAND: Final = "Add a new column instead, fill it in batches, and change over later."
_NOT_VALID: Final = "Add it NOT VALID, and VALIDATE it in a migration of its own."
_CONCURRENTLY: Final = "Build the index CONCURRENTLY"


def table_work(tag: str, node: Node) -> Iterator[Work]:
    """The pieces of work of one statement; those of one ALTER TABLE are done in one pass, or in more."""
    match tag:
        case "AlterTableStmt" if node.get("objtype") == "OBJECT_TABLE" and "relation" in node:
            table = relation(node["relation"])
            for command in commands(node):
                yield from _altered(table, command)
        case "IndexStmt" if not node.get("concurrent"):
            index = sql_name([node["relation"].get("schemaname", ""), node.get("idxname", "")])
            yield Work(
                Kind.INDEX,
                relation(node["relation"]),
                "CREATE INDEX on",
                f"{_CONCURRENTLY}, in a file of its own.",
                every_row=node.get("accessMethod", "btree") == "btree" and "whereClause" not in node,
                missing_index=index if node.get("if_not_exists") else "",
            )
        case "VacuumStmt" if node.get("is_vacuumcmd") and option(node, "full"):
            for item in node.get("rels", ()):
                table = relation(item["VacuumRelation"].get("relation"))
                yield Work(Kind.REWRITE, table, "VACUUM FULL of", "A plain VACUUM keeps nobody out.")
        case "ClusterStmt" if "relation" in node:
            table = relation(node["relation"])
            yield Work(Kind.REWRITE, table, "CLUSTER of", "Do it in a maintenance window.")


def _altered(table: str, command: Node) -> Iterator[Work]:
    definition = command.get("def", {})
    match command.get("subtype"):
        case "AT_AlterColumnType":
            kind = definition["ColumnDef"]["typeName"]
            if "arrayBounds" not in kind:
                what = f"the new type of {command['name']} rewrites"
                new, column = sql_name(strings(kind["names"])), command["name"]
                yield Work(Kind.REWRITE, table, what, _EXPAND, new_type=new, column=column)
        case "AT_AddColumn" if not command.get("missing_ok"):
            yield from _added(table, definition["ColumnDef"])
        case "AT_SetNotNull":
            instead = (
                "Add CHECK (... IS NOT NULL) NOT VALID, VALIDATE it in a migration of its own, then this."
            )
            what = f"SET NOT NULL of {command['name']} reads all of"
            yield Work(Kind.SCAN, table, what, instead, column=command["name"], may_be_null=True)
        case "AT_AddConstraint":
            yield from _constrained(table, definition["Constraint"])
        case "AT_ValidateConstraint":
            what = "VALIDATE CONSTRAINT, while the file keeps others out already, reads all of"
            instead = "VALIDATE it in a migration of its own."
            yield Work(Kind.SCAN, table, what, instead, constraint=command["name"])
        case _:
            pass


def _added(table: str, column: Node) -> Iterator[Work]:
    what = f"the new column {column['colname']} rewrites"
    if strings(column["typeName"]["names"])[-1] in _SERIAL:
        yield Work(Kind.REWRITE, table, what, _EXPAND)
    for item in column.get("constraints", ()):
        constraint = item["Constraint"]
        match constraint["contype"]:
            case "CONSTR_IDENTITY":
                yield Work(Kind.REWRITE, table, what, _EXPAND)
            case "CONSTR_GENERATED" if constraint.get("generated_kind") == "s":
                yield Work(Kind.REWRITE, table, what, _EXPAND)
            case "CONSTR_DEFAULT":
                called = tuple(
                    strings(call["funcname"])[-1] for name, call in walk(constraint) if name == "FuncCall"
                )
                if called:
                    yield Work(Kind.REWRITE, table, what, _EXPAND, functions=called)
            case _:
                pass


def _constrained(table: str, constraint: Node) -> Iterator[Work]:
    name = constraint.get("conname", "")
    match constraint["contype"]:
        case "CONSTR_CHECK" if _validates(constraint):
            yield Work(Kind.SCAN, table, f"the CHECK {name} reads all of", _NOT_VALID)
        case "CONSTR_FOREIGN" if _validates(constraint):
            columns = tuple(strings(constraint.get("fk_attrs", [])))
            what = f"the foreign key {name} reads all of"
            yield Work(Kind.SCAN, table, what, _NOT_VALID, foreign_key=columns)
        case "CONSTR_UNIQUE" | "CONSTR_PRIMARY" if "indexname" not in constraint:
            what, instead = (
                f"the index of the constraint {name} on",
                f"{_CONCURRENTLY}, and add it USING INDEX.",
            )
            yield Work(Kind.INDEX, table, what, instead, every_row=True)
        case "CONSTR_EXCLUSION":
            what = f"the index of the constraint {name} on"
            yield Work(Kind.INDEX, table, what, "Do it in a maintenance window.")
        case _:
            pass


def _validates(constraint: Node) -> bool:
    return bool(constraint.get("is_enforced")) and not constraint.get("skip_validation")


def says_not_null(node: Node) -> bool:
    """Whether an ALTER TABLE adds something by which a column may come to be known as NOT NULL."""
    kinds = {command.get("def", {}).get("Constraint", {}).get("contype") for command in commands(node)}
    return bool(kinds & {"CONSTR_CHECK", "CONSTR_NOTNULL", "CONSTR_PRIMARY"})


def checks_added(node: Node) -> set[str]:
    """Names of the CHECK constraints that an ALTER TABLE adds."""
    added = (command.get("def", {}).get("Constraint", {}) for command in commands(node))
    return {check.get("conname", "") for check in added if check.get("contype") == "CONSTR_CHECK"} - {""}
