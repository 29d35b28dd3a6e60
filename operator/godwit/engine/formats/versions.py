"""A history that is a list of versions without checksums: what goose's and dbmate's have in common.

A row's id is its version, so that the journal can name the row before the tool's own key is known. A file
outside a transaction leaves no trace in such a history until it is applied; the journal has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

from godwit.engine.formats import common
from godwit.engine.model import HistoryRow, Migration, PlannedMigration, Script
from godwit.engine.session import Session

RECORDS_FAILURES: Final = False
NEWEST_ONLY: Final = False


def same_script(stored: str, script: Script) -> bool:  # noqa: ARG001  the interface
    """The history knows no checksum: any file of that version is the one."""
    return True


def record_started(session: Session, planned: PlannedMigration) -> str:  # noqa: ARG001  the interface
    """Nothing: a version is written when it is applied. Returns the id that the row will have."""
    return planned.name


def record_failed(session: Session, row_id: str, logs: str, statement: str) -> None:
    """Nothing: the history has no place for it."""


def record_rolled_back(session: Session, row_id: str, previous: str) -> None:
    """Nothing: the version was not there yet."""


def mark_rolled_back(
    session: Session,  # noqa: ARG001  the interface
    row_ids: Sequence[str],
    previous: str,  # noqa: ARG001  the interface
) -> list[dict[str, Any]]:
    """Nothing in the tool's table, which never knew of it: the journal, which did, keeps the word on it."""
    return [{"id": row_id} for row_id in row_ids]


@dataclass(frozen=True)
class VersionRows:
    """The rows themselves: a version's is added when it is applied, and deleted when it is taken back."""

    table: str
    insert: LiteralString
    """Takes one version."""
    delete: LiteralString
    """Takes an array of them."""
    stored: Callable[[str], str | int]
    """What the table holds for a migration's name."""

    def lock_history(self, session: Session) -> None:
        """Keep other writers off the history until the transaction ends: the command lines take no lock."""
        common.lock_table(session, self.table)

    def record_finished(self, session: Session, row_id: str) -> None:
        """Add the version."""
        session.later(common.on(self.table, session, self.insert), [self.stored(row_id)])

    def record_applied_in_transaction(self, session: Session, planned: PlannedMigration) -> str:
        """Add the version. Returns the row's id."""
        self.record_finished(session, planned.name)
        return planned.name

    def mark_applied(self, session: Session, migration: Migration) -> str:
        """Add the version. Returns the row's id."""
        self.record_finished(session, migration.name)
        return migration.name

    def unmark(
        self,
        session: Session,
        made: Sequence[str],
        rolled_back: Sequence[Mapping[str, Any]],  # noqa: ARG002  the interface
        before: Sequence[HistoryRow],  # noqa: ARG002  the interface
    ) -> None:
        """Delete the versions that `mark_applied` added."""
        self.deleted(session, made)

    def deleted(self, session: Session, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Delete the rows of these versions. Returns what the statement says of each."""
        versions = [self.stored(name) for name in names]
        return session.execute(common.on(self.table, session, self.delete), [versions]).fetchall()
