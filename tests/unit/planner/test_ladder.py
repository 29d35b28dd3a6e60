"""The ways back: which rung comes next, and what is said of every rung."""

import pytest

from godwit.api.database import RollbackConsent
from godwit.contract.outcome import ApplyOutcome, Rung, RungState
from godwit.contract.policy import OnFailure
from godwit.contract.reasons import Reason
from godwit.planner.ladder import Climb, Fall, climb, rungs, standing, taken

from .builders import failure

NOTHING, TWO = ApplyOutcome(total=3), ApplyOutcome(applied=2, total=3, current="m2")
HALF = ApplyOutcome(applied=1, total=3, current="m1", partial="m2")
YES, NO = RollbackConsent(automatic_restore=True), RollbackConsent()


def fall(progress, **more):
    known = {"failure": failure(Reason.MIGRATION_FAILED), "on_failure": OnFailure.ROLL_BACK, "consent": NO}
    return Fall(**{**known, "progress": progress, "has_backup": True, **more})


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (fall(None), Climb.STOP),
        (fall(NOTHING), Climb.STOP),
        (fall(TWO), Climb.DOWN),
        (fall(TWO, on_failure=OnFailure.STOP), Climb.STOP),
        (fall(TWO, on_failure=OnFailure.STOP, wanted=True), Climb.DOWN),
        (fall(TWO, failure=failure(Reason.VERIFY_FAILED)), Climb.STOP),
        (fall(TWO, failure=failure(Reason.VERIFY_FAILED), wanted=True), Climb.DOWN),
        (fall(TWO, failure=failure(Reason("OfANewerVersion"))), Climb.STOP),
        (fall(TWO, failure=failure(Reason("OfANewerVersion")), wanted=True), Climb.DOWN),
        (fall(TWO, down_tried=True), Climb.STOP),
        (fall(TWO, down_tried=True, consent=YES), Climb.RESTORE),
        (fall(TWO, down_tried=True, consent=YES, has_backup=False), Climb.STOP),
        (fall(HALF), Climb.STOP),
        (fall(HALF, consent=YES), Climb.RESTORE),
        (fall(HALF, consent=YES, has_backup=False), Climb.STOP),
        (fall(HALF, consent=YES, on_failure=OnFailure.STOP), Climb.RESTORE),
    ],
    ids=[
        "a step that told nothing climbs nothing",
        "where nothing of ours is left there is nothing to take back",
        "committed migrations go back by their down files under RollBack",
        "under Stop they stay",
        "unless a person asks",
        "a check that failed after COMMIT never climbs",
        "unless a person asks, again",
        "nor does a failure of which a newer version knows whether it may",
        "unless a person asks, once more",
        "down files that did not hold are the end without consent",
        "with consent the backup is restored",
        "without a backup there is nothing to restore",
        "a half-done file is left to people without consent",
        "with consent it is restored away",
        "unless there is no backup",
        "also under Stop: a database half way is not left so",
    ],
)
def test_the_next_rung(case, expected):
    assert climb(case) is expected


def test_every_rung_is_told_with_why_it_is_not_possible():
    told = {state.rung: state for state in rungs(fall(TWO))}
    assert list(told) == list(Rung)
    assert "automaticRestore" in told[Rung.RESTORE].why
    assert "no backup" in {s.rung: s for s in rungs(fall(TWO, has_backup=False))}[Rung.RESTORE].why


def test_a_step_that_says_that_no_restore_is_possible_is_believed():
    said = RungState(rung=Rung.RESTORE, possible=False, why="the server is shared")
    assert said in rungs(fall(TWO.model_copy(update={"rungs": (said,)}), consent=YES))


def test_a_rung_of_a_newer_version_is_told_last_as_it_was_said():
    said = RungState(rung=Rung("Branch"), possible=True)
    told = rungs(fall(TWO.model_copy(update={"rungs": (said,)})))
    assert [s.rung for s in told] == [*Rung, "Branch"]
    assert told[-1] == said


def test_the_rung_that_was_taken_is_marked():
    states = {s.rung: s for s in taken(rungs(fall(TWO, consent=YES)), Rung.DOWN)}
    assert (states[Rung.DOWN].taken, states[Rung.RESTORE].taken) == (True, False)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (None, "as far as the step got to tell"),
        (NOTHING, "as it was before this run"),
        (TWO, "at m2: 2 applied of 3"),
        (HALF, "with m2 half done"),
        (ApplyOutcome(reverted=1, total=2), "at no migration: 1 taken back of 3"),
    ],
)
def test_where_the_database_stands_is_one_sentence(progress, words):
    assert words in standing(progress, 3)
