"""A restore that is cut short anywhere ends once, and no fence stands longer than it may."""

import signal
import threading

import psycopg
import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import (
    CheckInput,
)
from godwit.engine import swap
from godwit.engine.check import check_verb
from godwit.engine.errors import StepFailed

POINTS = ("start", "before_build", "built", "before_fence", "fenced", "counted", "before_swap", "swapped")
OFTEN = ("before_build", "fenced", "swapped")
"""One before the fence, one behind it, one behind the swap; the others are run less often."""


def test_the_fence_is_lifted_when_its_time_is_over(restoring, database):
    seen = []

    def point(name):
        if name == "restore.counted":
            # What goes on behind the fence takes too long: it opens by itself, before the step goes on.
            restoring.wait_for(lambda: restoring.databases()[database.name])
            seen.append("open")

    failure = restoring.failing(point=point, fence_timeout_ms=1500)
    assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
    assert "longer than the 1.5 s that it may stand" in failure.message
    assert seen == ["open"]


def test_a_fence_says_how_to_open_it_while_it_stands(restoring, database):
    restoring.server.psql(f"COMMENT ON DATABASE \"{database.name}\" IS 'The shop'")
    restoring.comment = "The shop"
    seen = []

    def point(name):
        if name == "restore.counted":
            seen.append(restoring.server.psql(f"SELECT shobj_description({restoring.oid}, 'pg_database')"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        restoring.restore(point=point)
    assert (
        f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true;' in seen[0]
        or f"ALTER DATABASE {database.name} ALLOW" in seen[0]
    )
    assert restoring.untouched()


@pytest.mark.slow
def test_two_restores_of_one_database_at_once_become_one(restoring, database):
    inside = threading.Event()
    go_on = threading.Event()

    def point(name):
        if name == "restore.built":
            inside.set()
            go_on.wait(20)

    done = []
    thread = threading.Thread(target=lambda: done.append(restoring.restore(point=point)))
    thread.start()
    assert inside.wait(20)
    with pytest.raises(StepFailed) as failed:
        restoring.restore(request={"operation": "r2", "spec_hash": "h2"})
    assert failed.value.failure.reason is Reason.LOCK_HELD
    go_on.set()
    thread.join(30)
    assert done[0].lost_rows == 0


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in OFTEN else pytest.mark.slow) for point in POINTS]
)
def test_a_restore_killed_anywhere_is_done_once_by_the_next_attempt(restoring, database, point):
    database.psql("INSERT INTO other VALUES (1)")
    step = restoring.restoring(fault=f"restore.{point}:kill", accept_data_loss=True)
    assert step.wait(60) == -signal.SIGKILL
    assert restoring.restoring(accept_data_loss=True).wait(60) == 0
    outcome = restoring.outcome()
    assert outcome.get("failure") is None, outcome
    assert outcome["resumed"] is (point == "swapped")
    assert outcome["verbs"][0]["lostRows"] == 1
    assert restoring.databases() == {database.name: True, outcome["verbs"][0]["oldDatabase"]: True}
    assert database.psql("SELECT count(*) FROM other") == "0"
    assert (
        database.psql("SELECT count(*) FROM godwit.journal WHERE verb = 'Restore' AND event = 'Done'") == "1"
    )


@pytest.mark.parametrize("point", ["before_build", "fenced"])
def test_a_restore_told_to_end_leaves_the_database_as_it_was_and_open(restoring, database, point):
    step = restoring.restoring(fault=f"restore.{point}:delay:2")
    restoring.wait_for(lambda: reached(restoring, point))
    step.send_signal(signal.SIGTERM)
    assert step.wait(60) == 0
    outcome = restoring.outcome()
    assert outcome["failure"]["reason"] == Reason.CONNECTION_LOST
    assert restoring.untouched()


def reached(restoring, point):
    """Whether the step is at the point, by what it did before it."""
    names = restoring.databases()
    if point == "before_build":
        return (
            restoring.server.psql(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 72707369"
            )
            != "0"
        )
    return not all(names.values())


def test_a_server_that_restarts_behind_the_fence_finds_the_database_open_again(database, make_restoring):
    made = make_restoring()
    stopped = []

    def point(name):
        if name == "restore.counted":
            made.server.restart(crash=True)
            stopped.append(made.databases()[database.name])

    with pytest.raises(StepFailed) as failed:
        made.restore(point=point)
    assert failed.value.failure.reason in (Reason.CONNECTION_LOST, Reason.DATABASE_UNREACHABLE)
    assert stopped == [False]
    assert made.databases() == {database.name: True} or made.databases()[database.name]


def test_a_fence_of_somebody_else_is_not_lifted(restoring, database):
    restoring.server.psql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
    try:
        with pytest.raises(StepFailed):
            restoring.restore()
        assert restoring.databases() == {database.name: False}
    finally:
        restoring.server.psql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true')


def test_a_check_opens_what_a_restore_left_closed_that_nobody_goes_on_with(restoring, database):
    assert restoring.restoring(fault="restore.fenced:kill").wait(60) == -signal.SIGKILL
    assert restoring.databases()[database.name] is False
    restoring.wait_for(lambda: locks(restoring) == 0)
    assert check_verb(restoring.context("check"), CheckInput()).identity.name == database.name
    assert restoring.databases()[database.name] is True


def test_a_check_leaves_the_fence_of_a_restore_that_runs(restoring, database):
    seen = []

    def point(name):
        if name == "restore.counted":
            with pytest.raises(StepFailed) as failed:
                check_verb(restoring.context("check"), CheckInput())
            seen.append((failed.value.failure.reason, restoring.databases()[database.name]))

    restoring.restore(point=point)
    assert seen == [(Reason.DATABASE_UNREACHABLE, False)]


def locks(restoring):
    """How many advisory locks are held in the maintenance database."""
    return int(
        restoring.server.psql(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE locktype = 'advisory' AND datname = 'postgres'"
        )
    )


@pytest.mark.parametrize("by", ["the next attempt", "a look"])
def test_a_fence_of_a_server_that_is_gone_is_lifted_once_it_is_back(restoring, database, monkeypatch, by):
    monkeypatch.setattr("godwit.engine.fence._PATIENCE_SECONDS", 1)

    def point(name):
        if name == "restore.before_swap":
            restoring.server.stop("immediate")

    try:
        with pytest.raises(StepFailed) as failed:
            restoring.restore(point=point)
    finally:
        restoring.server.start()
    failure = failed.value.failure
    assert (failure.reason, failure.terminal) == (Reason.CONNECTION_LOST, False)
    assert "closed to connections. The next attempt opens it" in failure.standing
    assert restoring.databases()[database.name] is False
    if by == "a look":
        check_verb(restoring.context("check"), CheckInput())
        assert restoring.databases()[database.name] is True
    assert restoring.restore().lost_rows == 0


def test_an_attempt_that_breaks_off_before_it_looked_does_not_say_that_the_database_is_open(
    restoring, database
):
    assert restoring.restoring(fault="restore.fenced:kill").wait(60) == -signal.SIGKILL
    restoring.wait_for(lambda: locks(restoring) == 0)

    def point(name):
        if name == "restore.start":
            restoring.server.psql(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks l JOIN pg_database d "
                "ON d.oid = l.database WHERE locktype = 'advisory' AND datname = 'postgres'"
            )

    with pytest.raises(StepFailed) as failed:
        restoring.restore(point=point)
    assert restoring.databases()[database.name] is False
    assert failed.value.failure.reason is Reason.CONNECTION_LOST
    assert "open" not in failed.value.failure.standing
    assert restoring.restore().lost_rows == 0


def test_a_fence_that_may_not_be_lifted_is_said_with_the_statements_to_run(
    database, role, make_restoring, monkeypatch
):
    monkeypatch.setattr("godwit.engine.fence._PATIENCE_SECONDS", 1)
    owner = role("owner", createdb=True, owns=True)
    made = make_restoring(user=owner)
    made.comment = "The shop's"
    made.server.psql(f"""COMMENT ON DATABASE "{database.name}" IS 'The shop''s'""")

    def point(name):
        if name == "restore.before_swap":
            made.server.psql(f'ALTER DATABASE "{database.name}" OWNER TO postgres')

    with pytest.raises(StepFailed) as failed:
        made.restore(point=point)
    failure = failed.value.failure
    assert (failure.reason, failure.terminal) == (Reason.FENCE_LEFT, True)
    assert "as it was, but closed" in failure.standing
    assert made.databases()[database.name] is False
    made.server.psql(failure.hint)
    assert made.databases()[database.name] is True
    assert made.server.psql(f"SELECT shobj_description({made.oid}, 'pg_database')") == made.comment


def test_a_database_whose_comment_somebody_changed_meanwhile_is_opened_all_the_same(restoring, database):
    def point(name):
        if name == "restore.counted":
            restoring.server.psql(f"COMMENT ON DATABASE \"{database.name}\" IS 'The shop'")
            raise psycopg.OperationalError

    restoring.comment = "The shop"
    assert "open" in restoring.failing(point=point).standing


def test_a_rename_that_somebody_is_in_the_way_of_says_that_and_not_that_the_connection_broke(
    restoring, database, monkeypatch
):
    rename = swap.rename_both
    monkeypatch.setattr("godwit.engine.session.LOCK_TIMEOUT_MS", 300)

    def kept_out(session, **names):
        with psycopg.connect(restoring.server.uri("postgres")) as person:
            person.execute(f"""COMMENT ON DATABASE "{database.name}" IS 'changed meanwhile'""")
            try:
                rename(session, **names)
            finally:
                person.rollback()

    monkeypatch.setattr(swap, "rename_both", kept_out)
    failure = restoring.failing()
    assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
    assert "lock timeout" in failure.message
    assert "open" in failure.standing


@pytest.mark.parametrize("renamed", [True, False])
def test_a_server_that_is_gone_as_the_rename_is_sent_is_asked_by_the_next_attempt(
    restoring, database, monkeypatch, renamed
):
    """Whether COMMIT came through nobody knows: neither is claimed, and nothing is given up."""
    monkeypatch.setattr("godwit.engine.fence._PATIENCE_SECONDS", 1)
    rename = swap.rename_both

    def gone(session, **names):
        def committing():
            names["committing"]()
            if not renamed:
                restoring.server.stop("immediate")

        rename(session, **(names | {"committing": committing}))
        restoring.server.stop("immediate")
        session.execute("SELECT 'what COMMIT would have answered'")

    monkeypatch.setattr(swap, "rename_both", gone)
    try:
        with pytest.raises(StepFailed) as failed:
            restoring.restore()
    finally:
        restoring.server.start()
    failure = failed.value.failure
    assert failure.reason is Reason.CONNECTION_LOST
    assert "_godwit_old_" in failure.standing
    assert "as it was, but closed" in failure.standing
    assert failure.hint.endswith("ALLOW_CONNECTIONS true;")
    monkeypatch.setattr(swap, "rename_both", rename)
    outcome = restoring.restore()
    assert restoring.databases() == {database.name: True, outcome.old_database: True}
    done = "SELECT count(*) FROM godwit.journal WHERE verb = 'Restore' AND event = 'Done'"
    assert database.psql(done) == "1"
