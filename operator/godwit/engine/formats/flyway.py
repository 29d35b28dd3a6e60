"""Flyway's history table: a row for each migration that ran, with its checksum, in order of application.

Facts as of Flyway 11.14: rows are numbered by `installed_rank`; a repeatable has no version, and a row for
each time that it ran; a row without success stops everything until `flyway repair`; a BASELINE row stands for
every version up to its own. Rows of its paid editions that take a version back (UNDO_SQL) are understood, but
not written: the open source edition fails on them. What was taken back loses its row instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from psycopg.types.json import Jsonb

from godwit.engine.formats import common
from godwit.engine.formats.common import fill as fill
from godwit.engine.formats.common import record_statement as record_statement
from godwit.engine.formats.flyway_folder import REPEATABLE, described
from godwit.engine.formats.flyway_folder import build as build
from godwit.engine.formats.flyway_folder import sort_key as sort_key
from godwit.engine.formats.flyway_folder import wanted as wanted
from godwit.engine.model import History, HistoryRow, Migration, PlannedMigration, Script, Source
from godwit.engine.session import Session

TABLE: Final = "flyway_schema_history"
TABLES: Final = (TABLE,)
_on: Final = partial(common.on, TABLE)
STRICT_ORDER: Final = True
NEWEST_ONLY: Final = False
RECORDS_FAILURES: Final = True

_LOCK_BASE: Final = 77_431_708_279_161
"""Flyway adds the hash of the table's quoted name."""
_BASELINE: Final = "BASELINE"
_NOT_APPLIED: Final = ("UNDO", "DELETE", "SCHEMA")
"""Types of rows, as they begin, that apply nothing."""

_COLUMNS: Final = """
installed_rank, version, description, type, checksum, success,
installed_on AT TIME ZONE current_setting('TimeZone')"""
_READ: Final = "SELECT" + _COLUMNS + " FROM {table}"
_DELETE: Final = "DELETE FROM {table} WHERE version = %s RETURNING" + _COLUMNS  # noqa: S608  constants
_CREATE: Final = """
CREATE TABLE {table} (
    "installed_rank" INT NOT NULL,
    "version" VARCHAR(50),
    "description" VARCHAR(200) NOT NULL,
    "type" VARCHAR(20) NOT NULL,
    "script" VARCHAR(1000) NOT NULL,
    "checksum" INTEGER,
    "installed_by" VARCHAR(100) NOT NULL,
    "installed_on" TIMESTAMP NOT NULL DEFAULT now(),
    "execution_time" INTEGER NOT NULL,
    "success" BOOLEAN NOT NULL
)"""
_KEY: Final = (
    """ALTER TABLE {table} ADD CONSTRAINT "flyway_schema_history_pk" PRIMARY KEY ("installed_rank")"""
)
_INDEX: Final = """CREATE INDEX "flyway_schema_history_s_idx" ON {table} ("success")"""

_INSERT: Final = """
INSERT INTO {table} (installed_rank, version, description, type, script, checksum, installed_by,
                     execution_time, success)
SELECT coalesce(max(installed_rank), 0) + 1, %(version)s, %(description)s, %(type)s, %(script)s, %(checksum)s,
       current_user, extract(epoch FROM clock_timestamp() - now()) * 1000, %(success)s
  FROM {table}
RETURNING installed_rank"""
_DELETE_FAILED: Final = """
DELETE FROM {table} AS t WHERE installed_rank = ANY (%s) AND NOT success RETURNING to_jsonb(t)"""
_PUT_BACK: Final = "INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, %s)"
_FINISH: Final = """
UPDATE {table} SET success = true,
       execution_time = least(extract(epoch FROM localtimestamp - installed_on) * 1000, 2147483647)
 WHERE installed_rank = %s"""


def advisory_key(session: Session) -> int:
    """The key of the lock that Flyway polls, of its session or transaction; by the table's quoted name."""
    value = 0
    for unit in _utf16(f'"{session.schema}"."{TABLE}"'):
        value = (31 * value + unit) & 0xFFFFFFFF
    return _LOCK_BASE + (value - 2**32 if value >= 2**31 else value)


def _utf16(text: str) -> list[int]:
    """Code units, which Java's String.hashCode() counts."""
    data = text.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def read_history(session: Session) -> History:
    """What the history table of the session's schema says. Writes nothing."""
    if not common.table_exists(session, TABLE):
        return History(session.schema, exists=False, unmanaged_tables=common.other_tables(session, TABLE))
    found, baseline = _rows(session.execute(_on(session, _READ)))
    unmanaged = not found and common.other_tables(session, TABLE)
    return History(session.schema, exists=True, rows=found, unmanaged_tables=unmanaged, baseline=baseline)


def _rows(stored: Iterable[tuple[Any, ...]]) -> tuple[tuple[HistoryRow, ...], str]:
    """The rows that apply something, in order of application, and the version of a baseline."""
    rows: dict[str, list[HistoryRow]] = {}
    baseline = ""
    for rank, version, description, kind, crc, success, at in sorted(stored):
        name = version if version is not None else f"{REPEATABLE}{description.replace(' ', '_')}"
        if kind == _BASELINE:
            baseline = version
        elif kind.startswith(_NOT_APPLIED):
            rows.pop(name, None)
        else:
            text = "" if crc is None else str(crc)
            row = HistoryRow(str(rank), name, text, at, finished_at=at if success else None, rank=rank)
            rows.setdefault(name, []).append(row)
    return tuple(sorted((row for same in rows.values() for row in same), key=lambda row: row.rank)), baseline


def pending(source: Source, history: History) -> tuple[Migration, ...]:
    """Versions that are not applied and above the baseline, then repeatables that changed since they ran."""
    applied = {row.name: row.checksum for row in history.applied}
    floor = sort_key(history.baseline) if history.baseline else None
    return tuple(
        m
        for m in source.migrations
        if (m.repeatable and applied.get(m.name) != m.up.checksum)
        or (not m.repeatable and m.name not in applied and (floor is None or sort_key(m.name) > floor))
    )


def same_script(stored: str, script: Script) -> bool:
    """Rows without a checksum were written by something else than a script."""
    return stored in ("", script.checksum)


def ensure_table(session: Session) -> None:
    """Make the schema and the history table where they are missing, as Flyway does."""
    if common.table_exists(session, TABLE):
        return
    common.ensure_schema(session)
    for statement in (_CREATE, _KEY, _INDEX):
        session.execute(_on(session, statement))


def lock_history(session: Session) -> None:
    """Keep other writers off the history until the transaction ends."""
    common.lock_table(session, TABLE)


def record_started(session: Session, planned: PlannedMigration) -> str:
    """Add the row without success, which stops Flyway if nobody comes back. Returns the row's id."""
    return _insert(session, planned, success=False)


def record_finished(session: Session, row_id: str) -> None:
    """Mark the row as a success."""
    session.execute(_on(session, _FINISH), [int(row_id)])


def record_failed(session: Session, row_id: str, logs: str, statement: str) -> None:
    """Nothing: the row has no success, and no place for a text."""


def record_rolled_back(session: Session, row_id: str, previous: str) -> None:  # noqa: ARG001  the interface
    """Delete the row, as `flyway repair` does."""
    session.execute(_on(session, "DELETE FROM {table} WHERE installed_rank = %s"), [int(row_id)])


def record_applied_in_transaction(session: Session, planned: PlannedMigration) -> str:
    """Add the row. Returns its id."""
    return _insert(session, planned, success=True)


def remove_row(session: Session, name: str, previous: str) -> tuple[HistoryRow, ...]:  # noqa: ARG001  the interface
    """Delete the rows of the version, and give those that applied it as they were."""
    return _rows(session.execute(_on(session, _DELETE), [name]))[0]


def mark_applied(session: Session, migration: Migration) -> str:
    """Add the row of a success, as `flyway migrate -skipExecutingMigrations=true` does. Returns its id."""
    return _add(session, migration.name, migration.up.path, migration.up.checksum, success=True)


def mark_rolled_back(
    session: Session,
    row_ids: Sequence[str],
    previous: str,  # noqa: ARG001  the interface
) -> list[dict[str, Any]]:
    """Delete rows without success, as `flyway repair` does."""
    ranks = [int(row_id) for row_id in row_ids]
    rows = session.execute(_on(session, _DELETE_FAILED), [ranks]).fetchall()
    return [{"id": str(row["installed_rank"]), "row": row} for (row,) in rows]


def mark_baseline(session: Session, version: str) -> str:
    """Add the row that `flyway baseline` adds. Returns its id."""
    text = "<< Flyway Baseline >>"
    values = {"version": version, "description": text, "type": _BASELINE, "script": text}
    return _row_id(session, values | {"checksum": None, "success": True})


def unmark(
    session: Session,
    made: Sequence[str],
    rolled_back: Sequence[Mapping[str, Any]],
    before: Sequence[HistoryRow],  # noqa: ARG001  the interface
) -> None:
    """Take back what the three wrote."""
    ranks = [int(row_id) for row_id in made]
    session.execute(_on(session, "DELETE FROM {table} WHERE installed_rank = ANY (%s)"), [ranks])
    session.execute(_on(session, _PUT_BACK), [Jsonb([entry["row"] for entry in rolled_back])])


def _insert(session: Session, planned: PlannedMigration, *, success: bool) -> str:
    return _add(session, planned.name, planned.run.script.path, planned.checksum, success=success)


def _add(session: Session, name: str, path: str, checksum: str, *, success: bool) -> str:
    values = {
        "version": None if name.startswith(REPEATABLE) else name,
        "description": described(path),
        "type": "SQL",
        "script": path,
        "checksum": int(checksum),
        "success": success,
    }
    return _row_id(session, values)


def _row_id(session: Session, values: Mapping[str, Any]) -> str:
    row = session.later(_on(session, _INSERT), values).fetchone()
    return str(row[0]) if row else ""
