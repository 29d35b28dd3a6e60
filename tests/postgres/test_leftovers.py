"""REINDEX, DETACH PARTITION and DROP INDEX CONCURRENTLY that failed or were killed half way.

A transaction that has read a table and goes on holds each of them at its last wait, one that has written to
it a REINDEX at its first.
"""

import threading
from contextlib import contextmanager

import psycopg
import pytest
from failing import failure_of
from waiting import until

from godwit.contract.outcome import ApplyOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput

USERS = """
CREATE TABLE users (id int PRIMARY KEY, name text);
INSERT INTO users SELECT g, g FROM generate_series(1, 50) g;
CREATE INDEX users_name ON users (name);
CREATE TABLE others (id int);
"""
SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM others"
PARTS = """
CREATE TABLE p (id int) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (19);
"""
READ = "SELECT count(*) FROM users"
WRITE = "UPDATE users SET name = name WHERE id = 1"
INVALID = "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY 1) FROM pg_index WHERE NOT indisvalid"
PENDING = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
DETACH = "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY;"
DROP = "DROP INDEX CONCURRENTLY users_name;"
IMPATIENT = {"concurrent_budget_ms": 700, "lock_timeout_ms": 100}


@contextmanager
def somebody(project, sql):
    """Somebody else's transaction that has done *sql* and goes on."""
    with psycopg.connect(project.uri) as other:
        other.execute(sql)
        yield other


def begun(project, setup, sql):
    project.write("001_setup", setup)
    project.deploy()
    project.write("002_step", sql)


def cut_off(project, sql):
    """Run what is planned into the end of its budget, while somebody is in a transaction that did *sql*."""
    policy = project.policy(**IMPATIENT)
    ref = project.plan(policy=policy)
    with somebody(project, sql):
        return failure_of(lambda: project.apply("u2", plan=ref, policy=policy))


def ended_half_way(project, hold, query, value):
    """Break the step's connection while somebody holds it up and *query* says *value*, and go on after."""
    verb = ApplyInput(plan=project.plan(), policy=project.policy(lock_timeout_ms=30_000))
    verb = verb.model_copy(update={"plan": project.plan(policy=verb.policy)})
    with somebody(project, hold):
        step = threading.Thread(target=project.step, args=(verb, "u2"))
        step.start()
        until(lambda: project.database.psql(query) == value, value)
        project.database.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'godwit apply%'"
        )
        step.join(timeout=30)
    assert project.database.psql(query) == value
    outcome = project.step(verb, "u2", attempt=2)
    assert outcome.failure is None
    assert outcome.get(ApplyOutcome).current == "002_step"


@pytest.mark.parametrize("what", ["INDEX CONCURRENTLY users_name", "TABLE CONCURRENTLY users",
                                  "SCHEMA CONCURRENTLY public"])  # fmt: skip
def test_a_reindex_that_failed_leaves_no_index_behind(project, what):
    begun(project, USERS, f"REINDEX {what};")
    failure, outcome = cut_off(project, SNAPSHOT)
    assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert failure.standing.startswith("The INVALID index public.")
    assert failure.standing.endswith(" was dropped. Nothing of 002_step is left.")
    assert project.database.psql(INVALID) == ""
    assert outcome.partial == ""
    assert project.rows() == ["001_setup", "002_step~"]


def test_an_index_that_cannot_be_dropped_in_time_is_named(project):
    begun(project, USERS, "REINDEX INDEX CONCURRENTLY users_name;")
    failure, outcome = cut_off(project, WRITE)
    assert failure.reason is Reason.PARTIALLY_APPLIED
    assert "budget of 0.7 s" in failure.message
    assert failure.standing == (
        "The INVALID index public.users_name_ccnew stays: drop it concurrently. "
        "Of the 1 statements of 002_step these are done: none."
    )
    assert (outcome.partial, project.rows()) == ("002_step", ["001_setup", "002_step!"])
    assert project.database.psql(INVALID) == "users_name_ccnew"


@pytest.mark.parametrize(("hold", "left"), [(WRITE, "users_name_ccnew"), (READ, "users_name_ccold")])
def test_a_reindex_that_was_killed_is_cleared_away_and_runs_again(project, hold, left):
    begun(project, USERS, "REINDEX INDEX CONCURRENTLY users_name;")
    before = project.database.psql("SELECT 'users_name'::regclass::oid")
    ended_half_way(project, hold, INVALID, left)
    assert project.database.psql(INVALID) == ""
    assert project.database.psql("SELECT 'users_name'::regclass::oid") != before


def test_an_invalid_index_that_a_killed_reindex_was_to_mend_leaves_nothing_either(project):
    begun(project, USERS, "REINDEX INDEX CONCURRENTLY users_name;")
    project.database.psql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_name'::regclass")
    ended_half_way(project, READ, INVALID, "users_name_ccold")
    assert project.database.psql(INVALID) == ""


def test_what_others_left_or_are_about_to_build_is_not_touched(project):
    begun(project, USERS, "REINDEX INDEX CONCURRENTLY users_name;")
    project.database.psql("CREATE INDEX others_ccnew ON others (id)")
    project.database.psql("CREATE INDEX users_id_ccnew ON users (id)")
    project.database.psql(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_id_ccnew'::regclass"
    )
    project.database.psql("CREATE TABLE third (id int)")

    def build():
        with psycopg.connect(project.uri, autocommit=True) as builder:
            builder.execute("CREATE INDEX CONCURRENTLY third_ccnew ON third (id)")

    building = threading.Thread(target=build)

    def meanwhile(name):
        if name == "apply.before_statement":
            building.start()
            until(lambda: "third_ccnew" in project.database.psql(INVALID), "the other's index")

    project.point = meanwhile
    with somebody(project, "LOCK TABLE third IN ROW EXCLUSIVE MODE"):
        failure, _ = cut_off(project, SNAPSHOT)
        assert failure.standing == (
            "The INVALID index public.users_name_ccnew was dropped. Nothing of 002_step is left."
        )
    building.join(timeout=30)
    assert project.database.psql(INVALID) == "users_id_ccnew"
    assert project.database.psql("SELECT 'third_ccnew'::regclass") == "third_ccnew"


def test_what_a_plain_owner_may_not_drop_is_named(project, role):
    project.uri = project.database.uri_as(role("owner", owns=True))
    begun(project, USERS, "REINDEX TABLE CONCURRENTLY users;")
    failure, outcome = cut_off(project, SNAPSHOT)
    assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert "public.users_name_ccnew was dropped." in failure.standing
    left = project.database.psql(INVALID)
    assert left.startswith("pg_toast.pg_toast_")
    assert f"{left} stays" in failure.standing
    assert outcome.partial == ""


def test_an_index_of_the_same_name_that_somebody_made_meanwhile_is_neither_taken_for_ours_nor_dropped(
    project,
):
    begun(project, USERS, "CREATE INDEX CONCURRENTLY users_two ON users (name, id);")
    ref = project.plan()

    def meanwhile(name):
        if name == "apply.before_statement":
            project.database.psql("CREATE INDEX users_two ON users (id)")

    project.point = meanwhile
    failure, outcome = failure_of(lambda: project.apply("u2", plan=ref))
    assert (failure.reason, failure.sqlstate) == (Reason.MIGRATION_FAILED, "42P07")
    assert (outcome.partial, project.rows()) == ("", ["001_setup", "002_step~"])
    assert project.database.psql("SELECT 'users_two'::regclass") == "users_two"


def test_an_index_that_somebody_else_is_building_is_waited_for_and_never_dropped(project):
    begun(project, USERS, "CREATE INDEX CONCURRENTLY users_two ON users (name, id);")
    ref = project.plan()
    behind = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'godwit apply%' "
        "AND query ~ '^CREATE INDEX' AND wait_event_type = 'Lock'"
    )
    undoing = threading.Event()

    def build():
        with psycopg.connect(project.uri, autocommit=True) as builder:
            builder.execute("CREATE INDEX CONCURRENTLY users_two ON users (name, id)")

    building = threading.Thread(target=build)

    def meanwhile(name):
        if name == "apply.before_statement" and not building.ident:
            building.start()
            until(lambda: project.database.psql(INVALID) == "users_two", "the other's index")
        if name == "apply.before_undo":
            undoing.set()

    project.point = meanwhile
    failures = []

    def attempt(number):
        thread = threading.Thread(
            target=lambda: failures.append(
                failure_of(lambda: project.apply("u2", plan=ref, attempt=number))[0]
            )
        )
        thread.start()
        return thread

    with somebody(project, WRITE):
        first = attempt(1)
        until(lambda: project.database.psql(behind) == "1", "ours behind theirs")
        project.database.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'godwit apply%'"
        )
        first.join(timeout=30)
        second = attempt(2)
        assert undoing.wait(timeout=30)
    second.join(timeout=30)
    building.join(timeout=30)
    assert [failure.reason for failure in failures] == [Reason.CONNECTION_LOST, Reason.MIGRATION_FAILED]
    assert failures[1].sqlstate == "42P07"
    assert (
        project.database.psql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'users_two'::regclass")
        == "t"
    )
    assert project.rows() == ["001_setup", "002_step~"]


def test_a_detach_that_was_killed_half_way_is_finished(project):
    begun(project, PARTS, DETACH)
    ended_half_way(project, "SELECT count(*) FROM p", PENDING, "1")
    assert project.database.psql("SELECT inhrelid::regclass FROM pg_inherits") == "p2"
    assert project.database.psql("SELECT to_regclass('p1')") == "p1"


def test_a_detach_that_meets_the_end_of_its_budget_says_that_it_is_pending_and_how_to_finish_it(project):
    begun(project, PARTS, DETACH)
    failure, outcome = cut_off(project, "SELECT count(*) FROM p")
    assert failure.reason is Reason.PARTIALLY_APPLIED
    assert failure.hint == "ALTER TABLE p DETACH PARTITION p1 FINALIZE;"
    assert "p1 is detached half way" in failure.message
    assert (outcome.partial, project.rows()) == ("002_step", ["001_setup", "002_step!"])
    assert project.database.psql(PENDING) == "1"


def test_a_detach_that_somebody_left_pending_is_finished(project):
    begun(project, PARTS, DETACH)
    with somebody(project, "SELECT count(*) FROM p"), psycopg.connect(project.uri, autocommit=True) as other:
        other.execute("SET statement_timeout = '500ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute(DETACH)
    assert project.database.psql(PENDING) == "1"
    assert project.deploy("u2").current == "002_step"
    assert project.database.psql("SELECT inhrelid::regclass FROM pg_inherits") == "p2"


def test_a_detach_behind_another_partitions_pending_one_leaves_that_one_alone(project):
    begun(project, PARTS, "ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY;")
    with somebody(project, "SELECT count(*) FROM p"), psycopg.connect(project.uri, autocommit=True) as other:
        other.execute("SET statement_timeout = '500ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute(DETACH)
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, outcome.partial) == (Reason.MIGRATION_FAILED, "")
    assert "pending" in failure.message
    assert project.database.psql(PENDING) == "1"


@pytest.mark.parametrize("name", ["others", "nobody"])
def test_a_detach_of_what_is_no_partition_fails_and_is_not_called_done(project, name):
    begun(project, USERS + PARTS, f"ALTER TABLE p DETACH PARTITION {name} CONCURRENTLY;")
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, failure.sqlstate) == (Reason.MIGRATION_FAILED, "42P01")
    assert failure.standing == "Nothing of 002_step is left."
    assert (outcome.partial, project.rows()) == ("", ["001_setup", "002_step~"])


@pytest.mark.parametrize("sql", [DROP, "DROP INDEX CONCURRENTLY IF EXISTS users_name;"])
def test_a_drop_that_was_killed_half_way_is_finished(project, sql):
    begun(project, USERS, sql)
    ended_half_way(project, READ, INVALID, "users_name")
    assert project.database.psql("SELECT to_regclass('users_name') IS NULL") == "t"


def test_a_drop_that_meets_the_end_of_its_budget_says_that_the_index_is_invalid(project):
    begun(project, USERS, DROP)
    failure, outcome = cut_off(project, READ)
    assert failure.reason is Reason.PARTIALLY_APPLIED
    assert "users_name is INVALID" in failure.message
    assert failure.hint == "DROP INDEX CONCURRENTLY users_name;"
    assert "Nothing of" not in failure.standing
    assert (outcome.partial, project.rows()) == ("002_step", ["001_setup", "002_step!"])
    assert project.database.psql(INVALID) == "users_name"


def test_a_drop_of_an_index_that_is_not_there_fails_and_is_not_called_done(project):
    begun(project, USERS, "DROP INDEX CONCURRENTLY nowhere;")
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, failure.sqlstate) == (Reason.MIGRATION_FAILED, "42704")
    assert (outcome.partial, project.rows()) == ("", ["001_setup", "002_step~"])


def test_a_drop_that_may_find_nothing_finds_nothing(project):
    begun(project, USERS, "DROP INDEX CONCURRENTLY IF EXISTS nowhere;")
    assert project.deploy("u2").current == "002_step"
