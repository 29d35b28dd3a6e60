"""What a statement locks beyond the relations that it names: where to begin, for the catalog to go on. Pure.

Each of these was seen in pg_locks of PostgreSQL 15, 16 and 18.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from godwit.engine.locks import (
    ACCESS_EXCLUSIVE,
    SHARE,
    SHARE_ROW_EXCLUSIVE,
    alter_mode,
    lock_mode,
    referenced,
)
from godwit.engine.parse_tree import Node, commands, relation, sql_name, strings


class Way(StrEnum):
    """From a table to others, or from what tables are made of."""

    HEIRS = "heirs"
    """To all that inherit from it, its partitions among them."""
    PARTITIONS = "partitions"
    """The same, where it is partitioned."""
    DEFAULT = "default"
    """To its default partition, whose rows are looked through when another partition comes."""
    PARENT = "parent"
    """To the table that it is a partition of, and that one's default partition."""
    POINTED = "pointed"
    """To the tables that its foreign keys point to."""
    POINTING = "pointing"
    """To the tables whose foreign keys point to it."""
    SEQUENCES = "sequences"
    """To the sequences that belong to it."""
    DEPENDENT = "dependent"
    """To all that goes with it: what depends on it, and on that, by the catalog's own account (pg_depend)."""
    COLUMNS = "columns"
    """From a domain to the tables with columns of it, or of domains over it."""
    TYPED = "typed"
    """From a composite type to the tables that are OF it."""


class Kind(StrEnum):
    """What it begins at: the catalog that has it."""

    RELATION = "pg_class"
    CONSTRAINT = "pg_constraint"
    TYPE = "pg_type"
    FUNCTION = "pg_proc"
    SCHEMA = "pg_namespace"
    COLLATION = "pg_collation"
    EXTENSION = "pg_extension"


@dataclass(frozen=True)
class Beyond:
    """From *name*, as SQL, *way* leads to tables, which are locked in *mode*.

    *part*: only from this column of the table, or this constraint (*kind*); the types that a function takes.
    """

    name: str
    mode: str
    way: Way
    part: str = ""
    kind: Kind = Kind.RELATION


# ALTER TABLE's forms that leave heirs and partitions alone.
_OWN: Final = {
    "AT_AddInherit",
    "AT_AddOf",
    "AT_ChangeOwner",
    "AT_DisableRowSecurity",
    "AT_DisableRule",
    "AT_DropInherit",
    "AT_DropOf",
    "AT_EnableAlwaysRule",
    "AT_EnableReplicaRule",
    "AT_EnableRowSecurity",
    "AT_EnableRule",
    "AT_ForceRowSecurity",
    "AT_NoForceRowSecurity",
    "AT_ReplicaIdentity",
    "AT_SetAccessMethod",
    "AT_SetLogged",
    "AT_SetTableSpace",
    "AT_SetUnLogged",
}
_PARTITION: Final = {"AT_AttachPartition", "AT_DetachPartition"}
_RENAMED: Final = {"OBJECT_COLUMN", "OBJECT_TABCONSTRAINT"}
_KINDS: Final = {
    "OBJECT_AGGREGATE": Kind.FUNCTION,
    "OBJECT_COLLATION": Kind.COLLATION,
    "OBJECT_DOMAIN": Kind.TYPE,
    "OBJECT_EXTENSION": Kind.EXTENSION,
    "OBJECT_FOREIGN_TABLE": Kind.RELATION,
    "OBJECT_FUNCTION": Kind.FUNCTION,
    "OBJECT_INDEX": Kind.RELATION,
    "OBJECT_MATVIEW": Kind.RELATION,
    "OBJECT_PROCEDURE": Kind.FUNCTION,
    "OBJECT_ROUTINE": Kind.FUNCTION,
    "OBJECT_SCHEMA": Kind.SCHEMA,
    "OBJECT_SEQUENCE": Kind.RELATION,
    "OBJECT_TYPE": Kind.TYPE,
    "OBJECT_VIEW": Kind.RELATION,
}
"""What a DROP ... CASCADE is looked up by. Operators and the like, which tables hardly ever use, are not."""
ALONE: Final = {"AlterDomainStmt", "AlterTableStmt", "DropStmt", "RenameStmt"}
"""Statements that may lock tables though they name none."""


def locked_beyond(tag: str, node: Node) -> Iterator[Beyond]:
    """Where the statement with this parse node goes on to, with locks that keep readers or writers out."""
    own = node.get("relation") or {}
    match tag:
        case "AlterTableStmt" if node.get("objtype") == "OBJECT_TABLE":
            for command in commands(node):
                yield from _altered(command, own)
        case "AlterObjectSchemaStmt" if node["objectType"] == "OBJECT_TABLE":
            yield Beyond(relation(own), ACCESS_EXCLUSIVE, Way.SEQUENCES)
        case "AlterTableStmt" if node.get("objtype") == "OBJECT_TYPE":
            if any(_cascades(command) for command in commands(node)):
                yield _typed(own)
        case "AlterDomainStmt" if _validates(node):
            name = sql_name(strings(node["typeName"]))
            yield Beyond(name, SHARE, Way.COLUMNS, kind=Kind.TYPE)
        case "CreateStmt":
            for item in node.get("inhRelations", ()):
                if "partbound" in node:
                    yield from _another_partition(relation(item["RangeVar"]))
            yield from _pointed(node.get("tableElts", []))
        case "CreateTrigStmt" if node.get("row"):
            yield Beyond(relation(own), SHARE_ROW_EXCLUSIVE, Way.PARTITIONS)
        case "DropStmt":
            yield from _dropped(node)
        case "IndexStmt" if not node.get("concurrent") and own.get("inh"):
            yield Beyond(relation(own), SHARE, Way.PARTITIONS)
        case "LockStmt" if mode := lock_mode(node):
            for item in node["relations"]:
                yield from _heirs(item["RangeVar"], mode)
        case "RenameStmt" if node["renameType"] == "OBJECT_ATTRIBUTE" and _cascades(node):
            yield _typed(own)
        case "RenameStmt" if node["renameType"] in _RENAMED and own:
            yield from _heirs(own, ACCESS_EXCLUSIVE)
        case "TruncateStmt":
            for item in node["relations"]:
                yield from _heirs(item["RangeVar"], ACCESS_EXCLUSIVE)
                if _cascades(node):
                    yield Beyond(relation(item["RangeVar"]), ACCESS_EXCLUSIVE, Way.POINTING)
        case _:
            pass


def _altered(command: Node, own: Node) -> Iterator[Beyond]:
    name, part, subtype = relation(own), command.get("name", ""), command["subtype"]
    definition = command.get("def", {})
    if subtype in _PARTITION and not definition["PartitionCmd"].get("concurrent"):
        yield from _another_partition(name)
    elif subtype not in _PARTITION | _OWN and (mode := alter_mode(command)):
        # For UNIQUE a server before 18 lets partitions be read; what is said here is the stronger.
        yield from _heirs(own, mode)
    yield from _pointed([definition])
    match subtype:
        case "AT_AlterColumnType":
            yield Beyond(name, ACCESS_EXCLUSIVE, Way.POINTED, part)
            yield Beyond(name, ACCESS_EXCLUSIVE, Way.POINTING, part)
        case "AT_DropColumn":
            yield Beyond(name, ACCESS_EXCLUSIVE, Way.DEPENDENT, part)
        case "AT_DropConstraint":
            yield Beyond(name, ACCESS_EXCLUSIVE, Way.DEPENDENT, part, Kind.CONSTRAINT)
        case "AT_SetIdentity":
            yield Beyond(name, SHARE_ROW_EXCLUSIVE, Way.SEQUENCES, part)
        case "AT_DropIdentity":
            yield Beyond(name, ACCESS_EXCLUSIVE, Way.SEQUENCES, part)
        case _:
            pass


def _typed(own: Node) -> Beyond:
    return Beyond(relation(own), ACCESS_EXCLUSIVE, Way.TYPED, kind=Kind.TYPE)


def _validates(node: Node) -> bool:
    """Whether rows are looked through: for a new condition, NOT NULL, or a condition that was NOT VALID."""
    later = node.get("def", {}).get("Constraint", {}).get("skip_validation", False)
    return node["subtype"] in {"O", "V"} or (node["subtype"] == "C" and not later)


def _pointed(elements: list[Node]) -> Iterator[Beyond]:
    """A new foreign key concerns all partitions of the table that it points to."""
    yield from (Beyond(name, mode, Way.PARTITIONS) for name, mode in referenced(elements))


def _another_partition(name: str) -> Iterator[Beyond]:
    """One comes to the table or leaves it: its foreign keys are made for that one as well."""
    yield Beyond(name, ACCESS_EXCLUSIVE, Way.DEFAULT)
    yield Beyond(name, SHARE_ROW_EXCLUSIVE, Way.POINTED)


def _dropped(node: Node) -> Iterator[Beyond]:
    kind = node["removeType"]
    if node.get("concurrent"):
        return
    for item in node["objects"]:
        match kind:
            case "OBJECT_TABLE":
                name = sql_name(strings(item))
                yield Beyond(name, ACCESS_EXCLUSIVE, Way.DEPENDENT)
                yield Beyond(name, ACCESS_EXCLUSIVE, Way.PARENT)
            case "OBJECT_INDEX":
                yield Beyond(sql_name(strings(item)), ACCESS_EXCLUSIVE, Way.PARTITIONS)
            case "OBJECT_TRIGGER":
                yield Beyond(sql_name(strings(item)[:-1]), ACCESS_EXCLUSIVE, Way.PARTITIONS)
            case _:
                pass
        # Without CASCADE nothing goes with these but what is refused.
        if _cascades(node) and kind in _KINDS:
            yield Beyond(_named(item), ACCESS_EXCLUSIVE, Way.DEPENDENT, _taken(item), _KINDS[kind])


def _named(item: Node) -> str:
    return sql_name(strings(item.get("ObjectWithArgs", {}).get("objname") or item))


def _taken(item: Node) -> str:
    """The types that a function takes, where they are given, as a list in JSON."""
    function = item.get("ObjectWithArgs", {"args_unspecified": True})
    if "args_unspecified" in function:
        return ""
    types = [arg.get("TypeName", {}) for arg in function.get("objargs", ())]
    names = [sql_name(strings(t.get("names", []))) + "[]" * ("arrayBounds" in t) for t in types]
    return json.dumps(names)


def _heirs(range_var: Node, mode: str) -> Iterator[Beyond]:
    """ONLY keeps to the table itself."""
    if range_var.get("inh"):
        yield Beyond(relation(range_var), mode, Way.HEIRS)


def _cascades(node: Node) -> bool:
    return bool(node.get("behavior") == "DROP_CASCADE")
