"""Step processes that are killed for real: wherever they die, the next attempt ends where they would have."""

import threading

import psycopg
import pytest
from waiting import until_answered

from godwit.contract.outcome import ApplyOutcome, RevertOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput, RevertInput, RevertScope

USERS = """
CREATE TABLE users (id int PRIMARY KEY, name text);
INSERT INTO users SELECT g, g FROM generate_series(1, 50) g;
"""
EVENTS = "SELECT event FROM godwit.journal WHERE operation = 'u2' ORDER BY id"
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


def kill_everywhere(project, verb, operation, points):
    """Kill the step at each point in turn, one attempt each, then let it finish. Returns the last outcome."""
    for attempt, point in enumerate(points, start=1):
        fault = f"{verb.verb.lower()}.{point}"
        outcome = project.step(verb, operation, fault=fault, attempt=attempt)
        assert outcome is None, f"{fault} was never reached: {outcome}"
    return project.step(verb, operation, attempt=len(points) + 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_every_point_it_ends_where_it_would_have_ended_and_no_data_is_changed_twice(
    project,
):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write(
        "002_mixed",
        "SET work_mem = '8MB';\n"
        "UPDATE users SET id = id + 1000;\n"
        "CREATE INDEX CONCURRENTLY ON users (name);\n"
        "INSERT INTO users SELECT max(id) + 1, current_setting('work_mem') FROM users;\n"
        "VACUUM users;\n"
        "DROP INDEX CONCURRENTLY users_name_idx;",
    )
    project.write("003_more", "UPDATE users SET id = id + 1000;")
    ref = project.plan()
    points = [
        "before_migration:kill",  # 001, in one transaction
        "before_script:kill",
        "before_history:kill",
        "before_commit:kill",
        "after_commit:kill",
        "before_start:kill",  # 002, statement by statement
        "after_start:kill",
        "before_script:kill",  # SET, from now on again in each attempt
        "after_commit:kill:2",  # UPDATE
        "before_statement:kill",  # CREATE INDEX
        "after_statement:kill",
        "before_commit:kill:2",  # INSERT
        "after_commit:kill:2",
        "before_statement:kill",  # VACUUM
        "after_statement:kill",
        "after_progress:kill",
        "before_statement:kill",  # DROP INDEX
        "after_statement:kill",
        "before_commit:kill:2",  # 002's history row
        "after_commit:kill:2",
        "before_history:kill",  # 003
        "after_commit:kill",
        "after_record:kill",
    ]
    verb = ApplyInput(plan=ref, policy=project.policy())
    outcome = kill_everywhere(project, verb, "u1", points)
    assert outcome.failure is None
    assert outcome.resumed
    applied = outcome.get(ApplyOutcome)
    assert (applied.applied, applied.total, applied.state) == (3, 3, ref.to_state)
    assert project.rows() == ["001_users", "002_mixed", "003_more"]
    assert (
        project.database.psql("SELECT count(*), min(id), max(id), max(name) FROM users") == "51|2001|2051|9"
    )
    assert project.database.psql("SELECT name FROM users WHERE id = 2051") == "8MB"
    assert project.database.psql(INVALID) == "0"
    assert project.database.psql("SELECT to_regclass('users_name_idx') IS NULL") == "t"


def test_killed_while_an_index_is_built_the_invalid_one_is_dropped_and_built_again(project):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_index", "CREATE INDEX CONCURRENTLY users_name ON users (name);")
    verb = ApplyInput(plan=project.plan(), policy=project.policy())
    with psycopg.connect(project.uri) as old:
        old.execute("UPDATE users SET name = name WHERE id = 1")
        step = threading.Thread(target=project.step, args=(verb, "u2"))
        step.start()
        until_answered(project, INVALID, "1")
        project.database.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'godwit apply%'"
        )
        step.join(timeout=30)
    assert project.database.psql(INVALID) == "1"
    outcome = project.step(verb, "u2", attempt=2)
    assert outcome.failure is None
    assert project.database.psql(INVALID) == "0"
    assert project.database.psql(EVENTS).split() == [
        "Claimed", "Started", "Sent", "Claimed", "Undone", "Sent", "Statement", "Applied", "Done",
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_while_undoing_the_failure_is_told_all_the_same(project):
    project.write("001_users", USERS + "UPDATE users SET name = 'same' WHERE id < 3;")
    project.deploy()
    project.write("002_index", "CREATE UNIQUE INDEX CONCURRENTLY users_name ON users (name);")
    verb = ApplyInput(plan=project.plan(), policy=project.policy())
    points = [
        "statement_failed:kill",
        "before_undo:kill",
        "after_undo:kill",
        "before_failed_row:kill",
        "after_failed_row:kill",
    ]
    outcome = kill_everywhere(project, verb, "u2", points)
    assert outcome.failure.reason is Reason.MIGRATION_FAILED
    assert "Nothing of 002_index is left." in outcome.failure.standing
    assert project.database.psql(INVALID) == "0"
    assert set(project.rows()) == {"001_users", "002_index~"}


def test_killed_inside_a_block_that_commits_it_is_never_run_twice(project):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_batches", "DO $$ BEGIN UPDATE users SET id = id + 1000; COMMIT; END $$;")
    verb = ApplyInput(plan=project.plan(), policy=project.policy())
    assert project.step(verb, "u2", fault="apply.after_statement:kill") is None
    for attempt in (2, 3):
        outcome = project.step(verb, "u2", attempt=attempt)
        assert outcome.failure.reason is Reason.PARTIALLY_APPLIED
        assert outcome.get(ApplyOutcome).partial == "002_batches"
    assert project.database.psql("SELECT min(id), max(id) FROM users") == "1001|1050"


@pytest.mark.slow
def test_a_way_back_killed_at_every_point_ends_where_it_would_have_ended(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("002_index", "CREATE INDEX CONCURRENTLY i ON users (name);", "DROP INDEX CONCURRENTLY i;")
    project.deploy("u1", plan=project.plan())
    ref = project.plan("001_users")
    points = [
        "before_start:kill",
        "after_start:kill",
        "before_statement:kill",
        "after_statement:kill",
        "before_history:kill",
        "before_commit:kill",
        "after_commit:kill",
        "after_record:kill",
    ]
    verb = RevertInput(scope=RevertScope.PLAN, plan=ref, policy=project.policy())
    outcome = kill_everywhere(project, verb, "u2", points)
    assert outcome.failure is None
    assert outcome.get(RevertOutcome).reverted == 1
    assert outcome.get(RevertOutcome).state == ref.to_state
    assert project.rows() == ["001_users"]
    assert project.database.psql("SELECT to_regclass('i') IS NULL, count(*) FROM users") == "t|50"
