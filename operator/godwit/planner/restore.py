"""DatabaseRestore: hold the database, restore one backup once, give the database back."""

from dataclasses import dataclass, field
from datetime import datetime

from godwit.api.backup import DatabaseBackup
from godwit.api.common import FINALIZER
from godwit.api.database import ActiveOperation, PostgresDatabase
from godwit.api.restore import DatabaseRestore, DatabaseRestoreStatus
from godwit.contract.outcome import Failure, RestoreOutcome, StepOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupType, Format, RestoreInput, StepRequest, VerifyInput
from godwit.planner.conditions import Stand, Verdict, decided
from godwit.planner.decision import GONE, Decision, Effect, Hold, StepSeen, StepSpec
from godwit.planner.holding import again_after, finalizer, given_back, tidied
from godwit.planner.policy import connection_of
from godwit.planner.run_steps import START_WINDOW, UNKNOWN, repeatable
from godwit.planner.runs import expected_identity
from godwit.planner.source import spec_hash_of
from godwit.planner.step import Step, again, asks, drive, job_name

RESTORE_BUDGET = 24 * 3_600
"""Seconds that a restore may take, the building beside included; the fence has a bound of its own."""


@dataclass(frozen=True)
class RestoreSeen:
    """A DatabaseRestore and what hangs on it."""

    restore: DatabaseRestore
    image: str
    database: PostgresDatabase | None = None
    backup: DatabaseBackup | None = None
    steps: dict[str, StepSeen] = field(default_factory=dict)
    restores: tuple[DatabaseRestore, ...] = ()
    """Every restore of the database, this one among them; not asked of what a run ordered."""
    holder_exists: bool = True
    namespace_terminating: bool = False


def decide(seen: RestoreSeen, now: datetime) -> Decision:
    """In reading order: ended, waiting for what it needs, not holding yet, restoring."""
    restore, status = seen.restore, seen.restore.status
    if status.ended_at is not None:
        return _give_back(seen, now)
    started = status.step("restore") is not None
    if restore.metadata.deleting and not started:
        failure = Failure(reason=Reason.CANCELLED, message="Deleted before it started.")
        return _end(seen, status, failure, now)
    base = seen.database
    lost = seen.namespace_terminating or base is None or (_going(restore, base) and not started)
    if lost and (started or seen.namespace_terminating):
        text = "The PostgresDatabase, or the namespace, went while the restore was under way."
        failure = Failure(reason=Reason.CANCELLED, message=text, standing=UNKNOWN if started else "")
        return _end(seen, status, failure, now)
    if not started:
        waiting = _waiting(seen)
        if waiting is not None and (waiting.terminal or restore.spec.order is not None):
            # Nobody makes again what a run's own restore lacks, and meanwhile the run holds the database.
            return _end(seen, status, waiting, now)
        if waiting is not None:
            # What it needed went after it had taken the database: nobody else is kept waiting for that.
            freed = given_back(base, restore.metadata.uid)
            return decided(seen.restore, status, Verdict.of(waiting), now, effects=freed, again_in=30.0)
    assert base is not None  # noqa: S101  `lost`, or _waiting, looked
    if not _holding(seen, base):
        return _hold(seen, base, now)
    return _restoring(seen, base, now)


def _going(restore: DatabaseRestore, database: PostgresDatabase) -> bool:
    """Whether the database goes before a restore on it begins. A run that holds it is finished first."""
    return database.metadata.deleting and restore.spec.order is None


def _waiting(seen: RestoreSeen) -> Failure | None:
    spec, backup = seen.restore.spec, seen.backup
    namespace = seen.restore.metadata.namespace
    if seen.database is None or _going(seen.restore, seen.database):
        text = f"There is no PostgresDatabase {spec.database_ref.name} in namespace {namespace}."
        return Failure(reason=Reason.DATABASE_NOT_FOUND, message=text)
    if backup is None or not backup.status.verified or backup.metadata.deleting:
        text = f"There is no finished DatabaseBackup {spec.backup_ref.name} in namespace {namespace}."
        return Failure(reason=Reason.BACKUP_NOT_FOUND, message=text)
    if backup.spec.type is not BackupType.FULL:
        text = f"{backup.metadata.name} holds the schema only; restoring it would lose every row."
        return Failure(reason=Reason.BACKUP_UNUSABLE, message=text, standing="Nothing was changed.")
    if backup.spec.database_ref.name != spec.database_ref.name:
        text = (
            f"{backup.metadata.name} is of {backup.spec.database_ref.name}, not of {spec.database_ref.name}."
        )
        return Failure(reason=Reason.BACKUP_UNUSABLE, message=text, standing="Nothing was changed.")
    return None


def _holder_uid(seen: RestoreSeen) -> str:
    """Uid under which the database is held: the run's that ordered this restore, else our own."""
    order = seen.restore.spec.order
    return order.run.uid if order else seen.restore.metadata.uid


def _holding(seen: RestoreSeen, database: PostgresDatabase) -> bool:
    active = database.status.active_operation
    mine = active is not None and active.uid == _holder_uid(seen)
    # An object that is being deleted takes no finalizer any more.
    keeping = (seen.restore.metadata, database.metadata)
    return mine and all(meta.deleting or FINALIZER in meta.finalizers for meta in keeping)


def _hold(seen: RestoreSeen, database: PostgresDatabase, now: datetime) -> Decision:
    restore, active, status = seen.restore, database.status.active_operation, seen.restore.status
    meta, base = restore.metadata, database.metadata
    if active is not None and active.uid != _holder_uid(seen) and seen.holder_exists:
        text = f"{active.kind} {active.name} holds {base.name} since {active.since:%F %T} UTC."
        verdict = Verdict.of(Failure(reason=Reason.DATABASE_BUSY, message=text))
        return decided(seen.restore, status, verdict, now, again_in=15.0)
    if restore.spec.order is not None and (active is None or active.uid != _holder_uid(seen)):
        failure = Failure(reason=Reason.CANCELLED, message="The run that ordered this restore has ended.")
        return _end(seen, status, failure, now)
    effects: list[Effect] = []
    if active is None or active.uid != meta.uid:
        mine = ActiveOperation(kind=restore.KIND, name=meta.name, uid=meta.uid, since=now)
        if restore.spec.order is None:
            effects.append(Hold(base.namespace, base.name, base.resource_version, mine))
    effects += [finalizer(o, present=True) for o in (restore, database) if not o.metadata.deleting]
    verdict = Verdict.moving(Reason.RESTORING)
    return decided(seen.restore, status, verdict, now, effects=tuple(effects), again_in=0.0)


def _restoring(seen: RestoreSeen, database: PostgresDatabase, now: datetime) -> Decision:
    status, backup, order = seen.restore.status, seen.backup, seen.restore.spec.order
    record, found = status.step("restore"), seen.steps.get("restore", GONE)
    if backup is None and asks(record, found, now):
        text = f"Backup {seen.restore.spec.backup_ref.name} was deleted meanwhile."
        gone = Failure(reason=Reason.RESTORE_FAILED, message=text, standing=UNKNOWN)
        return _end(seen, status, gone, now)
    progress = drive(restore_step(seen, database, backup), record, found, now)
    update: dict[str, object] = {"steps": (progress.record,), "started_at": status.started_at or now}
    told = status.model_copy(update=update)
    if progress.outcome is None:
        failure = progress.failure
        if failure is not None and failure.reason is Reason.DEADLINE_EXCEEDED:
            return _end(seen, told, failure, now, effects=progress.effects)
        verdict = Verdict.of(failure) if failure else Verdict.moving(Reason.RESTORING)
        return decided(seen.restore, told, verdict, now, effects=progress.effects, again_in=progress.again_in)
    outcome = progress.outcome
    failure = outcome.failure
    swapped = outcome.get(RestoreOutcome)
    if swapped is not None and swapped.repeats and failure and failure.reason is Reason.VERIFY_FAILED:
        # What was restored once has moved on since: nothing of it is to be found, and nothing is wrong.
        told = told.model_copy(update={"repeats": True, "old_database": swapped.old_database})
        return _end(seen, told, None, now, effects=progress.effects)
    # A run has no other way back, and nobody else writes while it holds the database: as it takes back.
    late = order is not None and failure is not None and failure.reason is Reason.TOO_LATE
    if failure is not None and (late or repeatable(failure, None, progress.record.attempt)):
        progress = again(progress, now)
        told = told.model_copy(update={"steps": (progress.record,)})
        verdict = Verdict.of(failure)
        return decided(seen.restore, told, verdict, now, effects=progress.effects, again_in=progress.again_in)
    if failure is not None and not failure.terminal:
        # It would pass, but a restore is done once: one that came too late is asked for anew, or not.
        why = f"{failure.reason}: {failure.message}"
        failure = failure.model_copy(update={"reason": Reason.RESTORE_FAILED, "message": why})
    told = told.model_copy(update=_facts(outcome))
    return _end(seen, told, failure, now, effects=progress.effects)


def restore_step(seen: RestoreSeen, database: PostgresDatabase, backup: DatabaseBackup | None) -> Step:
    """The step that builds the backup beside the live database, swaps the two, and verifies.

    A step that is under way can be watched without the backup; a new attempt cannot be built.
    """
    restore, order = seen.restore, seen.restore.spec.order
    meta, spec = restore.metadata, database.spec

    def build(attempt: int, since: datetime) -> StepSpec:
        assert backup is not None  # noqa: S101  the caller looked: no attempt is asked for without it
        request = StepRequest(
            object=restore.ref,
            step="restore",
            attempt=attempt,
            operation=_holder_uid(seen),
            spec_hash=spec_hash_of(restore),
            environment=spec.environment,
            connection=connection_of(spec.connection, spec.schemas),
            identity=order.identity if order else expected_identity(database, seen.restores),
            expected_journal=order.expected_journal if order else None,
            not_after=since + START_WINDOW,
            budget_seconds=RESTORE_BUDGET,
            format=order.format if order else Format.AUTO,
            verbs=(
                RestoreInput(
                    location=backup.status.location,
                    sha256=backup.status.sha256,
                    accept_data_loss=restore.spec.accept_data_loss,
                    accept_replication_loss=restore.spec.accept_replication_loss,
                ),
                VerifyInput(state=backup.status.state),
            ),
        )
        return StepSpec(
            job=job_name(meta.name, meta.uid, "restore", attempt),
            namespace=meta.namespace,
            owner=restore.ref,
            request=request,
            image=order.image if order else seen.image,
            connection=spec.connection,
            volume=backup.status.volume,
            pod=spec.pod_template,
            deadline_seconds=RESTORE_BUDGET + 600,
        )

    return Step("restore", meta.namespace, build)


def _facts(outcome: StepOutcome) -> dict[str, object]:
    swapped = outcome.get(RestoreOutcome)
    if swapped is None:
        return {}
    return {
        "identity": swapped.identity,
        "old_database": swapped.old_database,
        "lost_rows": swapped.lost_rows,
        "state": swapped.state,
        "current": swapped.current,
        "journal_head": swapped.journal_head,
        "repeats": swapped.repeats,
    }


def _end(
    seen: RestoreSeen,
    status: DatabaseRestoreStatus,
    failure: Failure | None,
    now: datetime,
    *,
    effects: tuple[Effect, ...] = (),
) -> Decision:
    told = status.model_copy(update={"ended_at": now, "failure": failure})
    return decided(seen.restore, told, _ended(told), now, effects=effects, again_in=0.0)


def _ended(status: DatabaseRestoreStatus) -> Verdict:
    if status.failure is not None:
        told = Verdict.of(status.failure)
        return Verdict(Stand.STALLED, told.reason, told.message)
    if status.repeats:
        message = (
            "This was done before, for an object of the same name and content, and nothing was done now: "
            f"the former database became {status.old_database} then, and what was written since stands. "
            "To restore again, make a DatabaseRestore of another name."
        )
        return Verdict(Stand.READY, Reason.RESTORED, message)
    rows = "of a number unknown" if status.lost_rows < 0 else f"{status.lost_rows} in all"
    lost = f" Rows that were written since, {rows}, are only there." if status.lost_rows else ""
    at = status.current or "no migration"
    quoted = status.old_database.replace('"', '""')
    message = (
        f"The database is at {at}; the former one is {status.old_database}.{lost} "
        f'When nobody needs it any more: DROP DATABASE "{quoted}";'
    )
    return Verdict(Stand.READY, Reason.RESTORED, message)


def _give_back(seen: RestoreSeen, now: datetime) -> Decision:
    restore, status = seen.restore, seen.restore.status
    effects = tidied(status.steps, seen.steps, restore.metadata.namespace)
    if restore.spec.order is None:  # else the run that ordered it holds the database
        effects += given_back(seen.database, restore.metadata.uid)
    if FINALIZER in restore.metadata.finalizers:
        effects += (finalizer(restore, present=False),)
    told = status if effects else status.model_copy(update={"released": True})
    return decided(seen.restore, told, _ended(status), now, effects=effects, again_in=again_after(effects))
