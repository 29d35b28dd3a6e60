"""Apply cut off: the step told to end, its connection broken, a script that breaks its transaction."""

import threading

import psycopg
import pytest
from failing import failure_of
from waiting import until_answered

from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput
from godwit.engine.apply import apply_verb
from godwit.engine.errors import StepFailed
from godwit.engine.execute import Part, transactional
from godwit.engine.lock import migration_lock
from godwit.engine.model import Statement
from godwit.engine.run import start_run
from godwit.engine.script import Piece

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text);"
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'godwit apply%' AND "


def in_thread(call):
    """The call's StepFailed, once it has one."""
    caught = []

    def run():
        try:
            call()
        except StepFailed as failed:
            caught.append(failed)

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join(timeout=30)
        assert not thread.is_alive()
        assert len(caught) == 1
        return caught[0]

    return result


def test_a_step_that_is_told_to_end_gives_its_locks_back_at_once(project):
    project.write("001_users", USERS)
    project.deploy()
    before = project.database.dump()
    project.write("002_slow", "ALTER TABLE users ADD x int; SELECT pg_sleep(60);")
    ctx = project.context("u2")
    verb = ApplyInput(plan=project.plan(), policy=project.policy(max_lock_hold_ms=60_000))
    verb = verb.model_copy(update={"plan": project.plan(policy=verb.policy)})
    result = in_thread(lambda: apply_verb(ctx, verb))
    until_answered(project, OURS + "query LIKE 'ALTER TABLE%'", "1")
    ctx.cancelled.cancel(Reason.CONNECTION_LOST, "The step was told to end.")
    failed = result()
    assert (failed.failure.reason, failed.failure.message) == (
        Reason.CONNECTION_LOST,
        "The step was told to end.",
    )
    assert failed.outcome.applied == 0
    assert project.database.dump() == before
    assert project.apply("u3", plan=ref_without_sleep(project)).applied == 1


def ref_without_sleep(project):
    # The first operation has not ended: its claim ends by itself. Here nobody waits for it.
    project.database.psql("DELETE FROM godwit.settings WHERE key = 'activeOperation'")
    project.write("002_slow", "ALTER TABLE users ADD x int;")
    return project.plan()


def test_a_broken_connection_is_no_answer_and_the_next_attempt_goes_on(project):
    project.write("001_users", USERS)
    project.write("002_more", "CREATE TABLE more (id int);")
    ref = project.plan()
    killed = []

    def end_session(point):
        if point == "apply.before_commit" and len(killed) < 2:
            killed.append(point)
            if len(killed) == 2:
                project.database.psql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'godwit apply%' AND state = 'idle in transaction'"
                )

    project.point = end_session
    failure, outcome = failure_of(lambda: project.apply(plan=ref))
    assert failure.reason is Reason.CONNECTION_LOST
    assert not failure.terminal
    assert "the journal in the database tells" in failure.standing
    assert (outcome.applied, outcome.current, outcome.total) == (1, "001_users", 2)
    assert not outcome.rungs[0].taken
    assert project.apply(plan=ref, attempt=2).applied == 2


def test_a_commit_whose_answer_is_lost_is_found_by_the_next_attempt(project):
    project.write("001_users", USERS + "INSERT INTO users VALUES (1, 'a');")
    ref = project.plan()

    def break_off(point):
        if point == "apply.after_commit":
            raise psycopg.OperationalError("the answer is lost")

    project.point = break_off
    failure, outcome = failure_of(lambda: project.apply(plan=ref))
    assert (failure.reason, outcome.applied) == (Reason.CONNECTION_LOST, 1)
    project.point = lambda _: None
    assert project.apply(plan=ref, attempt=2).applied == 1
    assert project.database.psql("SELECT count(*) FROM users") == "1"


def test_a_role_that_may_not_create_the_journal_is_told_the_grant_before_anything_is_done(project, role):
    user = role("plain")
    project.database.psql(f'GRANT CREATE ON SCHEMA public TO "{user}"')
    project.uri = project.database.uri_as(user)
    project.write("001_users", USERS)
    before = project.database.dump(without=())
    failure, _ = failure_of(lambda: project.apply(plan=planned_as_superuser(project)))
    assert failure.reason is Reason.JOURNAL_FORBIDDEN
    assert failure.hint in failure.message
    assert project.database.dump(without=()) == before
    project.database.psql(failure.hint)
    assert project.apply().applied == 1


def planned_as_superuser(project):
    plain, project.uri = project.uri, project.database.uri
    ref = project.plan()
    project.uri = plain
    return ref


def test_a_function_that_gives_the_migration_lock_back_is_rolled_back(project):
    project.write(
        "001_unlock",
        "CREATE TABLE a (id int); DO $$ BEGIN EXECUTE 'SELECT pg_advisory_' || 'unlock_all()'; END $$;",
    )
    failure, _ = failure_of(project.apply)
    assert (failure.reason, failure.migration) == (Reason.SESSION_CHANGED, "001_unlock")
    assert project.database.psql("SELECT to_regclass('a') IS NULL") == "t"


@pytest.mark.parametrize("sql", ["COMMIT", "COMMIT; BEGIN"])
def test_a_script_that_ended_its_transaction_gets_no_history_row(project, sql):
    ctx = project.context()
    piece = Piece(
        "001_commit", "001_commit/migration.sql", sql, 0, (Statement(0, sql, 1, 0, "TransactionStmt"),)
    )
    project.database.psql("CREATE TABLE recorded (id int)")
    with (
        ctx.session(writing=True) as session,
        migration_lock(ctx, session),
        start_run(ctx, session, project.policy(), "Apply") as run,
    ):
        record = Part(piece, lambda: session.later("INSERT INTO recorded VALUES (1)"))
        failure, _ = failure_of(lambda: transactional(run, [record]))
        assert failure.reason is Reason.TRANSACTION_BROKEN
        assert "is committed" in failure.standing
        assert session.execute("SELECT count(*) FROM recorded").fetchone() == (0,)
        assert session.execute("SELECT 1").fetchone() == (1,)
