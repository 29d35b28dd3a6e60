"""Backup, VerifyBackup, DeleteBackup on a real server: a backup is whole, or it is not there."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from godwit.contract.environment import DATABASE_URI_VAR, PG_BIN_VAR
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    BackupInput,
    BackupType,
    DeleteBackupInput,
    ObjectRef,
    StepRequest,
    VerifyBackupInput,
)
from godwit.engine.context import StepContext
from godwit.engine.dump import backup_verb, delete_backup_verb, verify_backup_verb
from godwit.engine.errors import StepFailed
from godwit.engine.manifest import read_manifest
from godwit.engine.snapshot import total, written_since
from godwit.runner.log import JsonLog, redactor
from godwit.stores.volume import VolumeStore


@pytest.fixture
def ctx(database, tmp_path):
    """A step on the test's database, as superuser."""
    return context(database, tmp_path)


def context(database, tmp_path, *, user="postgres", password="", **request):
    for name in ("store", "scratch"):
        (tmp_path / name).mkdir(exist_ok=True)
    uri = database.server.uri(database.name, user=user, password=password or None)
    fields = {
        "object": ObjectRef(kind="DatabaseBackup", namespace="shop", name="nightly", uid="u1"),
        "step": "backup",
        "operation": "u1",
        "verbs": (),
    }
    return StepContext(
        request=StepRequest(**(fields | request)),
        environ={
            DATABASE_URI_VAR: uri,
            PG_BIN_VAR: str(database.server.bin_dir),
            "PATH": os.environ["PATH"],
        },
        source_dir=tmp_path / "source",
        store_dir=tmp_path / "store",
        scratch_dir=tmp_path / "scratch",
        log=JsonLog(sys.stdout, redactor(())),
    )


LOCATION = "shop/nightly-u1.dump"
FULL = BackupInput(location=LOCATION)


def stored(ctx):
    return sorted(str(p.relative_to(ctx.store_dir)) for p in ctx.store_dir.rglob("*") if p.is_file())


def written(ctx, location=LOCATION):
    """Rows written since the backup, by table: (added, gone, unknown)."""
    manifest = read_manifest(ctx.store(), location)
    with ctx.session() as session:
        found = written_since(session, manifest.snapshot, manifest.tables)
    return {table: (w.added, w.gone, w.unknown) for table, w in found.items()}


def test_a_backup_holds_what_its_manifest_says_and_restores_to_an_equal_database(
    database, ctx, postgres_server
):
    database.psql(
        "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'a'), (2, 'b')"
    )
    outcome = backup_verb(ctx, FULL)
    assert (outcome.tables, outcome.rows, outcome.type) == (1, 2, BackupType.FULL)
    assert outcome.dump_version.startswith("16")
    assert stored(ctx) == [LOCATION, LOCATION + ".json"]
    assert (ctx.store_dir / LOCATION).stat().st_size == outcome.size_bytes
    postgres_server.run("createdb", f"{database.name}_copy")
    try:
        postgres_server.run("pg_restore", f"--dbname={database.name}_copy", str(ctx.store_dir / LOCATION))
        assert postgres_server.psql("SELECT * FROM item ORDER BY id", f"{database.name}_copy") == "1|a\n2|b"
    finally:
        postgres_server.drop_database(f"{database.name}_copy")


def test_a_whole_backup_verifies_and_counts_its_entries(database, ctx):
    database.psql("CREATE TABLE item (id int PRIMARY KEY)")
    outcome = backup_verb(ctx, FULL)
    verified = verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION))
    assert verified.sha256 == outcome.sha256
    assert verified.entries >= 3  # table, its data, its key


def test_a_list_longer_than_a_pipe_is_read_to_its_end(database, ctx):
    database.psql(
        "SELECT format('CREATE TABLE a_rather_long_name_for_a_table_%s (id int)', n) "
        "FROM generate_series(1, 700) n \\gexec\n"
        "CREATE TABLE big AS SELECT md5(n::text) FROM generate_series(1, 60000) n"
    )
    backup_verb(ctx, FULL)
    assert verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION)).entries > 1400


def test_the_schema_alone_can_be_dumped(database, ctx):
    database.psql("CREATE TABLE item (id int); INSERT INTO item VALUES (1)")
    outcome = backup_verb(ctx, BackupInput(location=LOCATION, type=BackupType.SCHEMA_ONLY))
    assert (outcome.type, outcome.tables, outcome.rows) == (BackupType.SCHEMA_ONLY, 0, 0)


def test_the_same_request_again_gives_the_same_backup_and_does_nothing(database, ctx):
    first = backup_verb(ctx, FULL)
    database.psql("CREATE TABLE later (id int)")
    assert backup_verb(ctx, FULL) == first
    assert ctx.resumed.is_set()


def test_another_backup_at_the_same_place_is_never_overwritten(database, ctx):
    backup_verb(ctx, FULL)
    before = (ctx.store_dir / LOCATION).read_bytes()
    with pytest.raises(StepFailed) as failed:
        backup_verb(ctx, BackupInput(location=LOCATION, type=BackupType.SCHEMA_ONLY))
    assert failed.value.failure.reason is Reason.BACKUP_UNUSABLE
    assert (ctx.store_dir / LOCATION).read_bytes() == before


@pytest.mark.parametrize("location", ["../out.dump", "/out.dump", "a/../../out.dump", ""])
def test_a_location_outside_the_store_is_refused(ctx, location):
    with pytest.raises(StepFailed) as failed:
        backup_verb(ctx, BackupInput(location=location))
    assert failed.value.failure.reason is Reason.STORE_UNAVAILABLE


def test_a_link_that_leads_out_of_the_store_is_refused(ctx, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (ctx.store_dir / "shop").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StepFailed) as failed:
        backup_verb(ctx, FULL)
    assert failed.value.failure.reason is Reason.STORE_UNAVAILABLE
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_another_history_than_planned_is_not_backed_up(ctx):
    with pytest.raises(StepFailed) as failed:
        backup_verb(ctx, BackupInput(location=LOCATION, from_state="another"))
    assert failed.value.failure.reason is Reason.STATE_MOVED
    assert stored(ctx) == []


@pytest.mark.parametrize("damage", ["truncated", "one byte", "gone"])
def test_a_damaged_archive_is_found(database, ctx, damage):
    database.psql("CREATE TABLE item AS SELECT n, md5(n::text) FROM generate_series(1, 5000) n")
    backup_verb(ctx, FULL)
    archive = ctx.store_dir / LOCATION
    data = bytearray(archive.read_bytes())
    match damage:
        case "truncated":
            archive.write_bytes(data[: len(data) * 6 // 10])
        case "one byte":
            data[len(data) // 2] ^= 0xFF
            archive.write_bytes(data)
        case _:
            archive.unlink()
    with pytest.raises(StepFailed) as failed:
        verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION))
    assert failed.value.failure.reason is Reason.BACKUP_UNUSABLE


def test_an_archive_that_pg_restore_cannot_read_is_found_whatever_its_checksum(database, ctx):
    database.psql("CREATE TABLE item AS SELECT n, md5(n::text) FROM generate_series(1, 5000) n")
    backup_verb(ctx, FULL)
    archive, manifest = ctx.store_dir / LOCATION, ctx.store_dir / (LOCATION + ".json")
    data = archive.read_bytes()[:-2000]
    archive.write_bytes(data)
    told = json.loads(manifest.read_text()) | {
        "sha256": hashlib.sha256(data).hexdigest(),
        "sizeBytes": len(data),
    }
    manifest.write_text(json.dumps(told))
    with pytest.raises(StepFailed) as failed:
        verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION))
    assert failed.value.failure.reason is Reason.BACKUP_UNUSABLE
    assert "pg_restore" in failed.value.failure.message


def test_deleting_removes_file_and_manifest_and_may_be_repeated(ctx):
    backup_verb(ctx, FULL)
    (ctx.store_dir / "shop" / ".nightly-u1.dump.dead.partial").write_bytes(b"x")
    for _ in range(2):
        delete_backup_verb(ctx, DeleteBackupInput(location=LOCATION))
        assert stored(ctx) == []


def test_a_dead_attempt_leaves_nothing_after_the_next_one(ctx):
    (ctx.store_dir / "shop").mkdir()
    (ctx.store_dir / "shop" / ".nightly-u1.dump.dead.partial").write_bytes(b"x")
    (ctx.store_dir / LOCATION).write_bytes(b"complete, but its manifest was never written")
    backup_verb(ctx, FULL)
    assert stored(ctx) == [LOCATION, LOCATION + ".json"]
    assert verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION)).entries >= 0


def test_a_full_disk_is_said_and_leaves_nothing(database, tmp_path):
    database.psql("CREATE TABLE big AS SELECT md5(n::text) || random() AS t FROM generate_series(1, 60000) n")
    # The volume is a tmpfs of 256 KiB that only the step sees; what it leaves there is listed to a file.
    script = (
        'mount -t tmpfs -o size=256k tmpfs "$GODWIT_STORE_DIR"; "$@"; status=$?; '
        'find "$GODWIT_STORE_DIR" -type f > "$0"; exit $status'
    )
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(tmp_path / "left")]
    assert started(database, tmp_path, FULL, prefix=prefix).wait(30) == 0
    failure = json.loads((tmp_path / "outcome.json").read_text())["failure"]
    assert failure["reason"] == Reason.STORE_UNAVAILABLE
    assert "No space left" in failure["message"]
    assert (tmp_path / "left").read_text() == ""


def test_a_missing_store_is_said(ctx):
    (ctx.store_dir).rmdir()
    with pytest.raises(StepFailed) as failed:
        backup_verb(ctx, FULL)
    assert failed.value.failure.reason is Reason.STORE_UNAVAILABLE


def test_rows_written_while_the_dump_runs_are_not_in_its_count(database, ctx):
    database.psql("CREATE TABLE item (id int)")

    def point(name):
        if name == "backup.before_rename":  # pg_dump has ended, its snapshot is still held
            database.psql("INSERT INTO item VALUES (1), (2)")

    assert backup_verb(replace(ctx, point=point), FULL).rows == 0
    assert written(ctx) == {"public.item": (2, 0, False)}


def test_nothing_written_counts_nothing(database, ctx):
    database.psql("CREATE TABLE item (id int); INSERT INTO item VALUES (1)")
    backup_verb(ctx, FULL)
    assert written(ctx) == {}


def test_inserts_updates_and_deletes_are_counted_exactly(database, ctx):
    database.psql(
        "CREATE TABLE a (id int, n int); CREATE TABLE b (LIKE a); CREATE TABLE c (LIKE a);"
        "INSERT INTO a SELECT g, 0 FROM generate_series(1, 100) g;"
        "INSERT INTO b TABLE a; INSERT INTO c TABLE a"
    )
    backup_verb(ctx, FULL)
    database.psql(
        "INSERT INTO a VALUES (101, 0), (102, 0); UPDATE b SET n = 1 WHERE id <= 3;"
        "DELETE FROM c WHERE id <= 4"
    )
    assert written(ctx) == {"public.a": (2, 0, False), "public.b": (3, 3, False), "public.c": (0, 4, False)}


def test_counts_stay_exact_after_vacuum_freeze_and_a_crash(database, ctx, postgres_server):
    database.psql("CREATE TABLE a (id int, n int); INSERT INTO a SELECT g, 0 FROM generate_series(1, 100) g")
    backup_verb(ctx, FULL)
    database.psql(
        "UPDATE a SET n = 1 WHERE id = 1; DELETE FROM a WHERE id = 2; INSERT INTO a VALUES (200, 0), (201, 0)"
    )
    database.psql("VACUUM FREEZE a")
    assert written(ctx) == {"public.a": (3, 2, False)}


def test_rows_of_a_savepoint_that_was_open_at_the_snapshot_are_counted_as_written_since(database, ctx):
    database.psql("CREATE TABLE a (id int); INSERT INTO a VALUES (0)")
    with psycopg.connect(database.uri) as other:
        other.execute("INSERT INTO a VALUES (1)")
        other.execute("SAVEPOINT s")
        other.execute("INSERT INTO a VALUES (2)")
        # Committed after the other began and before the snapshot: these the dump does hold.
        database.psql("INSERT INTO a VALUES (3); INSERT INTO a VALUES (4)")
        assert backup_verb(ctx, FULL).rows == 3
        other.commit()
    assert written(ctx) == {"public.a": (2, 0, False)}
    database.psql("DELETE FROM a WHERE id IN (3, 4)")
    assert written(ctx) == {"public.a": (2, 2, False)}


def test_new_and_dropped_tables_count_with_all_their_rows_and_rewritten_ones_are_unknown(database, ctx):
    database.psql("CREATE TABLE gone AS SELECT 1 AS n; CREATE TABLE rewritten AS SELECT 1 AS n")
    backup_verb(ctx, FULL)
    database.psql(
        "DROP TABLE gone; CREATE TABLE made AS SELECT generate_series(1, 3) AS n;"
        "CREATE TABLE empty (id int);"
        "ALTER TABLE rewritten ALTER n TYPE bigint"
    )
    assert written(ctx) == {
        "public.gone": (0, 1, False),
        "public.made": (3, 0, False),
        "public.rewritten": (0, 0, True),
    }


def test_the_journal_and_the_history_table_are_nobodys_writes(database, ctx):
    backup_verb(ctx, FULL)
    database.psql(
        "CREATE SCHEMA godwit; CREATE TABLE godwit.journal AS SELECT 1 AS id;"
        "CREATE TABLE _prisma_migrations AS SELECT 1 AS id"
    )
    assert written(ctx) == {}
    assert total([]) == 0


def test_rows_hidden_by_row_security_are_an_error_and_not_left_out(database, ctx, role, tmp_path):
    app = role("app")
    database.psql(
        f"CREATE TABLE item (id int); ALTER TABLE item ENABLE ROW LEVEL SECURITY;"
        f'GRANT SELECT ON item TO {app}; GRANT CREATE ON DATABASE "{database.name}" TO {app}'
    )
    with pytest.raises(StepFailed) as failed:
        backup_verb(context(database, tmp_path, user=app), FULL)
    assert failed.value.failure.reason in (Reason.PERMISSION_DENIED, Reason.BACKUP_FAILED)
    assert stored(ctx) == []


def test_a_role_that_may_not_read_a_table_gets_a_reason_and_no_backup(database, ctx, role, tmp_path):
    app = role("app")
    database.psql("CREATE TABLE secret (id int)")
    with pytest.raises(StepFailed) as failed:
        backup_verb(context(database, tmp_path, user=app), FULL)
    assert failed.value.failure.reason in (Reason.PERMISSION_DENIED, Reason.BACKUP_FAILED)
    assert "secret" in failed.value.failure.message
    assert stored(ctx) == []


def test_a_plain_owner_can_back_up_and_verify(database, role, tmp_path):
    owner = role("owner", owns=True)
    database.psql(f"CREATE TABLE item (id int); ALTER TABLE item OWNER TO {owner}")
    ctx = context(database, tmp_path, user=owner)
    assert backup_verb(ctx, FULL).tables == 1
    assert verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION)).entries >= 1


def test_no_argument_of_a_program_shows_the_password(database, tmp_path):
    """Every argument list of every child is looked at while the dump waits for a lock."""
    ctx = context(database, tmp_path, password="s3cret-word")
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
def test_a_step_told_to_end_ends_its_dump_says_why_and_leaves_nothing(database, tmp_path, seconds, reason):
    database.psql("CREATE TABLE held (id int)")
    with psycopg.connect(database.uri) as other:
        other.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        step = started(database, tmp_path, FULL, budget_seconds=seconds)
        if seconds > 1:
            wait_for(lambda: database.psql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0")
            step.send_signal(signal.SIGTERM)
        assert step.wait(20) == 0
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["failure"]["reason"] == reason
    assert list((tmp_path / "store").rglob("*.partial")) == []
    wait_for(
        lambda: (
            database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'godwit%'")
            == "0"
        )
    )


@pytest.mark.parametrize(
    "point", ["backup.before_dump", "backup.before_rename", "backup.before_manifest", "backup.done"]
)
def test_a_backup_killed_anywhere_is_made_once_by_the_next_attempt(database, tmp_path, point):
    database.psql("CREATE TABLE item AS SELECT generate_series(1, 10) AS n")
    step = started(database, tmp_path, FULL, VerifyBackupInput(location=LOCATION), fault=f"{point}:kill")
    assert step.wait(30) == -signal.SIGKILL
    assert not (tmp_path / "outcome.json").exists()
    assert started(database, tmp_path, FULL, VerifyBackupInput(location=LOCATION)).wait(30) == 0
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome.get("failure") is None
    assert [v["verb"] for v in outcome["verbs"]] == ["Backup", "VerifyBackup"]
    files = sorted(p.name for p in (tmp_path / "store" / "shop").iterdir())
    assert files == ["nightly-u1.dump", "nightly-u1.dump.json"]


def started(database, tmp_path, *verbs, fault="", prefix=(), **request):
    """The runner as a Job would run it: a process of its own."""
    ctx = context(database, tmp_path, verbs=verbs, **request)
    (tmp_path / "request.json").write_text(json.dumps(ctx.request.to_json()))
    env = (
        os.environ
        | ctx.environ
        | {
            "GODWIT_REQUEST_FILE": str(tmp_path / "request.json"),
            "GODWIT_OUTCOME_FILE": str(tmp_path / "outcome.json"),
            "GODWIT_STORE_DIR": str(tmp_path / "store"),
            "GODWIT_SCRATCH_DIR": str(tmp_path / "scratch"),
        }
    )
    if fault:
        env |= {"GODWIT_FAULT": fault, "GODWIT_FAULT_INJECTION": "1"}
    return subprocess.Popen([*prefix, sys.executable, "-m", "godwit.runner"], env=env)


def wait_for(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def test_a_store_keeps_a_half_written_file_to_itself(tmp_path):
    store = VolumeStore(tmp_path)

    def write_half():
        with store.create("a/b") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
