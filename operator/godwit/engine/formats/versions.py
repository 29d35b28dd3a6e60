"""A history that is a list of versions without checksums: what goose's and dbmate's have in common.

A row's id is its version, so that the journal can name the row before the tool's own key is known. A file
outside a transaction leaves no trace in such a history until it is applied; the journal has it.
"""

from collections.abc import Sequence
from typing import Any, Final

from godwit.engine.model import PlannedMigration, Script
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
