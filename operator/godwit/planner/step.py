"""One step, driven: start it, wait for it, take its outcome, try again. The same for every kind. Pure."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from godwit.api.common import StepRecord
from godwit.contract.outcome import Failure, StepOutcome
from godwit.contract.reasons import Reason
from godwit.planner.decision import DeleteStep, Effect, StartStep, StepSeen, StepSpec, StepState

MAX_CRASHES = 5
"""Attempts in a row without an outcome after which a person has to look."""
WATCHED = 60.0
"""Seconds until a running step is looked at again, should its event get lost."""
LEAVING = 0.5
"""The same for a Job that was deleted and is still there."""
TIDY = 1.0
"""Seconds until the Job of a step is deleted whose outcome has been taken: what waits for that goes first."""
LONGEST_PAUSE = timedelta(hours=1)
"""Pause between two attempts at the most."""
LASTING = timedelta(seconds=5)
"""How long a pod must have been pending until what its kubelet or scheduler says of it is told.

A kubelet that hears of a pod before it hears that the pod is its own reports a FailedMount, and mounts the
volume a moment later.
"""
OVERDUE = timedelta(minutes=1)
"""How long after it should have been gone a pod is told of; more than clocks differ and a kubelet takes."""
_PERHAPS_AT_WORK = "Its process may still be at work in the database."
STUCK = 15.0
"""The same for a step whose pod does not start."""


@dataclass(frozen=True)
class Step:
    """A step of an object. `build` makes the spec of an attempt that was first asked for at a time.

    The same arguments must give the same spec: an attempt is known by the hash of its request.
    """

    name: str
    namespace: str
    build: Callable[[int, datetime], StepSpec]


@dataclass(frozen=True)
class StepProgress:
    """A step after one look."""

    record: StepRecord
    effects: tuple[Effect, ...] = ()
    outcome: StepOutcome | None = None
    """Set when the current attempt has ended with an outcome. Its Job is for a later look to delete."""
    failure: Failure | None = None
    """Why it does not get on: it waits, will be tried again, or (a terminal reason) has been given up."""
    again_in: float | None = None

    @property
    def running(self) -> bool:
        """Whether its container runs."""
        return self.record.state == StepState.RUNNING


def job_name(object_name: str, object_uid: str, step: str, attempt: int, key: str = "") -> str:
    """Name of a step's Job, at most 63 characters: the same for the same object, step, key and attempt."""
    tag = hashlib.sha256(f"{object_uid}/{step}/{key}".encode()).hexdigest()[:8]
    tail = f"-{step}-{tag}-{attempt}"
    return object_name[: 63 - len(tail)].rstrip("-.").replace(".", "-") + tail


def backoff(attempt: int, key: str, *, first: float = 2.0, most: float = 300.0) -> float:
    """Seconds to wait after *attempt*: doubling, with a spread of a quarter that depends on *key* only."""
    spread = int(hashlib.sha256(key.encode()).hexdigest()[:4], 16) / 0xFFFF
    return float(min(most, first * 2 ** min(attempt - 1, 20)) * (1 + spread / 4))


def drive(step: Step, record: StepRecord | None, seen: StepSeen, now: datetime) -> StepProgress:
    """The next thing to do about a step: *record* is what the status says, *seen* what the cluster shows."""
    if record is None:
        return _start(step, None, 1, now)
    if record.retry_at is not None:
        # The status will name the next attempt only: the Job of this one goes before that.
        left = tidy(record, seen, step.namespace)
        if _rests(record.retry_at, now) or left:
            return _resting(record, left, now)
        return _start(step, record, record.attempt + 1, now)
    if record.outcome is not None and record.state == StepState.FINISHED:
        return StepProgress(record, tidy(record, seen, step.namespace), outcome=record.outcome)
    if record.crashes >= MAX_CRASHES and record.state in (StepState.CRASHED, StepState.GONE):
        return _given_up(record, seen, step.namespace)
    return _look(step, record, seen, now)


def asks(record: StepRecord | None, seen: StepSeen, now: datetime) -> bool:
    """Whether `drive` would ask for the step, or for another attempt at it, now."""
    if record is None:
        return True
    if record.retry_at is not None:
        return not _rests(record.retry_at, now) and not tidy(record, seen, "")
    return seen.state is StepState.GONE and not seen.foreign and record.state == ""


def _rests(until: datetime, now: datetime) -> bool:
    """Whether the next attempt is yet to come; a time beyond any pause was set by a clock that went wrong."""
    return timedelta(0) < until - now <= LONGEST_PAUSE


def again(progress: StepProgress, now: datetime, delay: float | None = None) -> StepProgress:
    """The step, to be tried again after a delay (default: backoff); its last outcome says why."""
    record = progress.record
    wait = backoff(record.attempt, record.job) if delay is None else delay
    resting = record.model_copy(update={"retry_at": now + timedelta(seconds=wait)})
    failure = record.outcome.failure if record.outcome is not None else progress.failure
    return StepProgress(resting, progress.effects, failure=failure, again_in=min(wait, TIDY))


def tidy(record: StepRecord | None, seen: StepSeen, namespace: str) -> tuple[Effect, ...]:
    """Delete the Job of a step that nothing depends on any more."""
    if record is None or seen.state is StepState.GONE or seen.foreign:
        return ()
    return (DeleteStep(namespace, record.job),)


def _start(step: Step, record: StepRecord | None, attempt: int, now: datetime) -> StepProgress:
    spec = step.build(attempt, now)
    started = StepRecord(
        name=step.name,
        attempt=attempt,
        job=spec.job,
        request_hash=spec.request.hash,
        started_at=now,
        crashes=record.crashes if record is not None else 0,
        outcome=record.outcome if record is not None else None,
    )
    return StepProgress(started, (StartStep(spec),), again_in=WATCHED)


def _resting(record: StepRecord, left: tuple[Effect, ...], now: datetime) -> StepProgress:
    assert record.retry_at is not None  # noqa: S101  the caller looked
    failure = record.outcome.failure if record.outcome is not None else None
    if failure is None:
        reason = Reason.STEP_LOST if record.state == StepState.GONE else Reason.STEP_CRASHED
        reason = Reason.POD_PENDING if _held_back(record) else reason
        failure = Failure(reason=reason, message=record.message or reason.advice.meaning)
    wait = max(min(record.retry_at - now, LONGEST_PAUSE).total_seconds(), LEAVING if left else 0.0)
    return StepProgress(record, left, failure=failure, again_in=wait)


def overdue(seen: StepSeen, now: datetime) -> bool:
    """Whether its pod has been out of reach for so long that nobody knows whether it still works."""
    return seen.unreachable is not None and now - seen.unreachable.since >= OVERDUE


def _look(step: Step, record: StepRecord, seen: StepSeen, now: datetime) -> StepProgress:
    if seen.foreign:
        text = f"A Job named {record.job} exists and is not this step's."
        return StepProgress(record, failure=Failure(reason=Reason.NAME_TAKEN, message=text), again_in=STUCK)
    marked = record.model_copy(update={"state": seen.state, "message": seen.message[:500]})
    if seen.unreachable is not None and overdue(seen, now):
        failure = Failure(
            reason=Reason.POD_UNREACHABLE, message=seen.unreachable.message, standing=_PERHAPS_AT_WORK
        )
        return StepProgress(marked, failure=failure, again_in=WATCHED)
    match seen.state:
        case StepState.GONE if record.state == "":
            # The status was written, the Job was not: the crash came in between. The same attempt again; what
            # it is built from may have changed since, so the record is told what it asks for now.
            spec = step.build(record.attempt, record.started_at)
            asked = record.model_copy(update={"job": spec.job, "request_hash": spec.request.hash})
            return StepProgress(asked, (StartStep(spec),), again_in=WATCHED)
        case StepState.GONE | StepState.CRASHED if _held_back(record) and not seen.exited:
            return _still_held_back(record, seen, step.namespace, now)
        case StepState.GONE | StepState.CRASHED:
            return _lost(step, marked, seen, now)
        case StepState.NO_POD | StepState.PENDING:
            reason = seen.reason or Reason.POD_PENDING
            if reason is Reason.POD_PENDING and not (seen.message and now - record.started_at >= LASTING):
                return StepProgress(marked, again_in=LASTING.total_seconds() if seen.message else STUCK)
            failure = Failure(reason=reason, message=seen.message or reason.advice.meaning)
            return StepProgress(marked, failure=failure, again_in=STUCK)
        case StepState.RUNNING:
            return StepProgress(marked, again_in=WATCHED)
        case StepState.FINISHED:
            ended = marked.model_copy(update={"outcome": seen.outcome, "ended_at": now, "crashes": 0})
            return StepProgress(ended, outcome=seen.outcome)


def _held_back(record: StepRecord) -> bool:
    """Whether the attempt, when last seen, had not started, and something was told to stand in its way."""
    return record.state in (StepState.NO_POD, StepState.PENDING) and record.message != ""


def _still_held_back(record: StepRecord, seen: StepSeen, namespace: str, now: datetime) -> StepProgress:
    """It never started, so it has not crashed: what holds it back is waited for, by attempt after attempt.

    A Job's deadline counts from its creation, and spaces the attempts already: without a pod nobody would
    notice that what was missing is there.
    """
    wait = backoff(record.attempt, record.job, most=30.0)
    update = {"outcome": None, "ended_at": now, "retry_at": now + timedelta(seconds=wait)}
    failure = Failure(reason=Reason.POD_PENDING, message=record.message)
    effects = tidy(record, seen, namespace)
    return StepProgress(record.model_copy(update=update), effects, failure=failure, again_in=wait)


def _lost(step: Step, record: StepRecord, seen: StepSeen, now: datetime) -> StepProgress:
    """No outcome is a question, not a failure: the next attempt asks the journal first."""
    crashed = record.model_copy(update={"crashes": record.crashes + 1, "ended_at": now, "outcome": None})
    if crashed.crashes >= MAX_CRASHES:
        return _given_up(crashed, seen, step.namespace)
    reason = Reason.STEP_LOST if seen.state is StepState.GONE else Reason.STEP_CRASHED
    failure = Failure(reason=reason, message=seen.message or reason.advice.meaning)
    wait = backoff(crashed.crashes, record.job)
    resting = crashed.model_copy(update={"retry_at": now + timedelta(seconds=wait)})
    return StepProgress(resting, tidy(record, seen, step.namespace), failure=failure, again_in=wait)


def _given_up(record: StepRecord, seen: StepSeen, namespace: str) -> StepProgress:
    """Too many attempts in a row left no outcome. It stays so, whatever is seen from now on."""
    text = f"The step {record.name} ended {record.crashes} times without an outcome. {record.message}"
    failure = Failure(reason=Reason.DEADLINE_EXCEEDED, message=text.strip())
    return StepProgress(record, tidy(record, seen, namespace), failure=failure)
