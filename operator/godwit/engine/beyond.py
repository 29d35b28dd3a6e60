"""What a statement locks beyond the relations that it names: where to begin, for the catalog to go on. Pure.

Each of these was seen in pg_locks of PostgreSQL 16 and 18.
"""

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
    """From a table to others."""

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


@dataclass(frozen=True)
class Beyond:
    """From the table *name*, as SQL, *way* leads to others, which are locked in *mode*.

    *part*: only by the foreign keys of this name or on the column of it, or that need the key of this name.
    """

    name: str
    mode: str
    way: Way
    part: str = ""


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


def locked_beyond(tag: str, node: Node) -> Iterator[Beyond]:
    """Where the statement with this parse node goes on to, with locks that keep readers or writers out."""
    own = node.get("relation") or {}
    match tag:
        case "AlterTableStmt" if node.get("objtype") == "OBJECT_TABLE":
            for command in commands(node):
                yield from _altered(command, own)
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
    if subtype in {"AT_AlterColumnType", "AT_DropColumn", "AT_DropConstraint"}:
        yield Beyond(name, ACCESS_EXCLUSIVE, Way.POINTED, part)
    if subtype == "AT_AlterColumnType" or (subtype.startswith("AT_Drop") and part and _cascades(command)):
        yield Beyond(name, ACCESS_EXCLUSIVE, Way.POINTING, part)


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
                yield Beyond(name, ACCESS_EXCLUSIVE, Way.HEIRS if _cascades(node) else Way.PARTITIONS)
                yield Beyond(name, ACCESS_EXCLUSIVE, Way.PARENT)
                yield Beyond(name, ACCESS_EXCLUSIVE, Way.POINTED)
                if _cascades(node):
                    yield Beyond(name, ACCESS_EXCLUSIVE, Way.POINTING)
            case "OBJECT_INDEX":
                yield Beyond(sql_name(strings(item)), ACCESS_EXCLUSIVE, Way.PARTITIONS)
            case "OBJECT_TRIGGER":
                yield Beyond(sql_name(strings(item)[:-1]), ACCESS_EXCLUSIVE, Way.PARTITIONS)
            case _:
                pass


def _heirs(range_var: Node, mode: str) -> Iterator[Beyond]:
    """ONLY keeps to the table itself."""
    if range_var.get("inh"):
        yield Beyond(relation(range_var), mode, Way.HEIRS)


def _cascades(node: Node) -> bool:
    return bool(node.get("behavior") == "DROP_CASCADE")
