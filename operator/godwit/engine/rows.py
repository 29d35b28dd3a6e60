"""History rows as the journal keeps them: what was removed or replaced, to put back or to leave out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from godwit.engine.model import HistoryRow


def row_as_json(row: HistoryRow) -> dict[str, Any]:
    """A history row for the journal, which keeps it when the row is removed."""
    return {
        "id": row.id,
        "name": row.name,
        "checksum": row.checksum,
        "startedAt": row.started_at.isoformat(),
        "finishedAt": row.finished_at.isoformat() if row.finished_at else None,
        "rolledBackAt": row.rolled_back_at.isoformat() if row.rolled_back_at else None,
        "rank": row.rank,
    }


def row_of(data: Mapping[str, Any]) -> HistoryRow:
    """What `row_as_json` made of a row."""

    def when(key: str) -> datetime | None:
        return datetime.fromisoformat(data[key]) if data[key] else None

    started = datetime.fromisoformat(data["startedAt"])
    return HistoryRow(
        data["id"],
        data["name"],
        data["checksum"],
        started,
        when("finishedAt"),
        when("rolledBackAt"),
        rank=data.get("rank", 0),
    )
