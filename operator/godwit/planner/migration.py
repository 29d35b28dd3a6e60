"""DatabaseMigration: plan when something changed, and make one run when something is pending and may run."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from godwit.api.common import FINALIZER
from godwit.api.database import PostgresDatabase
from godwit.api.migration import DatabaseMigration, DatabaseMigrationStatus, PlanStatus
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun
from godwit.contract.base import digest
from godwit.contract.outcome import CheckOutcome, Failure, PlanOutcome
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.planner import runs
from godwit.planner.aftermath import OWN_PART, holds, noticed
from godwit.planner.conditions import Stand, Verdict, decided
from godwit.planner.decision import (
    GONE,
    Create,
    Decision,
    Delete,
    Effect,
    SaveDocument,
    SourceSeen,
    StartStep,
    StepSeen,
)
from godwit.planner.holding import finalizer
from godwit.planner.policy import interval, policy_of, too_large
from godwit.planner.source import Pin, pin_manifests, pinned_source
from godwit.planner.step import LEAVING, TIDY, StepProgress, again, backoff, drive, job_name, tidy

_YOUNG = timedelta(seconds=2)
"""Since the end of a plan's step, as far as whole seconds tell: too early to spend time on tidying up."""


@dataclass(frozen=True)
class MigrationSeen:
    """A DatabaseMigration and what hangs on it."""

    migration: DatabaseMigration
    image: str
    database: PostgresDatabase | None = None
    source: SourceSeen = field(default_factory=SourceSeen)
    spare: tuple[Pin, ...] = ()
    """Those of `status.copies` that exist and that nothing refers to any more (`spare_copies`)."""
    plan: StepSeen = GONE
    """The step that the status records, if it records one."""
    runs: tuple[MigrationRun, ...] = ()
    """Its runs, oldest first."""
    restores: tuple[DatabaseRestore, ...] = ()
    """Restores of its database."""


def decide(seen: MigrationSeen, now: datetime) -> Decision:
    """In reading order: what forbids planning, a run under way, a due plan, what the plan asks for."""
    seen = replace(seen, migration=_asked(noticed(seen.migration, seen.runs, seen.restores)))
    status, database = seen.migration.status, seen.database
    if seen.migration.metadata.deleting:
        freed = _orphaned(seen)
        return decided(seen.migration, status, Verdict.moving(Reason.DELETING), now, effects=freed)
    active = next((r for r in seen.runs if not r.status.outcome), None)
    if active is not None:
        return _running(seen, active, now)
    refused = _refused(seen)
    if refused is not None:
        left = tidy(status.step("plan"), seen.plan, seen.migration.metadata.namespace)
        freed, status = (*_orphaned(seen), *left), status if left else status.model_copy(update={"steps": ()})
        return decided(seen.migration, status, Verdict.of(refused), now, effects=freed, again_in=60.0)
    assert database is not None  # noqa: S101  _refused looked
    key = plan_key(seen)
    if _due(seen, key, now):
        return _plan(seen, database, key, now)
    return _settled(seen, database, key, now)


def _asked(migration: DatabaseMigration) -> DatabaseMigration:
    """With the newest request in its status, which outlasts the annotation."""
    requested = migration.metadata.requested(migration.status.requested_at)
    told = migration.status.model_copy(update={"requested_at": requested})
    return migration.model_copy(update={"status": told})


def plan_key(seen: MigrationSeen) -> str:
    """What a plan is for: this generation, this source content, this request; and this database."""
    meta = seen.migration.metadata
    source, database = seen.migration.spec.source, seen.database
    own = {
        "generation": meta.generation,
        "source": seen.source.content or (source.image.to_json() if source.image else ""),
        "requested": meta.requested(seen.migration.status.requested_at),
    }
    place = [database.metadata.uid, database.metadata.generation] if database else []
    return digest(own)[:OWN_PART] + digest(place)[:8]


def _refused(seen: MigrationSeen) -> Failure | None:
    """What stands in the way of planning at all."""
    migration, database = seen.migration, seen.database
    if database is None or database.metadata.deleting:
        name = migration.spec.database_ref.name
        text = f"There is no PostgresDatabase {name} in namespace {migration.metadata.namespace}."
        return Failure(reason=Reason.DATABASE_NOT_FOUND, message=text)
    if seen.source.missing:
        text = f"ConfigMap {seen.source.missing} of the source does not exist."
        return Failure(reason=Reason.SOURCE_MISSING, message=text, standing="Nothing was changed.")
    image = migration.spec.source.image
    development = database.spec.environment is Environment.DEVELOPMENT
    if image is not None and "@sha256:" not in image.reference and not development:
        text = f"The image {image.reference} is named by a tag; name it by digest (@sha256:...)."
        return Failure(reason=Reason.SOURCE_INVALID, message=text, standing="Nothing was changed.")
    return too_large(policy_of(database.spec, migration.spec))


def _running(seen: MigrationSeen, run: MigrationRun, now: datetime) -> Decision:
    """A run is under way: tell of it. Its own end wakes this migration again."""
    told = run.status.condition("Ready")
    status = seen.migration.status.model_copy(
        update={
            "active_run": run.metadata.name,
            "current": run.status.current or seen.migration.status.current,
        }
    )
    message = (
        f"{run.metadata.name}: {told.message}"
        if told and told.message
        else f"{run.metadata.name} is under way."
    )
    reason = Reason(told.reason) if told else Reason.RUNNING
    stand = Stand.WAITING if told and told.status == "False" else Stand.MOVING
    verdict, record = Verdict(stand, reason, message), status.step("plan")
    if record is not None and record.ended_at is not None and now - record.ended_at < _YOUNG:
        # The run's own first step comes first.
        return decided(seen.migration, status, verdict, now, again_in=TIDY)
    return decided(seen.migration, status, verdict, now, effects=_kept(seen), again_in=60.0)


def _due(seen: MigrationSeen, key: str, now: datetime) -> bool:
    status, database = seen.migration.status, seen.database
    if status.plan_key != key or status.planned_at is None or now >= _next(seen, status.planned_at):
        return True
    known = runs.expected_identity(database, seen.restores) if database else None
    return status.plan is not None and known is not None and not status.plan.identity.same_database(known)


def _next(seen: MigrationSeen, planned_at: datetime) -> datetime:
    """When the interval asks for another plan; spread by a tenth so that many do not plan at once."""
    pause = interval(seen.migration.spec.interval)
    spread = int(digest([seen.migration.metadata.uid])[:4], 16) % 1000 / 10_000
    return planned_at + pause * (1 + spread)


def _plan(seen: MigrationSeen, database: PostgresDatabase, key: str, now: datetime) -> Decision:
    """Drive the plan step for this key, and take what it found."""
    status, meta = seen.migration.status, seen.migration.metadata
    last = status.last_run
    if status.retries and status.plan_key == key and last is not None and last.ended_at is not None:
        due = last.ended_at + timedelta(seconds=backoff(status.retries, meta.uid))
        if now < due:
            verdict = Verdict.moving(Reason.PLANNING, f"{last.reason}: planned again at {due:%T} UTC.")
            return decided(seen.migration, status, verdict, now, again_in=(due - now).total_seconds())
    source = pinned_source(seen.migration, seen.source)
    slot = f"{key}/{status.last_run.uid if status.last_run else ''}/{status.seen_restore}/{_slot(seen)}"
    identity = runs.expected_identity(database, seen.restores)
    step = runs.plan_step(seen.migration, database, seen.image, source=source, identity=identity, slot=slot)
    record, found = status.step("plan"), seen.plan
    if record is not None and record.job != job_name(meta.name, meta.uid, "plan", record.attempt, slot):
        left = tidy(record, found, meta.namespace)
        if left:  # the status will name the new Job only: the old one goes first
            verdict = Verdict.moving(Reason.PLANNING)
            return decided(seen.migration, status, verdict, now, effects=left, again_in=LEAVING)
        record, found = None, GONE
    progress = drive(step, record, found, now)
    if progress.outcome is None and _given_up(progress.failure):
        return _planned(seen, database, progress, key, now)
    if progress.outcome is None:
        failure = progress.failure
        verdict = Verdict.of(failure) if failure else Verdict.moving(Reason.PLANNING)
        if failure is None and status.ready and status.plan_key == key:
            verdict = _verdict(seen)  # planning on an interval does not unsettle what is settled
        pins: tuple[Effect, ...] = ()
        starts = any(isinstance(effect, StartStep) for effect in progress.effects)
        if starts or (failure is not None and failure.reason is Reason.SOURCE_MISSING):
            pins = tuple(Create(copy) for copy in pin_manifests(seen.migration, seen.source))
        copies = tuple(dict.fromkeys((*status.copies, *source.config_maps)))
        status = status.model_copy(update={"steps": (progress.record,), "copies": copies})
        effects = (*pins, *progress.effects)
        return decided(seen.migration, status, verdict, now, effects=effects, again_in=progress.again_in)
    failure = progress.outcome.failure
    if failure is None and None in (progress.outcome.get(PlanOutcome), progress.outcome.get(CheckOutcome)):
        failure = Failure(reason=Reason.INTERNAL_ERROR, message="The step succeeded without a plan.")
    if failure is not None and not failure.terminal:
        progress = again(progress, now)
        status = status.model_copy(update={"steps": (progress.record,)})
        return decided(
            seen.migration,
            status,
            Verdict.of(failure),
            now,
            effects=progress.effects,
            again_in=progress.again_in,
        )
    return _planned(seen, database, progress, key, now)


def _given_up(failure: Failure | None) -> bool:
    return failure is not None and failure.reason is Reason.DEADLINE_EXCEEDED


def _slot(seen: MigrationSeen) -> str:
    planned = seen.migration.status.planned_at
    return planned.isoformat() if planned else ""


def _planned(
    seen: MigrationSeen, database: PostgresDatabase, progress: StepProgress, key: str, now: datetime
) -> Decision:
    """Take the plan, or why there is none, into the status, and make its run."""
    status, outcome = seen.migration.status, progress.outcome
    failure = outcome.failure if outcome else progress.failure
    found = outcome.get(PlanOutcome) if outcome else None
    checked = outcome.get(CheckOutcome) if outcome else None
    # A plan that could not be renewed stands no more: it may be of another database, or of another source.
    update: dict[str, object] = {"steps": (progress.record,), "plan_key": key, "planned_at": now}
    update["plan"] = None
    mended = found is not None and runs.plan_ref(found) is None and not _verify_failed(status)
    if not holds(status.hold, key) or (failure is None and mended):
        update |= {"hold": "", "failure": failure}
    if found is not None and checked is not None:
        document = runs.document_name(seen.migration, found)
        update |= {
            "copies": tuple(dict.fromkeys((*status.copies, document))),
            "current": found.current,
            "target": found.target,
            "applied": found.applied,
            "pending": found.pending,
            "plan": PlanStatus(
                ref=runs.plan_ref(found),
                source=pinned_source(seen.migration, seen.source),
                identity=checked.identity,
                journal_head=found.journal_head,
                state=found.from_state,
                pending_names=found.pending_names,
                statements=found.statements,
                resolutions=found.resolutions,
                transactional=found.transactional,
                destructive=found.destructive,
                rungs=found.rungs,
                findings=found.findings,
                document=document,
                made_at=now,
            ),
        }
    told = replace(
        seen, migration=seen.migration.model_copy(update={"status": status.model_copy(update=update)})
    )
    made = _next_run(told, database, key)
    # The run's backup waits for the end of this pass: the document comes with the deletion of its Job.
    effects = (*(made or _document(told)), *progress.effects)
    return decided(told.migration, told.migration.status, _verdict(told), now, effects=effects, again_in=TIDY)


def _document(seen: MigrationSeen) -> tuple[Effect, ...]:
    """Keep the document of the plan in the status, which its step has printed."""
    status, record = seen.migration.status, seen.migration.status.step("plan")
    if status.plan is None or record is None or record.outcome is None:
        return ()
    return (SaveDocument(seen.migration.metadata.namespace, record.job, status.plan.document),)


def _kept(seen: MigrationSeen) -> tuple[Effect, ...]:
    """Delete the Job of the plan's step, its document once more before: a crash may have come in between."""
    left = tidy(seen.migration.status.step("plan"), seen.plan, seen.migration.metadata.namespace)
    return (*_document(seen), *left) if left else ()


def _next_run(seen: MigrationSeen, database: PostgresDatabase, key: str) -> tuple[Effect, ...]:
    """The run of the plan in the status, where one may start now."""
    return (Create(runs.run_manifest(seen.migration, database, seen.image)),) if runnable(seen, key) else ()


def _verify_failed(status: DatabaseMigrationStatus) -> bool:
    """Whether the last run left a database that failed its checks; an equal history does not mend it."""
    return status.last_run is not None and status.last_run.reason == Reason.VERIFY_FAILED


def _settled(seen: MigrationSeen, database: PostgresDatabase, key: str, now: datetime) -> Decision:
    """The plan stands. Nothing pending: ready. Something pending: make the run, unless something holds it."""
    status = seen.migration.status
    effects: list[Effect] = [
        *_orphaned(seen),
        *_next_run(seen, database, key),
        *_kept(seen),
        *runs.surplus(seen.runs, seen.migration.spec.run_history_limit),
        *(Delete("ConfigMap", seen.migration.metadata.namespace, pin.name, pin.uid) for pin in seen.spare),
    ]
    gone = set(spare_copies(seen.migration, seen.runs)) - {pin.name for pin in seen.spare}
    status = status.model_copy(update={"copies": tuple(c for c in status.copies if c not in gone)})
    later = (_next(seen, status.planned_at) - now).total_seconds() if status.planned_at else None
    return decided(seen.migration, status, _verdict(seen), now, effects=tuple(effects), again_in=later)


def runnable(seen: MigrationSeen, key: str) -> bool:
    """Whether a run may start now.

    Something is pending, nothing failed, nothing holds it, it is not suspended, and the run before has given
    back what it held.
    """
    status = seen.migration.status
    plan = status.plan
    return (
        plan is not None
        and plan.ref is not None
        and status.pending + plan.resolutions > 0
        and status.failure is None
        and not holds(status.hold, key)
        and not seen.migration.spec.suspend
        and all(run.status.released for run in seen.runs)
    )


def _orphaned(seen: MigrationSeen) -> tuple[Effect, ...]:
    """Take off the finalizer that a run set and, being gone, will not take off."""
    meta = seen.migration.metadata
    if FINALIZER not in meta.finalizers or not all(run.status.released for run in seen.runs):
        return ()
    return (finalizer(seen.migration, present=False),)


def _verdict(seen: MigrationSeen) -> Verdict:
    """How a migration with a standing plan stands."""
    status = seen.migration.status
    if status.failure is not None:
        return Verdict.of(status.failure)
    resolutions = status.plan.resolutions if status.plan else 0
    if status.pending + resolutions == 0:
        return Verdict(
            Stand.READY, Reason.UP_TO_DATE, f"The database is at {status.current or 'no migration'}."
        )
    waiting = (
        f"{status.pending} pending, from {status.current or 'an empty history'} to {status.target or 'none'}"
        f"{f', {resolutions} to resolve before' if resolutions else ''}"
    )
    if seen.migration.spec.suspend:
        return Verdict(Stand.RESTING, Reason.SUSPENDED, f"{waiting}. {Reason.SUSPENDED.advice.next}")
    return Verdict.moving(Reason.PENDING, f"{waiting}.")


def spare_copies(migration: DatabaseMigration, made: tuple[MigrationRun, ...]) -> tuple[str, ...]:
    """Names of copies that neither the plan nor a run refers to any more."""
    plan = migration.status.plan
    used = {*plan.source.config_maps, plan.document} if plan else set()
    used |= {name for run in made for name in run.spec.source.config_maps}
    return tuple(name for name in migration.status.copies if name not in used)
