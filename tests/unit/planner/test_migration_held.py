"""DatabaseMigration: what a failed run or a restore holds, and what lets it go on."""

import pytest

from godwit.api.common import REQUESTED_AT
from godwit.api.migration import RunSummary
from godwit.contract.reasons import Reason
from godwit.planner.aftermath import holds
from godwit.planner.decision import Create, SourceSeen, StartStep
from godwit.planner.migration import decide, plan_key

from .builders import IDENTITY, NOW, ago, database, failure, finished, later, of, only, restore, stand
from .migrations import CHECKED, KEY, PLANNED, SOURCE, answered, done, found, seen


@pytest.mark.parametrize("outcome", ["Failed", "TakenBack", "Restored", "VerifyFailed", "Cancelled"])
def test_a_run_that_did_not_holds_the_migration_which_is_planned_again(outcome):
    decision = decide(seen(PLANNED, runs=(done(outcome, Reason.MIGRATION_FAILED),)), NOW)
    assert (decision.status.hold, len(of(decision, StartStep))) == (KEY, 1)
    replanned = answered(finished(CHECKED, found()), dict(decision.status))
    assert stand(replanned) == ("False", "MigrationFailed", True)


@pytest.mark.parametrize(
    "reason", [Reason.STATE_MOVED, Reason.PLAN_CHANGED, Reason.TOO_LATE, Reason.SOURCE_CHANGED]
)
def test_a_run_that_somebody_came_before_is_planned_again_after_a_while_and_runs(reason):
    decision = decide(seen(PLANNED, runs=(done("Failed", reason),)), NOW)
    assert (decision.status.hold, of(decision, StartStep)) == ("", [])
    assert decide(seen(PLANNED, runs=(done("Failed", reason),)), later(seconds=1)).status.conditions[
        0
    ].message == (decision.status.conditions[0].message)
    assert only(
        decide(seen(dict(decision.status), runs=(done("Failed", reason),)), later(seconds=9)), StartStep
    )


HELD_BACK = {**PLANNED, "hold": KEY, "failure": failure(Reason.MIGRATION_FAILED), "planned_at": None}


def test_what_is_held_goes_on_when_its_source_was_mended():
    mended = SourceSeen("mended", SOURCE.files)
    decision = answered(finished(CHECKED, found()), HELD_BACK, source=mended)
    assert (decision.status.hold, decision.status.failure) == ("", None)


def test_what_is_held_is_ready_when_somebody_else_did_it():
    assert stand(answered(finished(CHECKED, found(0)), HELD_BACK)) == ("True", "UpToDate", False)


def test_a_failed_check_is_not_mended_by_an_equal_history():
    last = RunSummary(name="shop-1", uid="u", outcome="VerifyFailed", reason="VerifyFailed")
    told = {**HELD_BACK, "failure": failure(Reason.VERIFY_FAILED), "last_run": last}
    assert stand(answered(finished(CHECKED, found(0)), told)) == ("False", "VerifyFailed", True)


def test_a_failed_plan_while_it_is_held_does_not_hide_why_it_is_held():
    assert stand(answered(finished(reason=Reason.PERMISSION_DENIED), HELD_BACK)) == (
        "False",
        "MigrationFailed",
        True,
    )


@pytest.mark.parametrize("planned_at", [ago(hours=1), None], ids=["planned", "about to be planned again"])
def test_what_a_restore_took_away_is_held(planned_at):
    swapped = restore(status={"ended_at": ago(minutes=1), "identity": IDENTITY, "current": "m0"})
    decision = decide(seen({**PLANNED, "planned_at": planned_at}, restores=(swapped,)), NOW)
    assert (holds(decision.status.hold, KEY), decision.status.failure.reason) == (True, Reason.RESTORED_HOLD)


def test_what_a_restore_took_away_stays_held_when_the_postgresdatabase_is_edited():
    swapped = restore(status={"ended_at": ago(minutes=1), "identity": IDENTITY, "current": "m0"})
    held = dict(decide(seen(PLANNED, restores=(swapped,)), NOW).status)
    edited = {"base": database(generation=2), "restores": (swapped,)}
    decision = answered(finished(CHECKED, found()), held, **edited)
    assert decision.status.failure.reason == Reason.RESTORED_HOLD
    assert [e for e in of(decision, Create) if e.manifest["kind"] == "MigrationRun"] == []
    mended = answered(finished(CHECKED, found()), held, **edited, source=SourceSeen("mended", SOURCE.files))
    assert "MigrationRun" in [e.manifest["kind"] for e in of(mended, Create)]


def test_what_a_run_could_not_do_is_tried_again_when_the_postgresdatabase_is_edited():
    held = {**HELD_BACK, "planned_at": ago(hours=1)}
    decision = answered(finished(CHECKED, found()), held, base=database(generation=2))
    assert "MigrationRun" in [e.manifest["kind"] for e in of(decision, Create)]


def test_a_request_that_is_taken_away_again_lifts_no_hold_and_asks_for_no_plan():
    """Flux takes off what kubectl has annotated, and nobody asked for anything by that."""
    asked = {"annotations": {REQUESTED_AT: "noon"}}
    told = decide(seen(PLANNED, meta=asked), NOW).status
    key = plan_key(seen(PLANNED, meta=asked))
    held = {**dict(told), **HELD_BACK, "plan_key": key, "hold": key, "planned_at": ago(hours=1), "steps": ()}
    decision = decide(seen(held), NOW)
    assert (decision.status.hold, of(decision, StartStep), of(decision, Create)) == (key, [], [])
    assert only(decide(seen(held, meta={"annotations": {REQUESTED_AT: "one"}}), NOW), StartStep)


def test_a_restore_of_long_ago_holds_nothing():
    swapped = restore(status={"ended_at": ago(days=9), "identity": IDENTITY})
    assert decide(seen(PLANNED, restores=(swapped,)), NOW).status.hold == ""
