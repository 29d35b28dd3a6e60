"""MigrationRun: from the hold to the end, and every way in which a run may end."""

import pytest

from godwit.api.common import CANCEL
from godwit.api.run import BackupPolicy
from godwit.contract.outcome import ApplyOutcome
from godwit.contract.progress import RunProgress
from godwit.contract.reasons import Reason
from godwit.planner.decision import (
    Create,
    DeleteStep,
    Emit,
    Hold,
    SetFinalizer,
    StartStep,
    StepSeen,
    StepState,
    Unreachable,
)
from godwit.planner.run import decide
from godwit.planner.run_steps import MAX_BACKUPS, UNKNOWN

from .builders import (
    DONE,
    HELD,
    IDENTITY,
    NOW,
    OTHER,
    STALLED,
    ago,
    backup,
    condition,
    database,
    failure,
    finished,
    later,
    migration,
    of,
    only,
    operation,
    record,
    run,
    stand,
)
from .runs import CHECKED, DID, GONE, MINE, ONE, RUNNING, after, ended, seen

# Before the first write


def test_first_the_database_is_taken_then_the_finalizers_are_set():
    decision = decide(seen(run(), database=database(), migration=migration(), backup=None), NOW)
    kinds = [type(e) for e in decision.effects if not isinstance(e, Emit)]
    assert kinds == [Hold, SetFinalizer, SetFinalizer, SetFinalizer, Create]
    assert (only(decision, Hold).resource_version, decision.again_in) == ("7", 0.0)
    assert only(decision, Create).manifest["metadata"]["name"] == decision.status.backup


def test_a_run_that_needs_no_backup_makes_none_when_it_takes_the_database():
    own = run(spec={"backup": BackupPolicy(required=False)})
    assert of(decide(seen(own, database=database(), migration=migration(), backup=None), NOW), Create) == []


def test_a_database_that_somebody_holds_is_waited_for():
    held = database(status={"active_operation": operation("uid-other", name="crm-4")})
    decision = decide(seen(run(), database=held), NOW)
    assert (stand(decision), of(decision, Hold)) == (("False", "DatabaseBusy", False), [])


def test_a_database_that_somebody_held_who_is_gone_is_taken():
    held = database(status={"active_operation": operation("uid-other", name="crm-4")})
    assert only(decide(seen(run(), database=held, holder_exists=False), NOW), Hold).operation is not None


def test_what_is_being_deleted_takes_no_finalizer_and_is_not_waited_for():
    base = database(status=MINE, deletion_timestamp=NOW, finalizers=("foregroundDeletion",))
    own = run(status=RUNNING, deletion_timestamp=NOW, finalizers=("foregroundDeletion",))
    decision = decide(seen(own, database=base, steps={"apply": StepSeen(StepState.RUNNING)}), NOW)
    assert (stand(decision)[1], decision.again_in) == ("Applying", 5.0)


def test_how_far_a_running_step_is_stands_in_the_status_until_it_ends():
    told = RunProgress(migration="2_b", number=2, total=2, phase="building index", percent=40, at=NOW)
    running = StepSeen(StepState.RUNNING)
    first = after(running, progress=told)
    assert (first.status.progress, first.again_in) == (told, 5.0)
    assert after(running, status={"progress": told}).status.progress == told
    assert after(GONE, status={"progress": told}).status.progress is None


def test_a_run_whose_pod_is_lost_with_its_node_says_so_and_waits():
    lost = StepSeen(StepState.RUNNING, unreachable=Unreachable(ago(minutes=2), "Pod p was to be gone."))
    decision = after(lost)
    assert (stand(decision), decision.status.phase) == (("False", "PodUnreachable", False), "Waiting")
    assert [(e.type, e.reason) for e in of(decision, Emit)] == [("Warning", Reason.POD_UNREACHABLE)]
    assert (of(decision, StartStep), of(decision, DeleteStep), decision.status.outcome) == ([], [], "")
    assert (decision.again_in or 0) > 5


def test_then_a_backup_is_ordered_whose_name_no_older_run_has_used():
    one = only(decide(seen(backup=None), NOW), Create).manifest["metadata"]["name"]
    two = only(
        decide(
            seen(
                run(finalizers=HELD, uid="uid-new"),
                backup=None,
                database=database(status={"active_operation": operation("uid-new")}, finalizers=HELD),
            ),
            NOW,
        ),
        Create,
    )
    assert one != two.manifest["metadata"]["name"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (backup(), ("Unknown", "BackingUp", False)),
        (
            backup(status={"conditions": (condition("Ready", "False", "PodRefused"),)}),
            ("False", "PodRefused", False),
        ),
        (
            backup(status={"conditions": STALLED, "failure": failure(Reason.STORE_UNAVAILABLE)}),
            ("False", "StoreUnavailable", True),
        ),
        (backup(status={**DONE, "identity": OTHER}), ("False", "BackupUnusable", True)),
        (backup(status={**DONE, "state": "s1"}), ("False", "BackupUnusable", True)),
        (backup(status={**DONE, "verified": ""}), ("False", "BackupUnusable", True)),
        (backup(status=DONE, spec={"type": "SchemaOnly"}), ("False", "BackupUnusable", True)),
        (backup(status=DONE, spec={"order": None}), ("False", "BackupUnusable", True)),
    ],
    ids=[
        "not begun",
        "waiting",
        "failed",
        "another database",
        "another state",
        "not read back",
        "no data",
        "alien",
    ],
)
def test_without_a_usable_backup_nothing_is_applied(made, expected):
    decision = decide(seen(backup=made), NOW)
    assert (stand(decision), of(decision, StartStep)) == (expected, [])


@pytest.mark.parametrize(
    "made",
    [backup(status={**DONE, "ended_at": ago(hours=2)}), backup(status=DONE, deletion_timestamp=NOW)],
    ids=["too old", "being deleted"],
)
def test_another_backup_is_made_when_the_first_is(made):
    decision = decide(seen(backup=made), NOW)
    assert only(decision, Create).manifest["metadata"]["name"].endswith("-backup-2")


def test_backups_that_are_always_too_old_are_not_made_for_ever():
    own = run(status={"backup": f"shop-1-backup-{MAX_BACKUPS}"}, finalizers=HELD)
    decision = decide(seen(own, backup=backup(status={**DONE, "ended_at": ago(hours=2)})), NOW)
    assert (ended(decision), of(decision, Create)) == (("Failed", Reason.BACKUP_UNUSABLE), [])
    assert f"ended at {ago(hours=2):%F %T} UTC by the database's clock" in decision.status.failure.message


def test_with_a_usable_backup_it_applies_while_that_is_young_enough():
    request = only(decide(seen(), NOW), StartStep).spec.request
    assert [v.verb for v in request.verbs] == ["Apply", "Verify"]
    assert (request.not_after, request.expected_journal, request.identity) == (later(minutes=59), 4, IDENTITY)


def test_where_no_backup_is_required_none_is_made():
    own = run(spec={"backup": {"required": False}}, finalizers=HELD)
    request = only(decide(seen(own, backup=None), NOW), StartStep).spec.request
    assert request.not_after == later(hours=1)


@pytest.mark.parametrize(
    "why",
    [
        {"own": run(annotations={CANCEL: "yes"}, finalizers=HELD)},
        {"own": run(deletion_timestamp=NOW, finalizers=HELD)},
        {"migration": migration(deletion_timestamp=NOW, finalizers=HELD)},
        {"migration": None},
        {"namespace_terminating": True},
    ],
    ids=[
        "the annotation",
        "its deletion",
        "its migration's deletion",
        "its migration gone",
        "its namespace's end",
    ],
)
def test_before_the_first_write_it_is_cancelled_by(why):
    assert ended(decide(seen(**why), NOW)) == ("Cancelled", Reason.CANCELLED)


@pytest.mark.parametrize(
    "base", [None, database(uid="uid-later"), database(deletion_timestamp=NOW, finalizers=HELD)]
)
def test_a_database_that_goes_ends_a_run_that_has_not_begun(base):
    assert ended(decide(seen(database=base), NOW)) == ("Failed", Reason.DATABASE_NOT_FOUND)


# Applying


def test_a_success_says_where_the_database_is():
    decision = after(finished(DID, CHECKED))
    assert (ended(decision), decision.status.current, decision.status.journal_head) == (
        ("Succeeded", None),
        "m2",
        10,
    )
    assert of(decision, DeleteStep) == []
    assert 0 < (decision.again_in or 0) < 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (StepSeen(StepState.NO_POD, Reason.POD_REFUSED, "quota"), ("False", "PodRefused", False)),
        (StepSeen(StepState.PENDING, Reason.SECRET_MISSING), ("False", "SecretMissing", False)),
        (StepSeen(StepState.RUNNING), ("Unknown", "Applying", False)),
        (StepSeen(StepState.CRASHED), ("False", "StepCrashed", False)),
        (GONE, ("False", "StepLost", False)),
        (finished(reason=Reason.LOCK_HELD), ("False", "LockHeld", False)),
        (finished(ONE, reason=Reason.CONNECTION_LOST), ("False", "ConnectionLost", False)),
    ],
)
def test_an_apply_that_has_not_answered_goes_on(found, expected):
    decision = after(found)
    assert (stand(decision), decision.status.outcome) == (expected, "")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            finished(ApplyOutcome(total=2), reason=Reason.MIGRATION_FAILED),
            ("Failed", Reason.MIGRATION_FAILED),
        ),
        (finished(ONE, reason=Reason.MIGRATION_FAILED), ("Failed", Reason.MIGRATION_FAILED)),
        (finished(DID, reason=Reason.VERIFY_FAILED), ("VerifyFailed", Reason.VERIFY_FAILED)),
        (finished(reason=Reason.STATE_MOVED), ("Failed", Reason.STATE_MOVED)),
        (finished(reason=Reason.TOO_LATE), ("Failed", Reason.TOO_LATE)),
        (
            finished(ONE.model_copy(update={"partial": "m2"}), reason=Reason.PARTIALLY_APPLIED),
            ("Failed", Reason.PARTIALLY_APPLIED),
        ),
    ],
)
def test_under_stop_a_failure_ends_the_run_and_says_where_the_database_stands(found, expected):
    decision = after(found)
    assert ended(decision) == expected
    assert decision.status.standing


def test_a_later_attempt_that_told_nothing_does_not_speak_for_the_one_before():
    known = record("apply", state="Running", attempt=2)
    decision = after(finished(reason=Reason.TOO_LATE), status={"steps": (known,)})
    assert UNKNOWN in decision.status.standing


@pytest.mark.parametrize(
    "left", [None, backup(status=DONE, deletion_timestamp=NOW), backup(status={"verified": ""})]
)
def test_no_second_attempt_without_the_backup_of_the_first(left):
    again = record("apply", state="Crashed", retry_at=ago(seconds=1), crashes=1)
    decision = after(GONE, status={"steps": (again,)}, backup=left)
    assert (ended(decision), of(decision, StartStep)) == (("Failed", Reason.BACKUP_UNUSABLE), [])


def test_an_apply_that_never_answers_ends_the_run_and_nobody_claims_to_know():
    worn = record("apply", state="Running", crashes=4)
    decision = after(StepSeen(StepState.CRASHED), status={"steps": (worn,)})
    assert (ended(decision), decision.status.standing) == (("Failed", Reason.DEADLINE_EXCEEDED), UNKNOWN)
