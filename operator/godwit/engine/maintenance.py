"""The other database of the server, from which one that is in use is closed, renamed, and opened again."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from godwit.contract.base import digest
from godwit.contract.reasons import Reason
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed
from godwit.engine.fence import lift
from godwit.engine.lock import migration_lock
from godwit.engine.session import Session

_MARK: Final = 6
# NAMEDATALEN - 1 bytes, less the longest suffix below.
_NAME_BYTES: Final = 63 - len("_godwit_restore_") - 2 * _MARK
_MAINTENANCE: Final = ("postgres", "template1")


@dataclass(frozen=True)
class Names:
    """The databases of one restore, by names that every attempt at it finds again."""

    live: str
    building: str
    old: str

    @staticmethod
    def of(live: str, operation: str) -> "Names":
        """The names for a restore of *live* on behalf of *operation*."""
        stem = live.encode()[:_NAME_BYTES].decode("utf-8", "ignore")
        # Two databases whose names begin alike must not meet in the shortened ones.
        mark = digest(live.encode())[:_MARK] + digest(operation.encode())[:_MARK]
        return Names(live, f"{stem}_godwit_restore_{mark}", f"{stem}_godwit_old_{mark}")

    @property
    def all_building(self) -> str:
        """How the names of every unfinished restore of this database begin."""
        return self.building[:-_MARK]


def lock_key(database: str) -> int:
    """The advisory lock of the maintenance database that keeps two restores of *database* apart."""
    return int.from_bytes(hashlib.sha256(f"godwit restore {database}".encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def maintenance_session(ctx: StepContext, live: str, *, cancellable: bool = True) -> Iterator[Session]:
    """A session on another database of the server: a database cannot be renamed from within."""
    for name in _MAINTENANCE:
        if name == live:
            continue
        try:
            session = ctx.open(writing=True, database=name, cancellable=cancellable)
        except StepFailed as failed:
            if name != _MAINTENANCE[-1] and failed.failure.reason in (
                Reason.DATABASE_MISSING,
                Reason.PERMISSION_DENIED,
            ):
                continue
            raise
        try:
            yield session
        finally:
            ctx.cancelled.unregister(session.stop)
            session.close()
        return


def open_orphaned(ctx: StepContext) -> bool:
    """Open the step's database again where a restore that no longer runs left its fence; whether it did.

    A restore that runs holds its lock, so that its fence is not touched. Raises StepFailed, psycopg.Error.
    """
    live = ctx.target.database
    with (
        maintenance_session(ctx, live) as session,
        migration_lock(ctx, session, key=lock_key(live), wait_seconds=0),
    ):
        return lift(session, live)
