"""What a MigrationRun makes: its steps, its backup, its restore; and what may be tried again.

Pure builders.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from godwit.api.backup import DatabaseBackup, DatabaseBackupSpec, RunOrder
from godwit.api.common import ApiModel, LocalRef, UidRef
from godwit.api.database import DeletionPolicy
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore, DatabaseRestoreSpec
from godwit.api.run import MigrationRun
from godwit.contract.base import digest
from godwit.contract.outcome import Failure, MigrationProgress
from godwit.contract.reasons import Kind, Reason
from godwit.contract.request import (
    ApplyInput,
    BackupType,
    Direction,
    RevertInput,
    RevertScope,
    StepRequest,
    VerbInput,
    VerifyInput,
)
from godwit.planner.conditions import Stand, Verdict
from godwit.planner.decision import Create, DeleteStep, LostCopy, StepSpec
from godwit.planner.ladder import standing
from godwit.planner.policy import connection_of, span
from godwit.planner.runs import PLAN_AGAIN
from godwit.planner.source import generated_metadata, pin_manifests, spec_hash, spec_hash_of
from godwit.planner.step import LEAVING, Step, StepProgress, job_name

WRITE_BUDGET = 6 * 3_600
"""Seconds that a writing step may take: the budget of CREATE INDEX CONCURRENTLY, which may wait for hours."""
START_WINDOW = timedelta(hours=1)
"""How late after it was asked for a writing step may get the lock where no backup's age says less."""
UNKNOWN = "What the step did is in the database's own history and journal; Godwit will plan from there."
MAX_BACKUPS = 5
"""Backups of one run that may grow too old before its migrations could be applied."""
MAX_INTERNAL = 5
"""Attempts that may end by an error of Godwit's own before a person has to look."""


def apply_step(run: MigrationRun, backup: DatabaseBackup | None) -> Step:
    """The step that takes the database to the plan's target, in the plan's direction, and verifies it."""
    spec = run.spec
    act: VerbInput
    if spec.plan.direction is Direction.UP:
        act = ApplyInput(plan=spec.plan, policy=spec.policy)
    else:
        act = RevertInput(scope=RevertScope.PLAN, plan=spec.plan, policy=spec.policy)
    verify = VerifyInput(state=spec.plan.to_state, checks=spec.policy.checks)
    ended = backup.status.ended_at if backup is not None and spec.backup.required else None
    usable_until = ended + span(spec.backup.max_age) if ended else None
    return _writing_step(run, "apply", (act, verify), usable_until)


def revert_step(run: MigrationRun) -> Step:
    """The step that takes back what this run applied, and looks whether the history is as it was."""
    spec = run.spec
    act = RevertInput(scope=RevertScope.OPERATION, plan=spec.plan, policy=spec.policy)
    return _writing_step(run, "revert", (act, VerifyInput(state=spec.plan.from_state)), None)


def _writing_step(run: MigrationRun, name: str, verbs: tuple[VerbInput, ...], until: datetime | None) -> Step:
    meta, spec = run.metadata, run.spec
    budget = WRITE_BUDGET + spec.policy.concurrent_budget_ms // 1000

    def build(attempt: int, since: datetime) -> StepSpec:
        request = StepRequest(
            contract_version=spec.contract_version,
            object=run.ref,
            step=name,
            attempt=attempt,
            operation=meta.uid,
            spec_hash=spec_hash_of(run),
            environment=spec.policy.environment,
            connection=connection_of(spec.connection, spec.schemas),
            identity=spec.identity,
            expected_journal=spec.expected_journal,
            not_after=until or since + START_WINDOW,
            budget_seconds=budget,
            format=spec.format,
            source_content=spec.source.content,
            verbs=verbs,
        )
        return StepSpec(
            job=job_name(meta.name, meta.uid, name, attempt),
            namespace=meta.namespace,
            owner=run.ref,
            request=request,
            image=spec.image,
            connection=spec.connection,
            source=spec.source,
            pod=spec.pod_template,
            deadline_seconds=budget + 600,
        )

    return Step(name, meta.namespace, build)


def copied(
    progress: StepProgress, run: MigrationRun, migration: DatabaseMigration | None, lost: LostCopy | None
) -> StepProgress:
    """A step that misses a pinned copy of the source: it is made again while somebody has that content.

    Where nobody has, the step is given up, and the migration planned again from the source that there is.
    """
    failure = progress.failure
    if lost is None or failure is None or failure.reason is not Reason.SOURCE_MISSING:
        return progress
    if migration is not None and lost.source.content == run.spec.source.content:
        pins = tuple(Create(copy) for copy in pin_manifests(migration, lost.source))
        return replace(progress, effects=(*progress.effects, *pins))
    text = f"{lost.name}, a copy of the planned source, was deleted, and what it was made of is no more."
    changed = Failure(reason=Reason.SOURCE_CHANGED, message=text)
    job = DeleteStep(run.metadata.namespace, progress.record.job)
    return replace(progress, failure=changed, effects=(*progress.effects, job))


def soon(progress: StepProgress, *, cancelled: bool) -> StepProgress:
    """A cancelled run waits for no other attempt of a step that rests."""
    rests = cancelled and progress.record.retry_at is not None
    return replace(progress, again_in=LEAVING) if rests else progress


def repeatable(failure: Failure, facts: MigrationProgress | None, attempt: int) -> bool:
    """Whether the same step may simply be tried again.

    Only what passes by itself, and leaves nothing half done. What another plan or another backup would
    mend ends the
    run: the migration is planned again.
    """
    if failure.reason.advice.kind is not Kind.WAITING or failure.reason in PLAN_AGAIN:
        return False
    if facts is not None and facts.partial:
        return False
    return failure.reason is not Reason.INTERNAL_ERROR or attempt < MAX_INTERNAL


@dataclass(frozen=True)
class BackupNeed:
    """What a run's backup asks for; nothing at all where it is usable."""

    create: str = ""
    """Name of a backup to be made."""
    failure: Failure | None = None
    """Why the run cannot go on."""
    waits: Verdict | None = None


def backup_need(run: MigrationRun, backup: DatabaseBackup | None, now: datetime) -> BackupNeed:
    """Look at the backup that the run's status names: make one, make another one, wait, or give up."""
    name = run.status.backup or backup_name(run)
    if backup is None:
        return BackupNeed(create=name)
    told = backup.status
    if backup.metadata.deleting or (told.ready and _too_old(run, backup, now)):
        number = int(name.rpartition("-")[2]) if name[-1].isdigit() else 1
        if number >= MAX_BACKUPS:
            text = f"{number} backups were deleted, or older than {run.spec.backup.max_age}, before Apply."
            if told.ended_at is not None:
                text += (
                    f" The last ended at {told.ended_at:%F %T} UTC by the database's clock; by the cluster's "
                    f"it is {now:%F %T} UTC. Where both are right, raise `spec.backup.maxAge` of the "
                    "PostgresDatabase."
                )
            return BackupNeed(failure=_useless(text))
        return BackupNeed(create=f"{backup_name(run)}-{number + 1}")
    if told.ready:
        return BackupNeed(failure=unusable(run, backup))
    if told.condition("Stalled") is not None:
        failure = told.failure or Failure(reason=Reason.BACKUP_FAILED, message="The backup failed.")
        return BackupNeed(failure=failure.model_copy(update={"standing": standing(None, 0)}))
    return BackupNeed(waits=waits_for(backup, Reason.BACKING_UP))


def waits_for(child: DatabaseBackup | DatabaseRestore, moving: Reason) -> Verdict:
    """How a run stands that waits for its backup or restore: as that does, where that waits itself."""
    ready = child.status.condition("Ready")
    if ready is None or ready.status != "False":
        return Verdict.moving(moving)
    return Verdict(Stand.WAITING, Reason(ready.reason), f"{child.metadata.name}: {ready.message}")


def backup_name(run: MigrationRun) -> str:
    """Name of a run's first backup; the next ones are numbered.

    Backups outlive their runs, and a run made anew may have the name of an old one: the uid tells them apart.
    """
    return f"{run.metadata.name}-{digest([run.metadata.uid])[:6]}-backup"


def _too_old(run: MigrationRun, backup: DatabaseBackup, now: datetime) -> bool:
    ended = backup.status.ended_at
    return ended is None or now >= ended + span(run.spec.backup.max_age)


def backup_manifest(run: MigrationRun, name: str) -> dict[str, Any]:
    """The backup that the run waits for. It belongs to nobody: deleting the run keeps it."""
    spec = DatabaseBackupSpec(
        database_ref=LocalRef(name=run.spec.database_ref.name),
        type=BackupType.FULL,
        method=run.spec.backup.method,
        deletion_policy=run.spec.backup.deletion_policy or DeletionPolicy.RETAIN,
        order=_order(run, run.spec.plan.from_state),
    )
    metadata = generated_metadata(run, name, spec_hash(spec))
    del metadata["ownerReferences"]
    return _manifest(run, DatabaseBackup.KIND, metadata, spec)


def unusable(run: MigrationRun, backup: DatabaseBackup) -> Failure | None:
    """Why a finished backup is of no use to this run; None when it is of use."""
    told, order = backup.status, backup.spec.order
    why = ""
    if order is None or order.run.uid != run.metadata.uid:
        why = "it was not made for this run"
    elif told.identity is None or not told.identity.same_database(run.spec.identity):
        why = "it is of another database"
    elif backup.spec.type is not BackupType.FULL:
        why = "it holds no data"
    elif told.state != run.spec.plan.from_state:
        why = "its history is not the one that was planned from"
    elif not told.verified:
        why = "it was not read back"
    elif backup.metadata.deleting:
        why = "it is being deleted"
    return _useless(f"Backup {backup.metadata.name} cannot be used: {why}.") if why else None


def lost_backup(run: MigrationRun, backup: DatabaseBackup | None) -> Failure | None:
    """Why another attempt to apply must not be made: the backup that the first one relied on is no more."""
    if not run.spec.backup.required:
        return None
    if backup is not None:
        failure = unusable(run, backup)
    else:
        failure = _useless(f"Backup {run.status.backup} is gone.")
    return failure.model_copy(update={"standing": UNKNOWN}) if failure is not None else None


def _useless(text: str) -> Failure:
    return Failure(reason=Reason.BACKUP_UNUSABLE, message=text, standing=standing(None, 0))


def restore_name(run: MigrationRun) -> str:
    """A run orders at most one restore."""
    return f"{run.metadata.name}-restore"


def restore_manifest(run: MigrationRun) -> dict[str, Any]:
    """The restore of the run's own backup."""
    spec = DatabaseRestoreSpec(
        database_ref=LocalRef(name=run.spec.database_ref.name),
        backup_ref=LocalRef(name=run.status.backup),
        accept_data_loss=run.spec.rollback.accept_data_loss,
        order=_order(run, run.spec.plan.from_state),
    )
    metadata = generated_metadata(run, restore_name(run), spec_hash(spec))
    return _manifest(run, DatabaseRestore.KIND, metadata, spec)


def _manifest(run: MigrationRun, kind: str, metadata: dict[str, Any], spec: ApiModel) -> dict[str, Any]:
    return {"apiVersion": run.api_version, "kind": kind, "metadata": metadata, "spec": spec.to_json()}


def _order(run: MigrationRun, state: str) -> RunOrder:
    return RunOrder(
        run=UidRef(name=run.metadata.name, uid=run.metadata.uid),
        identity=run.spec.identity,
        from_state=state,
        expected_journal=run.spec.expected_journal,
        image=run.spec.image,
        format=run.spec.format,
    )
