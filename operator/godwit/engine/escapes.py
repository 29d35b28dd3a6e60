"""Strings that the server would read otherwise than the plan: a backslash that is an escape to the server.

With `standard_conforming_strings = off`, set for a role or a database, it is one in every string (manual,
section 4.1.2.2). The parser knows it as a plain character, and a step's sessions are set to that; other tools
run under the setting, and the same file would say something else there.
"""

from collections.abc import Sequence
from typing import Final

from godwit.contract.outcome import Finding
from godwit.contract.reasons import Reason
from godwit.engine.compare import error
from godwit.engine.model import PlannedMigration
from godwit.engine.session import Session

# What the session began with, whatever was set in it since.
_BEGAN: Final = "SELECT FROM pg_settings WHERE name = 'standard_conforming_strings' AND reset_val = 'off'"


def escape_findings(session: Session, steps: Sequence[PlannedMigration]) -> list[Finding]:
    """The files with such a string, where the setting is off for the session's role or database."""
    found = []
    for step in steps:
        for script in (step.run.script, *([step.down] if step.down else [])):
            line = escape_line(script.text)
            if line:
                text = (
                    f"{script.path}, line {line}: a string holds a backslash, which is an escape here, where "
                    "standard_conforming_strings is off for the role or the database, and none to the plan: "
                    "write E'...', or set it to on for the migration's role."
                )
                found.append(error(Reason.STATEMENT_REFUSED, text, step.name, line))
    return found if found and session.execute(_BEGAN).rowcount else []


def escape_line(text: str) -> int:
    """The line, 1-based, of the first plain string with a backslash; 0 where there is none."""
    if "\\" not in text:
        return 0
    from pglast.parser import scan  # noqa: PLC0415  most steps parse nothing

    for token in scan(text):
        string = text[token.start : token.end + 1]
        if token.name == "SCONST" and string.startswith("'") and "\\" in string:
            return text.count("\n", 0, token.start) + 1
    return 0
