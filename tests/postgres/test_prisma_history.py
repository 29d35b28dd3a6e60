"""Prisma's history table on a real server: read without a trace, written as Prisma would have."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from godwit.contract.environment import DATABASE_URI_VAR
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection
from godwit.engine.errors import from_postgres
from godwit.engine.formats import prisma
from godwit.engine.formats.prisma_folder import checksum
from godwit.engine.model import PlannedMigration, Script
from godwit.engine.session import Session, open_session
from godwit.engine.statements import parse
from godwit.engine.uri import parse_target


def open_on(uri: str, *, writing: bool = True) -> Session:
    target = parse_target(Connection(), {DATABASE_URI_VAR: uri})
    return open_session(target, Connection(), application_name="test", expected=None, writing=writing)


def planned(name: str, sql: str = "SELECT 1") -> PlannedMigration:
    script = Script(f"{name}/migration.sql", sql.encode(), checksum(sql.encode()))
    return PlannedMigration(name, script.checksum, parse(script, Environment.DEVELOPMENT))


@pytest.fixture
def session(database) -> Iterator[Session]:
    with open_on(database.uri) as opened:
        yield opened


@pytest.fixture
def table(session) -> Session:
    prisma.ensure_table(session)
    return session


def test_reading_writes_nothing(database):
    before = database.dump(without=())
    with open_on(database.uri, writing=False) as session:
        history = prisma.read_history(session)
    assert (history.exists, history.unmanaged_tables, history.rows) == (False, False, ())
    assert database.dump(without=()) == before


@pytest.mark.parametrize(
    ("sql", "unmanaged"),
    [
        ("CREATE TABLE a ()", True),
        ("CREATE TABLE a (x int) PARTITION BY LIST (x)", True),
        ("CREATE VIEW v AS SELECT 1", False),
        ("CREATE TYPE t AS ENUM ('a')", False),
        ("CREATE SCHEMA other; CREATE TABLE other.a ()", False),
    ],
)
def test_tables_without_a_history_are_noticed_in_their_own_schema_only(database, session, sql, unmanaged):
    database.psql(sql)
    assert prisma.read_history(session).unmanaged_tables is unmanaged


def test_the_table_is_prismas_to_the_letter(database, table):
    columns = database.psql(
        "SELECT column_name, data_type, character_maximum_length, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_name = '_prisma_migrations' ORDER BY ordinal_position"
    )
    assert columns.splitlines() == [
        "id|character varying|36|NO|",
        "checksum|character varying|64|NO|",
        "finished_at|timestamp with time zone||YES|",
        "migration_name|character varying|255|NO|",
        "logs|text||YES|",
        "rolled_back_at|timestamp with time zone||YES|",
        "started_at|timestamp with time zone||NO|now()",
        "applied_steps_count|integer||NO|0",
    ]
    prisma.ensure_table(table)  # there already
    assert prisma.read_history(table).exists


def test_the_table_and_its_schema_are_made_where_the_uri_says(database):
    with open_on(database.uri + "?schema=My%20App") as session:
        prisma.ensure_table(session)
        assert prisma.read_history(session).schema == "My App"
    assert database.psql('SELECT count(*) FROM "My App"._prisma_migrations').strip() == "0"


def test_the_table_goes_with_the_transaction_that_made_it(database, session):
    with session.conn.transaction(force_rollback=True):
        prisma.ensure_table(session)
        assert prisma.table_exists(session)
    assert not prisma.table_exists(session)


def test_a_row_is_the_one_that_prisma_ends_up_with(table):
    before = datetime.now(UTC)
    row_id = prisma.record_applied_in_transaction(table, planned("1 init"))
    (row,) = prisma.read_history(table).rows
    assert uuid.UUID(row.id).version == 4
    assert row.id == row_id
    assert (row.name, row.checksum) == ("1 init", planned("1 init").checksum)
    assert (row.applied_steps, row.logs, row.rolled_back_at) == (1, None, None)
    assert before - timedelta(seconds=1) < row.started_at <= row.finished_at < before + timedelta(minutes=1)
    assert row.started_at.microsecond % 1000 == row.finished_at.microsecond % 1000 == 0
    assert row.applied


def test_a_started_row_is_unfinished_until_it_is_finished_or_failed(table):
    done, failed = (prisma.record_started(table, planned(name)) for name in ("1", "2"))
    assert [r.name for r in prisma.read_history(table).failed] == ["1", "2"]
    prisma.record_finished(table, done)
    prisma.record_failed(table, failed, "boom", "SELECT 1/0")
    history = prisma.read_history(table)
    assert [r.name for r in history.applied] == ["1"]
    assert [(r.name, r.logs, r.applied_steps, r.finished_at) for r in history.failed] == [
        ("2", "boom", 0, None)
    ]


def test_started_at_tells_the_order_of_application_whatever_the_clocks_say(database, table):
    prisma.record_applied_in_transaction(table, planned("b"))
    database.psql("UPDATE _prisma_migrations SET started_at = now() + interval '1 hour', finished_at = now()")
    for name in ("d", "c", "a"):
        prisma.record_applied_in_transaction(table, planned(name))
    history = prisma.read_history(table)
    assert [r.name for r in history.applied] == ["b", "d", "c", "a"]
    assert all(r.finished_at >= r.started_at for r in history.rows[1:])


def test_a_removed_migration_leaves_no_row_not_even_of_earlier_tries(database, table):
    prisma.record_started(table, planned("1"))
    database.psql("UPDATE _prisma_migrations SET rolled_back_at = now()")
    prisma.record_applied_in_transaction(table, planned("1"))
    prisma.record_applied_in_transaction(table, planned("2"))
    state, rows = prisma.read_history(table).state, prisma.read_history(table).rows
    assert sorted(prisma.remove_row(table, "1", "2"), key=rows.index) == list(rows[:2])
    history = prisma.read_history(table)
    assert [r.name for r in history.rows] == ["2"]
    assert history.state != state


def test_rows_by_prismas_own_commands_are_understood(database, table):
    database.psql(
        """INSERT INTO _prisma_migrations
                  (id, checksum, migration_name, started_at, finished_at, rolled_back_at, logs)
           VALUES ('1', 'c', 'baseline', '2026-01-01', '2026-01-01', NULL, ''),
                  ('2', 'c', 'failed', '2026-01-02', NULL, NULL, 'boom'),
                  ('3', 'c', 'retried', '2026-01-03', NULL, '2026-01-04', 'boom'),
                  ('4', 'c', 'retried', '2026-01-05', '2026-01-05', NULL, NULL),
                  ('5', 'c', 'undone', '2026-01-06', '2026-01-06', '2026-01-07', NULL)"""
    )
    history = prisma.read_history(table)
    assert [r.name for r in history.applied] == ["baseline", "retried"]
    assert [r.name for r in history.failed] == ["failed"]


def test_extra_columns_of_a_team_are_tolerated(database, table):
    database.psql("ALTER TABLE _prisma_migrations ADD COLUMN note text NOT NULL DEFAULT ''")
    prisma.record_applied_in_transaction(table, planned("1"))
    assert [r.name for r in prisma.read_history(table).applied] == ["1"]


def test_a_script_that_moves_search_path_cannot_hide_the_table(table):
    table.execute("SELECT set_config('search_path', '', false)")
    prisma.record_applied_in_transaction(table, planned("1"))
    assert [r.name for r in prisma.read_history(table).applied] == ["1"]


def test_the_history_is_locked_against_writers_without_the_advisory_lock(database, table):
    with table.conn.transaction(), open_on(database.uri) as other:
        prisma.lock_history(table)
        table.flush()
        assert prisma.read_history(other).exists
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            prisma.record_started(other, planned("1"))


def test_a_role_that_may_not_read_the_history_gets_a_reason(database, table, role):
    with open_on(database.uri_as(role("stranger"))) as session, pytest.raises(psycopg.Error) as raised:
        prisma.read_history(session)
    failure = from_postgres(raised.value, default=Reason.INTERNAL_ERROR).failure
    assert failure.reason is Reason.PERMISSION_DENIED
    assert "_prisma_migrations" in failure.message
