"""dbmate's history table: the versions that are applied, as text.

Facts as of dbmate 2.36: no time, no checksum, no lock; a rollback deletes the row.
"""

from functools import partial
from typing import Final

from godwit.engine.formats import common
from godwit.engine.formats.common import fill as fill
from godwit.engine.formats.common import pending as pending
from godwit.engine.formats.common import record_statement as record_statement
from godwit.engine.formats.dbmate_folder import build as build
from godwit.engine.formats.dbmate_folder import sort_key as sort_key
from godwit.engine.formats.dbmate_folder import wanted as wanted
from godwit.engine.formats.versions import NEWEST_ONLY as NEWEST_ONLY
from godwit.engine.formats.versions import RECORDS_FAILURES as RECORDS_FAILURES
from godwit.engine.formats.versions import VersionRows
from godwit.engine.formats.versions import mark_rolled_back as mark_rolled_back
from godwit.engine.formats.versions import record_failed as record_failed
from godwit.engine.formats.versions import record_rolled_back as record_rolled_back
from godwit.engine.formats.versions import record_started as record_started
from godwit.engine.formats.versions import same_script as same_script
from godwit.engine.model import History, HistoryRow
from godwit.engine.session import Session

TABLE: Final = "schema_migrations"
TABLES: Final = (TABLE,)
_on: Final = partial(common.on, TABLE)
COLUMNS: Final = {"version": "character varying"}
STRICT_ORDER: Final = False
ADVISORY_KEY: Final = 7_235_409_112_034_018
"""Godwit's own: dbmate takes no lock, so this one is only between Godwit and itself."""
# With the row's place in the history, as `sort_key` has it.
_DELETE: Final = """
DELETE FROM {table} AS t WHERE version = ANY (%s)
RETURNING (SELECT count(*) FROM {table} AS older WHERE older.version || '_' < (t.version || '_') COLLATE "C"),
          version"""

_rows: Final = VersionRows(
    TABLE,
    insert="INSERT INTO {table} (version) VALUES (%s)",
    delete=_DELETE,
    stored=str,
)
lock_history = _rows.lock_history
record_finished = _rows.record_finished
record_applied_in_transaction = _rows.record_applied_in_transaction
mark_applied = _rows.mark_applied
unmark = _rows.unmark


def advisory_key(session: Session) -> int:  # noqa: ARG001  the interface
    """The same for every database."""
    return ADVISORY_KEY


def read_history(session: Session) -> History:
    """What the history table of the session's schema says, in the versions' order. Writes nothing.

    A table of that name with other columns is another tool's, and as good as none.
    """
    columns = common.columns(session, TABLE)
    if columns != COLUMNS:
        unmanaged, taken = common.other_tables(session, ""), TABLE if columns else ""
        return History(session.schema, exists=False, unmanaged_tables=unmanaged, in_the_way=taken)
    found = sorted((v for (v,) in session.execute(_on(session, "SELECT version FROM {table}"))), key=sort_key)
    rows = tuple(_row(rank, version) for rank, version in enumerate(found))
    unmanaged = not found and common.other_tables(session, TABLE)
    return History(session.schema, exists=True, rows=rows, unmanaged_tables=unmanaged)


def ensure_table(session: Session) -> None:
    """Make the schema and the history table where they are missing, as dbmate does."""
    if common.table_exists(session, TABLE):
        return
    common.ensure_schema(session)
    session.execute(_on(session, "CREATE TABLE {table} (version varchar PRIMARY KEY)"))


def remove_row(session: Session, name: str, previous: str) -> tuple[HistoryRow, ...]:  # noqa: ARG001  the interface
    """Delete the version, and give its row as it was."""
    return tuple(_row(*row) for row in _rows.deleted(session, [name]))


def _row(rank: int, version: str) -> HistoryRow:
    time = common.UNKNOWN_TIME
    return HistoryRow(version, version, "", time, finished_at=time, rank=rank)
