"""A run's backup holds the database for its run, where its role may write that down."""

import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import BackupInput, VerifyBackupInput
from godwit.engine import journal, ownership
from godwit.engine.dump import backup_verb, verify_backup_verb
from godwit.engine.errors import StepFailed

LOCATION = "shop/nightly-u1.dump"
FULL = BackupInput(location=LOCATION)
HOLDER = "SELECT value ->> 'operation' FROM godwit.settings WHERE key = 'activeOperation'"


@pytest.fixture
def journaled(place):
    """A place whose database has a journal."""
    with place.context().session(writing=True) as session:
        journal.ensure(session)
    return place


def claimed_by(place, operation):
    with place.context().session(writing=True) as session:
        ownership.claim(session, place.context(operation=operation).request)


def test_a_backup_for_a_run_holds_the_database_for_that_run_to_its_end_and_a_little_longer(
    journaled, database
):
    seen = []
    ctx = journaled.context(
        operation="run1", point=lambda _: seen.append(database.psql(HOLDER)), verbs=(FULL,)
    )
    backup_verb(ctx, FULL)
    verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION))
    assert set(seen) == {"run1"}
    with pytest.raises(StepFailed) as failed:
        claimed_by(journaled, "run2")
    assert failed.value.failure.reason is Reason.DATABASE_BUSY
    claimed_by(journaled, "run1")


def test_a_backup_for_a_run_is_refused_before_it_begins_while_another_operation_works(journaled):
    claimed_by(journaled, "run2")
    with pytest.raises(StepFailed) as failed:
        backup_verb(journaled.context(operation="run1"), FULL)
    assert failed.value.failure.reason is Reason.DATABASE_BUSY
    assert journaled.stored() == []


def test_a_backup_that_fails_gives_the_database_back(journaled, database):
    with pytest.raises(StepFailed) as failed:
        backup_verb(journaled.context(operation="run1"), BackupInput(location=LOCATION, from_state="another"))
    assert failed.value.failure.reason is Reason.STATE_MOVED
    assert database.psql(HOLDER) == ""


def test_a_backup_of_its_own_keeps_nobody_waiting(journaled, database):
    claimed_by(journaled, "run2")
    backup_verb(journaled.context(), FULL)
    assert database.psql(HOLDER) == "run2"


def test_a_database_without_a_journal_is_only_read(place, database):
    backup_verb(place.context(operation="run1"), FULL)
    assert database.psql("SELECT to_regnamespace('godwit') IS NULL") == "t"


def test_a_role_that_may_only_read_backs_up_all_the_same(journaled, database, role, make_place):
    reader = role("reader")
    database.psql(f'GRANT pg_read_all_data TO "{reader}"; CREATE TABLE item (id int)')
    made = backup_verb(make_place(user=reader).context(operation="run1"), FULL)
    assert journaled.stored() == [LOCATION, LOCATION + ".json"]
    assert made.journal_head == 0
    assert database.psql(HOLDER) == ""
