"""What a file that PostgreSQL's parser refuses really holds: commands and variables of psql, rows of COPY.

People write migrations that they tried in psql, and pg_dump writes scripts for it. Such a file is told apart
from a slip of the pen, because another remedy helps.
"""

import json
import re
from typing import Final

from godwit.contract.reasons import Reason
from godwit.engine.errors import STATEMENT_LIMIT, StepFailed, fail
from godwit.engine.model import Script
from godwit.engine.redact import redact, secrets_in

COPY_ADVICE: Final = "use INSERT, or load the data outside of migrations"

_META: Final = re.compile(r"\\(?:[A-Za-z][\w+]*|[!?;])")
_VARIABLE: Final = re.compile(r""":(?:[A-Za-z_]\w*|'[A-Za-z_]\w*'|"[A-Za-z_]\w*"|\{\?[A-Za-z_]\w*\})""")
_COPY: Final = re.compile(r"\bCOPY\b", re.IGNORECASE)
_DELETE: Final = "take the line out, it does nothing to the database"

# psql's commands by what to do instead (manual, psql, Meta-Commands).
_INSTEAD: Final = {
    name: advice
    for names, advice in (
        ("i ir include include_relative", "put the SQL of that file here"),
        ("copy", COPY_ADVICE),
        ("c connect", "give each database a DatabaseMigration of its own"),
        ("set unset gset getenv prompt setenv", "write the value into the SQL, or compute it in a DO block"),
        ("if elif else endif", "use IF in a DO block"),
        ("gexec", "use EXECUTE in a DO block"),
        ("g gx gdesc crosstabview watch bind parse", "end the statement by a semicolon"),
        ("restrict unrestrict", "pg_dump wrote it for psql: take the line out"),
        ("!", "do what it does outside of migrations"),
        ("password", "use ALTER ROLE"),
        ("q quit", "take it out, with all that follows it"),
        ("a C echo encoding errverbose f h help H html o out p print pset qecho r reset t T", _DELETE),
        ("timing w warn write x ? conninfo copyright s", _DELETE),
    )
    for name in names.split()
}
_SHOWS: Final = re.compile(r"(d|l|z|sf|sv)[A-Za-z]*[+]?$")


def explain_refusal(script: Script, text: str, exc: Exception, migration: str) -> StepFailed:
    """The failure that the parser's error on *text* becomes: SqlInvalid, or StatementRefused by name.

    Its position counts characters; an error without one is at the end of the file.
    """
    message, index = (*exc.args, None)[:2]
    position = len(text.rstrip()) if index is None else int(index)
    copied = None if index is None else _copy_before(text, position)
    reason = Reason.STATEMENT_REFUSED
    if copied is not None:
        position, what = copied, f"the rows of COPY ... FROM stdin need psql: {COPY_ADVICE}"
    elif meta := _META.match(text, position):
        what = f"{meta[0]} is a command of psql, which migrations are not run by: {_instead(meta[0][1:])}"
    elif variable := _VARIABLE.match(text, position):
        what = f"{variable[0]} is a variable of psql, which migrations are not run by: write its value"
    else:
        # What is unterminated is quoted to the end of the file.
        reason, what = Reason.SQL_INVALID, redact(str(message), *secrets_in(text)).split("\n", 1)[0]
    line = text.count("\n", 0, position) + 1
    return fail(
        reason,
        f"{script.path}, line {line}: {what[:STATEMENT_LIMIT]}.",
        standing="Nothing was run.",
        migration=migration,
        file=script.path,
        line=line,
    )


def _instead(name: str) -> str:
    if name in _INSTEAD:
        return _INSTEAD[name]
    return _DELETE if _SHOWS.match(name) else "write it as SQL"


def _copy_before(text: str, position: int) -> int | None:
    """Where the COPY ... FROM stdin stands whose rows the parser stumbled over at *position*, if it did.

    Rows follow the statement's semicolon, and may look like SQL themselves. That the words are a statement,
    and not part of a comment or of a string, only the parser knows.
    """
    from pglast.parser import ParseError, parse_sql_json  # noqa: PLC0415  most steps parse nothing

    before = text[:position].rstrip(" \t\r\n")
    if not before.endswith(";") or not _COPY.search(before):
        return None
    try:
        statements = json.loads(parse_sql_json(before)).get("stmts", ())
    except (ParseError, RecursionError):
        return None
    for statement in statements:
        copy = statement["stmt"].get("CopyStmt", {})
        if copy.get("is_from") and "filename" not in copy:
            begins = len(before.encode()[: statement.get("stmt_location", 0)].decode())
            found = _COPY.search(before, begins)
            return found.start() if found else None
    return None
