"""What an ALTER ROLE or ALTER DATABASE set for the application does not get in a step's way."""

from dataclasses import replace

import psycopg
import pytest
from failing import failure_of

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


@pytest.mark.parametrize(
    ("role", "script"),
    [
        ("off", ""),
        ("on", "SET LOCAL synchronous_commit = off;"),
        ("on", "SET synchronous_commit TO off;"),
        ("on", "DO $$ BEGIN PERFORM set_config('synchronous_commit', 'off', true); END $$;"),
    ],
)
def test_what_is_said_to_be_committed_survives_a_crash(project, server_folder, role, script):
    settings = {"wal_writer_delay": "10s"}  # or what nobody waited for would be written in the meantime
    folder = server_folder / f"asynchronous-{project.database.name}"
    with EmbeddedPostgres(folder, durable=False, settings=settings) as server:
        project.database = replace(project.database, server=server, name="postgres")
        project.uri = project.database.uri
        for_the_application(project.database, f"synchronous_commit = {role}")
        project.write("1_a", "CREATE TABLE a (id int);")
        project.deploy("u1")
        server.psql("CHECKPOINT")
        project.write("2_b", f"{script} CREATE TABLE b (id int);")
        project.point = lambda name: server.restart(crash=True) if name.endswith("after_commit") else None
        failure, outcome = failure_of(lambda: project.apply("u2"))
        assert (failure.reason, outcome.applied) == (Reason.CONNECTION_LOST, 1)
        assert project.rows() == ["1_a", "2_b"]


ESCAPES = r"""CREATE TABLE a (path text);
-- it's 'C:\here' in a comment
INSERT INTO a VALUES ('C:\new');"""


def test_a_string_that_the_server_would_read_otherwise_than_the_plan_is_refused(project):
    for_the_application(project.database, "standard_conforming_strings = off")
    project.write("1_a", ESCAPES)
    failure, _ = failure_of(project.plan)
    assert (failure.reason, failure.line) == (Reason.STATEMENT_REFUSED, 3)
    assert "standard_conforming_strings" in failure.message
    assert project.database.psql("SELECT to_regclass('a') IS NULL") == "t"


@pytest.mark.parametrize("setting", ["on", "off"])
def test_strings_that_mean_the_same_to_both_are_applied_and_taken_back(project, setting):
    for_the_application(project.database, f"standard_conforming_strings = {setting}")
    script = r"CREATE TABLE a (t text); INSERT INTO a VALUES (E'a\tb'), ($$C:\new$$), (U&'\0041');"
    project.write("0_base", "CREATE TABLE base (id int);")
    project.write("1_a", script, r"-- it's gone: '\'" + "\nDROP TABLE a;")
    project.deploy("u1")
    assert project.database.psql("SELECT t FROM a").splitlines() == ["a\tb", r"C:\new", "A"]
    assert project.revert("u2", RevertScope.PLAN, project.plan("0_base")).reverted == 1


def test_a_way_back_is_refused_with_its_migration(project):
    for_the_application(project.database, "standard_conforming_strings = off")
    project.write("1_a", "CREATE TABLE a (id int);", r"DROP TABLE a; SELECT 'C:\new';")
    failure, _ = failure_of(project.plan)
    assert (failure.reason, failure.line) == (Reason.STATEMENT_REFUSED, 1)
    assert "down.sql" in failure.message


HIDDEN = r"""-- godwit: no-transaction
CREATE TABLE a (path text);
{};
VACUUM a;
INSERT INTO a VALUES ('C:\new');"""


@pytest.mark.parametrize(
    "sql",
    [
        "SET standard_conforming_strings = off",
        "SELECT set_config('standard_' || 'conforming_strings', 'off', false)",
        "DO $$ BEGIN PERFORM set_config('standard_' || 'conforming_strings', 'off', false); END $$",
    ],
)
def test_a_file_that_runs_statement_by_statement_is_read_as_it_was_planned_to_its_end(project, sql):
    project.write("1_a", HIDDEN.format(sql))
    assert project.deploy("u1").applied == 1
    assert project.database.psql("SELECT path FROM a") == r"C:\new"
