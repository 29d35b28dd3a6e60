"""The journal, the claim, the stamp and the migration lock on a real server."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from waiting import until

from godwit.contract.environment import DATABASE_URI_VAR
from godwit.contract.outcome import VerifyOutcome
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import ObjectRef, StepRequest
from godwit.engine import journal, ownership, timeline
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed
from godwit.engine.formats.prisma import ADVISORY_KEY
from godwit.engine.lock import HOLDS, check_fence, migration_lock, waiters
from godwit.engine.model import History, HistoryRow, Script
from godwit.engine.session import Session


class Silent:
    def info(self, event: str, **facts: Any) -> None: ...

    warning = error = info


def step(uri: str, **changes: Any) -> StepContext:
    fields: dict[str, Any] = {
        "object": ObjectRef(kind="MigrationRun", namespace="shop", name="app-1", uid="u1"),
        "step": "apply",
        "operation": "u1",
        "spec_hash": "h1",
        "verbs": (),
    }
    nowhere = Path("/nonexistent")
    request = StepRequest(**(fields | changes))
    return StepContext(request, {DATABASE_URI_VAR: uri}, nowhere, nowhere, nowhere, Silent())


@pytest.fixture
def ctx(database) -> StepContext:
    return step(database.uri)


@pytest.fixture
def session(ctx) -> Iterator[Session]:
    with ctx.session(writing=True) as opened:
        yield opened


def test_without_a_journal_everything_reads_as_empty_and_nothing_is_made(database, ctx, session):
    before = database.dump(without=())
    assert journal.head(session) == 0
    assert journal.head_of_others(session, "u1") == 0
    assert timeline.kept_downs(session, standing("r"), "") == {}
    assert journal.entries_of(session, "u1") == ()
    assert journal.find_done(session, ctx.request, "Apply") is None
    assert ownership.stamp(session) is None
    ownership.claim(session, ctx.request)
    ownership.release(session, "u1")
    assert database.dump(without=()) == before


def test_rows_stand_when_their_transaction_does_and_ids_have_no_gaps(ctx, session):
    with session.conn.transaction(force_rollback=True):
        journal.ensure(session)
        assert journal.append(session, ctx.request, journal.Event.APPLIED, verb="Apply") == 1
    assert not journal.exists(session)
    journal.ensure(session)
    with session.conn.transaction(force_rollback=True):
        journal.append(session, ctx.request, journal.Event.APPLIED, verb="Apply")
    assert journal.append(session, ctx.request, journal.Event.APPLIED, verb="Apply") == 1
    journal.ensure(session)
    assert journal.head(session) == 1
    assert journal.head_of_others(session, "u1") == 0
    assert journal.head_of_others(session, "u2") == 1


def standing(row: str) -> History:
    at = datetime.now(UTC)
    return History("public", exists=True, rows=(HistoryRow(row, "m1", "c", at, finished_at=at),))


def test_the_down_script_of_the_last_application_is_kept(ctx, session):
    journal.ensure(session)
    for row, text in (("r1", "DROP TABLE a;"), ("r2", "DROP TABLE b; -- ü")):
        script = Script("m1/down.sql", text.encode(), "c")
        journal.append(
            session,
            ctx.request,
            journal.Event.APPLIED,
            verb="Apply",
            migration="m1",
            checksum="c",
            down=script,
            detail={"row": row},
        )
    journal.append(session, ctx.request, journal.Event.APPLIED, verb="Apply", migration="m2", checksum="d")
    kept = timeline.kept_downs(session, standing("r2"), "")
    assert {name: (s.path, s.text) for name, s in kept.items()} == {
        "m1": ("m1/down.sql", "DROP TABLE b; -- ü")
    }
    entries = journal.entries_of(session, "u1")
    assert [(e.id, e.migration, e.event) for e in entries] == [
        (1, "m1", "Applied"),
        (2, "m1", "Applied"),
        (3, "m2", "Applied"),
    ]
    assert entries[0].down is not None
    assert entries[2].down is None
    assert timeline.kept_downs(session, standing("another tool's"), "") == {}
    journal.append(session, ctx.request, journal.Event.REVERTED, verb="Revert", migration="m1")
    assert timeline.kept_downs(session, standing("r2"), "") == {}
    assert timeline.kept_downs(session, standing("r2"), "u1").keys() == {"m1"}


def test_a_done_verb_is_found_by_its_operation_and_by_its_object_name(database, ctx, session):
    journal.ensure(session)
    journal.record_done(session, ctx.request, "Verify", VerifyOutcome(state="s", current="m1"))
    assert journal.find_done(session, ctx.request, "Verify") == {
        "verb": "Verify",
        "state": "s",
        "current": "m1",
        "checks": 0,
        "journalHead": 0,
        "fingerprint": "",
    }
    assert journal.find_done(session, ctx.request, "Apply") is None
    later = step(database.uri, operation="u2").request
    assert journal.find_done(session, later, "Verify") is None
    assert journal.find_done_by_object(session, later, "Verify") is not None
    edited = step(database.uri, operation="u2", spec_hash="h2").request
    assert journal.find_done_by_object(session, edited, "Verify") is None


def test_a_role_without_rights_is_told_the_grant_and_the_grant_helps(database, role):
    user = role("limited")
    ctx = step(database.uri_as(user))
    with ctx.session(writing=True) as session:
        with pytest.raises(StepFailed) as caught:
            journal.ensure(session)
        assert caught.value.failure.reason is Reason.JOURNAL_FORBIDDEN
        assert caught.value.failure.hint in caught.value.failure.message
        database.psql(caught.value.failure.hint)
        journal.ensure(session)
        assert journal.head(session) == 0


def test_a_role_that_may_not_use_anothers_journal_is_told_the_grant_and_the_grant_helps(database, role):
    with step(database.uri).session(writing=True) as owner:
        journal.ensure(owner)
    ctx = step(database.uri_as(role("second")))
    with ctx.session(writing=True) as session:
        with pytest.raises(StepFailed) as caught:
            journal.head(session)
        assert caught.value.failure.reason is Reason.JOURNAL_FORBIDDEN
        database.psql(caught.value.failure.hint)
        assert journal.append(session, ctx.request, journal.Event.APPLIED, verb="Apply") == 1
        ownership.write_stamp(session, Environment.STAGING)
        assert ownership.stamp(session) is Environment.STAGING


def test_an_active_operation_keeps_others_out_until_released_or_expired(database, ctx, session):
    journal.ensure(session)
    other = step(
        database.uri, operation="u2", object=ctx.request.object.model_copy(update={"name": "app-2"})
    ).request
    before = database.dump(without=())
    ownership.claim(session, ctx.request)
    ownership.claim(session, ctx.request)
    with pytest.raises(StepFailed, match="DatabaseBusy: MigrationRun/shop/app-1"):
        ownership.claim(session, other)
    ownership.release(session, "u2")
    with pytest.raises(StepFailed, match="DatabaseBusy"):
        ownership.claim(session, other)
    ownership.release(session, "u1")
    assert database.dump(without=()) == before
    ownership.claim(session, other, seconds=-1)
    ownership.claim(session, ctx.request)


def test_a_stamp_only_becomes_stricter_and_counts_only_in_its_own_database(session):
    journal.ensure(session)
    ownership.write_stamp(session, Environment.DEVELOPMENT)
    ownership.write_stamp(session, Environment.PRODUCTION)
    ownership.write_stamp(session, Environment.STAGING)
    assert ownership.stamp(session) is Environment.PRODUCTION
    assert ownership.foreign_stamp(session) is None
    session.execute('UPDATE godwit.settings SET value = value || \'{"identity": "1/2"}\'')
    assert ownership.stamp(session) is None
    assert ownership.foreign_stamp(session) is Environment.PRODUCTION
    ownership.write_stamp(session, Environment.DEVELOPMENT)
    assert ownership.stamp(session) is Environment.DEVELOPMENT


def test_the_lock_is_prismas_and_its_holder_is_named(database, ctx, session):
    with psycopg.connect(database.uri, autocommit=True, application_name="prisma") as prisma:
        prisma.execute("SELECT pg_advisory_lock(72707369)")
        with pytest.raises(StepFailed) as caught, migration_lock(ctx, session, wait_seconds=0.3):
            pytest.fail("the lock was given twice")
        assert caught.value.failure.reason is Reason.LOCK_HELD
        assert f"process {prisma.info.backend_pid} (prisma, user postgres" in caught.value.failure.message
        prisma.execute("SELECT pg_advisory_unlock_all()")
        with migration_lock(ctx, session, wait_seconds=0.3):
            assert holds_lock(session)
            assert prisma.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_KEY]).fetchone() == (False,)
        assert not holds_lock(session)


def holds_lock(session):
    params = {"key": ADVISORY_KEY, "database": session.identity.database_oid}
    return session.execute(f"SELECT {HOLDS}", params).fetchone()[0]


def test_an_earlier_attempt_of_the_same_step_is_recognised(database, ctx, session):
    second = step(database.uri, attempt=2)
    with (
        migration_lock(ctx, session),
        second.session(writing=True) as later,
        pytest.raises(StepFailed, match="earlier attempt of this very step"),
        migration_lock(second, later, wait_seconds=0),
    ):
        pytest.fail("the lock was given twice")


def test_another_run_whose_name_is_cut_to_the_same_is_not_taken_for_an_earlier_attempt(database):
    name = "billing-service-with-a-name-that-fills-it-all"

    def run(number):
        owner = ObjectRef(
            kind="MigrationRun", namespace="payments-production", name=f"{name}-{number}", uid=""
        )
        return step(database.uri, object=owner)

    first, second = run(1), run(2)
    with (
        first.session(writing=True) as session,
        migration_lock(first, session),
        second.session(writing=True) as later,
        pytest.raises(StepFailed) as caught,
        migration_lock(second, later, wait_seconds=0),
    ):
        pytest.fail("the lock was given twice")
    assert (
        f"process {session.backend_pid} (godwit apply#1 payments-production/" in caught.value.failure.message
    )
    assert "this very step" not in caught.value.failure.message


def test_sessions_that_wait_inside_the_server_are_listed(database, ctx, session):
    with migration_lock(ctx, session), psycopg.connect(database.uri, autocommit=True) as prisma:
        waiting = threading.Thread(target=prisma.execute, args=("SELECT pg_advisory_lock(72707369)",))
        waiting.start()
        waits = [(prisma.info.backend_pid, "", "postgres")]
        until(lambda: waiters(session, ADVISORY_KEY) == waits, "who waits is named")
        session.execute("SELECT pg_advisory_unlock(72707369)")
        waiting.join(timeout=10)
        assert not waiting.is_alive()
        prisma.execute("SELECT pg_advisory_unlock_all()")


@pytest.mark.parametrize(
    ("expected", "not_after", "reason"),
    [
        (0, None, Reason.STATE_MOVED),
        (1, timedelta(seconds=-1), Reason.TOO_LATE),
        (1, timedelta(seconds=60), None),
        (None, None, None),
    ],
    ids=["another operation wrote meanwhile", "the time is over", "in time and as expected", "nothing asked"],
)
def test_the_fence(database, session, expected, not_after, reason):
    journal.ensure(session)
    journal.append(session, step(database.uri, operation="u0").request, journal.Event.DONE, verb="Apply")
    journal.append(session, step(database.uri).request, journal.Event.STARTED, verb="Apply")
    fenced = step(
        database.uri,
        expected_journal=expected,
        not_after=None if not_after is None else datetime.now(UTC) + not_after,
    )
    if reason is None:
        check_fence(fenced, session)
        assert journal.head(session) == 2
        return
    with pytest.raises(StepFailed) as caught:
        check_fence(fenced, session)
    assert caught.value.failure.reason is reason


def test_a_step_that_a_wrong_clock_makes_late_says_what_both_clocks_show(database, session):
    journal.ensure(session)
    now = datetime.now(UTC)
    fenced = replace(
        step(database.uri, not_after=now + timedelta(minutes=30)), clock=lambda: now + timedelta(hours=1)
    )
    with pytest.raises(StepFailed) as caught:
        check_fence(fenced, session)
    failure = caught.value.failure
    assert failure.reason is Reason.TOO_LATE
    assert f"Its node says {now + timedelta(hours=1):%FT%H:%M}" in failure.message
    assert f"the database's server {now:%FT%H}" in failure.message
