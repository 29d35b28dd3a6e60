"""MigrationRun: hold the database, back up, apply, verify, take back what failed, give everything back."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from godwit.api.backup import DatabaseBackup
from godwit.api.common import CANCEL, FINALIZER, Status, StepRecord, seconds
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
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupType
from godwit.planner import run_steps
from godwit.planner.conditions import Stand, Verdict, announce, conditions, phase
from godwit.planner.decision import GONE, Create, Decision, Effect, Hold, SetFinalizer, StepSeen
from godwit.planner.ladder import Climb, Fall, climb, rungs, standing, taken
from godwit.planner.step import StepProgress, again, drive, tidy


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
    if not started and (CANCEL in run.metadata.annotations or run.metadata.deleting):
        failure = Failure(
            reason=Reason.CANCELLED, message="Cancelled before its first write.", standing=standing(None, 0)
        )
        return _end(seen, "Cancelled", failure, now)
    if seen.database is None or seen.database.metadata.uid != run.spec.database_ref.uid:
        text = f"PostgresDatabase {run.spec.database_ref.name} is gone."
        return _end(seen, "Failed", Failure(reason=Reason.DATABASE_NOT_FOUND, message=text), now)
    if not _holding(seen, seen.database):
        return _hold(seen, seen.database, now)
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
    kept = FINALIZER in database.metadata.finalizers and FINALIZER in seen.run.metadata.finalizers
    migration = seen.migration
    kept_migration = (
        migration is None or migration.metadata.deleting or FINALIZER in migration.metadata.finalizers
    )
    return mine and kept and kept_migration


def _hold(seen: RunSeen, database: PostgresDatabase, now: datetime) -> Decision:
    """Take the database, or wait for whoever has it. Somebody who does not exist any more has nothing."""
    run, active = seen.run, database.status.active_operation
    meta = run.metadata
    if active is not None and active.uid != meta.uid and seen.holder_exists:
        text = f"{active.kind} {active.name} holds {database.metadata.name} since {active.since:%F %T} UTC."
        return _going(
            seen, Verdict.of(Failure(reason=Reason.DATABASE_BUSY, message=text)), now, again_in=15.0
        )
    effects: list[Effect] = []
    if not meta.deleting:
        effects.append(SetFinalizer(run.KIND, meta.namespace, meta.name, meta.uid, present=True))
    if seen.migration is not None and not seen.migration.metadata.deleting:
        other = seen.migration.metadata
        effects.append(
            SetFinalizer("DatabaseMigration", other.namespace, other.name, other.uid, present=True)
        )
    base = database.metadata
    if not base.deleting:
        effects.append(SetFinalizer("PostgresDatabase", base.namespace, base.name, base.uid, present=True))
    if active is None or active.uid != meta.uid:
        mine = ActiveOperation(kind=run.KIND, name=meta.name, uid=meta.uid, since=now)
        effects.insert(0, Hold(base.namespace, base.name, base.resource_version, mine))
    return _going(seen, Verdict.moving(Reason.RUNNING), now, effects=tuple(effects), again_in=0.0)


def _backup(seen: RunSeen, now: datetime) -> Decision | None:
    """Make the backup and wait for it. None once there is a usable one."""
    run, status, backup = seen.run, seen.run.status, seen.backup
    moving = Verdict.moving(Reason.BACKING_UP)
    name = status.backup or f"{run.metadata.name}-backup"
    if backup is None:
        made = run_steps.backup_manifest(run, name)
        return _going(seen, moving, now, update={"backup": name}, effects=(Create(made),), again_in=0.0)
    told = backup.status
    if told.ready:
        refusal = run_steps.unusable(run, backup)
        if refusal is not None:
            return _end(seen, "Failed", refusal, now)
        if told.ended_at is not None and now < told.ended_at + timedelta(
            seconds=seconds(run.spec.backup.max_age)
        ):
            return None
        fresh = run_steps.next_name(name)
        made = run_steps.backup_manifest(run, fresh)
        return _going(seen, moving, now, update={"backup": fresh}, effects=(Create(made),), again_in=0.0)
    if told.condition("Stalled") is not None:
        failure = told.failure or Failure(reason=Reason.BACKUP_FAILED, message="The backup failed.")
        return _end(seen, "Failed", failure.model_copy(update={"standing": standing(None, 0)}), now)
    ready = told.condition("Ready")
    if ready is not None and ready.status == "False":
        moving = Verdict(Stand.WAITING, Reason(ready.reason), f"{backup.metadata.name}: {ready.message}")
    return _going(seen, moving, now, again_in=60.0)


def _applying(seen: RunSeen, now: datetime) -> Decision:
    """Apply (or, downwards, revert) and verify, in one step."""
    step = run_steps.apply_step(seen.run, seen.backup)
    progress = drive(step, seen.run.status.step("apply"), seen.steps.get("apply", GONE), now)
    if progress.outcome is None:
        return _under_way(seen, progress, Reason.APPLYING, now)
    failure = progress.outcome.failure
    if failure is None and CANCEL not in seen.run.metadata.annotations:
        return _succeeded(seen, progress, progress.outcome, now)
    if failure is None:
        failure = Failure(reason=Reason.CANCELLED, message="Cancelled after its migrations had been applied.")
    elif run_steps.repeatable(failure, _facts(progress.outcome), progress.record.attempt):
        return _repeat(seen, progress, now)
    return _fallen(seen, progress, failure, now)


def _fallen(seen: RunSeen, progress: StepProgress, failure: Failure, now: datetime) -> Decision:
    """A writing step failed for good: climb, or stop."""
    assert progress.outcome is not None  # noqa: S101  the caller looked
    facts = _facts(progress.outcome)
    fall = _fall(seen, failure, facts)
    states = rungs(fall)
    update = {**_told(seen, progress, facts), "rungs": states, "failure": failure}
    match climb(fall):
        case Climb.DOWN:
            revert = drive(run_steps.revert_step(seen.run), None, GONE, now)
            update["steps"] = (*_steps(seen, progress), revert.record)
            effects = (*progress.effects, *revert.effects)
            return _going(seen, Verdict.moving(Reason.REVERTING), now, update=update, effects=effects)
        case Climb.RESTORE:
            return _start_restore(seen, update, progress.effects, now)
        case Climb.STOP:
            where = failure.standing or standing(facts, seen.run.spec.pending)
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
        at = (
            f"The database is at {facts.current or 'no migration'} again, as before this run."
            if facts
            else ""
        )
        told = cause.model_copy(update={"standing": at})
        update["rungs"] = taken(seen.run.status.rungs, Rung.DOWN)
        return _end(seen, "TakenBack", told, now, update=update, effects=progress.effects)
    if run_steps.repeatable(failure, facts, progress.record.attempt):
        return _repeat(seen, progress, now)
    fall = replace(_fall(seen, cause, facts), down_tried=True)
    if climb(fall) is Climb.RESTORE:
        return _start_restore(seen, update, progress.effects, now)
    where = (
        f"{standing(facts, seen.run.spec.pending)} Taking back stopped: {failure.reason}: {failure.message}"
    )
    told = cause.model_copy(update={"standing": where})
    return _end(seen, "Failed", told, now, update=update, effects=progress.effects)


def _restoring(seen: RunSeen, now: datetime) -> Decision:
    """Wait for the restore that this run ordered."""
    run, restore = seen.run, seen.restore
    cause = run.status.failure or Failure(reason=Reason.MIGRATION_FAILED, message="The run failed.")
    if restore is None:
        made = run_steps.restore_manifest(run)
        return _going(seen, Verdict.moving(Reason.RESTORING), now, effects=(Create(made),), again_in=0.0)
    told = restore.status
    if told.ready:
        at = f"The backup {run.status.backup} is the live database, at {told.current or 'no migration'}; "
        failure = cause.model_copy(update={"standing": f"{at}the former one is kept as {told.old_database}."})
        update: dict[str, object] = {"rungs": taken(run.status.rungs, Rung.RESTORE), "current": told.current}
        return _end(seen, "Restored", failure, now, update=update)
    if told.condition("Stalled") is not None:
        why = f"{told.failure.reason}: {told.failure.message}" if told.failure else "the restore failed"
        where = f"{run.status.standing} The restore stopped, no fence is left: {why}"
        return _end(seen, "Failed", cause.model_copy(update={"standing": where}), now)
    return _going(seen, Verdict.moving(Reason.RESTORING), now, again_in=60.0)


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
    return _going(
        seen,
        Verdict.of(waiting.failure),
        now,
        update=update,
        effects=waiting.effects,
        again_in=waiting.again_in,
    )


def _under_way(seen: RunSeen, progress: StepProgress, reason: Reason, now: datetime) -> Decision:
    """A step that has not answered yet; one that was given up ends the run, saying that nobody knows."""
    update: dict[str, object] = {"steps": _steps(seen, progress)}
    failure = progress.failure
    if failure is not None and failure.reason is Reason.DEADLINE_EXCEEDED:
        where = "What the step did is in the database's own history and journal; Godwit will plan from there."
        told = failure.model_copy(update={"standing": where})
        return _end(seen, "Failed", told, now, update=update, effects=progress.effects)
    verdict = Verdict.of(failure) if failure else Verdict.moving(reason)
    return _going(seen, verdict, now, update=update, effects=progress.effects, again_in=progress.again_in)


def _fall(seen: RunSeen, failure: Failure, facts: MigrationProgress | None) -> Fall:
    spec, backup = seen.run.spec, seen.backup
    usable = backup is not None and backup.status.ready and backup.spec.type is BackupType.FULL
    return Fall(
        failure=failure,
        progress=facts,
        on_failure=spec.policy.on_failure,
        consent=spec.rollback,
        has_backup=usable,
        wanted=CANCEL in seen.run.metadata.annotations,
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
    return _going(seen, _ended(failure, where), now, update=told, effects=effects, again_in=0.0)


def _ended(failure: Failure | None, where: str) -> Verdict:
    if failure is None:
        return Verdict(Stand.READY, Reason.SUCCEEDED, where)
    return replace(Verdict.of(failure), stand=Stand.STALLED)


def _give_back(seen: RunSeen, now: datetime) -> Decision:
    """Release the database and the finalizers, our own last; then there is nothing left to do."""
    run, status, meta = seen.run, seen.run.status, seen.run.metadata
    effects: list[Effect] = []
    for record in status.steps:
        effects.extend(tidy(record, seen.steps.get(record.name, GONE), meta.namespace))
    database, migration = seen.database, seen.migration
    if database is not None:
        base, active = database.metadata, database.status.active_operation
        if active is not None and active.uid == meta.uid:
            effects.append(Hold(base.namespace, base.name, base.resource_version, None))
        if FINALIZER in base.finalizers and (active is None or active.uid == meta.uid):
            effects.append(
                SetFinalizer("PostgresDatabase", base.namespace, base.name, base.uid, present=False)
            )
    if migration is not None and FINALIZER in migration.metadata.finalizers:
        other = migration.metadata
        effects.append(
            SetFinalizer("DatabaseMigration", other.namespace, other.name, other.uid, present=False)
        )
    if FINALIZER in meta.finalizers:
        effects.append(SetFinalizer(run.KIND, meta.namespace, meta.name, meta.uid, present=False))
    verdict = _ended(status.failure, status.standing)
    if effects:
        return _going(seen, verdict, now, effects=tuple(effects), again_in=0.0)
    return _going(seen, verdict, now, update={"released": True})


def _going(
    seen: RunSeen,
    verdict: Verdict,
    now: datetime,
    *,
    update: dict[str, object] | None = None,
    effects: tuple[Effect, ...] = (),
    again_in: float | None = None,
) -> Decision:
    before: Status = seen.run.status
    generation = seen.run.metadata.generation
    told: dict[str, object] = {
        "started_at": seen.run.status.started_at or now,
        "total": seen.run.status.total or seen.run.spec.pending,
        **(update or {}),
        "observed_generation": generation,
        "conditions": conditions(before, verdict, generation, now),
    }
    told["phase"] = told.get("outcome") or seen.run.status.outcome or phase(verdict)
    status: MigrationRunStatus = seen.run.status.model_copy(update=told)
    return Decision(status, (*announce(before, verdict), *effects), again_in)
