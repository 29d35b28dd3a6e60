"""A real streaming standby: never a target; its lag and what it does to its readers are told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from standby import caught_up, standby, until

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.reasons import Reason
from godwit.contract.request import CheckInput
from godwit.engine.check import check_verb
from godwit.engine.errors import StepFailed
from godwit.engine.replicas import Replica, ReplicaLag, replica_warnings, replicas


@pytest.fixture(scope="module")
def replica(postgres_server: EmbeddedPostgres, server_folder: Path) -> Iterator[EmbeddedPostgres]:
    # By default a standby that receives nothing new tells only every 10 s how far it has replayed, and a lock
    # waits there for 30 s. While one waits, no other setting is read.
    settings = {"wal_receiver_status_interval": "1s", "max_standby_streaming_delay": "10s"}
    with standby(postgres_server, server_folder / "replica", slot="replica", settings=settings) as server:
        yield server


def test_a_streaming_standby_is_no_target(project, replica):
    caught_up(project.database.server, replica)
    elsewhere = replace(project, uri=replica.uri(project.database.name))
    with pytest.raises(StepFailed) as refused, elsewhere.context().session(writing=True):
        pass
    failure = refused.value.failure
    assert failure.reason is Reason.STANDBY_REFUSED
    assert "primary" in failure.reason.advice.next
    assert failure.standing == "Nothing was changed."


def test_check_counts_standbys_and_measures_how_far_behind_they_are(project, replica):
    outcome = check_verb(project.context(), CheckInput())
    assert outcome.replicas == 1
    assert outcome.replica_lag_bytes is not None


@pytest.mark.slow
def test_a_lock_that_waits_for_a_standbys_reader_is_seen_as_lag_and_ends_in_a_conflict(project, replica):
    """What production sees: nothing on the primary, a stall and a cancelled reader on the standby."""
    primary = project.database.server
    project.write("1_a", "CREATE TABLE a (id int); INSERT INTO a VALUES (1); CREATE TABLE b (id int);")
    project.deploy("u1")
    caught_up(primary, replica)
    project.write("2_x", "ALTER TABLE a ADD COLUMN x int;")
    uri = replica.uri(project.database.name)
    with psycopg.connect(uri) as reader, project.context().session() as session:
        reader.execute("SELECT * FROM a")
        project.deploy("u2")
        project.database.psql("INSERT INTO b VALUES (1)")
        lag = ReplicaLag()
        until(lambda: (lag.seconds(session) or 0) > 0.3)
        (found,) = replicas(session)
        assert found.lag_bytes > 0
        # A table that the migration never touched: what is written to it does not arrive either.
        with psycopg.connect(uri, autocommit=True) as other:
            assert other.execute("SELECT count(*) FROM b").fetchone() == (0,)
        until(lambda: lag.seconds(session) == 0)
        with pytest.raises(psycopg.Error) as cancelled:
            reader.execute("SELECT * FROM a")
        assert "conflict with recovery" in str(cancelled.value) or reader.closed
    conflicts = "SELECT confl_lock FROM pg_stat_database_conflicts WHERE datname = current_database()"
    until(lambda: replica.psql(conflicts, project.database.name) == "1")


@contextmanager
def replay_paused(replica: EmbeddedPostgres) -> Iterator[None]:
    """A standby that receives and does not replay."""
    replica.psql("SELECT pg_wal_replay_pause()")
    until(lambda: replica.psql("SELECT pg_get_wal_replay_pause_state()") == "paused")
    try:
        yield
    finally:
        replica.psql("SELECT pg_wal_replay_resume()")


def many_rows(project):
    project.write("1_users", "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);"
                             "INSERT INTO users SELECT generate_series(1, 400);")  # fmt: skip
    project.deploy("u1")
    project.write("2_fill", "-- godwit: batched by id size 2\nUPDATE users SET n = n + 1;")


def test_a_backfill_waits_for_a_standby_whose_replay_is_paused_and_ends_when_it_goes_on(project, replica):
    primary = project.database.server
    many_rows(project)
    caught_up(primary, replica)
    policy = project.policy(max_replica_lag_ms=200)
    plan = project.plan(policy=policy)
    ended = []

    def run():
        ended.append(project.apply("u2", plan=plan, policy=policy))

    def told():
        return [facts["message"] for event, facts in project.log.events if event == "backfill.waits"]

    def done():
        return int(project.database.psql("SELECT count(*) FROM users WHERE n > 0"))

    step = threading.Thread(target=run)
    with replay_paused(replica):
        step.start()
        until(told)
        assert "a standby is " in told()[0]
        assert "more than 0.2 s: the next batch waits" in told()[0]
        before = done()
        with project.context().session() as session:
            lag = ReplicaLag()
            until(lambda: (lag.seconds(session) or 0) > 1.5)
        assert 0 < before == done() < 400
        # It waits without a transaction: nobody waits for it meanwhile.
        project.database.psql("BEGIN; SET LOCAL lock_timeout = '5s'; LOCK TABLE users; COMMIT")
        assert ended == []
    step.join(timeout=60)
    assert [outcome.current for outcome in ended] == ["2_fill"]
    assert project.database.psql("SELECT min(n), max(n) FROM users") == "1|1"
    caught_up(primary, replica)
    assert replica.psql("SELECT min(n), max(n) FROM users", project.database.name) == "1|1"


def test_a_backfill_that_is_told_not_to_look_does_not_wait(project, replica):
    many_rows(project)
    policy = project.policy(max_replica_lag_ms=0)
    with replay_paused(replica):
        assert project.apply("u2", policy=policy).current == "2_fill"
    assert "backfill.waits" not in [event for event, _ in project.log.events]


def test_check_warns_of_a_slot_that_nobody_uses(project, replica):
    caught_up(project.database.server, replica)
    project.database.psql("SELECT pg_create_physical_replication_slot('left', true)")
    try:
        warnings = check_verb(project.context(), CheckInput()).warnings
    finally:
        project.database.psql("SELECT pg_drop_replication_slot('left')")
    (warning,) = [w for w in warnings if "slot left" in w]
    assert "is used by nobody" in warning
    assert "without a limit" in warning


def test_a_role_that_may_not_see_replication_is_told_nothing_false(project, replica, role):
    plain = replace(project, uri=project.database.uri_as(role("plain", owns=True)))
    outcome = check_verb(plain.context(), CheckInput())
    assert (outcome.replicas, outcome.replica_lag_bytes) == (1, None)


@pytest.mark.parametrize(
    ("replica", "warned"),
    [
        (Replica("far", "streaming", 200 * 2**20, 0.1), True),
        (Replica("slow", "streaming", 5, 30.0), True),
        (Replica("near", "streaming", 5, 0.1), False),
        (Replica("", "", None, None), False),
    ],
)
def test_only_a_standby_that_is_far_behind_is_warned_of(project, replica, warned):
    with project.context().session() as session:
        assert [replica.name in told for told in replica_warnings(session, [replica])] == [True] * warned
