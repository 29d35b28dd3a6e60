"""DatabaseBackup: make one, read it back, and under Delete remove its file with the object."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from godwit.api.backup import DatabaseBackup, DatabaseBackupStatus
from godwit.api.common import FINALIZER
from godwit.api.database import DeletionPolicy, PodTemplate, PostgresDatabase, VolumeDestination
from godwit.api.restore import DatabaseRestore
from godwit.contract.outcome import BackupOutcome, Failure, StepOutcome, VerifyBackupOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    BackupInput,
    DeleteBackupInput,
    Format,
    StepRequest,
    VerbInput,
    VerifyBackupInput,
)
from godwit.planner.conditions import Stand, Verdict, decided
from godwit.planner.decision import GONE, Decision, Effect, StepSeen, StepSpec
from godwit.planner.holding import finalizer
from godwit.planner.policy import connection_of, version_text
from godwit.planner.runs import PLAN_AGAIN, expected_identity
from godwit.planner.step import LONGEST_PAUSE, TIDY, Step, again, drive, job_name, tidy

DUMP_BUDGET = 24 * 3_600
"""Seconds that a dump may take."""
DELETE_PAUSE = LONGEST_PAUSE.total_seconds()
"""Seconds until the file of a deleted backup is tried again whose step left no outcome too often."""


@dataclass(frozen=True)
class BackupSeen:
    """A DatabaseBackup and what hangs on it."""

    backup: DatabaseBackup
    image: str
    database: PostgresDatabase | None = None
    steps: dict[str, StepSeen] = field(default_factory=dict)
    """By step name, those that the status records."""
    restores: tuple[DatabaseRestore, ...] = ()
    """Those of the database; not asked of what a run ordered."""
    holder_exists: bool = True
    """Whether the object that the database's `activeOperation` names still exists; not asked of the run that
    ordered this."""
    namespace_terminating: bool = False


def decide(seen: BackupSeen, now: datetime) -> Decision:
    """In reading order: being deleted, done, failed, waiting for its database, working."""
    backup, status = seen.backup, seen.backup.status
    if backup.metadata.deleting:
        return _deleting(seen, now)
    keeps_file = (
        backup.spec.deletion_policy is DeletionPolicy.DELETE and FINALIZER not in backup.metadata.finalizers
    )
    effects: tuple[Effect, ...] = (finalizer(backup, present=True),) if keeps_file else ()
    if status.verified:
        effects = (*effects, *_tidy(seen, "backup"))
        return decided(seen.backup, status, _done(status), now, effects=effects)
    if status.failure is not None:
        effects = (*effects, *_tidy(seen, "backup"))
        return decided(seen.backup, status, _over(status.failure), now, effects=effects)
    begun = status.step("backup") is not None
    if not begun and _run_is_over(seen):
        text = (
            f"Run {backup.spec.order.run.name if backup.spec.order else ''} has ended and needs it no more."
        )
        failure = Failure(reason=Reason.CANCELLED, message=text)
        told = status.model_copy(update={"failure": failure})
        return decided(seen.backup, told, _over(failure), now, effects=effects)
    waiting = _waiting(seen)
    if waiting is not None and not begun:
        return decided(seen.backup, status, Verdict.of(waiting), now, effects=effects, again_in=15.0)
    assert seen.database is not None or begun  # noqa: S101  _waiting looked
    if seen.database is None:
        text = f"PostgresDatabase {backup.spec.database_ref.name} was deleted meanwhile."
        failure = Failure(reason=Reason.BACKUP_FAILED, message=text)
        told = status.model_copy(update={"failure": failure})
        return decided(seen.backup, told, _over(failure), now, again_in=TIDY)
    return _dumping(seen, seen.database, effects, now)


def _run_is_over(seen: BackupSeen) -> bool:
    """Whether a run ordered this and holds the database no more: it takes the database first."""
    order, database = seen.backup.spec.order, seen.database
    active = database.status.active_operation if database is not None else None
    return order is not None and database is not None and (active is None or active.uid != order.run.uid)


def _waiting(seen: BackupSeen) -> Failure | None:
    """Why the dump cannot start yet.

    A backup that a run ordered belongs to the operation that holds the database.
    """
    backup, database = seen.backup, seen.database
    if database is None:
        text = f"There is no PostgresDatabase {backup.spec.database_ref.name} in this namespace."
        return Failure(reason=Reason.DATABASE_NOT_FOUND, message=text)
    if database.spec.backup.volume is None:
        text = f"PostgresDatabase {database.metadata.name} names no volume for backups (spec.backup.volume)."
        return Failure(reason=Reason.STORE_UNAVAILABLE, message=text)
    active, order = database.status.active_operation, backup.spec.order
    ours = active is not None and order is not None and active.uid == order.run.uid
    if active is not None and not ours and seen.holder_exists:
        text = f"{active.kind} {active.name} holds {database.metadata.name}."
        return Failure(reason=Reason.DATABASE_BUSY, message=text)
    return None


def _dumping(
    seen: BackupSeen, database: PostgresDatabase, effects: tuple[Effect, ...], now: datetime
) -> Decision:
    backup, status = seen.backup, seen.backup.status
    volume = status.volume or database.spec.backup.volume
    meta, order = backup.metadata, backup.spec.order
    # A file's name has 255 bytes, those that it bears while it is written among them.
    file = f"{meta.name[:180]}-{meta.uid[:8]}.dump"
    location = status.location or f"{meta.namespace}/{database.metadata.name}/{file}"
    verbs: tuple[VerbInput, ...] = (
        BackupInput(type=backup.spec.type, location=location, from_state=order.from_state if order else ""),
        VerifyBackupInput(location=location),
    )
    image = order.image if order else seen.image
    step = _step(seen, "backup", verbs, volume, database=database, image=image)
    progress = drive(step, status.step("backup"), seen.steps.get("backup", GONE), now)
    update: dict[str, object] = {
        "steps": (progress.record,),
        "volume": volume,
        "pod_template": database.spec.pod_template,
        "location": location,
    }
    failure = progress.failure
    over = failure is not None and failure.terminal
    if progress.outcome is not None:
        failure = progress.outcome.failure
        if failure is None:
            update |= _facts(progress.outcome)
            done = status.model_copy(update=update)
            return decided(seen.backup, done, _done(done), now, effects=effects, again_in=TIDY)
        # A run needs a backup of the planned state: another one ends the run, and it is planned again.
        over = failure.terminal or (order is not None and failure.reason in PLAN_AGAIN)
        if not over:
            progress = again(progress, now)
            update["steps"] = (progress.record,)
    if failure is not None and over:
        update["failure"] = failure
    told = status.model_copy(update=update)
    verdict = Verdict.moving(Reason.BACKING_UP)
    if failure is not None:
        verdict = _over(failure) if over else Verdict.of(failure)
    both = (*effects, *progress.effects)
    return decided(
        seen.backup, told, verdict, now, effects=both, again_in=TIDY if over else progress.again_in
    )


def _facts(outcome: StepOutcome) -> dict[str, object]:
    """What a finished and verified dump makes of the status."""
    made, read = outcome.get(BackupOutcome), outcome.get(VerifyBackupOutcome)
    if made is None or read is None or read.sha256 != made.sha256:
        text = "The archive that was read back is not the one that was written."
        return {"failure": Failure(reason=Reason.BACKUP_UNUSABLE, message=text)}
    return {
        "size_bytes": made.size_bytes,
        "sha256": made.sha256,
        "identity": made.identity,
        "server_version": version_text(made.server_version),
        "dump_version": made.dump_version,
        "snapshot_at": made.started_at,
        "ended_at": made.ended_at,
        "state": made.state,
        "tables": made.tables,
        "journal_head": made.journal_head,
        "verified": "Archive",
        "failure": None,
    }


def _deleting(seen: BackupSeen, now: datetime) -> Decision:
    """Under Delete the file goes first; in a terminating namespace no Job can start, and the file stays."""
    backup, status = seen.backup, seen.backup.status
    verdict = Verdict.moving(Reason.DELETING)
    if FINALIZER not in backup.metadata.finalizers:
        return decided(seen.backup, status, verdict, now)
    letting_go = (finalizer(backup, present=False),)
    if (
        seen.namespace_terminating
        or not status.location
        or backup.spec.deletion_policy is DeletionPolicy.RETAIN
    ):
        return decided(seen.backup, status, verdict, now, effects=letting_go)
    dumping = _tidy(seen, "backup")
    if dumping:  # it would write the file after that was deleted
        return decided(seen.backup, status, verdict, now, effects=dumping, again_in=1.0)
    step = _step(
        seen, "delete", (DeleteBackupInput(location=status.location),), status.volume, image=seen.image
    )
    progress = drive(step, status.step("delete"), seen.steps.get("delete", GONE), now)
    update = {"steps": (*(s for s in status.steps if s.name != "delete"), progress.record)}
    if progress.outcome is not None and progress.outcome.failure is None:
        return decided(seen.backup, status.model_copy(update=update), verdict, now, effects=letting_go)
    failure = progress.failure
    if progress.outcome is not None or (failure is not None and failure.reason is Reason.DEADLINE_EXCEEDED):
        failure = progress.outcome.failure if progress.outcome is not None else failure
        progress = again(progress, now, None if progress.outcome is not None else DELETE_PAUSE)
        update = {"steps": (*(s for s in status.steps if s.name != "delete"), progress.record)}
    verdict = Verdict.of(failure) if failure else verdict
    told = status.model_copy(update=update)
    return decided(seen.backup, told, verdict, now, effects=progress.effects, again_in=progress.again_in)


def _step(
    seen: BackupSeen,
    name: str,
    verbs: tuple[VerbInput, ...],
    volume: VolumeDestination | None,
    *,
    image: str,
    database: PostgresDatabase | None = None,
) -> Step:
    """A step on the store. Without a database it needs, and gets, no credentials."""
    meta, order = seen.backup.metadata, seen.backup.spec.order
    pod = seen.database.spec.pod_template if seen.database else seen.backup.status.pod_template
    identity = order.identity if order else None
    if identity is None and database is not None:
        identity = expected_identity(database, seen.restores)

    def build(attempt: int, _since: datetime) -> StepSpec:
        request = StepRequest(
            object=seen.backup.ref,
            step=name,
            attempt=attempt,
            operation=order.run.uid if order else meta.uid,
            identity=identity,
            format=order.format if order else Format.AUTO,
            budget_seconds=DUMP_BUDGET,
            verbs=verbs,
        )
        if database is not None:
            spec = database.spec
            connection = connection_of(spec.connection, spec.schemas)
            request = request.model_copy(update={"environment": spec.environment, "connection": connection})
        return StepSpec(
            job=job_name(meta.name, meta.uid, name, attempt),
            namespace=meta.namespace,
            owner=seen.backup.ref,
            request=request,
            image=image,
            connection=database.spec.connection if database else None,
            volume=volume,
            pod=pod or PodTemplate(),
            deadline_seconds=DUMP_BUDGET + 600,
        )

    return Step(name, meta.namespace, build)


def _tidy(seen: BackupSeen, name: str) -> tuple[Effect, ...]:
    record = seen.backup.status.step(name)
    return tidy(record, seen.steps.get(name, GONE), seen.backup.metadata.namespace)


def _over(failure: Failure) -> Verdict:
    """The verdict on a backup that will not be tried again."""
    return replace(Verdict.of(failure), stand=Stand.STALLED)


def _done(status: DatabaseBackupStatus) -> Verdict:
    if status.failure is not None:
        return _over(status.failure)
    size = f"{status.size_bytes / 1_048_576:.1f} MiB, {status.tables} tables"
    return Verdict(
        Stand.READY, Reason.BACKED_UP, f"{size}; the archive was read back and its checksum matches."
    )
