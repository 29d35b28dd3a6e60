"""Statements that no migration may run, judged from the parse tree alone. Pure.

They reach beyond the database, would end the migrator's own hold on it, or would change what says which
migrations are applied. What hides in a procedure's text is met when it runs, and rolled back then.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from godwit.engine.not_sql import COPY_ADVICE
from godwit.engine.parse_tree import Node, commands, option, strings, walk

_TAGS: Final = {
    "AlterSystemStmt": "ALTER SYSTEM changes the whole server",
    "CreatedbStmt": "CREATE DATABASE makes another database",
    "DropdbStmt": "DROP DATABASE drops a database",
    "CreateTableSpaceStmt": "a tablespace belongs to the whole server",
    "DropTableSpaceStmt": "a tablespace belongs to the whole server",
    "AlterTableSpaceOptionsStmt": "a tablespace belongs to the whole server",
}
_UNLOCKS: Final = "could let go of the migration lock"
_ENDS: Final = "ends sessions, perhaps the migration's own: do that outside of migrations"
_CALLS: Final = {
    "pg_advisory_unlock": _UNLOCKS,
    "pg_advisory_unlock_all": _UNLOCKS,
    "pg_cancel_backend": _ENDS,
    "pg_terminate_backend": _ENDS,
}
_IN_TEXT: Final = re.compile(rf"\b({'|'.join(sorted(_CALLS, key=len, reverse=True))})\b", re.IGNORECASE)
# These only keep text for later; what calls it is judged then.
_DEFINING: Final = {"CreateFunctionStmt", "CommentStmt"}

_WRITING: Final = {"DeleteStmt", "InsertStmt", "MergeStmt", "UpdateStmt"}
_ON_TABLE: Final = {"AlterObjectSchemaStmt", "CreateTrigStmt", "RenameStmt", "RuleStmt"}
_HARMLESS_ALTER: Final = {"AT_EnableRowSecurity", "AT_DisableRowSecurity"}
SCHEMA: Final = "godwit"
"""The journal's schema."""

_Nodes = Sequence[tuple[str, Node]]
"""A statement's nodes, its own and all below, each with its name."""


def refusal(tag: str, node: Node, tables: Collection[str] = ()) -> str:
    """Why no migration may run the statement with this parse node, or nothing.

    *tables*: names of the migration tool's own tables, whatever their schema.
    """
    if tag in _TAGS:
        return _TAGS[tag]
    nodes = list(walk({tag: node}))
    return _of_database(tag, node) or _of_session(tag, node, nodes) or _of_history(tag, node, nodes, tables)


def _of_database(tag: str, node: Node) -> str:
    match tag:
        case "AlterDatabaseStmt" if option(node, "tablespace"):
            return "a database cannot be moved while it is connected to"
        case "AlterDatabaseStmt" if _options(node) & {"allow_connections", "connection_limit"}:
            return "it could close a database to its application, and to the migrator: use a DBA's session"
        case "RenameStmt" if node["renameType"] == "OBJECT_DATABASE":
            return "a database is known by its name: rename it outside of migrations"
        case "CopyStmt" if node.get("is_program"):
            return "COPY ... PROGRAM runs a program on the server's machine"
        case "CopyStmt" if "filename" not in node:
            return f"COPY from or to the client needs psql: {COPY_ADVICE}"
        case _:
            return ""


def _options(node: Node) -> set[str]:
    return {item["DefElem"]["defname"] for item in node.get("options", ())}


def _of_session(tag: str, node: Node, nodes: _Nodes) -> str:
    if tag == "DiscardStmt" and node["target"] == "DISCARD_ALL":
        return f"DISCARD ALL {_UNLOCKS}"
    if tag == "DoStmt":
        bodies = (text for item in node["args"] for text in strings(item["DefElem"]["arg"]))
        called = next((found[1].lower() for body in bodies if (found := _IN_TEXT.search(body))), "")
    elif tag in _DEFINING:
        return ""
    else:
        names = (strings(call["funcname"])[-1] for name, call in nodes if name == "FuncCall")
        called = next((name for name in names if name in _CALLS), "")
    return f"{called} {_CALLS[called]}" if called else ""


def _of_history(tag: str, node: Node, nodes: _Nodes, tables: Collection[str]) -> str:
    for schema, name in _changed(tag, node, nodes):
        if schema == SCHEMA:
            return "the schema godwit is where the journal is kept, and no migration changes it"
        if name in tables:
            return (
                f"{name} says which migrations are applied, and no migration changes it: "
                "use spec.resolve or spec.baseline"
            )
    return ""


def _changed(tag: str, node: Node, nodes: _Nodes) -> Iterator[tuple[str, str]]:
    """Schema and name of each table, or schema alone, that the statement writes to, alters or drops."""
    for name, inner in nodes:
        if name in _WRITING:
            yield _range(inner["relation"])
    match tag:
        case "TruncateStmt":
            yield from (_range(item["RangeVar"]) for item in node["relations"])
        case "CopyStmt" if node.get("is_from") and "relation" in node:
            yield _range(node["relation"])
        case "AlterTableStmt" if any(c.get("subtype") not in _HARMLESS_ALTER for c in commands(node)):
            yield _range(node["relation"])
        case "DropStmt" if node["removeType"] == "OBJECT_SCHEMA":
            yield from ((strings(item)[-1], "") for item in node["objects"])
        case "DropStmt":
            yield from (_pair(strings(item)) for item in node["objects"])
        case "RenameStmt" if node["renameType"] == "OBJECT_SCHEMA":
            yield node["subname"], ""
        case _ if tag in _ON_TABLE and "relation" in node:
            yield _range(node["relation"])


def _range(node: Node) -> tuple[str, str]:
    return node.get("schemaname", ""), node["relname"]


def _pair(parts: list[str]) -> tuple[str, str]:
    return (parts[-2] if len(parts) > 1 else ""), (parts[-1] if parts else "")
