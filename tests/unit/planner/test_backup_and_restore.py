"""DatabaseBackup and DatabaseRestore: what they wait for, how they end, what they leave."""

import pytest

from godwit.api.database import PodTemplate
from godwit.contract.outcome import BackupOutcome, DeleteBackupOutcome, RestoreOutcome, VerifyBackupOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupType
from godwit.engine.manifest import SUFFIX
from godwit.planner import backup as backups
from godwit.planner import restore as restores
from godwit.planner.backup import BackupSeen
from godwit.planner.decision import DeleteStep, Hold, SetFinalizer, StartStep, StepSeen, StepState
from godwit.planner.restore import RestoreSeen

from .builders import (
    DONE,
    HELD,
    IDENTITY,
    IMAGE,
    NOW,
    OTHER,
    ago,
    backup,
    database,
    failure,
    finished,
    later,
    of,
    only,
    operation,
    record,
    restore,
    stand,
    touched,
)

GONE, RUNNING = StepSeen(StepState.GONE), StepSeen(StepState.RUNNING)
BUSY = database(status={"active_operation": operation()}, finalizers=HELD)
BY_HAND = {"order": None}
MADE = BackupOutcome(
    type=BackupType.FULL,
    identity=IDENTITY,
    location="team/shop/b.dump",
    size_bytes=9,
    sha256="f" * 64,
    server_version=160004,
    dump_version="16.4",
    started_at=ago(minutes=1),
    ended_at=NOW,
    state="s0",
)
READ = VerifyBackupOutcome(location="team/shop/b.dump", sha256="f" * 64)


def of_backup(own, base=BUSY, **more):
    return backups.decide(BackupSeen(backup=own, image=IMAGE, database=base, **more), NOW)


def dumped(found, **more):
    own = backup(status={"steps": (record("backup", state="Running"),)}, **more)
    return of_backup(own, steps={"backup": found})


# Backups


@pytest.mark.parametrize(
    ("own", "base", "expected"),
    [
        (backup(), BUSY, ("Unknown", "BackingUp", False)),
        (backup(spec=BY_HAND), database(), ("Unknown", "BackingUp", False)),
        (backup(spec=BY_HAND), BUSY, ("False", "DatabaseBusy", False)),
        (backup(), database(), ("False", "Cancelled", True)),
        (backup(spec=BY_HAND), None, ("False", "DatabaseNotFound", False)),
        (
            backup(spec=BY_HAND),
            database(spec={"backup": {"required": False}}),
            ("False", "StoreUnavailable", False),
        ),
        (backup(status={"steps": (record("backup"),)}), None, ("False", "BackupFailed", True)),
        (backup(status={"failure": failure(Reason.STATE_MOVED)}), BUSY, ("False", "StateMoved", True)),
        (backup(status=DONE), None, ("True", "BackedUp", False)),
    ],
    ids=[
        "ordered by the run that holds the database: it begins",
        "ordered by a person while nobody holds it: it begins",
        "ordered by a person while a run holds it: it waits",
        "ordered by a run that has ended: nobody needs it",
        "no database: it waits",
        "no volume: it waits",
        "the database went while it ran: it failed",
        "what has failed stays so",
        "what is done stays so, also without its database",
    ],
)
def test_a_backup_stands(own, base, expected):
    decision = of_backup(own, base)
    assert stand(decision) == expected
    assert bool(of(decision, StartStep)) is (expected[1] == "BackingUp")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (finished(MADE, READ), ("True", "BackedUp", False)),
        (finished(MADE), ("False", "BackupUnusable", True)),
        (finished(MADE, READ.model_copy(update={"sha256": "0" * 64})), ("False", "BackupUnusable", True)),
        (finished(reason=Reason.STATE_MOVED), ("False", "StateMoved", True)),
        (finished(reason=Reason.BACKUP_FAILED), ("False", "BackupFailed", True)),
        (finished(reason=Reason.STORE_UNAVAILABLE), ("False", "StoreUnavailable", False)),
        (StepSeen(StepState.NO_POD, Reason.POD_REFUSED), ("False", "PodRefused", False)),
        (StepSeen(StepState.PENDING, Reason.SECRET_MISSING), ("False", "SecretMissing", False)),
        (RUNNING, ("Unknown", "BackingUp", False)),
        (StepSeen(StepState.CRASHED), ("False", "StepCrashed", False)),
        (GONE, ("False", "StepLost", False)),
    ],
)
def test_a_dump_was_seen_so(found, expected):
    assert stand(dumped(found)) == expected


def test_only_what_was_read_back_counts_as_verified():
    assert dumped(finished(MADE, READ)).status.verified == "Archive"
    assert dumped(finished(MADE)).status.verified == ""


def test_a_backup_whose_file_goes_with_it_holds_a_finalizer():
    assert only(of_backup(backup(spec={"deletion_policy": "Delete"})), SetFinalizer).present
    assert of(of_backup(backup()), SetFinalizer) == []


def test_the_file_of_a_backup_with_a_long_name_can_be_made():
    location = of_backup(backup(name="a" * 253, uid="0123456789")).status.location
    written = f".{location.rpartition('/')[2]}{SUFFIX}.01234567.partial"
    assert len(written) <= 255


def deleted(status=None, policy="Delete", **more):
    own = backup(
        status={**DONE, **(status or {})},
        spec={"deletion_policy": policy},
        deletion_timestamp=NOW,
        finalizers=HELD,
    )
    return of_backup(own, **more)


def test_under_delete_the_file_goes_first_without_any_credentials():
    start = only(deleted(), StartStep)
    assert [v.verb for v in start.spec.request.verbs] == ["DeleteBackup"]
    assert start.spec.connection is None


PULLED = PodTemplate.model_validate({"image_pull_secrets": [{"name": "registry"}]})


@pytest.mark.parametrize(
    ("status", "base"),
    [({}, database(spec={"pod_template": PULLED})), ({"pod_template": PULLED}, None)],
    ids=["its database says how", "its database is gone"],
)
def test_the_pod_that_deletes_a_file_is_made_as_the_one_that_wrote_it(status, base):
    # Without its pull secret it has no image, and the object is never gone.
    assert only(deleted(status, base=base), StartStep).spec.pod == PULLED


def test_how_the_pod_is_made_is_written_down_for_a_database_that_goes():
    base = database(status={"active_operation": operation()}, spec={"pod_template": PULLED})
    assert of_backup(backup(), base).status.pod_template == PULLED


@pytest.mark.parametrize(
    ("status", "more"),
    [({"location": ""}, {}), ({}, {"namespace_terminating": True}), ({}, {"policy": "Retain"})],
    ids=["no file yet", "no Job can start any more", "the file is to stay"],
)
def test_a_backup_is_let_go_at_once_where(status, more):
    decision = deleted(status, **more)
    assert (only(decision, SetFinalizer).present, of(decision, StartStep)) == (False, [])


def test_a_dump_that_still_writes_ends_before_its_file_is_deleted():
    decision = deleted({"steps": (record("backup", state="Running"),)}, steps={"backup": RUNNING})
    assert (only(decision, DeleteStep).job, of(decision, StartStep)) == ("job-backup-1", [])


def test_when_the_file_is_gone_the_finalizer_is_taken_off():
    told = {"steps": (record("delete", state="Running"),)}
    decision = deleted(told, steps={"delete": finished(DeleteBackupOutcome(location="x"))})
    assert not only(decision, SetFinalizer).present


@pytest.mark.parametrize("crashes", [0, 4, 9])
def test_a_file_that_cannot_be_deleted_is_tried_again_for_ever(crashes):
    told = {"steps": (record("delete", state="Running", crashes=crashes),)}
    decision = deleted(told, steps={"delete": StepSeen(StepState.CRASHED)})
    assert decision.status.step("delete").retry_at is not None


# Restores

OWN_HOLD = database(
    status={"active_operation": operation("uid-undo", "DatabaseRestore", "undo")}, finalizers=HELD
)
BEGUN = {"steps": (record("restore", state="Running"),)}
SWAPPED = RestoreOutcome(identity=OTHER, old_database="shop_old", state="s0", current="m0", lost_rows=3)
ORDERED = {"order": backup().spec.order}


def of_restore(own=None, base=OWN_HOLD, source=backup(status=DONE), now=NOW, **more):  # noqa: B008
    own = own or restore(finalizers=HELD)
    return restores.decide(RestoreSeen(restore=own, image=IMAGE, database=base, backup=source, **more), now)


def test_a_restore_takes_the_database_first():
    decision = of_restore(restore(), database())
    assert [type(e) for e in decision.effects[1:]] == [Hold, SetFinalizer, SetFinalizer]


def test_then_it_builds_swaps_and_verifies_in_time():
    request = only(of_restore(), StartStep).spec.request
    assert [v.verb for v in request.verbs] == ["Restore", "Verify"]
    assert (request.not_after, request.operation) == (later(hours=1), "uid-undo")


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"base": BUSY}, ("False", "DatabaseBusy", False)),
        ({"base": None}, ("False", "DatabaseNotFound", False)),
        ({"base": database(deletion_timestamp=NOW)}, ("False", "DatabaseNotFound", False)),
        ({"source": None}, ("False", "BackupNotFound", False)),
        ({"source": backup()}, ("False", "BackupNotFound", False)),
        ({"source": backup(status=DONE, deletion_timestamp=NOW)}, ("False", "BackupNotFound", False)),
        ({"source": backup(status=DONE, spec={"type": "SchemaOnly"})}, ("False", "BackupUnusable", True)),
        (
            {"source": backup(status=DONE, spec={"database_ref": {"name": "crm"}})},
            ("False", "BackupUnusable", True),
        ),
        ({"own": restore(deletion_timestamp=NOW, finalizers=HELD)}, ("False", "Cancelled", True)),
        ({"namespace_terminating": True}, ("False", "Cancelled", True)),
        ({"own": restore(spec=ORDERED, finalizers=HELD), "base": database()}, ("False", "Cancelled", True)),
        # Nobody makes the run's own backup again: it would hold the database for ever.
        (
            {"own": restore(spec=ORDERED, finalizers=HELD), "base": BUSY, "source": None},
            ("False", "BackupNotFound", True),
        ),
    ],
)
def test_a_restore_does_not_begin_where(seen, expected):
    decision = of_restore(**seen)
    assert (stand(decision), of(decision, StartStep)) == (expected, [])


def test_a_restore_that_has_to_wait_after_all_gives_the_database_back():
    held, going = dict(OWN_HOLD.status), NOW
    for seen in (
        {"source": None},
        {"base": database(status=held, finalizers=HELD, deletion_timestamp=going)},
    ):
        decision = of_restore(**seen)
        assert only(decision, Hold).operation is None
        assert [(e.kind, e.present) for e in of(decision, SetFinalizer)] == [("PostgresDatabase", False)]


@pytest.mark.parametrize("base", [BUSY, touched(BUSY, deletion_timestamp=NOW)], ids=["", "deleted"])
def test_a_restore_that_a_run_ordered_works_under_the_runs_hold(base):
    request = only(of_restore(restore(spec=ORDERED, finalizers=HELD), base), StartStep).spec.request
    assert (request.operation, request.expected_journal) == ("uid-shop-1", 4)


@pytest.mark.parametrize(
    ("found", "expected", "over"),
    [
        (finished(SWAPPED), ("True", "Restored", False), True),
        (finished(reason=Reason.DATA_WOULD_BE_LOST), ("False", "DataWouldBeLost", True), True),
        (finished(reason=Reason.TOO_LATE), ("False", "RestoreFailed", True), True),
        (finished(reason=Reason.STATE_MOVED), ("False", "RestoreFailed", True), True),
        (finished(reason=Reason.LOCK_HELD), ("False", "LockHeld", False), False),
        (StepSeen(StepState.NO_POD, Reason.POD_REFUSED), ("False", "PodRefused", False), False),
        (StepSeen(StepState.PENDING), ("Unknown", "Restoring", False), False),
        (RUNNING, ("Unknown", "Restoring", False), False),
        (StepSeen(StepState.CRASHED), ("False", "StepCrashed", False), False),
        (GONE, ("False", "StepLost", False), False),
    ],
)
@pytest.mark.parametrize("source", [backup(status=DONE), None], ids=["", "its backup deleted meanwhile"])
def test_a_restore_under_way_was_seen_so(found, expected, over, source):
    decision = of_restore(restore(status=BEGUN, finalizers=HELD), steps={"restore": found}, source=source)
    assert (stand(decision), decision.status.ended_at is not None) == (expected, over)


@pytest.mark.parametrize(("moved", "identity"), [(None, OTHER), (Reason.VERIFY_FAILED, None)])
def test_what_was_restored_for_a_namesake_is_not_said_to_be_done_now(moved, identity):
    again = finished(SWAPPED.model_copy(update={"repeats": True}), reason=moved)
    decision = of_restore(restore(status=BEGUN, finalizers=HELD), steps={"restore": again})
    assert stand(decision) == ("True", "Restored", False)
    assert "nothing was done now" in decision.status.condition("Ready").message
    assert (decision.status.identity, decision.status.old_database) == (identity, "shop_old")


def test_a_restore_that_a_run_ordered_is_tried_again_where_its_step_came_too_late():
    """As taking back is: nobody else writes meanwhile, and the run has no other way back."""
    own = restore(spec=ORDERED, status=BEGUN, finalizers=HELD)
    decision = of_restore(own, BUSY, steps={"restore": finished(reason=Reason.TOO_LATE)})
    assert (stand(decision), decision.status.ended_at) == (("False", "TooLate", False), None)
    rested = touched(own, status=dict(decision.status))
    assert only(of_restore(rested, BUSY, now=later(minutes=9)), StartStep).spec.request.attempt == 2


def test_another_attempt_without_the_backup_is_none():
    told = {"steps": (record("restore", state="Crashed", retry_at=ago(seconds=1), crashes=1),)}
    decision = of_restore(restore(status=told, finalizers=HELD), source=None)
    assert stand(decision) == ("False", "RestoreFailed", True)


@pytest.mark.parametrize("seen", [{"base": None}, {"namespace_terminating": True}])
def test_a_restore_that_lost_its_ground_ends_and_nobody_claims_to_know(seen):
    decision = of_restore(restore(status=BEGUN, finalizers=HELD), **seen)
    assert stand(decision) == ("False", "Cancelled", True)
    assert "history" in decision.status.failure.standing


def test_a_restore_gives_everything_back_its_own_finalizer_last():
    decision = of_restore(restore(status={"ended_at": NOW}, finalizers=HELD))
    assert [type(e) for e in decision.effects[-3:]] == [Hold, SetFinalizer, SetFinalizer]
    assert decision.effects[-1].kind == "DatabaseRestore"
    done = of_restore(restore(status={"ended_at": NOW}), database())
    assert (done.status.released, of(done, SetFinalizer), done.again_in) == (True, [], None)


def test_what_comes_right_after_a_restore_is_for_the_database_that_it_left():
    looked = {"checked_at": NOW}  # within the second in which the restore ended, and before it
    former = (restore(status={"ended_at": NOW, "identity": OTHER}),)
    asked = (
        of_restore(restores=former),
        of_backup(backup(spec=BY_HAND), database(status=looked), restores=former),
    )
    assert [only(d, StartStep).spec.request.identity for d in asked] == [OTHER, OTHER]
