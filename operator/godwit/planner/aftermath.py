"""What the ends of its runs, and restores of its database, make of a DatabaseMigration's status. Pure."""

from typing import Final

from godwit.api.migration import DatabaseMigration, DatabaseMigrationStatus, RunSummary
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun
from godwit.contract.outcome import Failure
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction
from godwit.planner import runs

OWN_PART: Final = 16
"""So many characters at a plan key's start are of the migration itself: its spec, its source, a request. What
a restore took away is held under these alone: an edit of the PostgresDatabase does not bring it back."""


def holds(hold: str, key: str) -> bool:
    """Whether *hold*, a plan key or its own part, holds what is planned under *key*."""
    return bool(hold) and key.startswith(hold)


def noticed(
    migration: DatabaseMigration, made: tuple[MigrationRun, ...], restores: tuple[DatabaseRestore, ...]
) -> DatabaseMigration:
    """The migration with its status brought up to what its runs, oldest first, and restores have become."""
    status = migration.status
    newest = max((runs.number(r) for r in made), default=0)
    update: dict[str, object] = {"run_count": max(status.run_count, newest), "active_run": ""}
    done = [r for r in made if r.status.outcome]
    if done and (status.last_run is None or runs.number(done[-1]) > runs.number_of(status.last_run.name)):
        update |= _after(status, done[-1])
    latest = runs.latest_restore(restores)
    if latest is not None and latest.metadata.uid != status.seen_restore:
        update |= {"seen_restore": latest.metadata.uid, "planned_at": None}
        made_at = status.plan.made_at if status.plan else None
        ended, planned = latest.status.ended_at, status.planned_at or made_at
        if ended is not None and planned is not None and ended >= planned:
            failure = update.get("failure") or _restored_hold(latest)
            update |= {"hold": status.plan_key[:OWN_PART], "failure": failure}
    return migration.model_copy(update={"status": status.model_copy(update=update)})


def _restored_hold(restore: DatabaseRestore) -> Failure:
    return Failure(
        reason=Reason.RESTORED_HOLD,
        message=f"{restore.metadata.name} restored the database; what that took away is held.",
        standing=f"The database is at {restore.status.current or 'no migration'}.",
    )


def _after(status: DatabaseMigrationStatus, run: MigrationRun) -> dict[str, object]:
    """What the end of a run makes of the status. A success needs no new plan: Verify has just looked."""
    told = run.status
    summary = RunSummary(
        name=run.metadata.name,
        uid=run.metadata.uid,
        outcome=told.outcome,
        reason=told.failure.reason if told.failure else Reason.SUCCEEDED,
        ended_at=told.ended_at,
    )
    update: dict[str, object] = {"last_run": summary}
    if told.outcome == "Succeeded":
        plan = status.plan.model_copy(update=runs.settled_plan(run)) if status.plan else None
        current, step = told.current, -1 if run.spec.plan.direction is Direction.DOWN else 1
        applied = max(0, status.applied + step * run.spec.pending)
        told_now = {"current": current, "target": current, "applied": applied, "pending": 0}
        if status.plan is not None and status.plan.resolutions:  # it has counted what runs, and nothing else
            told_now["planned_at"] = None
        return update | told_now | {"plan": plan, "retries": 0}
    update["current"] = told.current or status.current
    failure = told.failure
    if failure is not None and failure.reason in runs.PLAN_AGAIN:
        return update | {"planned_at": None, "retries": status.retries + 1}
    return update | {"planned_at": None, "hold": status.plan_key, "failure": failure, "retries": 0}
