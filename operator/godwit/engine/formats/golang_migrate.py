"""golang-migrate's history table: one row, the version that the database is at, and whether it is dirty.

Facts as of golang-migrate 4.19 and its driver `postgres`: each step replaces the row; dirty is set before a
file runs and cleared after it; no row at all means that nothing is applied.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from godwit.engine.formats import common
from godwit.engine.formats.common import record_statement as record_statement
from godwit.engine.formats.golang_migrate_folder import build as build
from godwit.engine.formats.golang_migrate_folder import sort_key as sort_key
from godwit.engine.formats.golang_migrate_folder import wanted as wanted
from godwit.engine.model import History, HistoryRow, Migration, PlannedMigration, Script, Source
from godwit.engine.session import Session

TABLE: Final = "schema_migrations"
TABLES: Final = (TABLE,)
_on: Final = partial(common.on, TABLE)
COLUMNS: Final = {"version": "bigint", "dirty": "boolean"}
STRICT_ORDER: Final = False
NEWEST_ONLY: Final = True
RECORDS_FAILURES: Final = True

_SALT: Final = 1_486_364_155
"""The tool multiplies its hash by this."""


def advisory_key(session: Session) -> int:
    """The key that the tool's command line makes of schema, table and database.

    The database counts as the path of the tool's URL, so with its slash.
    """
    words = "\0".join([session.schema, TABLE, f"/{session.identity.name}"])
    return zlib.crc32(words.encode()) * _SALT % 2**32


def read_history(session: Session) -> History:
    """What the history table of the session's schema says. Writes nothing.

    A table of that name with other columns is another tool's, and as good as none.
    """
    columns = common.columns(session, TABLE)
    if columns.keys() != COLUMNS.keys():
        return History(
            session.schema,
            exists=False,
            unmanaged_tables=common.other_tables(session, ""),
            newest_only=True,
            in_the_way=TABLE if columns else "",
        )
    rows = _rows(session)
    unmanaged = not rows and common.other_tables(session, TABLE)
    return History(session.schema, exists=True, rows=rows, unmanaged_tables=unmanaged, newest_only=True)


def pending(source: Source, history: History) -> tuple[Migration, ...]:
    """What is newer than the newest: the tool never runs an older one, whether it ever ran or not."""
    standing = (row for row in history.rows if row.rolled_back_at is None)
    newest = max((sort_key(row.name) for row in standing), default=-1)
    return tuple(m for m in source.migrations if sort_key(m.name) > newest)


def fill(history: History, source: Source, besides: Collection[str] = ()) -> History:
    """The one row stands for every older migration of the source, and for those *besides*."""
    newest = max((row.rank for row in history.rows), default=-1)
    there = {row.name for row in history.rows}
    names = {*(m.name for m in source.migrations), *besides} - there
    implied = [_row(int(name)) for name in names if int(name) < newest]
    rows = sorted([*implied, *history.rows], key=lambda row: row.rank)
    return replace(history, rows=tuple(rows))


def same_script(stored: str, script: Script) -> bool:  # noqa: ARG001  the interface
    """The history knows no checksum: any file of that version is the one."""
    return True


def ensure_table(session: Session) -> None:
    """Make the schema and the history table where they are missing, as the tool does."""
    if common.table_exists(session, TABLE):
        return
    common.ensure_schema(session)
    statement = "CREATE TABLE {table} (version bigint not null primary key, dirty boolean not null)"
    session.execute(_on(session, statement))


def lock_history(session: Session) -> None:
    """Keep other writers off the history until the transaction ends."""
    common.lock_table(session, TABLE)


def record_started(session: Session, planned: PlannedMigration) -> str:
    """Put the version in, dirty, as the tool does before it runs the file. Returns the row's id."""
    return _set(session, planned.name, dirty=True)


def record_finished(session: Session, row_id: str) -> None:
    """Put the version in, clean."""
    _set(session, row_id, dirty=False)


def record_failed(session: Session, row_id: str, logs: str, statement: str) -> None:
    """Nothing: the version stays dirty, and the history has no place for a text."""


def record_rolled_back(session: Session, row_id: str, previous: str) -> None:  # noqa: ARG001  the interface
    """Put the version before back, clean."""
    _set(session, previous, dirty=False)


def record_applied_in_transaction(session: Session, planned: PlannedMigration) -> str:
    """Put the version in, clean: nobody sees it dirty meanwhile. Returns the row's id."""
    return _set(session, planned.name, dirty=False)


def remove_row(session: Session, name: str, previous: str) -> tuple[HistoryRow, ...]:
    """Put *previous* in the place of the version that was taken back, and give its row as it was."""
    removed = tuple(row for row in _rows(session) if row.name == name)
    _set(session, previous, dirty=False)
    return removed


def mark_applied(session: Session, migration: Migration) -> str:
    """Put the version in, clean, as `migrate force` does. Returns the row's id."""
    return _set(session, migration.name, dirty=False)


def mark_rolled_back(session: Session, row_ids: Sequence[str], previous: str) -> list[dict[str, Any]]:
    """Put the version before a dirty one back, clean, as `migrate force` does."""
    if row_ids:
        _set(session, previous, dirty=False)
    return [{"id": row_id} for row_id in row_ids]


def unmark(
    session: Session,
    made: Sequence[str],  # noqa: ARG001  the interface
    rolled_back: Sequence[Mapping[str, Any]],  # noqa: ARG001  the interface
    before: Sequence[HistoryRow],
) -> None:
    """Put the row back that both have replaced."""
    row = before[0] if before else None
    _set(session, row.name if row else "", dirty=row is not None and row.failed)


def _set(session: Session, version: str, *, dirty: bool) -> str:
    session.later(_on(session, "DELETE FROM {table}"))
    if version:
        insert = "INSERT INTO {table} (version, dirty) VALUES (%s, %s)"
        session.later(_on(session, insert), [int(version), dirty])
    return version


def _rows(session: Session) -> tuple[HistoryRow, ...]:
    found = session.execute(_on(session, "SELECT version, dirty FROM {table} LIMIT 1"))
    return tuple(_row(version, dirty=dirty) for version, dirty in found)


def _row(version: int, *, dirty: bool = False) -> HistoryRow:
    name, time = str(version), common.UNKNOWN_TIME
    return HistoryRow(name, name, "", time, finished_at=None if dirty else time, rank=version)
