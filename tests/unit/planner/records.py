"""What a database server in memory keeps: databases with histories and journals, files of backups."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from godwit.contract.base import digest
from godwit.contract.outcome import (
    Failure,
    VerbOutcome,
)
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    StepRequest,
)

MARKS = "!~v-d"


class Stop(Exception):  # noqa: N818  a verb's own end
    """The verb failed; what it did before stands."""

    def __init__(self, reason: Reason, beside: VerbOutcome | None = None, text: str = "It failed.") -> None:
        super().__init__(reason)
        self.failure = Failure(reason=reason, message=text)
        self.beside = beside


class Killed(Exception):  # noqa: N818  the process is gone
    """The process was killed in the middle."""


@dataclass(frozen=True)
class Row:
    """A journal row."""

    id: int
    operation: str
    object: str
    spec_hash: str
    step: str
    attempt: int
    event: str
    migration: str = ""
    outcome: VerbOutcome | None = None
    data: int = 0


@dataclass
class Live:
    """A database."""

    oid: int
    applied: list[str] = field(default_factory=list)
    journal: list[Row] = field(default_factory=list)
    data: int = 0
    partial: str = ""

    @property
    def snapshot(self) -> tuple[object, ...]:
        """All that a step could change."""
        return self.oid, tuple(self.applied), tuple(self.journal), self.data, self.partial

    def head(self, but: str = "") -> int:
        return max((row.id for row in self.journal if not but or row.operation != but), default=0)


@dataclass(frozen=True)
class File:
    """A backup in the store."""

    operation: str
    oid: int
    applied: tuple[str, ...]
    journal: tuple[Row, ...]
    data: int
    started_at: datetime
    ended_at: datetime


def state(applied: list[str] | tuple[str, ...]) -> str:
    return "s:" + ",".join(applied)


def plain(token: str) -> str:
    return token.rstrip(MARKS)


def checksum(file: File) -> str:
    return digest([file.operation, file.oid, list(file.applied), file.ended_at.isoformat()])


def usable(file: File | None, request: StepRequest, wanted_state: str, max_age: timedelta) -> bool:
    """Whether the store has, for that step, what the policy asks for."""
    return (
        file is not None
        and request.identity is not None
        and file.oid == request.identity.database_oid
        and state(file.applied) == wanted_state
        and request.not_after is not None
        and request.not_after <= file.ended_at + max_age
    )
