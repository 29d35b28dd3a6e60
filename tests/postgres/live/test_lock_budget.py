"""Waiting and holding are bounded, nobody queues behind a long holder, and who blocks is named."""

import signal
import threading

import psycopg
import pytest
from failing import refused_under
from standby import until

from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput

SETUP = "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b (id int PRIMARY KEY);"
HELD = """
SELECT string_agg(relation::regclass || ' ' || mode, ', ' ORDER BY relation::regclass::text) FROM pg_locks
 WHERE pid IN (SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'godwit apply%') AND granted
   AND mode IN ('ShareRowExclusiveLock', 'AccessExclusiveLock')
   AND relation IN (to_regclass('a'), to_regclass('b'))"""


@pytest.fixture
def tables(project):
    """A project whose first migration made two tables."""
    project.write("001_tables", SETUP)
    project.deploy("u1")
    return project


def test_a_spent_budget_names_the_blockers_without_the_text_of_their_queries(tables):
    tables.write("002_x", "ALTER TABLE a ADD x int;")
    with psycopg.connect(tables.uri, application_name="report") as reader:
        reader.execute("SELECT 'secret of a customer' FROM a")
        began = tables.database.psql(
            "SELECT to_char(query_start, 'HH24:MI:SS.US') FROM pg_stat_activity "
            "WHERE application_name = 'report'"
        )
        failure = refused_under(tables, lock_timeout_ms=50, lock_budget_ms=300)
        (blocker,) = failure.blockers
        assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
        assert (blocker.pid, blocker.user, blocker.application) == (
            reader.info.backend_pid,
            "postgres",
            "report",
        )
        assert (blocker.relation, blocker.mode, blocker.query) == ("a", "AccessShareLock", "")
        assert f"{blocker.query_start:%H:%M:%S.%f}" == began
        assert "secret" not in failure.model_dump_json()
        assert "secret" not in str(tables.log.events)
        told = refused_under(tables, lock_timeout_ms=50, lock_budget_ms=300, show_blocking_queries=True)
        assert told.blockers[0].query == "SELECT 'secret of a customer' FROM a"


def test_others_go_on_reading_while_a_migration_waits_for_a_long_reader(tables):
    tables.write("002_x", "ALTER TABLE a ADD x int;")
    options = "-c lock_timeout=1ms"
    with (
        psycopg.connect(tables.uri) as report,
        psycopg.connect(tables.uri, autocommit=True, options=options) as shop,
    ):
        report.execute("SELECT * FROM a")
        threading.Event().wait(0.2)
        policy = tables.policy(lock_timeout_ms=100, lock_budget_ms=60_000)
        plan = tables.plan(policy=policy)
        step = threading.Thread(target=tables.apply, args=("u2",), kwargs={"plan": plan, "policy": policy})
        step.start()
        until(lambda: "lock.busy" in [event for event, _ in tables.log.events])
        for _ in range(100):
            shop.execute("SELECT * FROM a")  # would fail at once behind a lock that waits
        report.rollback()
        step.join(30)
    assert tables.rows() == ["001_tables", "002_x"]


def test_all_locks_are_taken_before_the_first_statement(tables):
    seen = []
    tables.write("002_x", "ALTER TABLE b ADD a int; ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a;")
    tables.point = lambda name: seen.append(tables.database.psql(HELD)) if "before_script" in name else None
    tables.deploy("u2")
    assert seen == ["a ShareRowExclusiveLock, b AccessExclusiveLock"]


def test_a_lock_that_a_later_statement_needs_is_not_held_while_rows_are_changed(tables):
    seen = []
    tables.write("002_x", "UPDATE a SET id = 2; ALTER TABLE b ADD x int;")
    tables.point = lambda name: seen.append(tables.database.psql(HELD)) if "before_script" in name else None
    tables.deploy("u2")
    assert seen == [""]


def test_who_holds_a_row_is_named(tables):
    tables.write("002_rows", "UPDATE a SET id = 2;")
    with psycopg.connect(tables.uri, application_name="till") as other:
        other.execute("UPDATE a SET id = 3")
        failure = refused_under(tables, lock_timeout_ms=500)
    assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert [b.application for b in failure.blockers] == ["till"]


def test_long_work_that_meets_a_busy_row_is_not_repeated(tables):
    tables.write("002_rows", "SELECT pg_sleep(0.4); UPDATE a SET id = 2;")
    with psycopg.connect(tables.uri, application_name="till") as other:
        other.execute("UPDATE a SET id = 3")
        failure = refused_under(tables, lock_timeout_ms=300, max_lock_hold_ms=300, lock_budget_ms=60_000)
    assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert "not tried again whole" in failure.message
    assert "batches" in failure.hint
    assert [b.application for b in failure.blockers] == ["till"]


def test_an_index_that_waits_for_an_old_snapshot_gives_up_after_its_own_budget_and_leaves_nothing(tables):
    tables.write("002_index", "CREATE INDEX CONCURRENTLY a_twice ON a (id);")
    with psycopg.connect(tables.uri, application_name="backup") as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT * FROM b")
        threading.Event().wait(0.1)
        failure = refused_under(tables, lock_timeout_ms=50, concurrent_budget_ms=700)
    assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
    assert "budget of 0.7 s" in failure.message
    assert [b.application for b in failure.blockers] == ["backup"]
    assert tables.database.psql("SELECT to_regclass('a_twice') IS NULL") == "t"
    assert ("concurrently.waits") in [event for event, _ in tables.log.events]


def test_a_step_that_stands_still_does_not_keep_its_locks(tables):
    """Not killed, only stopped: neither its own watch nor a closed connection can help."""
    tables.write("002_x", "ALTER TABLE a ADD x int;")
    policy = tables.policy(max_lock_hold_ms=3_000)
    verb = ApplyInput(plan=tables.plan(policy=policy), policy=policy)
    process = tables.process(verb, "u2", fault="apply.before_commit:hang")
    try:
        with psycopg.connect(tables.uri, autocommit=True) as looking:

            def held():
                return "AccessExclusiveLock" in (looking.execute(HELD).fetchone()[0] or "")

            until(held)
            process.send_signal(signal.SIGSTOP)
            until(lambda: not held())
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    tables.apply("u2", plan=verb.plan, policy=policy, attempt=2)
    assert tables.rows() == ["001_tables", "002_x"]
