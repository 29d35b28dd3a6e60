"""A real streaming standby of a server: a base backup that goes on receiving what the primary writes."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from godwit.cli.embedded import EmbeddedPostgres
from godwit.cli.embedded_programs import credentials

_PATIENCE_S = 30.0


@contextlib.contextmanager
def standby(
    primary: EmbeddedPostgres, folder: Path, *, slot: str = "", settings: Mapping[str, str] | None = None
) -> Iterator[EmbeddedPostgres]:
    """Run a hot standby of *primary* in *folder*, which its server's user must be able to enter.

    *slot*: make and use a physical replication slot of that name, dropped afterwards.
    """
    server = EmbeddedPostgres(folder, durable=False, settings={**primary.settings, **(settings or {})})
    folder.mkdir(mode=0o700)
    if server.run_as is not None:
        os.chown(folder, server.run_as.pw_uid, server.run_as.pw_gid)
    slots = ["--slot", slot, "--create-slot"] if slot else []
    done = subprocess.run(
        [
            str(server.bin_dir / "pg_basebackup"),
            *("--pgdata", str(server.data_dir), "--checkpoint", "fast", "--no-sync", "--write-recovery-conf"),
            *slots,
        ],
        env=primary.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **credentials(server.run_as),
    )
    assert done.returncode == 0, done.stderr
    try:
        with server:
            until(lambda: primary.psql("SELECT count(*) FROM pg_stat_replication") != "0")
            caught_up(primary, server)
            yield server
    finally:
        if slot:
            with contextlib.suppress(AssertionError):
                until(lambda: primary.psql(_IDLE.format(slot=slot)) == "t")
            primary.psql(f"SELECT pg_drop_replication_slot('{slot}')")


_IDLE = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{slot}'"


def caught_up(primary: EmbeddedPostgres, replica: EmbeddedPostgres) -> None:
    """Wait until *replica* has replayed all that *primary* has written by now.

    A commit is sent at once; what a reader cleans up is in the WAL too, and would wait for the next commit.
    """
    primary.psql("SELECT pg_logical_emit_message(true, 'caught up', '')")
    position = primary.psql("SELECT pg_current_wal_flush_lsn()")
    until(lambda: replica.psql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == "t")


def until(holds: Callable[[], object]) -> None:
    """Wait until *holds* answers with something true."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {_PATIENCE_S:.0f} s"
        time.sleep(0.05)
