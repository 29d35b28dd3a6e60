"""Both at the same time: one waits or is refused, and every migration is applied once."""

import threading

import psycopg
from waiting import until

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed

GATE = 4711  # a lock of the test's own, at which a migration waits

# Inside the server for a lock, or polling: the last that Flyway asked was whether it can have it.
_WAITS = (
    "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted) OR EXISTS (SELECT FROM pg_stat_activity"
    " WHERE datname = current_database() AND query LIKE 'SELECT pg_try_advisory_lock%'"
    " AND application_name NOT LIKE 'godwit%')"
)
_AT_GATE = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} AND NOT granted"


def test_the_tool_comes_while_godwit_is_at_work(team):
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    team.deploy()
    name = team.add(2, "CREATE TABLE b (id int);\nINSERT INTO b VALUES (1);", "DROP TABLE b;")
    started = []

    def point(boundary: str) -> None:
        if boundary == "apply.before_commit" and not started:
            started.append(team.peer.tool.start(*team.peer.up_words))
            until(lambda: team.database.psql(_WAITS) == "t", "the command line waits")

    team.point = point
    team.deploy("u2", policy=team.policy(max_lock_hold_ms=120_000))  # Java takes its time to start
    with started[0] as process:
        said, _ = process.communicate(timeout=60)
    # With a lock it waits and finds nothing to do; without one it is refused by what is there already.
    assert (process.returncode == 0) is team.peer.has_lock, said
    assert team.peer.settled() == ""
    assert team.database.psql("SELECT count(*) FROM b") == "1"
    planned = team.planned()
    assert (planned.pending, planned.current, planned.findings.errors) == (0, name, 0)


def test_godwit_comes_while_the_tool_is_at_work(team):
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    team.deploy()
    plain = "CREATE TABLE b (id int);\nINSERT INTO b VALUES (1);\n"
    team.add(2, f"{plain}SELECT pg_advisory_xact_lock({GATE});", "DROP TABLE b;")
    plan = team.plan()
    failures = []

    def step() -> None:
        try:
            team.apply("u2", plan=plan)
        except StepFailed as failed:
            failures.append(failed.failure.reason)

    with psycopg.connect(team.uri, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(%s)", (GATE,))
        with team.peer.tool.start(*team.peer.up_words) as process:
            until(lambda: team.database.psql(_AT_GATE) == "1", "the command line is at work")
            thread = threading.Thread(target=step)
            thread.start()
            if not team.peer.has_lock:  # then it meets the other's uncommitted table, and gives up in time
                thread.join(60)
            else:
                at_work = (
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'godwit apply#1%'"
                )
                until(lambda: team.database.psql(at_work) == "1", "the step has connected")
            gate.execute("SELECT pg_advisory_unlock(%s)", (GATE,))
            said, _ = process.communicate(timeout=60)
            thread.join(60)
    assert process.returncode == 0, said
    busy = {Reason.LOCK_BUDGET_EXCEEDED, Reason.MIGRATION_FAILED}
    assert set(failures) <= (busy if not team.peer.has_lock else {Reason.STATE_MOVED})
    assert len(failures) == 1
    assert team.database.psql("SELECT count(*) FROM b") == "1"
    assert team.peer.settled() == ""
    assert team.planned().pending == 0
