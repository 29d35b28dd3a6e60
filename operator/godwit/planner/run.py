"""MigrationRun: hold the database, back up, apply, verify, take back what failed, give everything back."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from godwit.api.backup import DatabaseBackup
from godwit.api.common import CANCEL, FINALIZER, StepRecord
from godwit.api.database import ActiveOperation, PostgresDatabase
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun, MigrationRunStatus
from godwit.contract.outcome import (
    ApplyOutcome,
    Failure,
    MigrationProgress,
    RevertOutcome,
    Rung,
    StepOutcome,
    VerifyOutcome,
)
from godwit.contract.progress import EVERY_SECONDS, RunProgress
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupType, Direction
from godwit.planner import run_steps
from godwit.planner.conditions import Stand, Verdict, decided
from godwit.planner.decision import GONE, Create, Decision, Effect, Hold, LostCopy, StepSeen, StepState
from godwit.planner.holding import again_after, finalizer, given_back, tidied
from godwit.planner.ladder import Climb, Fall, climb, rungs, standing, taken
from godwit.planner.run_steps import UNKNOWN
from godwit.planner.step import LEAVING, StepProgress, again, asks, drive, tidy

_TOLD = 0.2
"""Seconds until a run that has ended gives back what it holds: its migration tells of the end first."""


@dataclass(frozen=True)
class RunSeen:
    """A MigrationRun and what hangs on it."""

    run: MigrationRun
    database: PostgresDatabase | None = None
    migration: DatabaseMigration | None = None
    backup: DatabaseBackup | None = None
    """The backup that the status names."""
    restore: DatabaseRestore | None = None
    """The restore that the status names."""
    steps: dict[str, StepSeen] = field(default_factory=dict)
    """By step name, those that the status records."""
    holder_exists: bool = True
    """Whether the object that `status.activeOperation` names still exists, with that uid."""
    namespace_terminating: bool = False
    lost: LostCopy | None = None
    """Looked for where a step misses a ConfigMap."""
    progress: RunProgress | None = None
    """How far the running step says it is: told, and never decided by."""


def decide(seen: RunSeen, now: datetime) -> Decision:
    """In reading order: ended, must end, not holding yet, backup, restore, taking back, applying."""
    run, status = seen.run, seen.run.status
    if status.outcome:
        return _give_back(seen, now)
    if seen.namespace_terminating:
        text = "The namespace is being deleted; no step can start any more."
        where = (
            f"Last seen at {status.current or 'the state before this run'}; its own history tells exactly."
        )
        return _end(seen, "Cancelled", Failure(reason=Reason.CANCELLED, message=text, standing=where), now)
    started = status.step("apply") is not None
    going = run.metadata.deleting or seen.migration is None or seen.migration.metadata.deleting
    if not started and (going or _cancelled(seen)):
        failure = Failure(
            reason=Reason.CANCELLED, message="Cancelled before its first write.", standing=standing(None, 0)
        )
        return _end(seen, "Cancelled", failure, now)
    base = seen.database
    goes = base is not None and base.metadata.deleting and not started
    if base is None or goes or base.metadata.uid != run.spec.database_ref.uid:
        text = f"PostgresDatabase {run.spec.database_ref.name} is gone."
        return _end(seen, "Failed", Failure(reason=Reason.DATABASE_NOT_FOUND, message=text), now)
    if not _holding(seen, base):
        return _hold(seen, base, now)
    if status.restore:
        return _restoring(seen, now)
    if status.step("revert") is not None:
        return _taking_back(seen, now)
    if run.spec.backup.required and not started:
        waiting = _backup(seen, now)
        if waiting is not None:
            return waiting
    return _applying(seen, now)


def _holding(seen: RunSeen, database: PostgresDatabase) -> bool:
    """Whether the database is ours and everything that must outlive this run has our finalizer."""
    active = database.status.active_operation
    mine = active is not None and active.uid == seen.run.metadata.uid
    keeping = [seen.run.metadata, database.metadata]
    keeping += [seen.migration.metadata] if seen.migration is not None else []
    # An object that is being deleted takes no finalizer any more.
    return mine and all(meta.deleting or FINALIZER in meta.finalizers for meta in keeping)


def _cancelled(seen: RunSeen) -> bool:
    return CANCEL in seen.run.metadata.annotations


def _hold(seen: RunSeen, database: PostgresDatabase, now: datetime) -> Decision:
    """Take the database, or wait for whoever has it. Somebody who does not exist any more has nothing."""
    run, active = seen.run, database.status.active_operation
    meta = run.metadata
    if active is not None and active.uid != meta.uid and seen.holder_exists:
        text = f"{active.kind} {active.name} holds {database.metadata.name} since {active.since:%F %T} UTC."
        return _going(
            seen, Verdict.of(Failure(reason=Reason.DATABASE_BUSY, message=text)), now, again_in=15.0
        )
    keeping = [other for other in (run, seen.migration, database) if other is not None]
    effects: tuple[Effect, ...] = tuple(
        finalizer(other, present=True) for other in keeping if not other.metadata.deleting
    )
    if active is None or active.uid != meta.uid:
        mine = ActiveOperation(kind=run.KIND, name=meta.name, uid=meta.uid, since=now)
        base = database.metadata
        effects = (Hold(base.namespace, base.name, base.resource_version, mine), *effects)
    held = _going(seen, Verdict.moving(Reason.RUNNING), now, effects=effects, again_in=0.0)
    first = not run.status.steps and not run.status.restore
    backup = _backup(seen, now) if first and run.spec.backup.required else None
    if backup is None or not any(isinstance(effect, Create) for effect in backup.effects):
        return held
    # Made by the pass that takes the database: who only waits for the other loses a second look.
    return replace(backup, effects=(*held.effects, *backup.effects))


def _backup(seen: RunSeen, now: datetime) -> Decision | None:
    """Make the backup and wait for it. None once there is a usable one."""
    need = run_steps.backup_need(seen.run, seen.backup, now)
    if need.failure is not None:
        return _end(seen, "Failed", need.failure, now)
    if need.create:
        made = Create(run_steps.backup_manifest(seen.run, need.create))
        moving = Verdict.moving(Reason.BACKING_UP)
        return _going(seen, moving, now, update={"backup": need.create}, effects=(made,), again_in=0.0)
    return _going(seen, need.waits, now, again_in=60.0) if need.waits is not None else None


def _applying(seen: RunSeen, now: datetime) -> Decision:
    """Apply (or, downwards, revert) and verify, in one step."""
    step = run_steps.apply_step(seen.run, seen.backup)
    record, found = seen.run.status.step("apply"), seen.steps.get("apply", GONE)
    if record is not None and _cancelled(seen):
        if record.retry_at is not None or asks(record, found, now):
            return _give_up(seen, StepProgress(record), now)
        if found.message and found.state in (StepState.NO_POD, StepState.PENDING):  # it cannot start
            off = tidy(record, found, seen.run.metadata.namespace)
            held = replace(drive(step, record, found, now), effects=off, again_in=LEAVING)
            return _under_way(seen, held, Reason.APPLYING, now)
    lost = run_steps.lost_backup(seen.run, seen.backup)
    if lost is not None and record is not None and asks(record, found, now):
        return _end(seen, "Failed", lost, now)
    progress = drive(step, record, found, now)
    if progress.outcome is None:
        return _under_way(seen, run_steps.soon(progress, cancelled=_cancelled(seen)), Reason.APPLYING, now)
    failure = progress.outcome.failure
    if failure is None and not _cancelled(seen):
        return _succeeded(seen, progress, progress.outcome, now)
    if failure is None:
        failure = Failure(reason=Reason.CANCELLED, message="Cancelled after its migrations had been applied.")
    elif run_steps.repeatable(failure, _facts(progress.outcome), progress.record.attempt):
        return _give_up(seen, progress, now) if _cancelled(seen) else _repeat(seen, progress, now)
    return _fallen(seen, progress, failure, now)


def _give_up(seen: RunSeen, progress: StepProgress, now: datetime) -> Decision:
    """Cancelled between two attempts: what the last one did, the journal tells the step that takes back."""
    failure = Failure(reason=Reason.CANCELLED, message="Cancelled between two attempts to apply.")
    if seen.run.spec.plan.direction is Direction.DOWN:
        failure = failure.model_copy(update={"standing": UNKNOWN})
        return _end(seen, "Cancelled", failure, now, effects=progress.effects)
    return _revert(seen, progress, {"failure": failure}, now)


def _revert(seen: RunSeen, progress: StepProgress, update: dict[str, object], now: datetime) -> Decision:
    """Start the step that takes back."""
    revert = drive(run_steps.revert_step(seen.run), None, GONE, now)
    told = {**update, "steps": (*_steps(seen, progress), revert.record)}
    effects = (*progress.effects, *revert.effects)
    moving = Verdict.moving(Reason.REVERTING)
    return _going(seen, moving, now, update=told, effects=effects, again_in=revert.again_in)


def _fallen(seen: RunSeen, progress: StepProgress, failure: Failure, now: datetime) -> Decision:
    """A writing step failed for good: climb, or stop."""
    assert progress.outcome is not None  # noqa: S101  the caller looked
    facts = _facts(progress.outcome)
    fall = _fall(seen, failure, facts)
    states = rungs(fall)
    told_nothing = facts is None and progress.record.attempt > 1
    stands = UNKNOWN if told_nothing else standing(facts, seen.run.spec.pending)
    update = {**_told(seen, progress, facts), "rungs": states, "failure": failure, "standing": stands}
    match climb(fall):
        case Climb.DOWN:
            return _revert(seen, progress, update, now)
        case Climb.RESTORE:
            return _start_restore(seen, update, progress.effects, now)
        case Climb.STOP:
            where = f"{failure.standing} {stands}".strip()
            told = failure.model_copy(update={"standing": where})
            outcome = "VerifyFailed" if failure.reason is Reason.VERIFY_FAILED else "Failed"
            return _end(seen, outcome, told, now, update=update, effects=progress.effects)


def _taking_back(seen: RunSeen, now: datetime) -> Decision:
    """Drive the down files of what this run applied."""
    step = run_steps.revert_step(seen.run)
    progress = drive(step, seen.run.status.step("revert"), seen.steps.get("revert", GONE), now)
    if progress.outcome is None:
        return _under_way(seen, progress, Reason.REVERTING, now)
    cause = seen.run.status.failure or Failure(reason=Reason.CANCELLED, message="Cancelled.")
    failure, facts = progress.outcome.failure, _facts(progress.outcome)
    update = _told(seen, progress, facts)
    if failure is None:
        current = facts.current if facts else ""
        at = f"The database is at {current or 'no migration'} again, as before this run."
        told = cause.model_copy(update={"standing": at if facts else ""})
        update["rungs"] = taken(seen.run.status.rungs, Rung.DOWN)
        return _end(seen, "TakenBack", told, now, update=update, effects=progress.effects)
    # Its time is counted anew with every attempt: nothing that it needs grows old.
    late = failure.reason is Reason.TOO_LATE
    if late or run_steps.repeatable(failure, facts, progress.record.attempt):
        return _repeat(seen, progress, now)
    update["standing"] = standing(facts, seen.run.spec.pending)
    fall = replace(_fall(seen, cause, facts), down_tried=True)
    if climb(fall) is Climb.RESTORE:
        return _start_restore(seen, update, progress.effects, now)
    where = f"{update['standing']} Taking back stopped: {failure.reason}: {failure.message}"
    told = cause.model_copy(update={"standing": where})
    return _end(seen, "Failed", told, now, update=update, effects=progress.effects)


def _restoring(seen: RunSeen, now: datetime) -> Decision:
    """Wait for the restore that this run ordered."""
    run, restore = seen.run, seen.restore
    cause = run.status.failure or Failure(reason=Reason.MIGRATION_FAILED, message="The run failed.")
    if restore is None:
        made = run_steps.restore_manifest(run)
        return _going(seen, Verdict.moving(Reason.RESTORING), now, effects=(Create(made),), again_in=0.0)
    told, order = restore.status, restore.spec.order
    if order is None or order.run.uid != run.metadata.uid:
        where = f"{run.status.standing} DatabaseRestore {restore.metadata.name} exists and is not this run's."
        return _end(seen, "Failed", cause.model_copy(update={"standing": where}), now)
    if told.ended_at is not None and told.failure is None:
        at = f"The backup {run.status.backup} is the live database, at {told.current or 'no migration'}; "
        failure = cause.model_copy(update={"standing": f"{at}the former one is kept as {told.old_database}."})
        update: dict[str, object] = {"rungs": taken(run.status.rungs, Rung.RESTORE), "current": told.current}
        return _end(seen, "Restored", failure, now, update=update)
    if told.ended_at is not None and told.failure is not None:
        why = f"{told.failure.reason}: {told.failure.message} {told.failure.standing}".strip()
        where = f"{run.status.standing} The restore stopped: {why}"
        return _end(seen, "Failed", cause.model_copy(update={"standing": where}), now)
    return _going(seen, run_steps.waits_for(restore, Reason.RESTORING), now, again_in=60.0)


def _start_restore(
    seen: RunSeen, update: dict[str, object], effects: tuple[Effect, ...], now: datetime
) -> Decision:
    run = seen.run
    update = {**update, "restore": run_steps.restore_name(run)}
    made = Create(run_steps.restore_manifest(run))
    return _going(
        seen, Verdict.moving(Reason.RESTORING), now, update=update, effects=(*effects, made), again_in=0.0
    )


def _succeeded(seen: RunSeen, progress: StepProgress, outcome: StepOutcome, now: datetime) -> Decision:
    facts, verified = _facts(outcome), outcome.get(VerifyOutcome)
    update = _told(seen, progress, facts)
    if verified is not None:
        update |= {"current": verified.current, "journal_head": verified.journal_head}
    return _end(seen, "Succeeded", None, now, update=update, effects=progress.effects)


def _repeat(seen: RunSeen, progress: StepProgress, now: datetime) -> Decision:
    waiting = again(progress, now)
    assert waiting.failure is not None  # noqa: S101  only failures are repeated
    update: dict[str, object] = {"steps": _steps(seen, waiting)}
    verdict, effects = Verdict.of(waiting.failure), waiting.effects
    return _going(seen, verdict, now, update=update, effects=effects, again_in=waiting.again_in)


def _under_way(seen: RunSeen, progress: StepProgress, reason: Reason, now: datetime) -> Decision:
    """A step that has not answered yet; one that was given up ends the run, saying that nobody knows."""
    progress = run_steps.copied(progress, seen.run, seen.migration, seen.lost)
    update: dict[str, object] = {"steps": _steps(seen, progress)}
    failure = progress.failure
    if failure is not None and failure.reason in (Reason.DEADLINE_EXCEEDED, Reason.SOURCE_CHANGED):
        cause = seen.run.status.failure or failure  # what is being taken back failed for a reason of its own
        where = UNKNOWN if cause is failure else f"{failure.message} {UNKNOWN}"
        told = cause.model_copy(update={"standing": where})
        return _end(seen, "Failed", told, now, update=update, effects=progress.effects)
    verdict = Verdict.of(failure) if failure else Verdict.moving(reason)
    again_in = progress.again_in
    if progress.running and failure is None:
        again_in, update["progress"] = EVERY_SECONDS, seen.progress or seen.run.status.progress
    return _going(seen, verdict, now, update=update, effects=progress.effects, again_in=again_in)


def _fall(seen: RunSeen, failure: Failure, facts: MigrationProgress | None) -> Fall:
    spec, backup = seen.run.spec, seen.backup
    usable = backup is not None and backup.status.ready and backup.spec.type is BackupType.FULL
    return Fall(
        failure=failure,
        progress=facts,
        on_failure=spec.policy.on_failure,
        consent=spec.rollback,
        has_backup=usable,
        wanted=_cancelled(seen),
    )


def _facts(outcome: StepOutcome) -> MigrationProgress | None:
    return outcome.get(ApplyOutcome) or outcome.get(RevertOutcome)


def _steps(seen: RunSeen, progress: StepProgress) -> tuple[StepRecord, ...]:
    others = (s for s in seen.run.status.steps if s.name != progress.record.name)
    return (*others, progress.record)


def _told(seen: RunSeen, progress: StepProgress, facts: MigrationProgress | None) -> dict[str, object]:
    update: dict[str, object] = {"steps": _steps(seen, progress)}
    if facts is not None:
        update |= {
            "current": facts.current,
            "applied": facts.applied,
            "total": facts.total or seen.run.spec.pending,
            "journal_head": facts.journal_head,
        }
    return update


def _end(
    seen: RunSeen,
    outcome: str,
    failure: Failure | None,
    now: datetime,
    *,
    update: dict[str, object] | None = None,
    effects: tuple[Effect, ...] = (),
) -> Decision:
    """Write the outcome down; the next pass gives back what the run holds."""
    where = (
        failure.standing if failure else f"The database is at {seen.run.spec.plan.target or 'no migration'}."
    )
    told = {**(update or {}), "outcome": outcome, "failure": failure, "standing": where, "ended_at": now}
    return _going(seen, _ended(failure, where), now, update=told, effects=effects, again_in=_TOLD)


def _ended(failure: Failure | None, where: str) -> Verdict:
    if failure is None:
        return Verdict(Stand.READY, Reason.SUCCEEDED, where)
    return replace(Verdict.of(failure), stand=Stand.STALLED)


def _give_back(seen: RunSeen, now: datetime) -> Decision:
    """Release the database and the finalizers, our own last; then there is nothing left to do."""
    run, status = seen.run, seen.run.status
    effects = tidied(status.steps, seen.steps, run.metadata.namespace)
    # Once it has given back, whatever it finds held is held by the next run.
    if not status.released:
        effects += given_back(seen.database, run.metadata.uid)
        if seen.migration is not None and FINALIZER in seen.migration.metadata.finalizers:
            effects += (finalizer(seen.migration, present=False),)
    if FINALIZER in run.metadata.finalizers:
        effects += (finalizer(run, present=False),)
    update: dict[str, object] = {} if effects else {"released": True}
    verdict = _ended(status.failure, status.standing)
    return _going(seen, verdict, now, update=update, effects=effects, again_in=again_after(effects))


def _going(
    seen: RunSeen,
    verdict: Verdict,
    now: datetime,
    *,
    update: dict[str, object] | None = None,
    effects: tuple[Effect, ...] = (),
    again_in: float | None = None,
) -> Decision:
    before = seen.run.status
    told: dict[str, object] = {
        "started_at": before.started_at or now,
        "total": before.total or seen.run.spec.pending,
        "progress": None,
        **(update or {}),
    }
    status: MigrationRunStatus = before.model_copy(update=told)
    made = decided(seen.run, status, verdict, now, effects=effects, again_in=again_in)
    if not status.outcome:
        return made
    return replace(made, status=made.status.model_copy(update={"phase": status.outcome}))
