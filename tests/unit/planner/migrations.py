"""A migration that was planned, and what becomes of it after its step or its runs were seen."""

from godwit.api.migration import PinnedSource, PlanStatus
from godwit.contract.outcome import CheckOutcome, PlanOutcome
from godwit.contract.request import Direction
from godwit.planner.decision import SourceSeen
from godwit.planner.migration import MigrationSeen, decide, plan_key

from .builders import IDENTITY, IMAGE, NOW, REF, ago, condition, database, failure, migration, run

SOURCE = SourceSeen("c0ffee", (({"m1.sql": "SELECT 1"}, {}),))
CHECKED = CheckOutcome(identity=IDENTITY, server_version=160004, journal_head=4)
KEY = plan_key(MigrationSeen(migration=migration(), image=IMAGE, database=database(), source=SOURCE))


def found(pending=2, **more):
    facts = {"content": "c", "plan": "p" * 64, "from_state": "s0", "to_state": "s2", "current": "m1"}
    if pending:
        facts |= {"direction": Direction.UP, "target": "m3", "pending": pending}
    return PlanOutcome(**{**facts, **more})


PLAN = PlanStatus(
    ref=REF,
    source=PinnedSource(config_maps=("shop-source-0",)),
    identity=IDENTITY,
    made_at=ago(hours=1),
    document="d",
)
PLANNED = {"plan_key": KEY, "planned_at": ago(hours=1), "plan": PLAN, "pending": 2}
SETTLED = {
    "plan_key": KEY,
    "planned_at": ago(hours=1),
    "plan": PLAN.model_copy(update={"ref": None}),
    "conditions": (condition("Ready", "True", "UpToDate"),),
}


def seen(status=None, *, spec=None, base=None, meta=None, **more):
    return MigrationSeen(
        **{
            "migration": migration(status=status, spec=spec, **(meta or {})),
            "image": IMAGE,
            "database": base or database(),
            "source": SOURCE,
            **more,
        }
    )


def answered(step, status=None, **more):
    """The decision after the plan step that *status* asks for was seen so."""
    started = decide(seen(status, **more), NOW).status
    return decide(seen(dict(started), plan=step, **more), NOW)


def done(outcome, reason=None, **more):
    told = {"outcome": outcome, "ended_at": ago(seconds=1), "released": True, "current": "m2", **more}
    return run(status={**told, "failure": failure(reason) if reason else None})
