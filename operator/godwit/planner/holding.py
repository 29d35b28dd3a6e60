"""What a run or a restore holds while it works, and how it is given back, by itself or for it. Pure.

The hold on the database is taken first and the finalizers then; they are given back in the same order, the
object's own finalizer last. Whoever finds a finalizer without a hold may take it off.
"""

from collections.abc import Iterable

from godwit.api.common import FINALIZER, Resource, StepRecord
from godwit.api.database import PostgresDatabase
from godwit.planner.decision import GONE, DeleteStep, Effect, Hold, SetFinalizer, StepSeen
from godwit.planner.step import tidy


def finalizer(resource: Resource, *, present: bool) -> SetFinalizer:
    """Put our finalizer on an object, or take it off."""
    meta = resource.metadata
    return SetFinalizer(resource.KIND, meta.namespace, meta.name, meta.uid, present=present)


def tidied(records: Iterable[StepRecord], steps: dict[str, StepSeen], namespace: str) -> tuple[Effect, ...]:
    """Delete the Jobs of steps that have ended."""
    return tuple(
        effect for record in records for effect in tidy(record, steps.get(record.name, GONE), namespace)
    )


def given_back(database: PostgresDatabase | None, holder_uid: str) -> tuple[Effect, ...]:
    """Release the database and its finalizer, as far as *holder_uid* has them."""
    if database is None:
        return ()
    base, active = database.metadata, database.status.active_operation
    ours = active is not None and active.uid == holder_uid
    effects: list[Effect] = []
    if ours:
        effects.append(Hold(base.namespace, base.name, base.resource_version, None))
    if FINALIZER in base.finalizers and (active is None or ours):
        effects.append(finalizer(database, present=False))
    return tuple(effects)


def again_after(effects: tuple[Effect, ...]) -> float | None:
    """Seconds until the object is looked at again: a Job may take a while to go, all else is done at once."""
    if not effects:
        return None
    return 1.0 if all(isinstance(effect, DeleteStep) for effect in effects) else 0.0
