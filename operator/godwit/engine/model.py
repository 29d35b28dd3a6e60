"""The data that the engine's verbs share: what lies in the source, what the history says, what is to run.

Plain frozen values; reading them from files or from PostgreSQL is done elsewhere.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from godwit.contract.base import digest
from godwit.contract.outcome import Finding, PlanOutcome
from godwit.contract.request import Direction, Format
from godwit.engine.batched import Batched


class Transaction(StrEnum):
    """What a file, or its tool, says about the transaction that it runs in.

    Judged: what is in it decides (Prisma). OneMessage: the same, but what cannot run in a transaction must be
    alone in its file, because the tool sends a file as one message (golang-migrate). Unmixed: such statements
    have a file of their own, as many as they are (Flyway). Always: in one transaction, or not at all. Never:
    a directive of the tool takes it out of one.
    """

    JUDGED = "Judged"
    ONE_MESSAGE = "OneMessage"
    UNMIXED = "Unmixed"
    ALWAYS = "Always"
    NEVER = "Never"


@dataclass(frozen=True)
class Script:
    """One SQL file. `path` is how people know it (relative to the source).

    `checksum` is what the tool's history keeps of it; empty where it keeps none.
    """

    path: str
    data: bytes
    checksum: str
    transaction: Transaction = Transaction.JUDGED
    directive: str = ""
    """By which line a file of this tool asks to run outside a transaction; empty where there is none."""

    @cached_property
    def content(self) -> str:
        """SHA-256 of the file, in hexadecimal: what a plan knows it by, whatever the history keeps."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def text(self) -> str:
        """The file as text; reading the source has refused anything that is not UTF-8."""
        return self.data.decode("utf-8")


@dataclass(frozen=True)
class Migration:
    """A named step of the schema, with the way back where the team wrote one."""

    name: str
    up: Script
    down: Script | None = None
    repeatable: bool = False
    """Whether it has no version and runs again whenever it has changed."""


@dataclass(frozen=True)
class Source:
    """A migration folder, in the format's order."""

    format: Format
    migrations: tuple[Migration, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What the migrations were read from, by path below the folder; empty for Prisma's layout."""

    def get(self, name: str) -> Migration | None:
        """The migration of that name, or None."""
        return next((m for m in self.migrations if m.name == name), None)


@dataclass(frozen=True)
class HistoryRow:
    """One row of the tool's own history table."""

    id: str
    name: str
    checksum: str
    started_at: datetime
    finished_at: datetime | None = None
    rolled_back_at: datetime | None = None
    applied_steps: int = 0
    logs: str | None = None
    rank: int = 0
    """The order of application where the tool keeps no time to tell it by."""
    only_ours: bool = False
    """Whether only Godwit's journal knows of it: a tool without a word for what is half done."""

    @property
    def applied(self) -> bool:
        """Finished and not rolled back."""
        return self.finished_at is not None and self.rolled_back_at is None

    @property
    def failed(self) -> bool:
        """Started, neither finished nor rolled back: somebody has to resolve it."""
        return self.finished_at is None and self.rolled_back_at is None


@dataclass(frozen=True)
class History:
    """What the database says about itself. Rows are in order of `started_at`."""

    schema: str
    exists: bool
    rows: tuple[HistoryRow, ...] = ()
    unmanaged_tables: bool = False
    """Whether the schema holds tables although there is no history table."""
    baseline: str = ""
    """The version up to which everything counts as there, although there are no rows of it."""
    newest_only: bool = False
    """Whether the table knows the newest migration only, which stands for all before it."""
    in_the_way: str = ""
    """Another tool's table that has the history table's name."""
    half_back: tuple[tuple[str, datetime], ...] = ()
    """Applied migrations whose way back is half done by Godwit's journal, and when that began."""

    @property
    def applied(self) -> tuple[HistoryRow, ...]:
        """Rows that count as applied, in order of application, one for each name (the last)."""
        by_name = {row.name: row for row in self.rows if row.applied}
        return tuple(sorted(by_name.values(), key=lambda r: (r.rank, r.started_at, r.name)))

    @property
    def failed(self) -> tuple[HistoryRow, ...]:
        """Rows that somebody has to resolve."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def state(self) -> str:
        """Digest of what the table says: applied names and checksums, in any order, and what failed."""
        applied = self.applied
        if self.newest_only:  # a failed one has taken the row of the one before
            applied = () if self.failed else applied[-1:]
        failed = [r.name for r in self.failed if not r.only_ours]
        return state_digest({r.name: r.checksum for r in applied}, failed)


def state_digest(applied: dict[str, str], failed: list[str] | None = None) -> str:
    """Digest of a history: name -> checksum of what is applied, and the names of unresolved failures."""
    return digest({"applied": sorted(applied.items()), "failed": sorted(failed or [])})


class Declared(NamedTuple):
    """A person's word on the history, by which the journal knows that it was carried out."""

    how: str
    """A ResolveAs, or Baseline."""
    migration: str
    requested_at: str


@dataclass(frozen=True)
class Resolution:
    """A declaration that was not carried out yet, and what it changes; nothing where it holds already."""

    declared: Declared
    rolled_back: tuple[str, ...] = ()
    """Ids of the failed rows that it marks as rolled back."""
    previous: str = ""
    """The newest applied migration before it; empty: there is none."""
    applied: tuple[Migration, ...] = ()
    """Migrations that it marks as applied."""
    baseline: str = ""
    """The version that the tool is told to begin after, where it has a word for that."""
    whole: bool = False
    """Whether a way back of it that is half done is undone by now; the journal alone has a word for that."""

    @property
    def effective(self) -> bool:
        """Whether it changes the history, or what the journal says of it."""
        return bool(self.rolled_back or self.applied or self.baseline or self.whole)


class Mode(StrEnum):
    """How a file is sent to the server.

    Whole: as one message inside our transaction, together with its history row.
    Alone: a single CALL or DO, which may commit by itself; sent outside a transaction.
    StatementWise: holds something that cannot run in a transaction; each statement that can commits with its
    progress row, the rest is judged from the catalog.
    Batched: one statement, in ranges of a key, each in a transaction with its progress row.
    """

    WHOLE = "Whole"
    ALONE = "Alone"
    STATEMENT_WISE = "StatementWise"
    BATCHED = "Batched"


@dataclass(frozen=True)
class Statement:
    """One statement of a file, as PostgreSQL's own parser split it."""

    index: int
    """0-based position in the file."""
    text: str
    line: int
    """1-based line where its first token stands."""
    offset: int
    """Offset of `text` in the file, in characters."""
    tag: str
    """Parse node's name, for example IndexStmt."""
    transactional: bool = True
    destructive: bool = False
    """Drops, truncates, rewrites or deletes something that may have existed before."""
    locks: tuple[str, ...] = ()
    """Relations, as written, on which it takes a lock that conflicts with readers or writers."""
    concurrent_index: str = ""
    """Name of the index that CREATE/DROP INDEX or REINDEX CONCURRENTLY works on, as written."""
    adds: tuple[str, ...] = ()
    """Tables, as written, to which it adds rows; what else happens then only the database knows."""


@dataclass(frozen=True)
class ParsedScript:
    """A script with its statements; BEGIN ... COMMIT around the whole file is taken off `body`."""

    script: Script
    mode: Mode
    body: str
    statements: tuple[Statement, ...]
    batched: Batched | None = None
    """How its one statement runs in ranges, where the file asks for that."""

    @property
    def destructive(self) -> bool:
        """Whether any statement is."""
        return any(s.destructive for s in self.statements)

    @property
    def adds(self) -> frozenset[str]:
        """Tables, as written, to which it adds rows."""
        return frozenset(name for s in self.statements for name in s.adds)


@dataclass(frozen=True)
class PlannedMigration:
    """One migration of a plan: the script to run (up or down) and the row that it makes or removes."""

    name: str
    checksum: str
    """Checksum of the up script, as in the history row."""
    run: ParsedScript
    down: Script | None = None
    """The way back, kept in the journal when the migration is applied."""
    up_destructive: bool = False
    """Whether the up script destroyed or rewrote something, or is unknown: no down brings that back."""


@dataclass(frozen=True)
class Plan:
    """What is to run, in order, with everything found on the way. `refusal` set: nothing may run."""

    outcome: PlanOutcome
    steps: tuple[PlannedMigration, ...] = ()
    findings: tuple[Finding, ...] = ()
    direction: Direction | None = None
    expected: dict[str, str] = field(default_factory=dict)
    """name -> checksum of what is applied afterwards."""
    resolutions: tuple[Resolution, ...] = ()
    """Changes of the history that come before the first step."""

    @property
    def refusal(self) -> Finding | None:
        """The first finding that refuses the plan, or None."""
        return next((f for f in self.findings if f.severity == "Error"), None)
