"""Nobody queues twice behind the same long holder, and no script queues for longer than lock_timeout."""

import threading

import psycopg
import pytest
from failing import refused_under
from standby import until

from godwit.contract.reasons import Reason

SETUP = """
CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int CONSTRAINT b_a REFERENCES a);
CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);"""


@pytest.fixture
def tables(project):
    """A project whose first migration made the tables."""
    project.write("001_tables", SETUP)
    project.deploy("u1")
    return project


@pytest.mark.parametrize(
    ("sql", "reader"),
    [
        ("ALTER TABLE p ADD x int", "SELECT * FROM p1"),
        ("ALTER TABLE b DROP CONSTRAINT b_a", "SELECT * FROM a"),
    ],
)
def test_whom_only_a_try_could_find_is_waited_for_outside_the_server_from_then_on(tables, sql, reader):
    """What the server locks besides is not in the statement: the first try meets it, and no other does."""
    tables.write("002_x", sql)
    with psycopg.connect(tables.uri, application_name="report") as other:
        other.execute(reader)
        failure = refused_under(tables, lock_timeout_ms=1_000, lock_budget_ms=3_000)
    told = [event for event, _ in tables.log.events if event.startswith("lock.")]
    assert told == ["lock.refused", "lock.busy"]
    assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert [b.application for b in failure.blockers] == ["report"]


def test_a_try_is_made_again_once_the_one_that_it_met_has_gone(tables):
    tables.write("002_x", "ALTER TABLE p ADD x int")
    with psycopg.connect(tables.uri) as other:
        other.execute("SELECT * FROM p1")
        policy = tables.policy(lock_timeout_ms=500, lock_budget_ms=60_000)
        plan = tables.plan(policy=policy)
        step = threading.Thread(target=tables.apply, args=("u2",), kwargs={"plan": plan, "policy": policy})
        step.start()
        until(lambda: "lock.busy" in [event for event, _ in tables.log.events])
        other.rollback()
        step.join(30)
    assert tables.rows() == ["001_tables", "002_x"]


@pytest.mark.parametrize(
    "sql",
    [
        "SET lock_timeout = 0; SET statement_timeout = 0; ALTER TABLE a ADD x int;",
        "VACUUM FULL a",
    ],
)
def test_a_script_that_sets_lock_timeout_aside_does_not_queue_for_longer_and_is_tried_again(tables, sql):
    """As pg_dump's own scripts do; and VACUUM FULL, which cannot run in a transaction."""
    tables.write("002_x", sql)
    with psycopg.connect(tables.uri, application_name="report") as other:
        before = {"apply.before_script", "apply.before_statement"}
        tables.point = lambda name: other.execute("SELECT * FROM a") if name in before else None
        failure = refused_under(tables, lock_timeout_ms=300, lock_budget_ms=3_000)
    assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert [b.application for b in failure.blockers] == ["report"]
    told = [event for event, _ in tables.log.events if event.startswith("lock.")]
    assert told == ["lock.refused", "lock.busy"]
    assert tables.rows()[1:] in ([], ["002_x~"])


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("ALTER TABLE a ADD x int", "canceling statement due to lock timeout"),
        ("ALTER TABLE p ADD x int; PERFORM pg_sleep(120)", "for longer than maxLockHold (0.4 s)"),
    ],
)
def test_a_script_that_commits_by_itself_keeps_nobody_out_for_longer(tables, work, said):
    tables.write("002_x", f"DO $$ BEGIN COMMIT; {work}; END $$")
    with psycopg.connect(tables.uri) as other:
        other.execute("SELECT * FROM a")
        failure = refused_under(tables, lock_timeout_ms=300, lock_budget_ms=3_000, max_lock_hold_ms=400)
    assert failure.reason is Reason.PARTIALLY_APPLIED  # nobody knows what it did before
    assert said in failure.message


def test_a_detach_that_meets_a_reader_of_the_partition_does_not_queue_for_longer(tables):
    tables.write("002_x", "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY;")
    with psycopg.connect(tables.uri, application_name="report") as other:
        other.execute("SELECT * FROM p1")
        failure = refused_under(tables, lock_timeout_ms=300, lock_budget_ms=3_000)
    assert [b.application for b in failure.blockers] == ["report"]
    assert failure.reason is Reason.PARTIALLY_APPLIED
    assert "p1 is detached half way" in failure.message
