"""What one statement does, judged from PostgreSQL's own parse tree alone: nothing is known of the database.

A tree is libpg_query's JSON: `{"AlterTableStmt": {...}}`, fields that are zero or false left out. Where a
tree does not tell, the answer is the careful one: destructive, locking.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

Node = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a statement does. Relations are named as written, quoted where SQL needs it."""

    transactional: bool = True
    destructive: bool = False
    locks: tuple[str, ...] = ()
    concurrent_index: str = ""
    refusal: str = ""
    """Why no migration may run it; empty when one may."""


_REFUSED: Final = {
    "AlterSystemStmt": "ALTER SYSTEM changes the whole server",
    "CreatedbStmt": "CREATE DATABASE makes another database",
    "DropdbStmt": "DROP DATABASE drops a database",
    "CreateTableSpaceStmt": "a tablespace belongs to the whole server",
    "DropTableSpaceStmt": "a tablespace belongs to the whole server",
    "AlterTableSpaceOptionsStmt": "a tablespace belongs to the whole server",
}

_DATA: Final = {
    "OBJECT_DOMAIN",
    "OBJECT_EXTENSION",
    "OBJECT_FOREIGN_TABLE",
    "OBJECT_MATVIEW",
    "OBJECT_SCHEMA",
    "OBJECT_SEQUENCE",
    "OBJECT_TABLE",
    "OBJECT_TYPE",
}
"""Objects that hold data, or whose columns do: to make them again does not bring it back."""

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
_INNER: Final = {"OBJECT_ATTRIBUTE", "OBJECT_COLUMN", "OBJECT_INDEX", "OBJECT_TABCONSTRAINT"}
_MOVING: Final = {
    "AlterObjectSchemaStmt",
    "CallStmt",
    "DoStmt",
    "DropStmt",
    "RenameStmt",
    "TransactionStmt",
    "VariableSetStmt",
}
"""After these a name may mean another table than before."""
_LOSSY_ALTER: Final = {"AT_AlterColumnType", "AT_DropColumn", "AT_SetExpression"}
_DELETING: Final = {"DeleteStmt", "UpdateStmt", "MergeStmt"}
_QUERYING: Final = _DELETING | {
    "CopyStmt",
    "CreateTableAsStmt",
    "ExplainStmt",
    "InsertStmt",
    "PrepareStmt",
    "SelectStmt",
}
"""Statements that can hold a DELETE or its like: in a CTE, behind ANALYZE, to be executed later."""

# A procedure's body is only text to the parser; these words can destroy, or hide what does.
_DANGEROUS: Final = re.compile(
    r"\b(alter|call|delete|drop|execute|merge|perform|truncate|update)\b", re.IGNORECASE
)
_HARMLESS_CALLS: Final = {
    "coalesce", "count", "current_setting", "currval", "max", "min", "nextval", "now", "pg_sleep",
    "set_config", "setval",
}  # fmt: skip
_SHARE: Final = 5
"""Number of the weakest table lock that keeps writers out (`ShareLock` in PostgreSQL's lockdefs.h)."""

_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_$]*")


def facts(tag: str, node: Node, made: frozenset[str] = frozenset()) -> Facts:
    """What the statement with this parse node does; *made* are tables that the same file made before."""
    locks = tuple(dict.fromkeys(name for name in _locks(tag, node) if name and name not in made))
    return Facts(
        transactional=_transactional(tag, node),
        destructive=_destructive(tag, node, made),
        locks=locks,
        concurrent_index=_concurrent_index(tag, node),
        refusal=_refusal(tag, node),
    )


def relation(range_var: Node | None) -> str:
    """A RangeVar's name as SQL; nothing for none."""
    return _name([range_var.get("schemaname", ""), range_var["relname"]]) if range_var else ""


def _name(parts: list[str]) -> str:
    return ".".join(_quoted(part) for part in parts if part)


def _quoted(part: str) -> str:
    plain = _PLAIN.fullmatch(part) and part not in _keywords()
    return part if plain else '"' + part.replace('"', '""') + '"'


@cache
def _keywords() -> frozenset[str]:
    """Words that cannot name a table unless quoted (PostgreSQL manual, appendix C)."""
    from pglast import keywords  # noqa: PLC0415  loaded by steps that parse, not by all

    return frozenset(
        keywords.RESERVED_KEYWORDS | keywords.COL_NAME_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS
    )


def _strings(value: Any) -> list[str]:
    """The strings of a qualified name, whichever node holds it."""
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if "String" in value:
        return [value["String"]["sval"]]
    inner = value.get("List", {}).get("items") or value.get("TypeName", {}).get("names")
    return _strings(inner or [])


def _option(node: Node, name: str, field: str = "options", *, default: bool = False) -> bool:
    """The boolean option *name* in a statement's list of options; *default* when it is not there."""
    for item in node.get(field, ()):
        element = item["DefElem"]
        if element["defname"] == name:
            value = element.get("arg", {"String": {"sval": "true"}})
            text = value.get("String", {}).get("sval") or str(value.get("Integer", {}).get("ival", 0))
            return text.lower() not in {"false", "off", "0"}
    return default


def _commands(node: Node) -> Iterator[Node]:
    for command in node.get("cmds", ()):
        yield command["AlterTableCmd"]


def _walk(value: Any) -> Iterator[tuple[str, Node]]:
    """Every node below *value*, with its name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict) and key[:1].isupper():
                yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def _transactional(tag: str, node: Node) -> bool:
    """Whether it can run in a transaction block; the list is the manual's, in each command's notes."""
    match tag:
        case "IndexStmt" | "DropStmt":
            return not node.get("concurrent")
        case "ReindexStmt":
            whole = node["kind"] in {
                "REINDEX_OBJECT_SCHEMA",
                "REINDEX_OBJECT_SYSTEM",
                "REINDEX_OBJECT_DATABASE",
            }
            return not whole and not _option(node, "concurrently", "params")
        case "VacuumStmt":
            return not node.get("is_vacuumcmd")
        case "ClusterStmt":
            return "relation" in node
        case "AlterTableStmt":
            return not any(
                c.get("def", {}).get("PartitionCmd", {}).get("concurrent") for c in _commands(node)
            )
        case "CreateSubscriptionStmt":
            return not (_option(node, "connect", default=True) and _option(node, "create_slot", default=True))
        case "DropSubscriptionStmt" | "AlterSubscriptionStmt":
            return False
        case "AlterDatabaseStmt":
            return not _option(node, "tablespace")
        case _:
            return True


def _refusal(tag: str, node: Node) -> str:
    if tag in _REFUSED:
        return _REFUSED[tag]
    if tag == "AlterDatabaseStmt" and _option(node, "tablespace"):
        return "a database cannot be moved while it is connected to"
    if tag == "CopyStmt" and "filename" not in node:
        return "COPY from or to the client needs psql: use INSERT, or load the data outside of migrations"
    if tag == "DiscardStmt" and node["target"] == "DISCARD_ALL":
        return "DISCARD ALL would let go of the migration lock"
    return ""


def _destructive(tag: str, node: Node, made: frozenset[str]) -> bool:
    match tag:
        case "DropStmt":
            kind = node["removeType"]
            if kind == "OBJECT_TABLE":
                return not all(_name(_strings(o)) in made for o in node["objects"])
            return kind in _DATA or (node.get("behavior") == "DROP_CASCADE" and kind != "OBJECT_INDEX")
        case "TruncateStmt":
            return not all(relation(item.get("RangeVar")) in made for item in node["relations"])
        case "AlterTableStmt":
            lossy = any(c.get("subtype") in _LOSSY_ALTER for c in _commands(node))
            return lossy and relation(node.get("relation")) not in made
        case "DoStmt":
            return _body_dangerous(node)
        case "CallStmt" | "DropOwnedStmt" | "DropSubscriptionStmt" | "ExecuteStmt":
            return True
        case "SelectStmt" if any(
            name == "FuncCall" and _strings(call["funcname"])[-1] not in _HARMLESS_CALLS
            for name, call in _walk(node)
        ):
            return True
        case _:
            pass
    if tag not in _QUERYING:
        return False
    return any(
        (name in _DELETING and relation(inner.get("relation")) not in made)
        or (name == "InsertStmt" and _overwrites(inner) and relation(inner.get("relation")) not in made)
        for name, inner in _walk({tag: node})
    )


def _overwrites(insert: Node) -> bool:
    return bool(insert.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE")


def _body_dangerous(node: Node) -> bool:
    texts = {item["DefElem"]["defname"]: item["DefElem"]["arg"]["String"]["sval"] for item in node["args"]}
    return texts.get("language", "plpgsql") != "plpgsql" or bool(_DANGEROUS.search(texts.get("as", "")))


def _locks(tag: str, node: Node) -> Iterator[str]:
    """Relations that are locked against readers or writers (PostgreSQL manual, section 13.3.1)."""
    own = relation(node.get("relation")) if isinstance(node.get("relation"), dict) else ""
    match tag:
        case "AlterTableStmt" if node.get("objtype") != "OBJECT_TYPE":
            yield from _alter_locks(node, own)
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
                yield from (_name(_strings(item)) for item in node["objects"])
            elif kind in _ON_RELATION:
                yield from (_name(_strings(item)[:-1]) for item in node["objects"])
        case "TruncateStmt":
            yield from (relation(item["RangeVar"]) for item in node["relations"])
        case "LockStmt" if node.get("mode", 0) >= _SHARE:
            yield from (relation(item["RangeVar"]) for item in node["relations"])
        case "ReindexStmt" if not _option(node, "concurrently", "params"):
            yield own
        case "VacuumStmt" if _option(node, "full"):
            yield from (relation(item["VacuumRelation"].get("relation")) for item in node.get("rels", ()))
        case "ClusterStmt" | "RefreshMatViewStmt" | "CreateTrigStmt" | "RuleStmt":
            yield own
        case "RenameStmt" | "AlterObjectSchemaStmt":
            yield own
        case "CreatePolicyStmt" | "AlterPolicyStmt":
            yield relation(node["table"])
        case "ViewStmt" if node.get("replace"):
            yield relation(node["view"])


def _alter_locks(node: Node, own: str) -> Iterator[str]:
    for command in _commands(node):
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


def _concurrent_index(tag: str, node: Node) -> str:
    """The index of CREATE, DROP INDEX or REINDEX INDEX CONCURRENTLY; CREATE puts it in its table's schema."""
    if tag == "IndexStmt" and node.get("concurrent") and node.get("idxname"):
        return _name([node["relation"].get("schemaname", ""), node["idxname"]])
    if tag == "DropStmt" and node.get("concurrent"):
        return _name(_strings(node["objects"][0]))
    if (
        tag == "ReindexStmt"
        and node["kind"] == "REINDEX_OBJECT_INDEX"
        and _option(node, "concurrently", "params")
    ):
        return relation(node["relation"])
    return ""


def made_after(tag: str, node: Node, made: frozenset[str]) -> frozenset[str]:
    """The tables that a file surely made itself, after this statement; a name may come to mean another."""
    match tag:
        case "CreateStmt" | "CreateTableAsStmt" if node.get("if_not_exists"):
            return made
        case "CreateStmt":
            return made | {relation(node["relation"])}
        case "CreateTableAsStmt":
            return made | {relation(node["into"]["rel"])}
        case "SelectStmt" if "intoClause" in node:
            return made | {relation(node["intoClause"]["rel"])}
        case "DropStmt" if node["removeType"] == "OBJECT_TABLE":
            return made - {_name(_strings(item)) for item in node["objects"]}
        case "RenameStmt" if node["renameType"] in _INNER:
            return made
        case _ if tag in _MOVING:
            return frozenset()
        case _:
            return made
