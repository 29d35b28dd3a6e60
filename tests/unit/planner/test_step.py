"""One step, driven: every state that it may be seen in, after every record of it."""

from dataclasses import replace

import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import CheckInput, StepRequest
from godwit.planner.decision import DeleteStep, StartStep, StepSeen, StepSpec, StepState, Unreachable
from godwit.planner.step import MAX_CRASHES, TIDY, Step, again, asks, backoff, drive, job_name, tidy

from .builders import IMAGE, NOW, ago, database, finished, later, outcome, record


def build(attempt, since, *, environment="Production"):
    request = StepRequest(
        object=database().ref,
        step="check",
        attempt=attempt,
        not_after=since,
        environment=environment,
        verbs=(CheckInput(),),
    )
    return StepSpec(f"job-check-{attempt}", "team", database().ref, request, IMAGE)


STEP = Step("check", "team", build)
GONE = StepSeen(StepState.GONE)
HASH = build(1, NOW).request.hash


def kinds(progress):
    return [type(effect) for effect in progress.effects]


def test_a_step_that_was_never_asked_for_is_started():
    progress = drive(STEP, None, GONE, NOW)
    assert kinds(progress) == [StartStep]
    assert (progress.record.attempt, progress.record.request_hash, progress.record.state) == (1, HASH, "")


@pytest.mark.parametrize(
    ("seen", "state", "reason", "effects"),
    [
        (StepSeen(StepState.NO_POD), "NoPod", None, []),
        (StepSeen(StepState.NO_POD, Reason.POD_REFUSED, "quota"), "NoPod", Reason.POD_REFUSED, []),
        (StepSeen(StepState.PENDING), "Pending", None, []),
        (StepSeen(StepState.PENDING, Reason.SECRET_MISSING), "Pending", Reason.SECRET_MISSING, []),
        (StepSeen(StepState.RUNNING), "Running", None, []),
        (finished(), "Finished", None, []),
        (finished(reason=Reason.CONNECTION_INVALID), "Finished", None, []),
        (StepSeen(StepState.CRASHED, message="killed"), "Crashed", Reason.STEP_CRASHED, [DeleteStep]),
        (GONE, "", None, [StartStep]),
        (StepSeen(StepState.GONE, foreign=True), "", Reason.NAME_TAKEN, []),
    ],
)
def test_a_step_that_was_just_asked_for_is_seen(seen, state, reason, effects):
    progress = drive(STEP, record("check", request_hash=HASH), seen, NOW)
    assert (progress.record.state, kinds(progress)) == (state, effects)
    assert (progress.failure.reason if progress.failure else None) == reason
    assert progress.outcome == seen.outcome


@pytest.mark.parametrize(("seconds", "told"), [(0, None), (4, None), (5, Reason.POD_PENDING)])
def test_what_holds_a_pod_back_is_told_when_it_has_lasted(seconds, told):
    seen = StepSeen(StepState.PENDING, Reason.POD_PENDING, "FailedMount")
    progress = drive(STEP, record("check", request_hash=HASH), seen, later(seconds=seconds))
    assert (progress.failure.reason if progress.failure else None) == told
    assert progress.again_in is not None


@pytest.mark.parametrize("before", ["NoPod", "Pending", "Running"])
@pytest.mark.parametrize(
    ("seen", "reason"), [(GONE, Reason.STEP_LOST), (StepSeen(StepState.CRASHED), Reason.STEP_CRASHED)]
)
def test_a_step_that_vanished_is_a_question_and_another_attempt_asks_it(before, seen, reason):
    progress = drive(STEP, record("check", state=before), seen, NOW)
    assert progress.failure is not None
    assert (progress.failure.reason, progress.record.crashes) == (reason, 1)
    resting = drive(STEP, progress.record, GONE, later(seconds=1))
    assert (resting.effects, resting.failure.reason if resting.failure else None) == ((), reason)
    started = drive(STEP, progress.record, GONE, later(seconds=10))
    assert (kinds(started), started.record.attempt) == ([StartStep], 2)


@pytest.mark.parametrize("state", ["NoPod", "Pending"])
@pytest.mark.parametrize("seen", [GONE, StepSeen(StepState.CRASHED, message="longer than its deadline")])
def test_a_step_that_never_started_has_not_crashed_and_waits_on(state, seen):
    # Its Job's own deadline counts also while a Secret, an image, a node or a quota is waited for.
    told = {"message": 'secret "db" not found', "crashes": MAX_CRASHES - 1, "attempt": 99}
    held = record("check", state=state, **told)
    progress = drive(STEP, held, seen, NOW)
    assert progress.failure is not None
    assert (progress.failure.reason, progress.record.crashes) == (Reason.POD_PENDING, MAX_CRASHES - 1)
    assert progress.failure.message == 'secret "db" not found'
    resting = drive(STEP, progress.record, GONE, NOW)
    assert (resting.effects, resting.failure) == ((), progress.failure)
    assert kinds(drive(STEP, progress.record, GONE, later(seconds=40))) == [StartStep]


@pytest.mark.parametrize("state", [StepState.PENDING, StepState.RUNNING])
@pytest.mark.parametrize(
    ("minutes", "told"), [(0, None), (1, Reason.POD_UNREACHABLE), (600, Reason.POD_UNREACHABLE)]
)
def test_a_pod_that_should_be_gone_is_told_of_and_nothing_takes_its_place(state, minutes, told):
    seen = StepSeen(state, unreachable=Unreachable(NOW, "Pod p on node n was to be gone."))
    progress = drive(
        STEP, record("check", state=state, started_at=ago(hours=1)), seen, later(minutes=minutes)
    )
    assert (progress.failure.reason if progress.failure else None) == told
    assert (progress.effects, progress.record.attempt, progress.record.state) == ((), 1, state)
    assert progress.again_in is not None
    if progress.failure is not None:
        assert progress.failure.message == "Pod p on node n was to be gone."
        assert "may still be at work" in progress.failure.standing
        deleted = drive(STEP, progress.record, GONE, later(minutes=minutes))
        assert (deleted.failure.reason if deleted.failure else None) == Reason.STEP_LOST
    assert drive(STEP, progress.record, finished(), later(minutes=minutes)).outcome is not None


def test_a_container_that_left_an_exit_status_has_started():
    held = record("check", state="Pending", message="FailedMount")
    seen = StepSeen(StepState.CRASHED, Reason.STEP_CRASHED, "exit status 1", exited=True)
    assert drive(STEP, held, seen, NOW).record.crashes == 1


def test_the_job_of_an_attempt_goes_before_the_next_is_started():
    known = record("check", state="Crashed", retry_at=ago(seconds=1))
    progress = drive(STEP, known, StepSeen(StepState.CRASHED), NOW)
    assert (progress.record, kinds(progress)) == (known, [DeleteStep])
    assert (progress.again_in or 0) > 0


@pytest.mark.parametrize(("seen", "effects"), [(GONE, []), (finished(), [DeleteStep])])
def test_an_outcome_in_the_status_counts_whatever_is_left_of_its_job(seen, effects):
    known = record("check", state="Finished", outcome=outcome())
    progress = drive(STEP, known, seen, NOW)
    assert (progress.record, progress.outcome, kinds(progress)) == (known, known.outcome, effects)


def test_what_is_asked_for_again_is_known_by_what_it_asks_for_now():
    step = replace(STEP, build=lambda attempt, since: build(attempt, since, environment="Staging"))
    progress = drive(step, record("check", request_hash=HASH), GONE, NOW)
    (start,) = progress.effects
    assert isinstance(start, StartStep)
    assert progress.record.request_hash == start.spec.request.hash != HASH


def test_an_attempt_that_is_asked_for_again_keeps_its_time():
    progress = drive(STEP, record("check", started_at=ago(hours=9)), GONE, NOW)
    (start,) = progress.effects
    assert isinstance(start, StartStep)
    assert start.spec.request.not_after == ago(hours=9)


def test_a_step_that_crashes_again_and_again_is_given_up_and_stays_so():
    worn = record("check", state="Running", crashes=MAX_CRASHES - 1)
    given_up = drive(STEP, worn, StepSeen(StepState.CRASHED, message="OOMKilled"), NOW)
    assert given_up.failure is not None
    assert (given_up.failure.reason, kinds(given_up)) == (Reason.DEADLINE_EXCEEDED, [DeleteStep])
    later_on = drive(STEP, given_up.record, GONE, later(days=1))
    assert (later_on.record, later_on.failure, later_on.effects) == (given_up.record, given_up.failure, ())


def test_an_outcome_forgives_the_crashes_before_it():
    assert drive(STEP, record("check", state="Running", crashes=4), finished(), NOW).record.crashes == 0


def test_a_failure_that_passes_is_tried_again_and_says_why_meanwhile():
    ended = drive(STEP, record("check"), finished(reason=Reason.DATABASE_UNREACHABLE), NOW)
    waiting = again(ended, NOW)
    assert waiting.failure is not None
    assert waiting.failure.reason is Reason.DATABASE_UNREACHABLE
    assert waiting.again_in == TIDY
    left = drive(STEP, waiting.record, finished(reason=Reason.DATABASE_UNREACHABLE), NOW)
    assert kinds(left) == [DeleteStep]
    resting = drive(STEP, waiting.record, GONE, NOW)
    assert resting.failure == waiting.failure
    assert waiting.record.retry_at is not None
    assert resting.again_in == pytest.approx((waiting.record.retry_at - NOW).total_seconds(), abs=0.001)


@pytest.mark.parametrize(
    ("known", "seen", "expected"),
    [
        (None, GONE, True),
        (record("check"), GONE, True),
        (record("check"), StepSeen(StepState.GONE, foreign=True), False),
        (record("check"), StepSeen(StepState.PENDING), False),
        (record("check", state="Running"), GONE, False),
        (record("check", state="Crashed", retry_at=later(seconds=1)), GONE, False),
        (record("check", state="Crashed", retry_at=NOW), GONE, True),
    ],
)
def test_asks_says_when_drive_would_start_something(known, seen, expected):
    assert asks(known, seen, NOW) is expected
    assert (StartStep in kinds(drive(STEP, known, seen, NOW))) is expected


def test_a_strangers_job_is_never_deleted():
    assert tidy(record("check"), StepSeen(StepState.GONE, foreign=True), "team") == ()
    assert tidy(record("check"), StepSeen(StepState.RUNNING, foreign=True), "team") == ()


@pytest.mark.parametrize(("hours", "started"), [(0.9, False), (1, False), (1.1, True), (24 * 365, True)])
def test_no_attempt_waits_longer_than_any_pause_is(hours, started):
    # The clock went wrong when the time was written, and has been put right since.
    known = record("check", state="Crashed", retry_at=later(hours=hours))
    assert (StartStep in kinds(drive(STEP, known, GONE, NOW))) is started
    assert asks(known, GONE, NOW) is started


def test_backoff_doubles_to_a_bound_and_spreads_by_its_key():
    waits = [backoff(n, "a") for n in range(1, 30)]
    assert waits == sorted(waits)
    assert 2.0 <= waits[0] <= 2.5
    assert 300.0 <= waits[-1] <= 375.0
    assert backoff(1, "a") != backoff(1, "b")


@pytest.mark.parametrize("name", ["shop", "a" * 253, "a.b-c." + "d" * 60, "x" * 40 + "-" * 20])
def test_names_of_jobs_fit_and_tell_everything_apart(name):
    names = {
        job_name(name, uid, step, attempt, key)
        for uid in ("u1", "u2")
        for step in ("plan", "apply")
        for attempt in (1, 20)
        for key in ("", "k")
    }
    assert len(names) == 16
    assert all(len(n) <= 63 and "." not in n and not n.startswith("-") for n in names)
