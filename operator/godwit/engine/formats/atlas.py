"""Atlas' history table: a row for each migration, with how many of its statements are applied.

Facts as of Atlas 1.2: the row of a file outside a transaction counts its statements as they are applied,
each with a hash of the statements until there, and Atlas goes on behind them; a file whose count is not full
is pending. What is older than the first row is passed over. The table is in the schema that the URL's
search_path names; without one it has a schema of its own name. `hash` is of the file and all before it, so
that nobody can tell from it which one was edited; Atlas does not compare it.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final, LiteralString

from psycopg.types.json import Jsonb

from godwit import __version__
from godwit.engine.formats import common
from godwit.engine.formats.atlas_folder import build as build
from godwit.engine.formats.atlas_folder import description
from godwit.engine.formats.atlas_folder import sort_key as sort_key
from godwit.engine.formats.atlas_folder import wanted as wanted
from godwit.engine.formats.atlas_sum import MARK
from godwit.engine.formats.common import fill as fill
from godwit.engine.model import History, HistoryRow, Migration, PlannedMigration, Script, Source
from godwit.engine.session import Session

TABLE: Final = "atlas_schema_revisions"
TABLES: Final = (TABLE,)
STRICT_ORDER: Final = True
NEWEST_ONLY: Final = False
RECORDS_FAILURES: Final = True
ADVISORY_KEY: Final = 2_686_470_616
"""32-bit FNV-1 of `atlas_migrate_execute`."""

_SEMICOLON: Final = re.compile(r"\s*;")

_READ: Final = """
SELECT version, applied, total, executed_at, hash, error FROM {table}
 WHERE version <> '.atlas_cloud_identifier'"""
# With the row's place in the history, as the versions' order has it.
_DELETE: Final = """
DELETE FROM {table} AS t WHERE version = %s
RETURNING (SELECT count(*) FROM {table} AS older WHERE older.version COLLATE "C" < t.version COLLATE "C"
              AND older.version <> '.atlas_cloud_identifier'),
          version, applied, total, executed_at, hash, error"""
_CREATE: Final = """
CREATE TABLE {table} (
    "version" character varying NOT NULL,
    "description" character varying NOT NULL,
    "type" bigint NOT NULL DEFAULT 2,
    "applied" bigint NOT NULL DEFAULT 0,
    "total" bigint NOT NULL DEFAULT 0,
    "executed_at" timestamptz NOT NULL,
    "execution_time" bigint NOT NULL,
    "error" text NULL,
    "error_stmt" text NULL,
    "hash" character varying NOT NULL,
    "partial_hashes" jsonb NULL,
    "operator_version" character varying NOT NULL,
    PRIMARY KEY ("version")
)"""
# Type 2: executed. Times are of the server's clock, durations in nanoseconds.
_INSERT: Final = """
INSERT INTO {table} (version, description, type, applied, total, executed_at, execution_time, error,
                     error_stmt, hash, partial_hashes, operator_version)
VALUES (%(version)s, %(description)s, 2, %(applied)s, %(total)s, now(),
        extract(epoch FROM clock_timestamp() - now()) * 1000000000, '', '', %(hash)s, 'null', %(operator)s)"""
_STATEMENT: Final = """
UPDATE {table} SET applied = %(done)s, partial_hashes = %(hashes)s, error = '', error_stmt = ''
 WHERE version = %(version)s"""
_FINISH: Final = """
UPDATE {table} SET applied = total, partial_hashes = 'null', error = '', error_stmt = '',
       execution_time = extract(epoch FROM clock_timestamp() - executed_at) * 1000000000
 WHERE version = %s"""
_FAIL: Final = """
UPDATE {table} SET error = %(error)s, error_stmt = %(statement)s,
       execution_time = extract(epoch FROM clock_timestamp() - executed_at) * 1000000000
 WHERE version = %(version)s"""


def advisory_key(session: Session) -> int:  # noqa: ARG001  the interface
    """The same for every database; Atlas polls it."""
    return ADVISORY_KEY


def read_history(session: Session) -> History:
    """What the history table says, in the versions' order. Writes nothing."""
    schema = common.home(session, TABLE)
    if not schema:
        return History(session.schema, exists=False, unmanaged_tables=common.other_tables(session, TABLE))
    found = sorted(session.execute(common.on(TABLE, session, _READ, schema=schema)).fetchall())
    rows = tuple(_row(rank, row) for rank, row in enumerate(found))
    first = rows[0].name if rows and rows[0].applied else ""
    return History(schema, exists=True, rows=rows, baseline=first)


def pending(source: Source, history: History) -> tuple[Migration, ...]:
    """What has no row, from the first row on: what is older Atlas passes over, as after a baseline."""
    rows = {row.name for row in history.rows}
    first = min(rows, default="")
    return tuple(m for m in source.migrations if m.name not in rows and m.name >= first)


def same_script(stored: str, script: Script) -> bool:  # noqa: ARG001  the interface
    """The history's hash is not of one file alone: any file of that version is the one."""
    return True


def ensure_table(session: Session) -> None:
    """Make the schema and the history table where they are missing, as Atlas does."""
    if common.home(session, TABLE):
        return
    common.ensure_schema(session)
    session.execute(_on(session, _CREATE))


def lock_history(session: Session) -> None:
    """Keep other writers off the history until the transaction ends."""
    session.execute(_on(session, "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))


def record_started(session: Session, planned: PlannedMigration) -> str:
    """Add the row with no statement applied. Returns the row's id, which is the version."""
    return _insert(session, planned, applied=0)


def record_statement(session: Session, row_id: str, planned: PlannedMigration, done: int) -> None:
    """Count the first *done* statements as applied, behind which Atlas would go on."""
    values = {"version": row_id, "done": done, "hashes": Jsonb(statement_hashes(planned, done))}
    session.execute(_on(session, _STATEMENT), values)


def record_finished(session: Session, row_id: str) -> None:
    """Count all statements as applied."""
    session.execute(_on(session, _FINISH), [row_id])


def record_failed(session: Session, row_id: str, logs: str, statement: str) -> None:
    """Keep the error and its statement; the count is not full, so the file stays pending for Atlas."""
    values = {"version": row_id, "error": logs, "statement": statement}
    session.execute(_on(session, _FAIL), values)


def record_rolled_back(session: Session, row_id: str, previous: str) -> None:
    """Delete the row: nothing of the file is left."""
    remove_row(session, row_id, previous)


def record_applied_in_transaction(session: Session, planned: PlannedMigration) -> str:
    """Add the row with all statements applied. Returns the row's id."""
    return _insert(session, planned, applied=len(planned.run.statements))


def remove_row(session: Session, name: str, previous: str) -> tuple[HistoryRow, ...]:  # noqa: ARG001  the interface
    """Delete the version's row, and give it as it was."""
    return tuple(_row(rank, row) for rank, *row in session.execute(_on(session, _DELETE), [name]))


def statement_hashes(planned: PlannedMigration, done: int) -> list[str]:
    """Hash of the first statement, of the first two, and so on: each with its semicolon, as it is written."""
    running, found = hashlib.sha256(), []
    text = planned.run.script.text
    for statement in planned.run.statements[:done]:
        end = statement.offset + len(statement.text)
        if semicolon := _SEMICOLON.match(text, end):
            end = semicolon.end()
        running.update(text[statement.offset : end].encode())
        found.append(MARK + base64.b64encode(running.digest()).decode())
    return found


def _row(rank: int, stored: Sequence[Any]) -> HistoryRow:
    version, applied, total, at, checksum, error = stored
    return HistoryRow(
        version,
        version,
        checksum,
        at,
        finished_at=at if applied == total else None,
        applied_steps=applied,
        logs=error or None,
        rank=rank,
    )


def _insert(session: Session, planned: PlannedMigration, *, applied: int) -> str:
    values = {
        "version": planned.name,
        "description": description(planned.run.script.path),
        "applied": applied,
        "total": len(planned.run.statements),
        "hash": planned.checksum,
        "operator": f"Godwit {__version__}",
    }
    session.execute(_on(session, _INSERT), values)
    return planned.name


def _on(session: Session, statement: LiteralString) -> bytes:
    """*statement* for the table where it is or, while there is none, where it is to be."""
    schema = common.home(session, TABLE)
    if not schema and session.execute("SELECT FROM pg_namespace WHERE nspname = %s", [TABLE]).rowcount:
        schema = TABLE
    return common.on(TABLE, session, statement, schema=schema)
