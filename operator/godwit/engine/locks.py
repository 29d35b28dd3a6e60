"""Which relations a statement locks against readers or writers, judged from its parse tree alone. Pure.

PostgreSQL manual, section 13.3.1, and the notes of each command. What only the catalog knows (the other side
of an existing foreign key, what CASCADE reaches, the table of an index) is not in it.
"""

from collections.abc import Iterator
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
_SHARE: Final = 5
"""Number of the weakest table lock that keeps writers out (`ShareLock` in PostgreSQL's lockdefs.h)."""


def locked_relations(tag: str, node: Node) -> Iterator[str]:
    """Relations that are locked against readers or writers (PostgreSQL manual, section 13.3.1)."""
    own = relation(node.get("relation")) if isinstance(node.get("relation"), dict) else ""
    match tag:
        case "AlterTableStmt" if node.get("objtype") != "OBJECT_TYPE":
            yield from _alter(node, own)
        case "CreateStmt":
            yield from (
                relation(item["RangeVar"]) for item in node.get("inhRelations", ()) if "partbound" in node
            )
            yield from _referenced(node.get("tableElts", []))
        case "IndexStmt" if not node.get("concurrent"):
            yield own
        case "DropStmt" if not node.get("concurrent"):
            kind = node["removeType"]
            if kind in _RELATIONS:
                yield from (sql_name(strings(item)) for item in node["objects"])
            elif kind in _ON_RELATION:
                yield from (sql_name(strings(item)[:-1]) for item in node["objects"])
        case "TruncateStmt":
            yield from (relation(item["RangeVar"]) for item in node["relations"])
        case "LockStmt" if node.get("mode", 0) >= _SHARE:
            yield from (relation(item["RangeVar"]) for item in node["relations"])
        case "ReindexStmt" if not option(node, "concurrently", "params"):
            yield own
        case "VacuumStmt" if option(node, "full"):
            yield from (relation(item["VacuumRelation"].get("relation")) for item in node.get("rels", ()))
        case "ClusterStmt" | "RefreshMatViewStmt" | "CreateTrigStmt" | "RuleStmt":
            yield own
        case "RenameStmt" | "AlterObjectSchemaStmt":
            yield own
        case "CreatePolicyStmt" | "AlterPolicyStmt":
            yield relation(node["table"])
        case "ViewStmt" if node.get("replace"):
            yield relation(node["view"])


def _alter(node: Node, own: str) -> Iterator[str]:
    for command in commands(node):
        partition = command.get("def", {}).get("PartitionCmd", {})
        # A view's options change what it shows.
        gentle = command.get("subtype") in _GENTLE and node.get("objtype") != "OBJECT_VIEW"
        if not gentle and not partition.get("concurrent"):
            yield own
        if partition and not partition.get("concurrent"):
            yield relation(partition["name"])
        yield from _referenced([command.get("def", {})])


def _referenced(elements: list[Node]) -> Iterator[str]:
    """Tables that foreign keys point to: SHARE ROW EXCLUSIVE on them as well."""
    for element in elements:
        if "pktable" in element.get("Constraint", {}):
            yield relation(element["Constraint"]["pktable"])
        yield from _referenced(element.get("ColumnDef", {}).get("constraints", []))
