"""What one statement does, judged from PostgreSQL's own parse tree alone: nothing is known of the database.

Where a parse tree does not tell, the answer is the careful one: destructive.
"""

import re
from dataclasses import dataclass
from typing import Final

from godwit.engine.harmless import HARMLESS, WORDS
from godwit.engine.locks import locked_relations
from godwit.engine.parse_tree import Node, commands, option, relation, sql_name, strings, walk


@dataclass(frozen=True)
class Facts:
    """What a statement does. Relations are named as written, quoted where SQL needs it."""

    transactional: bool = True
    destructive: bool = False
    locks: tuple[str, ...] = ()
    concurrent_index: str = ""
    adds: tuple[str, ...] = ()


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
    "DeclareCursorStmt",
    "ExplainStmt",
    "InsertStmt",
    "PrepareStmt",
    "SelectStmt",
}
"""Statements that can hold a DELETE or its like, in a CTE, behind ANALYZE, to be executed later; or that call
functions, of which only the server knows what they do."""
_EVALUATING: Final = {"AT_AddColumn", "AT_AddConstraint"}
"""What ALTER TABLE computes for rows that are there: a default, a condition."""
_JOINING: Final = {"AT_AddInherit", "AT_AttachPartition"}
"""After these the rows of one table are another's as well."""

_ON_COMMIT: Final = {"ONCOMMIT_DELETE_ROWS", "ONCOMMIT_DROP"}
# A procedure's body is only text to the parser; these words can destroy, or hide what does.
_DANGEROUS: Final = re.compile(r"\b(alter|call|delete|drop|execute|merge|truncate|update)\b", re.IGNORECASE)
# What such words in a body's own strings and comments say is not run: EXECUTE itself is one of them.
_SAID: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*")
_NAME: Final = r'(?:[^\W\d][\w$]*|"(?:[^"]|"")+")'
_INSERT: Final = re.compile(rf"\binsert\s+into\s*({_NAME}(?:\.{_NAME})?)", re.IGNORECASE)
# A call in such a body, or what looks like one but for the table after these words.
_CALL: Final = re.compile(r'(\b(?:exists|into|references|table)\s+)?([\w$."]+)\s*\(', re.IGNORECASE)


def facts(tag: str, node: Node, made: frozenset[str] = frozenset()) -> Facts:
    """What the statement with this parse node does; *made* are tables that the same file made before."""
    locks = tuple(dict.fromkeys(name for name in locked_relations(tag, node) if name and name not in made))
    return Facts(
        transactional=_transactional(tag, node),
        destructive=_destructive(tag, node, made),
        locks=locks,
        concurrent_index=_concurrent_index(tag, node),
        adds=_adds(tag, node),
    )


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
            return not whole and not option(node, "concurrently", "params")
        case "VacuumStmt":
            return not node.get("is_vacuumcmd")
        case "ClusterStmt":
            return "relation" in node
        case "AlterTableStmt":
            return not any(c.get("def", {}).get("PartitionCmd", {}).get("concurrent") for c in commands(node))
        case "CreateSubscriptionStmt":
            return not (option(node, "connect", default=True) and option(node, "create_slot", default=True))
        case "DropSubscriptionStmt" | "AlterSubscriptionStmt":
            return False
        case "AlterDatabaseStmt":
            return not option(node, "tablespace")
        case _:
            return True


def _destructive(tag: str, node: Node, made: frozenset[str]) -> bool:
    match tag:
        case "DropStmt":
            kind = node["removeType"]
            if kind == "OBJECT_TABLE":
                return not all(sql_name(strings(o)) in made for o in node["objects"])
            return kind in _DATA or (node.get("behavior") == "DROP_CASCADE" and kind != "OBJECT_INDEX")
        case "TruncateStmt":  # by CASCADE tables that refer to these, whoever made them
            whole = all(relation(item.get("RangeVar")) in made for item in node["relations"])
            return not whole or node.get("behavior") == "DROP_CASCADE"
        case "AlterTableStmt":
            known = relation(node.get("relation")) in made
            found = [c for c in commands(node) if c.get("subtype") in _LOSSY_ALTER | _EVALUATING]
            return any(_calls(c) or (c["subtype"] in _LOSSY_ALTER and not known) for c in found)
        case "AlterDomainStmt":
            return _calls(node)
        case "DoStmt":
            return body_dangerous(*_block(node))
        case "CallStmt" | "DropOwnedStmt" | "DropSubscriptionStmt" | "ExecuteStmt":
            return True
        case _:
            pass
    if tag not in _QUERYING:
        return False
    return any(  # in one walk: an INSERT can be long
        _calls_unknown(name, inner)
        or (name in _DELETING and relation(inner.get("relation")) not in made)
        or (name == "InsertStmt" and _overwrites(inner) and relation(inner.get("relation")) not in made)
        for name, inner in walk({tag: node})
    )


def _adds(tag: str, node: Node) -> tuple[str, ...]:
    match tag:
        case "CopyStmt" if node.get("is_from"):
            return (relation(node["relation"]),)
        case "DoStmt":
            return tuple(_INSERT.findall(_block(node)[1]))
        case "InsertStmt" if "withClause" not in node:  # it can be long
            return (relation(node["relation"]),)
        case _ if tag in _QUERYING:
            inserts = (inner for name, inner in walk({tag: node}) if name == "InsertStmt")
            return tuple(relation(inner["relation"]) for inner in inserts)
        case _:
            return ()


def _calls(node: Node) -> bool:
    """Whether it calls a function of which nobody knows here what it does."""
    return any(_calls_unknown(name, inner) for name, inner in walk(node))


def _calls_unknown(name: str, node: Node) -> bool:
    return name == "FuncCall" and not _known(strings(node["funcname"]))


def _known(name: list[str]) -> bool:
    return name[-1] in HARMLESS and name[:-1] in ([], ["pg_catalog"])


def _overwrites(insert: Node) -> bool:
    return bool(insert.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE")


def _block(node: Node) -> tuple[str, str]:
    """Language and body of a DO."""
    texts = {item["DefElem"]["defname"]: item["DefElem"]["arg"]["String"]["sval"] for item in node["args"]}
    return texts.get("language", "plpgsql"), texts.get("as", "")


def body_dangerous(language: str, body: str) -> bool:
    """Whether a procedure, function or block of that text may destroy data, as far as the text tells."""
    said = _SAID.sub("''", body)
    return (
        language not in {"plpgsql", "sql"}
        or bool(_DANGEROUS.search(said))
        or any(not before and not _harmless(called.lower()) for before, called in _CALL.findall(said))
    )


def _harmless(called: str) -> bool:
    return called in WORDS or _known(called.split("."))


def _concurrent_index(tag: str, node: Node) -> str:
    """The index of CREATE, DROP INDEX or REINDEX INDEX CONCURRENTLY; CREATE puts it in its table's schema."""
    if tag == "IndexStmt" and node.get("concurrent") and node.get("idxname"):
        return sql_name([node["relation"].get("schemaname", ""), node["idxname"]])
    if tag == "DropStmt" and node.get("concurrent"):
        return sql_name(strings(node["objects"][0]))
    if (
        tag == "ReindexStmt"
        and node["kind"] == "REINDEX_OBJECT_INDEX"
        and option(node, "concurrently", "params")
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
            return made - {sql_name(strings(item)) for item in node["objects"]}
        case "RenameStmt" if node["renameType"] in _INNER:
            return made
        case "AlterTableStmt" if any(c.get("subtype") in _JOINING for c in commands(node)):
            return frozenset()
        case _ if tag in _MOVING:
            return frozenset()
        case _:
            return made


def ends_at_commit(tag: str, node: Node) -> bool:
    """Whether a COMMIT undoes it: SET LOCAL and its like, and what ON COMMIT says of a temporary table."""
    match tag:
        case "VariableSetStmt":
            return bool(node.get("is_local"))
        case "CreateStmt":
            return node.get("oncommit") in _ON_COMMIT
        case "CreateTableAsStmt":
            return node["into"].get("onCommit") in _ON_COMMIT
        case _:
            calls = (call for name, call in walk({tag: node}) if name == "FuncCall")
            return any(strings(call["funcname"])[-1] == "set_config" and _is_true(call) for call in calls)


def _is_true(call: Node) -> bool:
    """Whether the last argument is, or may be."""
    last = call["args"][-1].get("A_Const", {}) if call.get("args") else {}
    return "boolval" not in last or bool(last["boolval"].get("boolval"))
