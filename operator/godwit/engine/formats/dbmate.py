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

_rows: Final = VersionRows(
    TABLE,
    insert="INSERT INTO {table} (version) VALUES (%s)",
    delete="DELETE FROM {table} WHERE version = ANY (%s)",
    stored=str,
)
lock_history = _rows.lock_history
record_finished = _rows.record_finished
record_applied_in_transaction = _rows.record_applied_in_transaction
remove_row = _rows.remove_row
mark_applied = _rows.mark_applied
unmark = _rows.unmark


def advisory_key(session: Session) -> int:  # noqa: ARG001  the interface
    """The same for every database."""
    return ADVISORY_KEY


def read_history(session: Session) -> History:
    """What the history table of the session's schema says, in the versions' order. Writes nothing.

    A table of that name with other columns is another tool's, and as good as none.
    """
    if common.columns(session, TABLE) != COLUMNS:
        unmanaged = common.other_tables(session, "")
        return History(session.schema, exists=False, unmanaged_tables=unmanaged)
    found = sorted((v for (v,) in session.execute(_on(session, "SELECT version FROM {table}"))), key=sort_key)
    time = common.UNKNOWN_TIME
    rows = (HistoryRow(v, v, "", time, finished_at=time, rank=rank) for rank, v in enumerate(found))
    unmanaged = not found and common.other_tables(session, TABLE)
    return History(session.schema, exists=True, rows=tuple(rows), unmanaged_tables=unmanaged)


def ensure_table(session: Session) -> None:
    """Make the schema and the history table where they are missing, as dbmate does."""
    if common.table_exists(session, TABLE):
        return
    common.ensure_schema(session)
    session.execute(_on(session, "CREATE TABLE {table} (version varchar PRIMARY KEY)"))
