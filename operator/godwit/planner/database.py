"""PostgresDatabase: look at the database when something asks for it, and say how it stands."""

from dataclasses import dataclass
from datetime import datetime

from godwit.api.backup import DatabaseBackup
from godwit.api.common import REQUESTED_AT
from godwit.api.database import DeletionPolicy, PostgresDatabase, PostgresDatabaseStatus
from godwit.api.restore import DatabaseRestore
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import CheckOutcome, Failure
from godwit.contract.reasons import Reason
from godwit.contract.request import CheckInput, StepRequest
from godwit.planner.conditions import Stand, Verdict, decided
from godwit.planner.decision import (
    GONE,
    Decision,
    Delete,
    Effect,
    StepSeen,
    StepSpec,
)
from godwit.planner.holding import given_back
from godwit.planner.policy import connection_of, interval, version_text
from godwit.planner.runs import latest_restore
from godwit.planner.step import LEAVING, TIDY, Step, StepProgress, again, drive, job_name, tidy

CHECK_BUDGET = 60
"""Seconds that a look may take."""


@dataclass(frozen=True)
class DatabaseSeen:
    """A PostgresDatabase and what hangs on it."""

    database: PostgresDatabase
    image: str
    check: StepSeen = GONE
    """The step that the status records, if it records one."""
    backups: tuple[DatabaseBackup, ...] = ()
    restores: tuple[DatabaseRestore, ...] = ()
    holder_exists: bool = True
    """Whether the object that `status.activeOperation` names still exists, with that uid."""


def decide(seen: DatabaseSeen, now: datetime) -> Decision:
    """Check on a change, a request, an interval or a restore; drop backups beyond the retention."""
    database, status = seen.database, seen.database.status
    meta = database.metadata
    freed = _orphaned(seen)
    if meta.deleting:
        return decided(seen.database, status, Verdict.moving(Reason.DELETING), now, effects=freed)
    key = check_key(seen)
    pause = interval(database.spec.check_interval)
    due = status.checked_at + pause if status.checked_at else now
    record = status.step("check")
    step = _step(seen, f"{key}/{status.checked_at}")
    if status.check_key == key and now < due:
        effects = (*freed, *_retention(seen, now), *tidy(record, seen.check, meta.namespace))
        left = (due - now).total_seconds()
        return decided(seen.database, status, _settled(status), now, effects=effects, again_in=left)
    if record is not None and record.job != step.build(record.attempt, record.started_at).job:
        stale = tidy(record, seen.check, meta.namespace)
        if stale:  # the status will name the new Job only: the old one goes first
            verdict = Verdict.moving(Reason.CHECKING)
            return decided(seen.database, status, verdict, now, effects=(*freed, *stale), again_in=LEAVING)
        record = None
    progress = drive(step, record, seen.check, now)
    if progress.outcome is not None and progress.outcome.failure is None:
        return _checked(seen, progress, key, now)
    failure = progress.failure
    if progress.outcome is not None:
        failure = progress.outcome.failure
        if not _terminal(progress):
            progress = again(progress, now)
    status, again_in = status.model_copy(update={"steps": (progress.record,)}), progress.again_in
    if failure is not None and failure.terminal and failure.reason is not Reason.NAME_TAKEN:
        status = status.model_copy(update={"check_key": key, "checked_at": now, "failure": failure})
        again_in = TIDY
    if failure is not None:
        verdict = Verdict.of(failure)
    elif status.ready and status.check_key == key:
        verdict = _settled(status)  # a look on an interval does not unsettle a settled database
    else:
        verdict = Verdict.moving(Reason.CHECKING)
    return decided(
        seen.database, status, verdict, now, effects=(*freed, *progress.effects), again_in=again_in
    )


def check_key(seen: DatabaseSeen) -> str:
    """What a look is for: generation, request, newest restore; another key asks for another look."""
    meta = seen.database.metadata
    restored = max((r.status.ended_at.isoformat() for r in seen.restores if r.status.ended_at), default="")
    # The request comes last: it may hold any character, also the one that separates.
    return f"{meta.generation}/{restored}/{meta.requested(_request_of(seen.database.status.check_key))}"


def _request_of(key: str) -> str:
    """The request in a check's *key*; nothing where it has none."""
    return "".join(key.split("/", 2)[2:])


def _terminal(progress: StepProgress) -> bool:
    outcome = progress.outcome
    return outcome is not None and outcome.failure is not None and outcome.failure.terminal


def _step(seen: DatabaseSeen, key: str) -> Step:
    database = seen.database
    meta, spec = database.metadata, database.spec

    def build(attempt: int, _since: datetime) -> StepSpec:
        request = StepRequest(
            object=database.ref,
            step="check",
            attempt=attempt,
            environment=spec.environment,
            connection=connection_of(spec.connection, spec.schemas),
            budget_seconds=CHECK_BUDGET,
            verbs=(CheckInput(),),
        )
        return StepSpec(
            job=job_name(meta.name, meta.uid, "check", attempt, key),
            namespace=meta.namespace,
            owner=database.ref,
            request=request,
            image=seen.image,
            connection=spec.connection,
            pod=spec.pod_template,
            deadline_seconds=CHECK_BUDGET * 2,
        )

    return Step("check", meta.namespace, build)


def _checked(seen: DatabaseSeen, progress: StepProgress, key: str, now: datetime) -> Decision:
    """Take what Check saw, unless it is another database and nobody said that this is meant."""
    before = seen.database.status
    assert progress.outcome is not None  # noqa: S101  the caller looked
    found = progress.outcome.get(CheckOutcome)
    looked = {"steps": (progress.record,), "check_key": key, "checked_at": now, "failure": None}
    if found is None:
        failure = Failure(reason=Reason.INTERNAL_ERROR, message="The step succeeded without what Check saw.")
        status = before.model_copy(update={**looked, "failure": failure})
    elif not _identity_accepted(seen, found.identity):
        old = before.identity.key if before.identity else ""
        failure = Failure(
            reason=Reason.DATABASE_CHANGED,
            message=f"The connection leads to database {found.identity.key} now; it was {old}.",
            standing="Nothing was changed in either.",
        )
        status = before.model_copy(update={**looked, "failure": failure})
    else:
        status = before.model_copy(
            update={
                **looked,
                "identity": found.identity,
                "server_version": version_text(found.server_version),
                "size_bytes": found.size_bytes,
                "stamp": found.stamp,
                "replicas": found.replicas,
                "replica_lag_bytes": found.replica_lag_bytes,
                "rollback_options": found.rollback_options,
                "warnings": found.warnings,
            }
        )
    return decided(seen.database, status, _settled(status), now, again_in=TIDY)


def _identity_accepted(seen: DatabaseSeen, found: DatabaseIdentity) -> bool:
    before = seen.database.status
    if before.identity is None or before.identity.same_database(found):
        return True
    swap = latest_restore(seen.restores)
    # Our own swap. What earlier ones put there has been kept under another name since the next one.
    if swap is not None and swap.status.identity is not None and swap.status.identity.same_database(found):
        return True
    requested = seen.database.metadata.annotations.get(REQUESTED_AT, "")
    return bool(requested) and _request_of(before.check_key) != requested


def _settled(status: PostgresDatabaseStatus) -> Verdict:
    if status.failure is not None:
        return Verdict.of(status.failure)
    message = f"PostgreSQL {status.server_version} answers."
    return Verdict(Stand.READY, Reason.CHECKED, message)


def _retention(seen: DatabaseSeen, now: datetime) -> tuple[Effect, ...]:
    """Delete the oldest backups beyond `keep` that runs made and whose file may go with them.

    One that a restore is going to read stays, and so does that of the run at work. Age is told by the
    cluster's clock: a database's may step back, with a failover for instance.
    """
    active = seen.database.status.active_operation
    wanted = {r.spec.backup_ref.name for r in seen.restores if r.status.ended_at is None}
    prunable = sorted(
        (
            b
            for b in seen.backups
            if b.spec.order is not None
            and b.spec.deletion_policy is DeletionPolicy.DELETE
            and b.status.ready
            and not b.metadata.deleting
            and b.metadata.name not in wanted
            and (active is None or b.spec.order.run.uid != active.uid)
        ),
        key=lambda b: (b.metadata.creation_timestamp or b.status.ended_at or now, b.metadata.name),
    )
    surplus = prunable[: max(0, len(prunable) - seen.database.spec.backup.keep)]
    return tuple(Delete(b.KIND, b.metadata.namespace, b.metadata.name, b.metadata.uid) for b in surplus)


def _orphaned(seen: DatabaseSeen) -> tuple[Effect, ...]:
    """Give back what nobody will: the hold of an object that is gone, the finalizer that nobody holds for.

    A run or restore takes the hold first and the finalizer then, and gives them back in that order.
    """
    active = seen.database.status.active_operation
    if active is not None and seen.holder_exists:
        return ()
    return given_back(seen.database, active.uid if active is not None else "")
