"""A backup that is cut short anywhere leaves nothing that looks like one, and shows no password meanwhile."""

import signal
import threading
import time
from pathlib import Path

import psycopg
import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import (
    BackupInput,
    VerifyBackupInput,
)
from godwit.engine.dump import backup_verb

LOCATION = "shop/nightly-u1.dump"
FULL = BackupInput(location=LOCATION)


def test_a_full_disk_is_said_and_leaves_nothing(database, tmp_path, place):
    database.psql("CREATE TABLE big AS SELECT md5(n::text) || random() AS t FROM generate_series(1, 60000) n")
    # The volume is a tmpfs of 256 KiB that only the step sees; what it leaves there is listed to a file.
    script = (
        'mount -t tmpfs -o size=256k tmpfs "$GODWIT_STORE_DIR"; "$@"; status=$?; '
        'find "$GODWIT_STORE_DIR" -type f > "$0"; exit $status'
    )
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(tmp_path / "left")]
    assert place.started(FULL, prefix=prefix).wait(30) == 0
    failure = place.outcome()["failure"]
    assert failure["reason"] == Reason.STORE_UNAVAILABLE
    assert "No space left" in failure["message"]
    assert (tmp_path / "left").read_text() == ""


def test_no_argument_of_a_program_shows_the_password(database, make_place):
    """Every argument list of every child is looked at while the dump waits for a lock."""
    ctx = make_place(password="s3cret-word").context()
    database.psql("CREATE TABLE held (id int)")
    seen: list[str] = []
    with psycopg.connect(database.uri) as other:
        other.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=backup_verb, args=(ctx, FULL))
        thread.start()
        deadline = time.monotonic() + 20
        while not any("pg_dump" in text for text in seen) and time.monotonic() < deadline:
            seen += command_lines()
            time.sleep(0.02)
        other.rollback()
        thread.join()
    assert any("pg_dump" in text for text in seen)
    assert not any("s3cret-word" in text for text in seen)


def command_lines():
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("seconds", "reason"), [(3600, Reason.CONNECTION_LOST), (1, Reason.DEADLINE_EXCEEDED)]
)
def test_a_step_told_to_end_says_why_and_leaves_nothing(database, tmp_path, seconds, reason, place):
    database.psql("CREATE TABLE held (id int)")
    with psycopg.connect(database.uri) as other:
        other.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        step = place.started(FULL, budget_seconds=seconds)
        if seconds > 1:
            place.wait_for(lambda: database.psql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0")
            step.send_signal(signal.SIGTERM)
        assert step.wait(20) == 0
    outcome = place.outcome()
    assert outcome["failure"]["reason"] == reason
    assert list((tmp_path / "store").rglob("*.partial")) == []
    place.wait_for(
        lambda: (
            database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'godwit%'")
            == "0"
        )
    )


@pytest.mark.parametrize(
    "point", ["backup.before_dump", "backup.before_rename", "backup.before_manifest", "backup.done"]
)
def test_a_backup_killed_anywhere_is_made_once_by_the_next_attempt(database, tmp_path, point, place):
    database.psql("CREATE TABLE item AS SELECT generate_series(1, 10) AS n")
    step = place.started(FULL, VerifyBackupInput(location=LOCATION), fault=f"{point}:kill")
    assert step.wait(30) == -signal.SIGKILL
    assert not (tmp_path / "outcome.json").exists()
    assert place.started(FULL, VerifyBackupInput(location=LOCATION)).wait(30) == 0
    outcome = place.outcome()
    assert outcome.get("failure") is None
    assert [v["verb"] for v in outcome["verbs"]] == ["Backup", "VerifyBackup"]
    files = sorted(p.name for p in (tmp_path / "store" / "shop").iterdir())
    assert files == ["nightly-u1.dump", "nightly-u1.dump.json"]
