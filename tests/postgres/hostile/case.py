"""What a hostile file is, and how it may end."""

from dataclasses import dataclass
from enum import Enum

from godwit.contract.reasons import Reason


class End(Enum):
    """How far a file gets. Where it does not get through, the database is as it was, unless half done."""

    PLAN = "refused at plan time, before anything ran"
    APPLY = "failed while it was applied, and was rolled back"
    HALF = "failed outside a transaction, and what is done is told"
    APPLIED = "applied like any other: it is legitimate, or harms nobody"


@dataclass(frozen=True)
class Case:
    """One hostile file: its name says what it tries."""

    name: str
    content: bytes
    end: End
    reason: Reason | None = None
    says: str = ""
    """Words of the failure's message."""
    sqlstate: str = ""
    probe: str = ""
    """Where it is applied, or half done: a SELECT that returns true afterwards."""
    unbounded: bool = False
    """It lifts the timeouts: only the step's own budget ends it."""


def at_plan(reason: Reason, *rows: tuple[str, str | bytes] | tuple[str, str | bytes, str]) -> list[Case]:
    """Files that the plan refuses for *reason*: name, content, and words of the message."""
    return [
        Case(row[0], _bytes(row[1]), End.PLAN, reason, says=row[2] if len(row) > 2 else "") for row in rows
    ]


def at_apply(reason: Reason, *rows: tuple[str, str, str]) -> list[Case]:
    """Files that fail for *reason* when they run: name, content, SQLSTATE or words of the message."""
    return [
        Case(name, _bytes(sql), End.APPLY, reason, **{"sqlstate" if _is_state(told) else "says": told})
        for name, sql, told in rows
    ]


def applied(*rows: tuple[str, str] | tuple[str, str, str]) -> list[Case]:
    """Files that are applied: name, content, and a SELECT that is true afterwards."""
    return [
        Case(row[0], _bytes(row[1]), End.APPLIED, probe=row[2] if len(row) > 2 else "SELECT true")
        for row in rows
    ]


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _is_state(told: str) -> bool:
    return len(told) == 5 and told.upper() == told and told.isalnum()
