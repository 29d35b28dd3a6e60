"""Prisma Migrate's history table: reading it, and writing the rows that Prisma itself would have written.

Facts as of Prisma 6.14 to 7.10: columns, the times in milliseconds of the client's clock,
`applied_steps_count`, `logs`, the meaning of unfinished and rolled-back rows.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Final

from psycopg.types.json import Jsonb

from godwit.engine.formats import common
from godwit.engine.formats.common import fill as fill
from godwit.engine.formats.common import pending as pending
from godwit.engine.formats.common import record_statement as record_statement
from godwit.engine.formats.prisma_folder import build as build
from godwit.engine.formats.prisma_folder import same_script as same_script
from godwit.engine.formats.prisma_folder import sort_key as sort_key
from godwit.engine.formats.prisma_folder import wanted as wanted
from godwit.engine.model import History, HistoryRow, Migration, PlannedMigration
from godwit.engine.repeated import Repeated
from godwit.engine.session import Session

TABLE: Final = "_prisma_migrations"
TABLES: Final = (TABLE,)
_on: Final = partial(common.on, TABLE)
STRICT_ORDER: Final = False
NEWEST_ONLY: Final = False
RECORDS_FAILURES: Final = True
ADVISORY_KEY: Final = 72707369
"""Key of the session lock that Prisma's own command line takes (`pg_advisory_lock`), database-wide."""

_COLUMNS: Final = """
id, migration_name, checksum, started_at, finished_at, rolled_back_at, applied_steps_count, logs"""
_READ: Final = "SELECT" + _COLUMNS + " FROM {table} ORDER BY started_at, migration_name, id"
_DELETE: Final = "DELETE FROM {table} WHERE migration_name = %(name)s RETURNING" + _COLUMNS  # noqa: S608  constants

_CREATE: Final = """
CREATE TABLE {table} (
    id                  VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum            VARCHAR(64) NOT NULL,
    finished_at         TIMESTAMPTZ,
    migration_name      VARCHAR(255) NOT NULL,
    logs                TEXT,
    rolled_back_at      TIMESTAMPTZ,
    started_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
)"""

# The order of started_at is the order of application, which going down relies on: never before an earlier
# row, not within one millisecond nor after a client whose clock is ahead.
_START: Final = """
INSERT INTO {table} (id, checksum, migration_name, started_at)
SELECT %(id)s, %(checksum)s, %(name)s,
       GREATEST(%(now)s, (SELECT max(started_at) + interval '1 millisecond' FROM {table}))"""

# `prisma migrate resolve` writes empty logs and no step, and one time for start and end.
_MARK_APPLIED: Final = """
INSERT INTO {table} (id, checksum, migration_name, started_at, finished_at, logs)
SELECT %(id)s, %(checksum)s, %(name)s, at, at, ''
  FROM (SELECT GREATEST(%(now)s,
                        (SELECT max(started_at) + interval '1 millisecond' FROM {table})) AS at) AS t"""

_MARK_ROLLED_BACK: Final = """
UPDATE {table} AS t SET rolled_back_at = GREATEST(%(now)s, started_at)
 WHERE id = ANY (%(ids)s) AND finished_at IS NULL AND rolled_back_at IS NULL
RETURNING to_jsonb(t) - 'rolled_back_at'"""

# Reverting a migration removed every row of its name.
_UNMARK: Final = """
INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, %(rows)s)
ON CONFLICT (id) DO UPDATE SET rolled_back_at = NULL"""

# The start is the transaction's. A row whose times are one is what `prisma migrate resolve` leaves.
_APPLIED: Final = """
INSERT INTO {table} (id, checksum, migration_name, applied_steps_count, started_at, finished_at)
SELECT %(id)s, %(checksum)s, %(name)s, 1, at, GREATEST(%(now)s, at + interval '1 millisecond')
  FROM GREATEST(date_trunc('milliseconds', transaction_timestamp()),
                (SELECT max(started_at) + interval '1 millisecond' FROM {table})) AS at"""

_FINISH: Final = """
UPDATE {table} SET applied_steps_count = applied_steps_count + 1, logs = NULL,
       finished_at = GREATEST(%(now)s, started_at)
 WHERE id = %(id)s"""


def advisory_key(session: Session) -> int:  # noqa: ARG001  the interface's
    """The key is one for all databases of a server; the lock itself belongs to the session's database."""
    return ADVISORY_KEY


def read_history(session: Session) -> History:
    """What the history table of the session's schema says; no table is a history of its own. Writes nothing.

    Raises psycopg.Error, for example when the role may not read the table.
    """
    exists = table_exists(session)
    rows = tuple(HistoryRow(*row) for row in session.execute(_on(session, _READ))) if exists else ()
    unmanaged = not rows and common.other_tables(session, TABLE)
    return History(session.schema, exists, rows, unmanaged_tables=unmanaged)


def table_exists(session: Session) -> bool:
    """Whether the session's schema has a history table."""
    return common.table_exists(session, TABLE)


def ensure_table(session: Session) -> None:
    """Make the schema and the history table where they are missing, in the open transaction if there is one.

    Looks first: CREATE ... IF NOT EXISTS asks for the right to create even where nothing is to be created.
    """
    if table_exists(session):
        return
    common.ensure_schema(session)
    session.execute(_on(session, _CREATE))


def lock_history(session: Session) -> None:
    """Keep other writers off the history until the transaction ends, also those without the advisory lock."""
    common.lock_table(session, TABLE)


def record_started(session: Session, planned: PlannedMigration) -> str:
    """Add the row of a migration that starts, as Prisma does before it runs one. Returns the row's id."""
    row_id = str(uuid.uuid4())
    session.execute(
        _on(session, _START),
        {"id": row_id, "checksum": planned.checksum, "name": planned.name, "now": _now()},
    )
    return row_id


def record_finished(session: Session, row_id: str) -> None:
    """Mark a started row as applied."""
    session.execute(_on(session, _FINISH), {"id": row_id, "now": _now()})


def record_failed(session: Session, row_id: str, logs: str, statement: str) -> None:  # noqa: ARG001  the interface
    """Keep the error text in a started row, which stays unfinished: a failed migration, in Prisma's terms.

    *logs* must be free of secrets and row data: everybody who reads the table sees it.
    """
    session.execute(
        _on(session, "UPDATE {table} SET logs = %(logs)s WHERE id = %(id)s"), {"id": row_id, "logs": logs}
    )


def record_rolled_back(session: Session, row_id: str, previous: str) -> None:  # noqa: ARG001  the interface
    """Mark an unfinished row as rolled back, as `prisma migrate resolve --rolled-back`: free to be tried."""
    session.execute(
        _on(session, "UPDATE {table} SET rolled_back_at = GREATEST(%(now)s, started_at) WHERE id = %(id)s"),
        {"id": row_id, "now": _now()},
    )


def record_applied_in_transaction(session: Session, planned: PlannedMigration) -> str:
    """Add the finished row of a migration inside its own transaction: it stands when the migration does.

    Returns the row's id. The row is the one that Prisma ends up with: one applied step, no logs.
    """
    row_id = str(uuid.uuid4())
    session.repeat(
        _applied(session.schema),
        {"id": row_id, "checksum": planned.checksum, "name": planned.name, "now": _now()},
    )
    return row_id


@cache
def _applied(schema: str) -> Repeated:
    types = {"id": "text", "checksum": "text", "name": "text", "now": "timestamptz"}
    return common.repeated(TABLE, schema, _APPLIED, **types)


def mark_applied(session: Session, migration: Migration) -> str:
    """Add the row that `prisma migrate resolve --applied` adds. Returns its id."""
    row_id = str(uuid.uuid4())
    params = {"id": row_id, "checksum": migration.up.checksum, "name": migration.name, "now": _now()}
    session.execute(_on(session, _MARK_APPLIED), params)
    return row_id


def mark_rolled_back(
    session: Session,
    row_ids: Sequence[str],
    previous: str,  # noqa: ARG001  the interface
) -> list[dict[str, Any]]:
    """Mark failed rows as `prisma migrate resolve` does, with --rolled-back as well as before --applied."""
    rows = session.execute(_on(session, _MARK_ROLLED_BACK), {"ids": list(row_ids), "now": _now()})
    return [row for (row,) in rows]


def unmark(
    session: Session,
    made: Sequence[str],
    rolled_back: Sequence[Mapping[str, Any]],
    before: Sequence[HistoryRow],  # noqa: ARG001  the interface
) -> None:
    """Take back what `mark_applied` and `mark_rolled_back` wrote."""
    session.execute(_on(session, "DELETE FROM {table} WHERE id = ANY (%(ids)s)"), {"ids": list(made)})
    session.execute(_on(session, _UNMARK), {"rows": Jsonb(list(rolled_back))})


def remove_row(session: Session, name: str, previous: str) -> tuple[HistoryRow, ...]:  # noqa: ARG001  the interface
    """Delete every row of a migration that was taken back, and give them as they were.

    Rolled-back rows of earlier tries go too: `prisma migrate status` 6.x counts any row of a name as applied.
    """
    return tuple(HistoryRow(*row) for row in session.execute(_on(session, _DELETE), {"name": name}))


def _now() -> datetime:
    """The client's clock, in whole milliseconds as Prisma writes it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
