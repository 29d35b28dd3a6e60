"""One large UPDATE, DELETE or INSERT ... SELECT, taken apart into ranges of a key. Pure.

The comment line `-- godwit: batched by KEY size N` asks for it. The team's own SQL is kept letter by letter;
only a range is added to its condition, and the parser has to agree that nothing else became different.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from godwit.engine.parse_tree import Node, relation, sql_name, strings, walk

_ASKED: Final = re.compile(r"--[ \t]*godwit:[ \t]*batch\w*\b(.*)", re.IGNORECASE)
_NAME: Final = r'(?:[A-Za-z_][\w$]*|"(?:[^"]|"")+")'
_WORDS: Final = re.compile(rf"[ \t]+by[ \t]+((?:{_NAME}\.)?{_NAME})[ \t]+size[ \t]+(\d+)[ \t]*")
_FORM: Final = "write it as `-- godwit: batched by KEY size N`"
_LARGEST: Final = 1_000_000
_SPLIT: Final = {"UpdateStmt", "DeleteStmt", "InsertStmt"}
AGGREGATE: Final = "an aggregate looks at all rows at once, and batches would give something else"
# Those that are no function to the parser. Which functions are one, the database knows.
_AGGREGATES: Final = {"JsonArrayAgg", "JsonObjectAgg"}
# Parts of a SELECT that see all rows at once: in ranges they would give something else.
_WHOLE: Final = {
    "distinctClause": "DISTINCT",
    "groupClause": "GROUP BY",
    "havingClause": "HAVING",
    "windowClause": "WINDOW",
    "limitCount": "LIMIT",
    "limitOffset": "OFFSET",
    "sortClause": "ORDER BY",
    "lockingClause": "FOR UPDATE",
    "withClause": "WITH",
    "valuesLists": "VALUES",
    "larg": "UNION and its like",
}


@dataclass(frozen=True)
class Batched:
    """A statement that runs in ranges of `key`, a column of `table` (both as SQL), `size` rows of it each."""

    table: str
    key: str
    column: str
    """The key as the statement has to name it."""
    size: int
    head: str
    condition: str
    """What stood after WHERE; empty where nothing did."""
    tail: str
    calls: tuple[str, ...] = ()
    """The functions, without their schemas, that an INSERT's SELECT calls; none may be an aggregate."""

    def ranged(self, low: str, high: str) -> str:
        """The statement for keys above *low* (empty: from the first) up to *high*, both as SQL."""
        within = f"{self.column} <= {high}"
        if low:
            within = f"{self.column} > {low} AND {within}"
        if self.condition:
            # A comment may end the condition: the bracket is on the next line.
            return f"{self.head}({self.condition}\n) AND {within}{self.tail}"
        return f"{self.head}\nWHERE {within}{self.tail}"


class NotBatched(Exception):  # noqa: N818  an answer about a file, not a defect
    """Why a statement cannot run in ranges, in words; `line` of the file, 1-based."""

    def __init__(self, why: str, line: int) -> None:
        super().__init__(why)
        self.line = line


def asked(text: str) -> tuple[str, int, int] | None:
    """Key, size and line of the comment line that asks for batches, or None. Raises NotBatched."""
    if not _ASKED.search(text):
        return None
    from pglast.parser import scan  # noqa: PLC0415  most steps parse nothing

    for token in scan(text):
        comment = text[token.start : token.end + 1]
        if token.name != "SQL_COMMENT" or not (found := _ASKED.fullmatch(comment)):
            continue
        line = text.count("\n", 0, token.start) + 1
        words = _WORDS.fullmatch(found[1])
        if not words or not comment.lower().split("godwit:")[1].lstrip().startswith("batched "):
            raise NotBatched(f"it seems to ask for batches: {_FORM}", line)
        size = int(words[2])
        if not 1 <= size <= _LARGEST:
            raise NotBatched(f"a batch has 1 to {_LARGEST} rows", line)
        return words[1], size, line
    return None


def take_apart(statement: str, tag: str, node: Node, *, key: str, size: int, line: int) -> Batched:
    """*statement*, whose parse node is *node*, in ranges of *key*. Raises NotBatched."""
    why = _obstacle(tag, node)
    if why:
        raise NotBatched(why, line)
    parts = _key_parts(key)
    source = node["selectStmt"]["SelectStmt"] if tag == "InsertStmt" else node
    tables = list(_ranges(source.get("fromClause", []))) if tag == "InsertStmt" else [node["relation"]]
    named = [t for t in tables if len(parts) == 1 or _called(t) == parts[0]]
    if len(named) != 1 or (len(parts) == 1 and len(tables) > 1):
        raise NotBatched(f"the key {key} does not say of which table: write TABLE.KEY", line)
    table = named[0]
    if tag == "UpdateStmt" and any(t["ResTarget"]["name"] == parts[-1] for t in node["targetList"]):
        raise NotBatched(f"it changes its own key {key}, and a row could be met twice", line)
    target = node["relation"]["relname"]
    seen = sum(inner.get("relname") == target for inner in _tables({tag: node}))
    if seen > 1:
        raise NotBatched(
            f"it reads {target}, which it changes: later batches would see the earlier ones", line
        )
    head, condition, tail = _cut(statement)
    made = Batched(
        relation({k: v for k, v in table.items() if k != "alias"}),
        sql_name(parts[-1:]),
        sql_name([_called(table), parts[-1]]),
        size,
        head,
        condition,
        tail,
        _calls(node["selectStmt"]) if tag == "InsertStmt" else (),
    )
    for low in ("", "0"):
        if not _same_but_for_range(tag, node, made.ranged(low, "0")):
            raise NotBatched("its condition cannot be told apart from the rest of it", line)
    return made


def _obstacle(tag: str, node: Node) -> str:
    if tag not in _SPLIT:
        return "only an UPDATE, a DELETE or an INSERT ... SELECT can run in batches"
    if "withClause" in node or "returningList" in node or "returningClause" in node:
        return "a statement in batches can have neither WITH nor RETURNING"
    if tag != "InsertStmt":
        return ""
    select = node.get("selectStmt", {}).get("SelectStmt")
    if select is None or "fromClause" not in select:
        return "only an INSERT that selects from a table can run in batches"
    if node.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE":
        return "ON CONFLICT DO UPDATE could meet a row of an earlier batch"
    whole = next((words for name, words in _WHOLE.items() if name in select), "")
    if whole:
        return f"{whole} looks at all rows at once, and batches would give something else"
    whole_call = any(
        name in _AGGREGATES or "over" in call or "agg_star" in call for name, call in walk(select)
    )
    return AGGREGATE if whole_call else ""


def _calls(select: Node) -> tuple[str, ...]:
    found = {strings(call["funcname"])[-1] for name, call in walk(select) if name == "FuncCall"}
    return tuple(sorted(found))


def _key_parts(key: str) -> list[str]:
    names = re.findall(_NAME, key)
    return [n[1:-1].replace('""', '"') if n.startswith('"') else n.lower() for n in names]


def _called(table: Node) -> str:
    alias: str = table.get("alias", {}).get("aliasname") or table["relname"]
    return alias


def _ranges(items: list[Node]) -> Iterator[Node]:
    """The tables of a FROM clause, also in joins; what an outer join may leave out is no table to go by."""
    for item in items:
        if "RangeVar" in item:
            yield item["RangeVar"]
        elif item.get("JoinExpr", {}).get("jointype") in {"JOIN_INNER", "JOIN_LEFT"}:
            join = item["JoinExpr"]
            yield from _ranges(
                [join["larg"]] if join["jointype"] == "JOIN_LEFT" else [join["larg"], join["rarg"]]
            )


def _tables(value: Any) -> Iterator[Node]:
    """Every table that is named anywhere below *value*."""
    if isinstance(value, dict):
        if "relname" in value:
            yield value
        for inner in value.values():
            yield from _tables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _tables(inner)


def _cut(statement: str) -> tuple[str, str, str]:
    """The statement before and with WHERE, its condition, and what follows: ON CONFLICT or nothing."""
    from pglast.parser import scan  # noqa: PLC0415  as above

    depth, where, tail = 0, None, len(statement)
    previous = None
    for token in scan(statement):
        if token.name in {"ASCII_40", "ASCII_41"}:
            depth += 1 if token.name == "ASCII_40" else -1
        elif depth == 0 and token.name == "WHERE" and where is None and tail == len(statement):
            where = token
        elif depth == 0 and token.name == "CONFLICT" and previous is not None and previous.name == "ON":
            tail = previous.start
        if token.name not in {"SQL_COMMENT", "C_COMMENT"}:
            previous = token
    rest = f"\n{statement[tail:]}" if statement[tail:] else ""
    if where is None:
        return statement[:tail].rstrip(), "", rest
    return statement[: where.end + 1] + " ", statement[where.end + 1 : tail].strip(), rest


def _same_but_for_range(tag: str, node: Node, ranged: str) -> bool:
    from pglast.parser import ParseError, parse_sql_json  # noqa: PLC0415  as above

    try:
        (made,) = json.loads(parse_sql_json(ranged))["stmts"]
    except (ParseError, ValueError):
        return False
    if list(made["stmt"]) != [tag]:
        return False
    old, new = plain(node), plain(made["stmt"][tag])
    holders = (old, new)
    if tag == "InsertStmt":
        holders = (old["selectStmt"]["SelectStmt"], new["selectStmt"]["SelectStmt"])
    before, after = (holder.pop("whereClause", None) for holder in holders)
    if old != new or after is None:
        return False
    wanted = _conjuncts(before) if before else []
    return _conjuncts(after)[: len(wanted)] == wanted and len(_conjuncts(after)) - len(wanted) in {1, 2}


def _conjuncts(condition: Node) -> list[Node]:
    both = condition.get("BoolExpr", {})
    return list(both["args"]) if both.get("boolop") == "AND_EXPR" else [condition]


def plain(value: Any) -> Any:
    """The parse tree without places in the text."""
    if isinstance(value, dict):
        places = {"location", "rexpr_list_start", "rexpr_list_end", "list_start", "list_end"}
        return {k: plain(v) for k, v in value.items() if k not in places and not k.endswith("_location")}
    return [plain(v) for v in value] if isinstance(value, list) else value
