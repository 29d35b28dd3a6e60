"""Check: what there is at the other end, and which ways back it leaves open."""

import contextlib
from collections.abc import Iterator
from typing import Final

import psycopg

from godwit.contract.outcome import CheckOutcome, Rung, RungState
from godwit.contract.reasons import Reason
from godwit.contract.request import CheckInput
from godwit.engine import journal, ownership
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail
from godwit.engine.maintenance import open_orphaned
from godwit.engine.obstacles import swap_obstacles
from godwit.engine.programs import major, version
from godwit.engine.replicas import replica_warnings, replicas
from godwit.engine.session import Session
from godwit.stores.base import StoreError

_SIZE: Final = "SELECT pg_database_size(current_database())"


def check_verb(ctx: StepContext, verb: CheckInput) -> CheckOutcome:
    """Look at the database, and at the backup store where it is mounted.

    The one thing that it mends is a fence of a restore that was killed and that nobody goes on with. Raises
    StepFailed: those of connecting, JournalForbidden, StoreUnavailable.
    """
    with _opened(ctx) as session:
        row = session.execute(_SIZE).fetchone()
        size = row[0] if row else 0
        found = replicas(session)
        outcome = CheckOutcome(
            identity=session.identity,
            server_version=session.server_version,
            size_bytes=size,
            stamp=ownership.stamp(session),
            journal_head=journal.head(session),
            replicas=len(found),
            replica_lag_bytes=max((r.lag_bytes for r in found if r.lag_bytes is not None), default=None),
            rollback_options=rollback_options(session),
            warnings=(
                *_warnings(ctx, session, size=size, store=verb.store),
                *replica_warnings(session, found),
            ),
        )
    if verb.store:
        try:
            ctx.store().free_bytes()
        except StoreError as error:
            raise fail(
                Reason.STORE_UNAVAILABLE, str(error), standing="Nothing was changed.", outcome=outcome
            ) from None
    return outcome


@contextlib.contextmanager
def _opened(ctx: StepContext) -> Iterator[Session]:
    try:
        session = ctx.open()
    except StepFailed as failed:
        if failed.failure.reason is not Reason.DATABASE_UNREACHABLE:
            raise
        try:
            mended = open_orphaned(ctx)
        except (StepFailed, psycopg.Error):
            mended = False
        if not mended:
            raise
        ctx.log.warning("check.fence_lifted", message="a fence that a restore had left was lifted")
        session = ctx.open()
    try:
        yield session
    finally:
        ctx.cancelled.unregister(session.stop)
        session.close()


def rollback_options(session: Session, *, backup: bool = True) -> tuple[RungState, ...]:
    """The ways back on this database, in order, each with why it is closed; *backup*: the run will have one.

    Whether a down.sql exists and loses nothing is the plan's to add.
    """
    obstacles = swap_obstacles(session) if backup else ["the run makes no backup"]
    return (
        RungState(rung=Rung.TRANSACTION, possible=True),
        RungState(rung=Rung.UNDO, possible=True),
        RungState(rung=Rung.DOWN, possible=True),
        RungState(rung=Rung.RESTORE, possible=not obstacles, why="; ".join(obstacles)),
    )


def _warnings(ctx: StepContext, session: Session, *, size: int, store: bool) -> list[str]:
    found = []
    foreign = ownership.foreign_stamp(session)
    if foreign is not None:
        found.append(f"The journal was copied from another database, one of environment {foreign.value}.")
    try:
        dump = version(ctx, "pg_dump")
    except StepFailed as failed:
        found.append(failed.failure.message)
    else:
        if major(dump) < session.server_version // 10_000:
            found.append(
                f"The server is PostgreSQL {session.server_version // 10_000}, but pg_dump is {dump}: "
                "no backup can be made."
            )
    if store:
        try:
            free = ctx.store().free_bytes()
        except StoreError:
            return found  # said as the step's failure
        if free < size:
            found.append(f"The backup store has {free} bytes left, the database has {size}.")
    return found
