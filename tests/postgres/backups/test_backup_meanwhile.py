"""What others do while a backup is made: a backup holds every row of its snapshot, or there is none."""

import threading

import psycopg
import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import BackupInput, VerifyBackupInput
from godwit.engine.dump import backup_verb, verify_backup_verb
from godwit.engine.errors import StepFailed

LOCATION = "shop/nightly-u1.dump"
FULL = BackupInput(location=LOCATION)
WAITERS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'item'::regclass"


@pytest.mark.parametrize("change", ["ALTER TABLE item ALTER id TYPE bigint", "TRUNCATE item"])
def test_a_table_rewritten_before_the_dump_had_its_lock_is_said_and_not_backed_up_empty(
    database, place, change
):
    database.psql("CREATE TABLE item (id int); INSERT INTO item VALUES (1), (2)")
    failed = []

    def back_up():
        with pytest.raises(StepFailed) as raised:
            backup_verb(place.context(), FULL)
        failed.append(raised.value.failure)

    with psycopg.connect(database.uri) as other:
        other.execute(change)
        thread = threading.Thread(target=back_up)
        thread.start()
        # pg_dump and the count beside it have the snapshot, and wait for the table.
        place.wait_for(lambda: database.psql(WAITERS) == "2")
        other.commit()
        thread.join(60)
    assert failed[0].reason is Reason.STATE_MOVED
    assert "public.item" in failed[0].message
    assert place.stored() == []
    assert backup_verb(place.context(), FULL).rows == int(database.psql("SELECT count(*) FROM item"))


def test_a_table_rewritten_long_before_is_backed_up(database, place):
    database.psql("CREATE TABLE item (id int); INSERT INTO item VALUES (1), (2)")
    database.psql("ALTER TABLE item ALTER id TYPE bigint; SELECT lo_create(0)")
    database.psql("VACUUM FULL")
    assert backup_verb(place.context(), FULL).rows == 3


@pytest.mark.parametrize("late", ["backup.before_rename", "backup.before_manifest"])
def test_an_attempt_that_was_thought_lost_does_not_spoil_the_backup_of_the_next(database, place, late):
    database.psql("CREATE TABLE item (id int)")
    made = []

    def point(name):
        if name == late:
            database.psql("INSERT INTO item VALUES (1)")  # so that the two archives differ
            made.append(backup_verb(place.context(), FULL))

    assert backup_verb(place.context(point=point), FULL) == made[0]
    assert place.stored() == [LOCATION, LOCATION + ".json"]
    read = verify_backup_verb(place.context(), VerifyBackupInput(location=LOCATION))
    assert read.sha256 == made[0].sha256
