"""From a SQL file to its statements and the way in which it must be sent, by PostgreSQL's own parser.

The parser (pglast, libpg_query) knows PostgreSQL 18's grammar. It is loaded when the first file is parsed.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.batched import Batched, NotBatched, asked, take_apart
from godwit.engine.classify import Facts, ends_at_commit, facts, made_after
from godwit.engine.errors import StepFailed, fail
from godwit.engine.model import Mode, ParsedScript, Script, Statement, Transaction
from godwit.engine.not_sql import explain_refusal
from godwit.engine.refusals import refusal

NO_TRANSACTION: Final = "-- godwit: no-transaction"
"""The comment line by which a team says that a file is meant to run statement by statement."""

SIZE_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of one script. Its parse tree takes some 60 times as much memory, and a step has 1 GiB."""

_MARK: Final = re.compile(r"--[ \t]*godwit:[ \t]*no-transaction[ \t]*")
# PostgreSQL's own white space and ends of comments (src/backend/parser/scan.l); \s would be far more.
_BLANK: Final = re.compile(r"(?:[ \t\n\r\f\v]+|--[^\n\r]*)+")
_EDGE: Final = re.compile(r"/\*|\*/")
# The parser reads the rest of such a run again at each opening: 80 KB of /*/*/* take it eight seconds.
_RUN: Final = re.compile(r"/\*[-+*/<>=~!@#%^&|`?]{2000,}")
_SAVEPOINTS: Final = {"TRANS_STMT_SAVEPOINT", "TRANS_STMT_RELEASE", "TRANS_STMT_ROLLBACK_TO"}
_BEGIN: Final = {"TRANS_STMT_BEGIN", "TRANS_STMT_START"}

_Raw = tuple[Statement, dict[str, Any]]
"""A statement that is only split yet, and its parse node."""


def parse(
    script: Script, environment: Environment, *, tables: Collection[str] = (), migration: str = ""
) -> ParsedScript:
    """The statements of *script*, and how it is to be sent to the server.

    *tables* are the migration tool's own, which no script may change. A file with something that cannot run
    in a transaction, in company, needs the line NO_TRANSACTION where *environment* is Production.
    Raises StepFailed: SqlInvalid with the line, or StatementRefused.
    """
    if len(script.data) > SIZE_LIMIT:
        raise _unreadable(
            script,
            Reason.STATEMENT_REFUSED,
            f"it has {len(script.data) / 1024**2:.0f} MiB, and a script has at most {SIZE_LIMIT // 1024**2}: "
            "load data outside of migrations, or in several of them",
            migration,
        )
    try:
        return _parse(script, environment, tables, migration)
    except RecursionError:
        raise _unreadable(
            script, Reason.SQL_INVALID, "an expression in it is nested too deeply", migration
        ) from None


def _parse(script: Script, environment: Environment, tables: Collection[str], migration: str) -> ParsedScript:
    text = script.text
    raw = list(_split(script, text, migration))
    edges = _edges(raw)
    wrapped = bool(edges)
    body = _without(text, edges)
    numbers = {edge.index for edge in edges}
    if numbers:
        _check_commits(script, raw, numbers, migration)
    raw = [item for item in raw if item[0].index not in numbers]
    made: frozenset[str] = frozenset()
    statements: list[Statement] = []
    for index, (statement, node) in enumerate(raw):
        found = facts(statement.tag, node, made)
        if why := refusal(statement.tag, node, tables) or _transaction_refusal(statement, node):
            raise _refused(script, statement, why, migration)
        made = made_after(statement.tag, node, made)
        statements.append(_judged(statement, index, found))
    if batched := _batched(script, raw, wrapped=wrapped, migration=migration):
        return ParsedScript(script, Mode.BATCHED, body, tuple(statements), batched)
    result = ParsedScript(script, _mode(script, statements, wrapped=wrapped), body, tuple(statements))
    if result.mode is Mode.STATEMENT_WISE:
        _check_statement_wise(result, environment, wrapped=wrapped, migration=migration)
    return result


def _batched(script: Script, raw: list[_Raw], *, wrapped: bool, migration: str) -> Batched | None:
    try:
        wish = asked(script.text)
        if wish is None:
            return None
        key, size, line = wish
        if len(raw) != 1 or wrapped:
            raise NotBatched("what runs in batches needs a file of its own, without BEGIN and COMMIT", line)
        statement, node = raw[0]
        return take_apart(statement.text, statement.tag, node, key=key, size=size, line=statement.line)
    except NotBatched as no:
        raise _unreadable(script, Reason.STATEMENT_REFUSED, str(no), migration, no.line) from None


def _split(script: Script, text: str, migration: str) -> Iterator[_Raw]:
    from pglast.parser import ParseError, parse_sql_json  # noqa: PLC0415  most steps parse nothing

    if run := _RUN.search(text):
        line = text.count("\n", 0, run.start()) + 1
        raise _unreadable(script, Reason.SQL_INVALID, "comments nested without end", migration, line)
    try:
        tree = json.loads(parse_sql_json(text))
    except ParseError as exc:
        raise explain_refusal(script, text, exc, migration) from None
    # The parser counts bytes; people and Python count characters.
    byte = char = counted = 0
    line = 1
    for index, raw in enumerate(tree.get("stmts", ())):
        start = raw.get("stmt_location", 0)
        end = start + raw["stmt_len"] if "stmt_len" in raw else len(script.data)
        char += len(script.data[byte:start].decode())
        byte = start
        stop = char + len(script.data[start:end].decode())
        first = _skip_blank(text, char)
        line += text.count("\n", counted, first)
        counted = first
        ((tag, node),) = raw["stmt"].items()
        yield Statement(index, text[first:stop].rstrip(), line, first, tag), node


def _skip_blank(text: str, position: int) -> int:
    """Where the first token at or after *position* stands: past spaces and comments, which nest."""
    while True:
        blank = _BLANK.match(text, position)
        if blank:
            position = blank.end()
        if not text.startswith("/*", position):
            return position
        depth = 0
        for edge in _EDGE.finditer(text, position):
            depth += 1 if edge[0] == "/*" else -1
            if depth == 0:
                position = edge.end()
                break


def _edges(raw: list[_Raw]) -> list[Statement]:
    """Every BEGIN and COMMIT, where they are plain and in pairs; none at all otherwise.

    Prisma itself writes such pairs into the middle of a file, for example around a change of an enum. Without
    them the whole file is one transaction, the one that its history row is in.
    """
    edges: list[Statement] = []
    inside = False
    for statement, node in raw:
        if statement.tag != "TransactionStmt" or node["kind"] in _SAVEPOINTS:
            continue
        begins = not inside and node["kind"] in _BEGIN and "options" not in node
        commits = inside and node["kind"] == "TRANS_STMT_COMMIT" and not node.get("chain")
        if not (begins or commits):
            return []
        inside = begins
        edges.append(statement)
    return [] if inside else edges


def _check_commits(script: Script, raw: list[_Raw], edges: Collection[int], migration: str) -> None:
    """Raise StepFailed for what a COMMIT in the file would end, where the file goes on behind it.

    The COMMIT is taken off, so it would last to the end of the file.
    """
    lasting: Statement | None = None
    commit = 0
    for statement, node in raw:
        if statement.index in edges:
            commit = statement.line if lasting and node["kind"] == "TRANS_STMT_COMMIT" else commit
        elif lasting and commit:
            why = (
                f"it ends at the COMMIT of line {commit}, taken off because a file is one transaction "
                f"with its history row, and line {statement.line} comes after it: give that a file of its own"
            )
            raise _refused(script, lasting, why, migration)
        elif lasting is None and ends_at_commit(statement.tag, node):
            lasting = statement


def _without(text: str, edges: list[Statement]) -> str:
    """*text* with *edges* blanked, not cut, so that lines and offsets stay those of the file."""
    parts, at = [], 0
    for edge in edges:
        parts += [text[at : edge.offset], re.sub(r"[^\n]", " ", edge.text)]
        at = edge.offset + len(edge.text)
    return "".join([*parts, text[at:]])


def _transaction_refusal(statement: Statement, node: dict[str, Any]) -> str:
    if statement.tag != "TransactionStmt" or node["kind"] in _SAVEPOINTS:
        return ""
    return (
        "a migration runs in a transaction of Godwit's own: take BEGIN, COMMIT and their like out of the "
        "file; only plain BEGIN and COMMIT in pairs may stand in it"
    )


def _judged(statement: Statement, index: int, found: Facts) -> Statement:
    return Statement(
        index=index,
        text=statement.text,
        line=statement.line,
        offset=statement.offset,
        tag=statement.tag,
        transactional=found.transactional,
        destructive=found.destructive,
        locks=found.locks,
        concurrent_index=found.concurrent_index,
        adds=found.adds,
    )


def _mode(script: Script, statements: list[Statement], *, wrapped: bool) -> Mode:
    if not all(s.transactional for s in statements):
        return Mode.STATEMENT_WISE
    alone = len(statements) == 1 and statements[0].tag in {"DoStmt", "CallStmt"} and not wrapped
    if alone and script.transaction is not Transaction.ALWAYS:
        return Mode.ALONE
    never = script.transaction is Transaction.NEVER and bool(statements) and not wrapped
    return Mode.STATEMENT_WISE if never else Mode.WHOLE


def _check_statement_wise(
    parsed: ParsedScript, environment: Environment, *, wrapped: bool, migration: str
) -> None:
    """Raise StatementRefused where the file cannot, or must not silently, run statement by statement."""
    asked = parsed.script.transaction
    alien = next((s for s in parsed.statements if not s.transactional), parsed.statements[0])
    savepoint = next((s for s in parsed.statements if s.tag == "TransactionStmt"), None)
    if wrapped:
        raise _refused(
            parsed.script,
            alien,
            "it cannot run in a transaction: take it out of BEGIN and COMMIT, into a file of its own",
            migration,
        )
    if savepoint:
        raise _refused(
            parsed.script,
            savepoint,
            f"the file cannot run in a transaction because of line {alien.line}, so it can have no savepoint",
            migration,
        )
    if asked is Transaction.ALWAYS:
        raise _refused(
            parsed.script,
            alien,
            f"it cannot run in a transaction, which this file asks for: write `{parsed.script.directive}`",
            migration,
        )
    if asked is Transaction.ONE_MESSAGE and len(parsed.statements) > 1:
        raise _refused(
            parsed.script,
            alien,
            "it cannot run in a transaction, and a file is sent as one message: give it a file of its own",
            migration,
        )
    mixed = next((s for s in parsed.statements if s.transactional), None)
    if asked is Transaction.UNMIXED and mixed:
        raise _refused(
            parsed.script,
            alien,
            f"it cannot run in a transaction and line {mixed.line} can: give it a file of its own, or set "
            f"{parsed.script.directive}",
            migration,
        )
    by_itself = len(parsed.statements) == 1 or asked in {Transaction.NEVER, Transaction.UNMIXED}
    if environment is Environment.PRODUCTION and not by_itself and not _marked(parsed.body):
        raise _refused(
            parsed.script,
            alien,
            "it cannot run in a transaction, so this file could be left half done: give it a file of its "
            f"own, or write the line `{NO_TRANSACTION}` into this one",
            migration,
        )


def _refused(script: Script, statement: Statement, why: str, migration: str) -> StepFailed:
    return fail(
        Reason.STATEMENT_REFUSED,
        f"{script.path}, line {statement.line}: {why}.",
        standing="Nothing was run.",
        migration=migration,
        file=script.path,
        line=statement.line,
        statement=statement.text,
    )


def _marked(text: str) -> bool:
    """Whether a comment line of its own is NO_TRANSACTION; the same words in a string are none."""
    from pglast.parser import scan  # noqa: PLC0415  as above

    if not _MARK.search(text):
        return False
    comments = (token for token in scan(text) if token.name == "SQL_COMMENT")
    return any(
        _MARK.fullmatch(text, c.start, c.end + 1) and not text[: c.start].rpartition("\n")[2].strip()
        for c in comments
    )


def _unreadable(script: Script, reason: Reason, why: str, migration: str, line: int = 0) -> StepFailed:
    place = f"{script.path}, line {line}" if line else script.path
    return fail(
        reason,
        f"{place}: {why}.",
        standing="Nothing was run.",
        migration=migration,
        file=script.path,
        line=line,
    )
