"""MigrationRun: from the hold to the end, and every way in which a run may end."""

import pytest

from godwit.api.common import CANCEL
from godwit.contract.outcome import ApplyOutcome, RevertOutcome, VerifyOutcome
from godwit.contract.policy import OnFailure, Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction
from godwit.planner.decision import Create, DeleteStep, Hold, SetFinalizer, StartStep, StepSeen, StepState
from godwit.planner.run import RunSeen, decide
from godwit.planner.run_steps import MAX_BACKUPS, UNKNOWN

from .builders import (
    DONE,
    HELD,
    IDENTITY,
    NOW,
    OTHER,
    REF,
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
    outcome,
    record,
    restore,
    run,
    stand,
)

GONE = StepSeen(StepState.GONE)
MINE = {"active_operation": operation()}
RUNNING = {"backup": "shop-1-backup", "steps": (record("apply", state="Running"),)}
DID = ApplyOutcome(applied=2, total=2, current="m2", state="s2", journal_head=9)
ONE = ApplyOutcome(applied=1, total=2, current="m1")
CHECKED = VerifyOutcome(state="s2", current="m2", journal_head=10)
ROLL_BACK = {"policy": Policy(on_failure=OnFailure.ROLL_BACK)}
RESTORABLE = {"rollback": {"automatic_restore": True}}


def seen(own=None, **more):
    """The run holds its database, and its backup is finished, unless it is said otherwise."""
    known = {
        "run": own or run(finalizers=HELD),
        "database": database(status=MINE, finalizers=HELD),
        "migration": migration(finalizers=HELD),
        "backup": backup(status=DONE),
    }
    return RunSeen(**{**known, **more})


def after(found, *, spec=None, step="apply", status=None, **more):
    """The decision after the step was seen so."""
    told = {**RUNNING, "steps": (record(step, state="Running"),), **(status or {})}
    own = run(status=told, spec=spec, finalizers=HELD, **more.pop("meta", {}))
    return decide(seen(own, steps={step: found}, **more), NOW)


def ended(decision):
    reason = decision.status.failure.reason if decision.status.failure else None
    return decision.status.outcome, reason


# Before the first write


def test_first_the_database_is_taken_then_the_finalizers_are_set():
    decision = decide(seen(run(), database=database(), migration=migration()), NOW)
    assert [type(e) for e in decision.effects[1:]] == [Hold, SetFinalizer, SetFinalizer, SetFinalizer]
    assert (only(decision, Hold).resource_version, decision.again_in) == ("7", 0.0)


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
    assert (stand(decision)[1], decision.again_in) == ("Applying", 60.0)


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
    assert only(decision, DeleteStep)


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


# Taking back


def test_under_roll_back_what_was_committed_is_taken_back():
    decision = after(finished(ONE, reason=Reason.MIGRATION_FAILED), spec=ROLL_BACK)
    assert [v.verb for v in only(decision, StartStep).spec.request.verbs] == ["Revert", "Verify"]
    assert (stand(decision)[1], decision.status.outcome) == ("Reverting", "")
    assert "1 applied of 2" in decision.status.standing


@pytest.mark.parametrize(
    ("found", "spec", "expected"),
    [
        (finished(RevertOutcome(reverted=1)), {}, ("TakenBack", Reason.MIGRATION_FAILED)),
        (
            finished(RevertOutcome(applied=1), reason=Reason.DOWN_MISSING),
            {},
            ("Failed", Reason.MIGRATION_FAILED),
        ),
        (
            finished(RevertOutcome(applied=1), reason=Reason.DOWN_MISSING),
            RESTORABLE,
            ("", Reason.MIGRATION_FAILED),
        ),
        (finished(reason=Reason.LOCK_HELD), {}, ("", Reason.MIGRATION_FAILED)),
        (finished(reason=Reason.TOO_LATE), {}, ("", Reason.MIGRATION_FAILED)),
    ],
    ids=["done", "not possible", "not possible, restored", "busy", "late: once more"],
)
def test_taking_back(found, spec, expected):
    told = {"failure": failure(Reason.MIGRATION_FAILED)}
    assert (
        ended(
            after(
                found,
                step="revert",
                spec={**ROLL_BACK, **spec},
                status={
                    **told,
                    "steps": (record("apply", state="Finished"), record("revert", state="Running")),
                },
            )
        )
        == expected
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (finished(DID, CHECKED), "Reverting"),
        (finished(reason=Reason.DATABASE_UNREACHABLE), "Reverting"),
        (finished(ApplyOutcome(total=2), reason=Reason.MIGRATION_FAILED), "MigrationFailed"),
        (StepSeen(StepState.RUNNING), "Applying"),
    ],
    ids=["after its success", "between two attempts", "where nothing is left", "not while it writes"],
)
def test_a_cancelled_run_is_taken_back(found, expected):
    assert stand(after(found, meta={"annotations": {CANCEL: "yes"}}))[1] == expected


def test_a_cancelled_run_that_rests_does_not_try_again():
    again = record("apply", state="Crashed", retry_at=later(seconds=9), crashes=1)
    decision = after(GONE, status={"steps": (again,)}, meta={"annotations": {CANCEL: "yes"}})
    assert only(decision, StartStep).spec.request.step == "revert"


def test_a_cancelled_way_down_stays_where_it_is():
    down = {"plan": REF.model_copy(update={"direction": Direction.DOWN})}
    decision = after(finished(reason=Reason.LOCK_HELD), spec=down, meta={"annotations": {CANCEL: "yes"}})
    assert (ended(decision), decision.status.standing) == (("Cancelled", Reason.CANCELLED), UNKNOWN)


# Restoring

ORDERED = {**RUNNING, "restore": "undo", "failure": failure(Reason.MIGRATION_FAILED), "standing": "Half way."}


def ordered(**status):
    return restore(spec={"order": backup().spec.order}, status=status)


def restoring(found):
    return decide(seen(run(status=ORDERED, finalizers=HELD), restore=found), NOW)


def test_a_half_done_file_is_restored_away_with_consent():
    half = ONE.model_copy(update={"partial": "m2"})
    decision = after(finished(half, reason=Reason.PARTIALLY_APPLIED), spec=RESTORABLE)
    assert only(decision, Create).manifest["kind"] == "DatabaseRestore"
    assert decision.status.restore == "shop-1-restore"


@pytest.mark.parametrize(
    ("found", "outcome_of_run", "words"),
    [
        (None, "", ""),
        (ordered(), "", ""),
        (ordered(conditions=STALLED), "", ""),
        (ordered(ended_at=NOW, current="m0", old_database="shop_old"), "Restored", "kept as shop_old"),
        (
            ordered(ended_at=NOW, failure=failure(Reason.FENCE_LEFT)),
            "Failed",
            "Half way. The restore stopped",
        ),
        (restore(status={"ended_at": NOW}), "Failed", "not this run's"),
    ],
    ids=["not there yet", "under way", "stuck, but not over", "done", "failed", "somebody else's"],
)
def test_the_run_waits_for_its_restore(found, outcome_of_run, words):
    decision = restoring(found)
    assert decision.status.outcome == outcome_of_run
    assert words in decision.status.standing
    assert "no fence" not in decision.status.standing


# The end


def test_at_its_end_it_gives_everything_back_its_own_finalizer_last():
    own = run(status={"outcome": "Succeeded"}, finalizers=HELD)
    decision = decide(seen(own), NOW)
    assert [type(e) for e in decision.effects[-4:]] == [Hold, SetFinalizer, SetFinalizer, SetFinalizer]
    last = decision.effects[-1]
    assert isinstance(last, SetFinalizer)
    assert last.kind == "MigrationRun"


def test_what_another_operation_has_taken_meanwhile_is_left_alone():
    base = database(status={"active_operation": operation("uid-other")}, finalizers=HELD)
    decision = decide(seen(run(status={"outcome": "Failed"}), database=base, migration=None), NOW)
    assert of(decision, Hold) == of(decision, SetFinalizer) == []
    assert decision.status.released


def test_a_job_that_takes_its_time_to_go_is_not_watched_in_a_hot_loop():
    own = run(status={"outcome": "Failed", "steps": (record("apply"),)})
    steps = {"apply": StepSeen(StepState.RUNNING)}
    decision = decide(seen(own, database=database(), migration=migration(), steps=steps), NOW)
    assert (only(decision, DeleteStep).job, decision.again_in) == ("job-apply-1", 1.0)


def test_what_has_ended_and_given_back_stays_as_it_is():
    own = run(status={"outcome": "Succeeded"})
    first = decide(seen(own, database=database(), migration=migration()), NOW).status
    assert (
        decide(
            seen(run(status=dict(first)), database=database(), migration=migration()), later(days=3)
        ).status
        == first
    )
    assert outcome().failure is None


def test_a_run_that_has_given_back_does_not_take_what_the_next_run_holds():
    own = run(status={"outcome": "Failed", "released": True, "started_at": ago(hours=1)})
    decision = decide(seen(own, database=database(finalizers=HELD)), NOW)
    assert of(decision, SetFinalizer) == of(decision, Hold) == []
