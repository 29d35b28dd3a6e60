"""What the journal alone tells of a verb that failed: why and where, and no row's data."""

import json

import pytest

from godwit.contract.policy import SqlCheck
from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope
from godwit.engine import ownership
from godwit.engine.errors import StepFailed

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text);"
LAST = (
    "SELECT jsonb_build_object('event', event, 'verb', verb, 'operation', operation, 'migration', migration, "
    "'detail', detail) FROM godwit.journal ORDER BY id DESC LIMIT 1"
)


def last_row(project):
    return json.loads(project.database.psql(LAST))


def test_a_migration_that_fails_leaves_a_row_that_says_where_and_not_with_which_data(project):
    project.write("001_users", USERS + "INSERT INTO users VALUES (1, 'my secret');", "DROP TABLE users;")
    project.write("002_bad", "SELECT 1;\nALTER TABLE users ALTER name TYPE int USING name::int;")
    with pytest.raises(StepFailed) as caught:
        project.apply()
    assert "my secret" in caught.value.failure.message  # PostgreSQL's words, for the step's own outcome
    row = last_row(project)
    assert row == {
        "event": "Failed",
        "verb": "Apply",
        "operation": "u1",
        "migration": "002_bad",
        "detail": {
            "reason": Reason.MIGRATION_FAILED,
            "file": "002_bad/migration.sql",
            "line": 2,
            "sqlstate": "22P02",
            "standing": "The migration was rolled back; nothing of it is left.",
        },
    }
    assert caught.value.outcome.journal_head == int(
        project.database.psql("SELECT max(id) FROM godwit.journal")
    )
    assert "my secret" not in project.database.psql("SELECT string_agg(j::text, '') FROM godwit.journal j")


def test_a_row_of_a_failure_is_no_half_done_file_to_the_way_back(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("002_bad", "SELECT 1 / 0;")
    ref = project.plan()
    with pytest.raises(StepFailed):
        project.apply(plan=ref)
    assert project.revert("u1", RevertScope.OPERATION, ref).reverted == 1


def test_a_check_that_fails_after_the_commit_is_in_the_journal(project):
    project.write("001_users", USERS)
    state = project.apply().state
    with pytest.raises(StepFailed):
        project.verify("u1", state, checks=(SqlCheck(name="any", sql="SELECT false"),))
    row = last_row(project)
    assert (row["event"], row["verb"], row["detail"]["reason"]) == ("Failed", "Verify", "VerifyFailed")


def test_an_attempt_that_goes_on_later_has_not_failed(project):
    project.write("001_users", USERS)

    def end_session(point):
        if point == "apply.before_commit":
            project.database.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'godwit apply%' AND state = 'idle in transaction'"
            )

    project.point = end_session
    with pytest.raises(StepFailed):
        project.apply()
    assert last_row(project)["event"] == "Claimed"


def test_a_step_that_comes_after_somebody_else_gives_back_what_its_backup_claimed(project):
    project.write("001_users", USERS)
    project.deploy("u1")
    project.write("002_more", "CREATE TABLE more (id int);")
    with project.context("u2").session(writing=True) as session:
        ownership.claim(session, project.context("u2").request)
    with pytest.raises(StepFailed) as caught:
        project.apply("u2", expected_journal=1)
    assert caught.value.failure.reason is Reason.STATE_MOVED
    assert project.deploy("u3").applied == 1
