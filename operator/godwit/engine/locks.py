"""Which relations a statement locks against readers or writers, and how, from its parse tree alone. Pure.

PostgreSQL manual, section 13.3.1, and the notes of each command. These are the relations that it names; from
them `beyond` goes on to those that only the catalog knows.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from godwit.engine.parse_tree import Node, commands, option, relation, sql_name, strings

_RELATIONS: Final = {
    "OBJECT_FOREIGN_TABLE",
    "OBJECT_INDEX",
    "OBJECT_MATVIEW",
    "OBJECT_SEQUENCE",
    "OBJECT_TABLE",
    "OBJECT_VIEW",
}
_ON_RELATION: Final = {"OBJECT_POLICY", "OBJECT_RULE", "OBJECT_TRIGGER"}

# ALTER TABLE's forms that take SHARE UPDATE EXCLUSIVE or less (PostgreSQL manual, ALTER TABLE).
_GENTLE: Final = {
    "AT_AttachPartition",
    "AT_ClusterOn",
    "AT_DropCluster",
    "AT_ResetOptions",
    "AT_ResetRelOptions",
    "AT_SetOptions",
    "AT_SetRelOptions",
    "AT_SetStatistics",
    "AT_ValidateConstraint",
}
_TRIGGERS: Final = re.compile("AT_(En|Dis)able(Always|Replica)?Trig(All|User)?")
"""ALTER TABLE's forms that switch triggers."""

# Names as in pg_locks, in the order of their numbers in PostgreSQL's lockdefs.h.
ACCESS_SHARE: Final = "AccessShareLock"
SHARE: Final = "ShareLock"
SHARE_ROW_EXCLUSIVE: Final = "ShareRowExclusiveLock"
EXCLUSIVE: Final = "ExclusiveLock"
ACCESS_EXCLUSIVE: Final = "AccessExclusiveLock"
MODES: Final = (
    ACCESS_SHARE,
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    SHARE,
    SHARE_ROW_EXCLUSIVE,
    EXCLUSIVE,
    ACCESS_EXCLUSIVE,
)
STRONG: Final = MODES[4:]
"""Those that keep writers, or readers as well, out."""
CONFLICTS: Final = {
    SHARE: tuple(m for m in MODES[2:] if m != SHARE),
    SHARE_ROW_EXCLUSIVE: MODES[2:],
    EXCLUSIVE: MODES[1:],
    ACCESS_EXCLUSIVE: MODES,
}
"""What each of them conflicts with: manual, table 13.2."""


def strongest(modes: Iterable[str]) -> str:
    """The strongest of *modes*."""
    return max(modes, key=MODES.index)


def locked_relations(tag: str, node: Node) -> Iterator[str]:
    """Relations that are locked against readers or writers (PostgreSQL manual, section 13.3.1)."""
    yield from (name for name, _ in table_locks(tag, node))


def table_locks(tag: str, node: Node) -> Iterator[tuple[str, str]]:
    """The same with the mode of the lock; a relation may come more than once, its strongest mode counts."""
    own = relation(node.get("relation")) if isinstance(node.get("relation"), dict) else ""
    match tag:
        case "AlterTableStmt" if node.get("objtype") != "OBJECT_TYPE":
            yield from _alter(node, own)
        case "IndexStmt" if not node.get("concurrent"):
            yield own, SHARE
        case "LockStmt" if mode := lock_mode(node):
            yield from ((relation(item["RangeVar"]), mode) for item in node["relations"])
        case "CreateTrigStmt":
            yield own, SHARE_ROW_EXCLUSIVE
        case "AlterSeqStmt":
            yield relation(node["sequence"]), SHARE_ROW_EXCLUSIVE
        case "RefreshMatViewStmt":
            yield own, EXCLUSIVE if node.get("concurrent") else ACCESS_EXCLUSIVE
        case "CreateStmt":
            for item in node.get("inhRelations", ()):
                if "partbound" in node:
                    yield relation(item["RangeVar"]), ACCESS_EXCLUSIVE
            yield from referenced(node.get("tableElts", []))
        case _:
            yield from ((name, ACCESS_EXCLUSIVE) for name in _exclusive(tag, node, own))


def _exclusive(tag: str, node: Node, own: str) -> Iterator[str]:
    match tag:
        case "DropStmt" if not node.get("concurrent"):
            kind = node["removeType"]
            if kind in _RELATIONS:
                yield from (sql_name(strings(item)) for item in node["objects"])
            elif kind in _ON_RELATION:
                yield from (sql_name(strings(item)[:-1]) for item in node["objects"])
        case "TruncateStmt":
            yield from (relation(item["RangeVar"]) for item in node["relations"])
        case "ReindexStmt" if not option(node, "concurrently", "params"):
            yield own
        case "VacuumStmt" if option(node, "full"):
            yield from (relation(item["VacuumRelation"].get("relation")) for item in node.get("rels", ()))
        case "RenameStmt" if node["renameType"] == "OBJECT_INDEX":
            pass  # SHARE UPDATE EXCLUSIVE, on the index alone (manual, ALTER INDEX)
        case "ClusterStmt" | "RuleStmt" | "RenameStmt" | "AlterObjectSchemaStmt":
            yield own
        case "CreatePolicyStmt" | "AlterPolicyStmt":
            yield relation(node["table"])
        case "ViewStmt" if node.get("replace"):
            yield relation(node["view"])


def lock_mode(node: Node) -> str:
    """The mode of a LOCK TABLE, where it keeps readers or writers out."""
    mode = MODES[node.get("mode", 1) - 1]
    return mode if mode in STRONG else ""


def alter_mode(command: Node) -> str:
    """The mode in which a form of ALTER TABLE locks its table; nothing where all may go on."""
    subtype, definition = command.get("subtype", ""), command.get("def", {})
    if subtype in _GENTLE or definition.get("PartitionCmd", {}).get("concurrent"):
        return ""
    foreign_key = definition.get("Constraint", {}).get("contype") == "CONSTR_FOREIGN"
    return SHARE_ROW_EXCLUSIVE if foreign_key or _TRIGGERS.fullmatch(subtype) else ACCESS_EXCLUSIVE


def _alter(node: Node, own: str) -> Iterator[tuple[str, str]]:
    for command in commands(node):
        definition = command.get("def", {})
        partition = definition.get("PartitionCmd", {})
        # A view's options change what it shows.
        if mode := alter_mode(command) or (ACCESS_EXCLUSIVE if node["objtype"] == "OBJECT_VIEW" else ""):
            yield own, mode
        if partition and not partition.get("concurrent"):
            yield relation(partition["name"]), ACCESS_EXCLUSIVE
        yield from referenced([definition])


def referenced(elements: list[Node]) -> Iterator[tuple[str, str]]:
    """Tables that new foreign keys point to, with the mode of the lock."""
    for element in elements:
        if "pktable" in element.get("Constraint", {}):
            yield relation(element["Constraint"]["pktable"]), SHARE_ROW_EXCLUSIVE
        yield from referenced(element.get("ColumnDef", {}).get("constraints", []))
