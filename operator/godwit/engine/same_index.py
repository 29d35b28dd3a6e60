"""Whether an index that is there is the one that a statement wanted: by the two definitions. Pure.

PostgreSQL prints an index as CREATE INDEX (manual, pg_get_indexdef), in a spelling of its own.
"""

import json
from typing import Any, Final

from pglast.parser import parse_sql_json

from godwit.engine.batched import plain
from godwit.engine.parse_tree import Node

_DESC: Final = "SORTBY_DESC"
_NULLS: Final = {"SORTBY_NULLS_FIRST": True, "SORTBY_NULLS_LAST": False}


def same_index(wanted: str, found: str) -> bool | None:
    """Whether *found*, as PostgreSQL prints it, is what *wanted* makes; None where that cannot be told.

    Names, tablespaces and storage parameters do not count. An expression or a condition that reads otherwise
    may mean the same, and so may an operator class or a collation that only one of both names.
    """
    one, other = _parsed(wanted), _parsed(found)
    if _shape(one) != _shape(other):
        return False
    return True if _details(one) == _details(other) else None


def _parsed(definition: str) -> Node:
    node: Node = json.loads(parse_sql_json(definition))["stmts"][0]["stmt"]["IndexStmt"]
    return node


def _columns(node: Node, field: str) -> list[Node]:
    return [item["IndexElem"] for item in node.get(field, ())]


def _shape(node: Node) -> tuple[Any, ...]:
    """What is printed in one spelling only."""
    keys = [(c.get("name"), _descending(c), _nulls_first(c)) for c in _columns(node, "indexParams")]
    return (
        node.get("unique", False),
        node.get("nulls_not_distinct", False),
        node.get("accessMethod", "btree"),
        keys,
        [c.get("name") for c in _columns(node, "indexIncludingParams")],
        "whereClause" in node,
    )


def _descending(column: Node) -> bool:
    return bool(column.get("ordering") == _DESC)


def _nulls_first(column: Node) -> bool:
    """As declared, or as the order has it by itself."""
    return _NULLS.get(column.get("nulls_ordering", ""), _descending(column))


def _details(node: Node) -> Any:
    parts = ("expr", "opclass", "opclassopts", "collation")
    columns = [{part: c.get(part) for part in parts} for c in _columns(node, "indexParams")]
    return plain([node.get("whereClause"), columns])
