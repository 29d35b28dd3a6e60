"""Conditions after kstatus (sigs.k8s.io/cli-utils): one verdict becomes Ready, Reconciling and Stalled."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from godwit.api.common import Condition, Resource, Status
from godwit.contract.outcome import Failure
from godwit.contract.reasons import Reason
from godwit.planner.decision import Decision, Effect, Emit


class Stand(Enum):
    """How an object stands; the value is (Ready, whether Reconciling, whether Stalled)."""

    READY = ("True", False, False)
    MOVING = ("Unknown", True, False)
    WAITING = ("False", True, False)
    STALLED = ("False", False, True)
    RESTING = ("False", False, False)
    """Neither ready nor at work: suspended."""


@dataclass(frozen=True)
class Verdict:
    """How an object stands, why, and a sentence for people."""

    stand: Stand
    reason: Reason
    message: str

    @staticmethod
    def of(failure: Failure) -> "Verdict":
        """The verdict that a failure leads to, with its next step in the message."""
        stand = Stand.STALLED if failure.terminal else Stand.WAITING
        return Verdict(stand, failure.reason, sentence(failure))

    @staticmethod
    def moving(reason: Reason, message: str = "") -> "Verdict":
        """At work."""
        return Verdict(Stand.MOVING, reason, message or reason.advice.meaning)


def sentence(failure: Failure) -> str:
    """What happened and where, where the database stands, what to do next; one paragraph."""
    where = ""
    named = failure.message.startswith(f"{failure.migration} ") and not (failure.line or failure.sqlstate)
    if failure.migration and not named:
        where = f"{failure.migration}"
        if failure.line:
            where += f" line {failure.line}"
        if failure.sqlstate:
            where += f" (SQLSTATE {failure.sqlstate})"
        where += ": "
    hint = failure.hint.strip()
    hint = "" if hint in failure.message else hint
    parts = [f"{where}{_ended(failure.message)}", hint, _ended(failure.standing)]
    if failure.reason.advice.next:
        parts.append(f"Next: {failure.reason.advice.next}")
    return " ".join(part for part in parts if part)


def _ended(text: str) -> str:
    """With a full stop: PostgreSQL's messages have none. What ends with a command to run stays as it is."""
    text = text.strip()
    return text if not text or text[-1] in ".!?;" else f"{text}."


def conditions(before: Status, verdict: Verdict, generation: int, now: datetime) -> tuple[Condition, ...]:
    """The conditions of *verdict*; a transition time moves only when the condition's status does."""
    ready, reconciling, stalled = verdict.stand.value
    wanted = {"Ready": ready}
    if reconciling:
        wanted["Reconciling"] = "True"
    if stalled:
        wanted["Stalled"] = "True"
    made = []
    for kind, status in wanted.items():
        old = before.condition(kind)
        same = old is not None and old.status == status
        made.append(
            Condition(
                type=kind,
                status=status,
                reason=verdict.reason,
                message=verdict.message[:4_000],
                last_transition_time=old.last_transition_time if old is not None and same else now,
                observed_generation=generation,
            )
        )
    return tuple(made)


def phase(verdict: Verdict) -> str:
    """One word for people."""
    return {
        Stand.READY: "Ready",
        Stand.MOVING: str(verdict.reason),
        Stand.WAITING: "Waiting",
        Stand.STALLED: "Stalled",
        Stand.RESTING: str(verdict.reason),
    }[verdict.stand]


def announce(before: Status, verdict: Verdict) -> tuple[Emit, ...]:
    """An event when the reason of Ready changes; Warning where a person has to act or something waits."""
    old = before.condition("Ready")
    if old is not None and old.reason == verdict.reason:
        return ()
    kind = "Warning" if verdict.stand in (Stand.STALLED, Stand.WAITING) else "Normal"
    return (Emit(kind, verdict.reason, verdict.message[:1_000]),)


def decided(
    resource: Resource,
    status: Status,
    verdict: Verdict,
    now: datetime,
    *,
    effects: tuple[Effect, ...] = (),
    again_in: float | None = None,
) -> Decision:
    """The decision to tell *verdict* of the object as it was observed, in *status*, its next one."""
    generation = resource.metadata.generation
    told = status.model_copy(
        update={
            "observed_generation": generation,
            "phase": phase(verdict),
            "conditions": conditions(resource.status, verdict, generation, now),
        }
    )
    return Decision(told, (*announce(resource.status, verdict), *effects), again_in)
