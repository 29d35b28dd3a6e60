"""What a DatabaseMigration makes: its plan step and its runs. Pure builders, named deterministically."""

from datetime import datetime
from typing import Any

from godwit.api.common import UidRef
from godwit.api.database import PostgresDatabase
from godwit.api.migration import DatabaseMigration, PinnedSource
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun, MigrationRunSpec
from godwit.contract.base import CONTRACT_VERSION
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Findings, PlanOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import CheckInput, PlanInput, PlanRef, StepRequest
from godwit.planner.decision import Delete, Effect, StepSpec
from godwit.planner.policy import connection_of, policy_of
from godwit.planner.source import generated_metadata, spec_hash, stem
from godwit.planner.step import Step, job_name

PLAN_AGAIN = {Reason.STATE_MOVED, Reason.PLAN_CHANGED, Reason.SOURCE_CHANGED, Reason.TOO_LATE}
"""Ends of a run after which the migration is simply planned again: somebody else was first."""
PLAN_BUDGET = 600
"""Seconds that a plan may take."""


def number_of(run_name: str) -> int:
    """The n of `<migration>-<n>`; 0 where there is none."""
    tail = run_name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def number(run: MigrationRun) -> int:
    """The run's number."""
    return number_of(run.metadata.name)


def plan_step(
    migration: DatabaseMigration,
    database: PostgresDatabase,
    image: str,
    *,
    source: PinnedSource,
    identity: DatabaseIdentity | None,
    slot: str,
) -> Step:
    """The step that looks at the database and compares its history with the source. Writes nothing."""
    meta, spec = migration.metadata, migration.spec

    def build(attempt: int, _since: datetime) -> StepSpec:
        request = StepRequest(
            object=migration.ref,
            step="plan",
            attempt=attempt,
            environment=database.spec.environment,
            connection=connection_of(database.spec.connection, database.spec.schemas),
            identity=identity,
            budget_seconds=PLAN_BUDGET,
            format=spec.format,
            source_content=source.content,
            verbs=(
                CheckInput(),
                PlanInput(target=spec.target_version, policy=policy_of(database.spec, spec)),
            ),
        )
        return StepSpec(
            job=job_name(meta.name, meta.uid, "plan", attempt, slot),
            namespace=meta.namespace,
            owner=migration.ref,
            request=request,
            image=image,
            connection=database.spec.connection,
            source=source,
            pod=database.spec.pod_template,
            deadline_seconds=PLAN_BUDGET * 2,
        )

    return Step("plan", meta.namespace, build)


def expected_identity(
    database: PostgresDatabase, restores: tuple[DatabaseRestore, ...]
) -> DatabaseIdentity | None:
    """Which database is meant: what the last look saw, or what a restore has put in its place since."""
    latest, checked = latest_restore(restores), database.status.checked_at
    ended = latest.status.ended_at if latest else None
    # Both are in whole seconds; where they are equal, a look that came second saw what the restore left.
    if latest is not None and ended is not None and (checked is None or ended >= checked):
        return latest.status.identity
    return database.status.identity


def latest_restore(restores: tuple[DatabaseRestore, ...]) -> DatabaseRestore | None:
    """The newest restore that put another database into the place of the live one."""
    swapped = [
        (r.status.ended_at, r.metadata.uid, r) for r in restores if r.status.ended_at and r.status.identity
    ]
    return max(swapped, key=lambda t: t[:2])[2] if swapped else None


def plan_ref(found: PlanOutcome) -> PlanRef | None:
    """The plan's digests; None when nothing is pending."""
    if found.direction is None or found.pending + found.resolutions == 0:
        return None
    return PlanRef(
        content=found.content,
        plan=found.plan,
        direction=found.direction,
        from_state=found.from_state,
        to_state=found.to_state,
        target=found.target,
    )


def document_name(migration: DatabaseMigration, found: PlanOutcome) -> str:
    """Name of the ConfigMap with the whole plan, by the plan's digest."""
    return f"{stem(migration.metadata.name)}-plan-{found.plan[:10]}"


def run_manifest(migration: DatabaseMigration, database: PostgresDatabase, image: str) -> dict[str, Any]:
    """The next run of the plan in the status: complete, nothing else is read while it runs."""
    status, meta = migration.status, migration.metadata
    plan = status.plan
    assert plan is not None  # noqa: S101  the caller looked: something is pending
    assert plan.ref is not None  # noqa: S101  as above
    spec = MigrationRunSpec(
        migration_ref=UidRef(name=meta.name, uid=meta.uid),
        database_ref=UidRef(name=database.metadata.name, uid=database.metadata.uid),
        plan=plan.ref,
        pending=status.pending,
        identity=plan.identity,
        expected_journal=plan.journal_head,
        format=migration.spec.format,
        source=plan.source,
        policy=policy_of(database.spec, migration.spec),
        connection=database.spec.connection,
        schemas=database.spec.schemas,
        backup=database.spec.backup,
        rollback=database.spec.rollback,
        pod_template=database.spec.pod_template,
        image=image,
        contract_version=CONTRACT_VERSION,
    )
    name = f"{stem(meta.name)}-{status.run_count + 1}"
    return {
        "apiVersion": migration.api_version,
        "kind": MigrationRun.KIND,
        "metadata": generated_metadata(migration, name, spec_hash(spec)),
        "spec": spec.to_json(),
    }


def settled_plan(run: MigrationRun) -> dict[str, object]:
    """What a successful run makes of the plan in the status: nothing pending, history as planned."""
    return {
        "ref": None,
        "findings": Findings(),
        "state": run.spec.plan.to_state,
        "journal_head": run.status.journal_head,
        "pending_names": (),
        "statements": 0,
        "resolutions": 0,
        "rungs": (),
        "destructive": False,
        "transactional": True,
    }


def surplus(runs: tuple[MigrationRun, ...], limit: int) -> tuple[Effect, ...]:
    """Delete the oldest runs that have ended and given everything back, beyond *limit*."""
    ended = [r for r in sorted(runs, key=number) if r.status.released and not r.metadata.deleting]
    old = ended[: max(0, len(ended) - limit)]
    return tuple(Delete(r.KIND, r.metadata.namespace, r.metadata.name, r.metadata.uid) for r in old)
