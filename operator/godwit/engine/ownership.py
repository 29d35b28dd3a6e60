"""To whom a database belongs: the operation that works on it now, and the environment stamped into it.

Both are kept in `godwit.settings`, beside the journal.
"""

import contextlib
from typing import Final

import psycopg
from psycopg.types.json import Jsonb

from godwit.contract.outcome import Failure
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import StepRequest
from godwit.engine import journal
from godwit.engine.errors import StepFailed, fail, utc
from godwit.engine.journal import Event
from godwit.engine.session import Session

_CLAIM_GAP_S: Final = 120


def claim(session: Session, request: StepRequest, *, seconds: int = _CLAIM_GAP_S) -> None:
    """Say that the request's operation owns the database for *seconds* from now.

    While a step writes, the migration lock keeps others out; the claim covers the time between the steps of
    one operation, also against another cluster. Without a journal no claim is made: the journal row that a
    step expects keeps a second first-comer out. Raises StepFailed(DatabaseBusy).
    """
    if not request.operation or not journal.check_rights(session):
        return
    with journal.atomic(session):
        session.execute("LOCK TABLE godwit.settings IN SHARE ROW EXCLUSIVE MODE")
        row = session.execute(
            "SELECT value ->> 'object', (value ->> 'until')::timestamptz FROM godwit.settings "
            "WHERE key = 'activeOperation' AND value ->> 'operation' <> %s "
            "AND (value ->> 'until')::timestamptz > clock_timestamp()",
            (request.operation,),
        ).fetchone()
        if row:
            raise fail(
                Reason.DATABASE_BUSY,
                f"{row[0]} works on this database, at the latest until {utc(row[1])}.",
                standing="Nothing was changed.",
            )
        session.execute(
            "INSERT INTO godwit.settings (key, value) VALUES ('activeOperation', jsonb_build_object("
            "'operation', %(operation)s::text, 'object', %(object)s::text, "
            "'until', clock_timestamp() + make_interval(secs => %(seconds)s))) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value, at = clock_timestamp()",
            {"operation": request.operation, "object": str(request.object), "seconds": seconds},
        )


def take_turn(session: Session, request: StepRequest, verb: str, *, process: str) -> None:
    """Write into the journal that this *process* of this attempt has its turn, before anything else.

    An attempt that was given up and wakes up later finds a later one's row, and refuses. So does a second
    process of one attempt: its Job was deleted before anybody looked, and made again, and which of the two
    is the one that was given up nobody knows. And so does a step of another operation that was planned
    before: its expected row is not the last one any more. Makes the journal where there is none. Raises
    StepFailed(TooLate, JournalForbidden).
    """
    with journal.atomic(session):
        journal.ensure(session)
        mine = (str(request.object), request.step)
        turns = {
            entry.attempt: entry.detail.get("process")
            for entry in journal.entries_of(session, request.operation)
            if entry.event is Event.CLAIMED and (entry.object, entry.step) == mine
        }
        latest = max(turns, default=0)
        if latest < request.attempt:
            journal.append(session, request, Event.CLAIMED, verb=verb, detail={"process": process})
    if latest > request.attempt:
        raise _too_late(request, f"Attempt {latest}")
    if turns.get(request.attempt, process) != process:
        # This one's run looks at this one: it ends by the refusal, and what comes next is planned anew.
        release_quietly(session, request.operation)
        raise _too_late(request, f"Another process of attempt {latest}")


def _too_late(request: StepRequest, who: str) -> StepFailed:
    return fail(
        Reason.TOO_LATE,
        f"{who} of this step has begun; this is attempt {request.attempt}.",
        standing="Nothing was changed by this attempt.",
    )


def release(session: Session, operation: str) -> None:
    """Give the database back when *operation* holds it; anything else is left as it is."""
    if operation and journal.check_rights(session):
        session.execute(
            "DELETE FROM godwit.settings WHERE key = 'activeOperation' AND value ->> 'operation' = %s",
            (operation,),
        )


def release_quietly(session: Session, operation: str) -> None:
    """As `release`, on the way out of a failure, which counts more: the claim ends by itself soon enough."""
    with contextlib.suppress(psycopg.Error, StepFailed):
        release(session, operation)


def end_failed(session: Session, request: StepRequest, verb: str, failure: Failure) -> None:
    """Record why *verb* failed, and give the database back; both quietly, for the failure counts more."""
    with contextlib.suppress(psycopg.Error, StepFailed):
        journal.record_failed(session, request, verb, failure)
    release_quietly(session, request.operation)


def stamp(session: Session) -> Environment | None:
    """The environment stamped into this very database; a stamp that came with a copy does not count."""
    value = _stamp(session)
    return Environment(value["environment"]) if value and value["identity"] == session.identity.key else None


def foreign_stamp(session: Session) -> Environment | None:
    """The environment that a copied journal says of the database that it came from, or None."""
    value = _stamp(session)
    return Environment(value["environment"]) if value and value["identity"] != session.identity.key else None


def _stamp(session: Session) -> dict[str, str] | None:
    if not journal.check_rights(session):
        return None
    row = session.execute("SELECT value FROM godwit.settings WHERE key = 'environment'").fetchone()
    return row[0] if row else None


def write_stamp(session: Session, environment: Environment) -> None:
    """Stamp the stricter of *environment* and the present stamp into the journal, in the open transaction."""
    present = stamp(session)
    wanted = Environment.stricter(environment, present)
    if wanted is present:
        return
    session.execute(
        "INSERT INTO godwit.settings (key, value) VALUES ('environment', %s) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value, at = clock_timestamp()",
        (Jsonb({"environment": wanted.value, "identity": session.identity.key}),),
    )
