"""A run that holds its database, and what becomes of it after one of its steps was seen."""

from godwit.contract.outcome import ApplyOutcome, VerifyOutcome
from godwit.contract.policy import OnFailure, Policy
from godwit.planner.decision import StepSeen, StepState
from godwit.planner.run import RunSeen, decide

from .builders import DONE, HELD, NOW, backup, database, migration, operation, record, run

GONE = StepSeen(StepState.GONE)
MINE = {"active_operation": operation()}
RUNNING = {"backup": "shop-1-backup", "steps": (record("apply", state="Running"),)}
DID = ApplyOutcome(applied=2, total=2, current="m2", state="s2", journal_head=9)
ONE = ApplyOutcome(applied=1, total=2, current="m1")
CHECKED = VerifyOutcome(state="s2", current="m2", journal_head=10)
ROLL_BACK = {"policy": Policy(on_failure=OnFailure.ROLL_BACK)}
RESTORABLE = {"rollback": {"automatic_restore": True}}


def seen(own=None, **more):
    """The run holds its database, and its backup is finished, unless it is said otherwise."""
    known = {
        "run": own or run(finalizers=HELD),
        "database": database(status=MINE, finalizers=HELD),
        "migration": migration(finalizers=HELD),
        "backup": backup(status=DONE),
    }
    return RunSeen(**{**known, **more})


def after(found, *, spec=None, step="apply", status=None, **more):
    """The decision after the step was seen so."""
    told = {**RUNNING, "steps": (record(step, state="Running"),), **(status or {})}
    own = run(status=told, spec=spec, finalizers=HELD, **more.pop("meta", {}))
    return decide(seen(own, steps={step: found}, **more), NOW)


def ended(decision):
    reason = decision.status.failure.reason if decision.status.failure else None
    return decision.status.outcome, reason
