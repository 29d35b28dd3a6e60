"""Taking back: which rung of the ladder comes next after a step of a run has failed. Pure.

The transaction's own rollback and the undoing of what is exactly ours happen inside the step. What is left
to decide
here is whether to stop, to run down files, or to restore this run's backup.
"""

from dataclasses import dataclass
from enum import Enum

from godwit.api.database import RollbackConsent
from godwit.contract.outcome import Failure, MigrationProgress, Rung, RungState
from godwit.contract.policy import OnFailure
from godwit.contract.reasons import Reason


class Climb(Enum):
    """What to do next."""

    STOP = "Stop"
    DOWN = "Down"
    RESTORE = "Restore"


@dataclass(frozen=True)
class Fall:
    """A failure of a run's writing step, and all that decides what comes next."""

    failure: Failure
    progress: MigrationProgress | None
    """What the step did to the database; None when it told nothing (it never got so far, or never
    answered)."""
    on_failure: OnFailure
    consent: RollbackConsent
    has_backup: bool
    down_tried: bool = False
    """Whether the rung Down was climbed and did not hold."""
    wanted: bool = False
    """Whether a person asked to take the run back (the cancel annotation)."""


AFTER_COMMIT = {Reason.VERIFY_FAILED}
"""Failures seen after COMMIT: nothing is climbed, the database is looked at by people."""


def climb(fall: Fall) -> Climb:
    """The next rung.

    Nothing is climbed after a check that failed after COMMIT (or what a newer version may mean by its
    reason), nor where nothing of ours is left.
    Down files only under RollBack (or when a person asks), and never for a half-done file. A restore only
    where the database's owner has consented and a backup of this run exists; the step counts what it would
    lose.
    """
    progress = fall.progress
    reason = fall.failure.reason
    if (reason in AFTER_COMMIT or not reason.known) and not fall.wanted:
        return Climb.STOP
    if progress is None or (progress.applied + progress.resolved == 0 and not progress.partial):
        return Climb.STOP
    restorable = fall.consent.automatic_restore and fall.has_backup
    if progress.partial:
        return Climb.RESTORE if restorable else Climb.STOP
    if fall.on_failure is not OnFailure.ROLL_BACK and not fall.wanted:
        return Climb.STOP
    if not fall.down_tried:
        return Climb.DOWN
    return Climb.RESTORE if restorable else Climb.STOP


def rungs(fall: Fall) -> tuple[RungState, ...]:
    """Every rung with whether it was possible, whether it was taken, and why not."""
    told = {state.rung: state for state in (fall.progress.rungs if fall.progress else ())}
    if Rung.RESTORE not in told or told[Rung.RESTORE].possible:
        told[Rung.RESTORE] = _restore_rung(fall)
    known = [told.pop(rung, RungState(rung=rung, possible=False, why="not needed")) for rung in Rung]
    return (*known, *told.values())


def taken(states: tuple[RungState, ...], rung: Rung) -> tuple[RungState, ...]:
    """The same rungs, with one of them marked as taken."""
    return tuple(
        s.model_copy(update={"possible": True, "taken": True, "why": ""}) if s.rung is rung else s
        for s in states
    )


def _restore_rung(fall: Fall) -> RungState:
    if not fall.has_backup:
        return RungState(rung=Rung.RESTORE, possible=False, why="this run has no backup")
    if not fall.consent.automatic_restore:
        why = "the PostgresDatabase does not consent (spec.rollback.automaticRestore)"
        return RungState(rung=Rung.RESTORE, possible=False, why=why)
    return RungState(rung=Rung.RESTORE, possible=True)


def standing(progress: MigrationProgress | None, total: int) -> str:
    """Where the database stands, in one sentence."""
    if progress is None:
        return "The database is as it was before this run, as far as the step got to tell."
    if progress.partial:
        at = progress.current or "no migration"
        return f"The database is at {at}, with {progress.partial} half done."
    resolved = (
        f" The history has {progress.resolved} changes by resolve or baseline." if progress.resolved else ""
    )
    if progress.applied == 0 and progress.reverted == 0:
        if resolved:
            return f"Nothing was applied.{resolved}"
        return "The database is as it was before this run."
    done = f"{progress.applied} applied" if progress.applied else f"{progress.reverted} taken back"
    return f"The database is at {progress.current or 'no migration'}: {done} of {total}.{resolved}"
