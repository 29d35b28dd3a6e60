"""Holding a database for a run while its backup is made: before its first write, that is."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

import psycopg

from godwit.contract.reasons import Reason
from godwit.engine import journal, ownership
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed

_CLAIM_S: Final = 30
"""Long enough for the next step to start; a run that ends here keeps the next one waiting for no longer."""
_RENEW_S: Final = 10


@contextlib.contextmanager
def held(ctx: StepContext) -> Iterator[None]:
    """Claim the database for the operation that ordered this step: for the block, and for _CLAIM_S after it.

    A step for its own object (a scheduled backup) claims nothing: it keeps nobody waiting. Nor does one of a
    role that may not write the journal, or in a database without one: a backup needs to read only, and the
    journal row that Apply expects keeps others out as before. Raises StepFailed(DatabaseBusy), and those of
    connecting.
    """
    request = ctx.request
    if request.operation in ("", request.object.uid) or not _claim(ctx):
        yield
        return
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(ctx, over), name="godwit-claim", daemon=True)
    renewing.start()
    try:
        yield
    except StepFailed as failed:
        _end(over, renewing)
        if failed.failure.reason is not Reason.CONNECTION_LOST:  # that one goes on in the next attempt
            _release(ctx)
        raise
    finally:
        _end(over, renewing)


def _renew(ctx: StepContext, over: threading.Event) -> None:
    while not over.wait(_RENEW_S):
        with contextlib.suppress(psycopg.Error, StepFailed):
            _claim(ctx)


def _end(over: threading.Event, renewing: threading.Thread) -> None:
    over.set()
    renewing.join()


def _claim(ctx: StepContext) -> bool:
    """Whether the claim was made. Raises StepFailed(DatabaseBusy), and those of connecting."""
    try:
        with ctx.session(writing=True) as session:
            if not journal.check_rights(session):
                return False
            ownership.claim(session, ctx.request, seconds=_CLAIM_S)
            return True
    except StepFailed as failed:
        if failed.failure.reason is Reason.JOURNAL_FORBIDDEN:
            return False
        raise
    except psycopg.Error:  # a session that may not write at all; a connection that broke is found by the dump
        return False


def _release(ctx: StepContext) -> None:
    with contextlib.suppress(psycopg.Error, StepFailed), ctx.session(writing=True) as session:
        ownership.release(session, ctx.request.operation)
