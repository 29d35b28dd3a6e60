"""Pinned copies of the source that somebody deletes while a plan or a run needs them."""

import pytest

from godwit.contract.reasons import Reason
from godwit.planner.decision import Create, DeleteStep, LostCopy, SourceSeen, StepSeen, StepState
from godwit.planner.migration import MigrationSeen, decide
from godwit.planner.run_steps import UNKNOWN

from .builders import IMAGE, NOW, database, failure, migration, of, only, stand
from .runs import after, ended

MISSES = StepSeen(StepState.PENDING, Reason.SOURCE_MISSING, 'configmap "shop-source-0" not found')
SAME, OTHER_FILES = SourceSeen("0", (({"m1.sql": "SELECT 1"}, {}),)), SourceSeen("1", (({}, {}),))


def test_a_pinned_copy_that_is_gone_is_made_again_of_the_same_content():
    decision = after(MISSES, lost=LostCopy("shop-source-0", SAME))
    copy = only(decision, Create).manifest
    assert (copy["kind"], copy["immutable"], copy["data"]) == ("ConfigMap", True, {"m1.sql": "SELECT 1"})
    assert (stand(decision), of(decision, DeleteStep)) == (("False", "SourceMissing", False), [])


@pytest.mark.parametrize(
    "more",
    [
        {"lost": LostCopy("shop-source-0", OTHER_FILES)},
        {"lost": LostCopy("shop-source-0", SourceSeen(missing="shop-files"))},
        {"lost": LostCopy("shop-source-0", SAME), "migration": None},
    ],
    ids=["its source is another by now", "its source is gone too", "its migration is gone"],
)
def test_a_pinned_copy_that_nobody_can_make_again_ends_the_run(more):
    decision = after(MISSES, **more)
    assert (ended(decision), of(decision, Create)) == (("Failed", Reason.SOURCE_CHANGED), [])
    assert (decision.status.standing, len(of(decision, DeleteStep))) == (UNKNOWN, 1)
    assert "shop-source-0" in decision.status.failure.message


def test_without_its_copies_nothing_is_taken_back_and_the_cause_stays():
    told = {"failure": failure(Reason.MIGRATION_FAILED)}
    decision = after(MISSES, step="revert", status=told, lost=LostCopy("shop-source-0", OTHER_FILES))
    assert ended(decision) == ("Failed", Reason.MIGRATION_FAILED)
    assert "shop-source-0" in decision.status.standing


def test_an_old_warning_of_a_copy_that_is_there_again_ends_nothing():
    assert after(MISSES).status.outcome == ""


def test_a_copy_that_a_plan_misses_is_made_again():
    def seen(own, **more):
        return MigrationSeen(migration=own, image=IMAGE, database=database(), source=SAME, **more)

    started = decide(seen(migration()), NOW)
    waits = decide(seen(migration(status=dict(started.status)), plan=MISSES), NOW)
    assert only(waits, Create) == only(started, Create)
    assert stand(waits) == ("False", "SourceMissing", False)
    runs = decide(seen(migration(status=dict(waits.status)), plan=StepSeen(StepState.RUNNING)), NOW)
    assert of(runs, Create) == []
