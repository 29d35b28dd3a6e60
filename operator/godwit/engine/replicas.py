"""The standbys and replication slots of the primary that a step works on, as the primary sees them.

A migration that took no time on the primary may stall a standby: a lock is replayed there too, waits for the
standby's own readers up to its `max_standby_streaming_delay`, and every later reader of the table, and all
further replay, waits behind it (manual, section 26.4.2). The primary is not told why a standby lags.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from godwit.engine.session import Session

_LAG_BYTES: Final = 64 * 2**20
_LAG_SECONDS: Final = 10.0
_SAMPLES: Final = 720

# Without pg_read_all_stats only the rows' number is seen; the columns are null (manual, table 28.1).
_REPLICAS: Final = """
SELECT coalesce(application_name, ''), coalesce(state, ''),
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint, extract(epoch FROM replay_lag)::float8
  FROM pg_stat_replication ORDER BY 1"""
_SLOTS: Final = """
SELECT slot_name::text, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint,
       coalesce(wal_status, ''), current_setting('max_slot_wal_keep_size') = '-1'
  FROM pg_replication_slots WHERE NOT active OR wal_status IN ('unreserved', 'lost') ORDER BY 1"""
_POSITIONS: Final = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,
       (SELECT min(pg_wal_lsn_diff(replay_lsn, '0/0'))::bigint FROM pg_stat_replication
         WHERE state = 'streaming')"""


@dataclass(frozen=True)
class Replica:
    """A standby (or another receiver of WAL) that is connected."""

    name: str
    state: str
    lag_bytes: int | None
    """WAL that it has not replayed yet; None where the role may not see it."""
    lag_seconds: float | None
    """As last measured by the server; None while nothing is written, or hidden. Stays when replay stands."""

    def __str__(self) -> str:
        measured = "" if self.lag_seconds is None else f", last measured {self.lag_seconds:.1f} s"
        behind = "a hidden amount" if self.lag_bytes is None else _size(self.lag_bytes)
        return (
            f"{self.name or 'without a name'} ({self.state or 'state hidden'}) is {behind} behind{measured}"
        )


def replicas(session: Session) -> list[Replica]:
    """Those that are connected now. Raises psycopg.Error."""
    return [Replica(*row) for row in session.execute(_REPLICAS)]


def replica_warnings(session: Session, found: list[Replica]) -> list[str]:
    """What a person should know before a lock is sent there, one sentence each. Raises psycopg.Error."""
    told = [
        f"Standby {replica}: a migration's locks wait there for its readers, and readers behind them."
        for replica in found
        if (replica.lag_bytes or 0) > _LAG_BYTES or (replica.lag_seconds or 0) > _LAG_SECONDS
    ]
    if session.server_version < 130_000:
        return told
    for name, active, kept, status, unlimited in session.execute(_SLOTS):
        if status in ("unreserved", "lost"):
            told.append(f"Replication slot {name} is {status}: its standby lacks WAL that it needs.")
        elif not active:
            end = ", without a limit (max_slot_wal_keep_size is -1)" if unlimited else ""
            told.append(
                f"Replication slot {name} is used by nobody and keeps {_size(kept or 0)} of WAL{end}."
            )
    return told


class ReplicaLag:
    """How long standbys have been behind, by our own clock: asked again and again on one session.

    The server's own measure stands still while replay does, so it cannot tell a stalled standby.
    """

    def __init__(self) -> None:
        self._written: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def seconds(self, session: Session) -> float | None:
        """Age of the oldest WAL, seen by an earlier call, that the slowest standby has not replayed.

        0 where all have replayed everything; None where no standby streams, or the role may not see it.
        Raises psycopg.Error.
        """
        row = session.execute(_POSITIONS).fetchone()
        if row is None or row[1] is None:
            return None
        written, replayed = row
        now = time.monotonic()
        self._written.append((now, written))
        while self._written and self._written[0][1] <= replayed:
            self._written.popleft()
        return now - self._written[0][0] if self._written else 0.0


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
