"""What an ALTER ROLE or ALTER DATABASE set for the application does not get in a step's way."""

from dataclasses import replace

import psycopg
import pytest

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope
from godwit.engine.errors import StepFailed


def for_the_application(database, setting):
    database.psql(f'ALTER DATABASE "{database.name}" SET {setting}')


@pytest.mark.parametrize("style", ["German", "SQL, DMY", "Postgres, DMY"])
def test_dates_are_read_in_any_style_and_written_as_the_database_says(project, style):
    for_the_application(project.database, f"DateStyle = '{style}'")
    project.write("1_a", "CREATE TABLE a (d date); INSERT INTO a VALUES ('01/02/2020');")
    project.write("2_index", "CREATE INDEX CONCURRENTLY ad ON a (d);")
    project.deploy("u1")
    project.write("3_b", "SET LOCAL lock_timeout = '1s'; INSERT INTO a VALUES ('01/02/2020');")
    project.deploy("u2")
    assert project.database.psql("SELECT DISTINCT d = make_date(2020, 2, 1) FROM a") == "t"


@pytest.mark.parametrize(("style", "day"), [("SQL, DMY", "2026-02-01"), ("German", "2026-02-01")])
def test_a_style_of_dates_changes_how_dates_are_read_and_nothing_else(project, database, style, day):
    database.psql(f"ALTER DATABASE {database.name} SET DateStyle = '{style}'")
    project.write("001_old", "CREATE TABLE old (id int);", "DROP TABLE old;")
    project.write("002_day", "CREATE TABLE one AS SELECT '01/02/2026'::date AS day;", "DROP TABLE one;")
    project.deploy("u1")
    assert database.psql("SELECT to_char(day, 'YYYY-MM-DD') FROM one") == day
    ref = project.plan("001_old")
    assert project.revert("u2", RevertScope.PLAN, ref).reverted == 1


def test_a_step_that_waits_for_a_lock_is_no_idle_session(project):
    for_the_application(project.database, "idle_session_timeout = '100ms'")
    project.write("1_a", "CREATE TABLE a (id int);")
    project.deploy("u1")
    project.write("2_x", "ALTER TABLE a ADD x int;")
    policy = project.policy(lock_timeout_ms=50, lock_budget_ms=1_500)
    plan = project.plan(policy=policy)
    with psycopg.connect(project.uri) as other:
        other.execute("SELECT * FROM a")
        with pytest.raises(StepFailed) as raised:
            project.apply("u2", plan=plan, policy=policy)
    assert raised.value.failure.reason is Reason.LOCK_BUDGET_EXCEEDED


def test_what_is_said_to_be_committed_survives_a_crash(project, server_folder):
    settings = {"wal_writer_delay": "10s"}  # or what nobody waited for would be written in the meantime
    with EmbeddedPostgres(server_folder / "asynchronous", durable=False, settings=settings) as server:
        project.database = replace(project.database, server=server, name="postgres")
        project.uri = project.database.uri
        for_the_application(project.database, "synchronous_commit = off")
        server.psql("CHECKPOINT")
        project.write("1_a", "CREATE TABLE a (id int);")
        assert project.apply("u1").applied == 1
        server.restart(crash=True)
        assert project.rows() == ["1_a"]
