"""MigrationRun: taking back, restoring, and giving back what it held."""

import pytest

from godwit.api.common import CANCEL
from godwit.contract.outcome import ApplyOutcome, RevertOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction
from godwit.planner.decision import Create, DeleteStep, Hold, SetFinalizer, StartStep, StepSeen, StepState
from godwit.planner.run import decide
from godwit.planner.run_steps import UNKNOWN
from godwit.planner.step import LEAVING

from .builders import (
    HELD,
    NOW,
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
from .runs import CHECKED, DID, GONE, ONE, RESTORABLE, ROLL_BACK, RUNNING, after, ended, seen

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


@pytest.mark.parametrize("state", [StepState.NO_POD, StepState.PENDING])
def test_a_cancelled_run_whose_step_cannot_start_takes_it_back_first(state):
    told, cancelled = {"steps": (record("apply", state=state),)}, {"annotations": {CANCEL: "yes"}}
    decision = after(StepSeen(state, Reason.POD_REFUSED, "quota"), status=told, meta=cancelled)
    assert only(decision, DeleteStep).job == "job-apply-1"
    assert decision.again_in < 1
    assert of(after(StepSeen(state), status=told, meta=cancelled), DeleteStep) == []  # about to start

    gone = {"steps": decision.status.steps}
    resting = {"steps": after(GONE, status=gone, meta=cancelled).status.steps}
    assert only(after(GONE, status=resting, meta=cancelled), StartStep).spec.request.step == "revert"


def test_a_cancelled_run_whose_step_is_lost_is_looked_at_again_soon():
    told = {"steps": (record("apply", state=StepState.RUNNING),)}
    soon = after(GONE, status=told, meta={"annotations": {CANCEL: "yes"}})
    assert of(soon, StartStep) == []
    assert soon.again_in == LEAVING
    assert after(GONE, status=told).again_in > LEAVING


def test_a_cancelled_run_whose_step_waits_for_its_turn_does_not_start_it():
    told = {"steps": (record("apply"),)}
    decision = after(GONE, status=told, meta={"annotations": {CANCEL: "yes"}})
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


def test_a_run_says_what_its_restore_waits_for():
    waits = ordered(conditions=(condition("Ready", "False", "PodRefused", "No room."),))
    ready = restoring(waits).status.condition("Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "PodRefused", "undo: No room.")


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
