"""What is cut off from outside is said to be that, and not what the migration or a check did."""

import signal
import threading

import psycopg
import pytest
from standby import until

from godwit.contract.outcome import StepOutcome
from godwit.contract.policy import SqlCheck
from godwit.contract.reasons import Reason
from godwit.contract.request import VerifyInput
from godwit.engine.errors import StepFailed


@pytest.fixture
def tables(project):
    project.write("001_tables", "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);")
    project.deploy("u1")
    return project


def pids(project, query):
    return project.database.psql(
        f"SELECT pid FROM pg_stat_activity WHERE query LIKE '%{query}%' AND state = 'active' "
        "AND pid <> pg_backend_pid()"
    ).splitlines()


def test_a_person_who_cancels_a_statement_is_not_said_to_be_maxlockhold(tables):
    tables.write("002_x", "ALTER TABLE a ADD CHECK (pg_sleep(60) IS NOT NULL);")
    policy = tables.policy(max_lock_hold_ms=50_000)
    plan, met = tables.plan(policy=policy), []

    def run():
        with pytest.raises(StepFailed) as raised:
            tables.apply("u2", plan=plan, policy=policy)
        met.append(raised.value.failure)

    step = threading.Thread(target=run)
    step.start()
    until(lambda: pids(tables, "pg_sleep(60)"))
    for pid in pids(tables, "pg_sleep(60)"):
        tables.database.psql(f"SELECT pg_cancel_backend({pid})")
    step.join(30)
    (failure,) = met
    assert (failure.reason, failure.sqlstate) == (Reason.MIGRATION_FAILED, "57014")
    assert failure.message == "canceling statement due to user request"


def test_waiting_for_a_lock_for_longer_than_locks_may_be_held_is_no_holding(tables):
    tables.write("002_x", "ALTER TABLE a ADD x int;")
    policy = tables.policy(lock_timeout_ms=1_500, max_lock_hold_ms=400)
    plan = tables.plan(policy=policy)
    with psycopg.connect(tables.uri, application_name="report") as other:
        other.execute("SELECT * FROM a")
        with pytest.raises(StepFailed) as raised:
            tables.apply("u2", plan=plan, policy=policy)
    assert raised.value.failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert [b.application for b in raised.value.failure.blockers] == ["report"]


def test_a_check_that_is_cut_off_because_the_step_must_end_has_not_failed(tables):
    check = SqlCheck(name="slow", sql="SELECT pg_sleep(60) IS NOT NULL", timeout_ms=60_000)
    process = tables.process(VerifyInput(state=tables.plan().from_state, checks=(check,)), "u2")
    until(lambda: pids(tables, "pg_sleep(60)"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    told = StepOutcome.decode((tables.folder.parent / "outcome.json").read_bytes())
    assert told.failure.reason is Reason.CONNECTION_LOST
    assert tables.database.psql("SELECT count(*) FROM godwit.journal WHERE event = 'Failed'") == "0"
