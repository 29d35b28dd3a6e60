"""The frame of a verb that migrates: lock, recorded outcome, fence, turn, claim, and the record at the end.

What is between is the verb's own work. The order is what keeps a late or repeated attempt from writing:
nothing is looked at before the migration lock is held, nothing written before the journal allows it.
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import psycopg

from godwit.contract.outcome import ApplyOutcome, RevertOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput, RevertInput
from godwit.engine import journal, ownership
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, from_postgres
from godwit.engine.lock import check_fence, migration_lock
from godwit.engine.session import Session

_UNCERTAIN: Final = "What was committed before stands; the journal in the database tells."


Outcome = TypeVar("Outcome", ApplyOutcome, RevertOutcome)
_Outcome_co = TypeVar("_Outcome_co", ApplyOutcome, RevertOutcome, covariant=True)


class Work(Protocol[_Outcome_co]):
    """One attempt's work, made under the lock, after the claim."""

    def perform(self) -> None:
        """Do what this operation has not done yet. Raises StepFailed, psycopg.Error."""

    def outcome(self, failed: StepFailed | None = None) -> _Outcome_co:
        """The facts as the database tells them now, after *failed* or the end. Never raises."""


def attempt(
    ctx: StepContext,
    verb: ApplyInput | RevertInput,
    kind: type[Outcome],
    begin: Callable[[Session], Work[Outcome]],
) -> Outcome:
    """What the work that *begin* makes ends in; an outcome recorded before is returned without any work.

    Raises StepFailed, with an outcome beside it from the moment on when something may have been written.
    """
    with ctx.session(writing=True) as session, migration_lock(ctx, session):
        done = journal.find_done(session, ctx.request, verb.verb)
        if done is not None:
            ctx.resumed.set()
            return kind.model_validate(done).model_copy(update={"journal_head": journal.head(session)})
        try:
            check_fence(ctx, session)
        except StepFailed:
            # Its run's backup may have claimed the database, and what comes next is planned anew.
            ownership.release_quietly(session, ctx.request.operation)
            raise
        ownership.take_turn(session, ctx.request, verb.verb, process=ctx.process)
        ownership.claim(session, ctx.request)
        work = begin(session)
        try:
            work.perform()
            outcome = work.outcome()
            with session.transaction():
                journal.ensure(session)
                ownership.write_stamp(session, ctx.request.environment)
                head = journal.record_done(session, ctx.request, verb.verb, outcome)
                ownership.claim(session, ctx.request)
            ctx.point(f"{verb.verb.lower()}.after_record")
            return outcome.model_copy(update={"journal_head": head})
        except (StepFailed, psycopg.Error) as exc:
            failed, cause = _told(exc)
            if failed.failure.reason is not Reason.CONNECTION_LOST:  # that one goes on in the next attempt
                ownership.end_failed(session, ctx.request, verb.verb, failed.failure)
            raise failed.beside(work.outcome(failed)) from cause


def _told(exc: StepFailed | psycopg.Error) -> tuple[StepFailed, BaseException | None]:
    """The failure, and its cause."""
    if isinstance(exc, StepFailed):
        return exc, exc.__cause__
    return from_postgres(exc, default=Reason.INTERNAL_ERROR, standing=_UNCERTAIN), exc
