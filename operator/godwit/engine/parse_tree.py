"""Reading libpg_query's parse trees, as JSON: names as SQL, options, the nodes below a node.

A node is `{"AlterTableStmt": {...}}`; fields that are zero or false are left out.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

Node = dict[str, Any]

_BRANCHES: Final = frozenset({dict, list})
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_$]*")


def relation(range_var: Node | None) -> str:
    """A RangeVar's name as SQL; nothing for none."""
    return sql_name([range_var.get("schemaname", ""), range_var["relname"]]) if range_var else ""


def sql_name(parts: list[str]) -> str:
    """A qualified name as SQL, quoted where SQL needs it; empty parts are left out."""
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


def strings(value: Any) -> list[str]:
    """The strings of a qualified name, whichever node holds it."""
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    if "String" in value:
        return [value["String"]["sval"]]
    inner = value.get("List", {}).get("items") or value.get("TypeName", {}).get("names")
    return strings(inner or [])


def option(node: Node, name: str, field: str = "options", *, default: bool = False) -> bool:
    """The boolean option *name* in a statement's list of options; *default* when it is not there."""
    for item in node.get(field, ()):
        element = item["DefElem"]
        if element["defname"] == name:
            value = element.get("arg", {"String": {"sval": "true"}})
            text = value.get("String", {}).get("sval") or str(value.get("Integer", {}).get("ival", 0))
            return text.lower() not in {"false", "off", "0"}
    return default


def commands(node: Node) -> Iterator[Node]:
    """The actions of an ALTER TABLE."""
    for command in node.get("cmds", ()):
        yield command["AlterTableCmd"]


def walk(value: Any) -> Iterator[tuple[str, Node]]:
    """Every node below *value*, with its name, in the order of the text."""
    # Without recursion, whose generators would hand each node up through all that are above it.
    ahead: list[tuple[str, Any]] = [("", value)]
    while ahead:
        name, item = ahead.pop()
        if type(item) is dict:
            if name[:1].isupper():
                yield name, item
            ahead += [pair for pair in reversed(item.items()) if type(pair[1]) in _BRANCHES]
        elif type(item) is list:
            ahead += [("", inner) for inner in reversed(item) if type(inner) in _BRANCHES]
