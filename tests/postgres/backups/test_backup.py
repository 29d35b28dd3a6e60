"""Backup, VerifyBackup, DeleteBackup on a real server: a backup is whole, or it is not there."""

import hashlib
import json
from dataclasses import replace

import pytest

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    BackupInput,
    BackupType,
    Connection,
    DeleteBackupInput,
    VerifyBackupInput,
)
from godwit.engine.dump import backup_verb, delete_backup_verb, verify_backup_verb
from godwit.engine.errors import StepFailed
from godwit.stores.volume import VolumeStore

LOCATION = "shop/nightly-u1.dump"
FULL = BackupInput(location=LOCATION)


def test_a_backup_holds_what_its_manifest_says_and_restores_to_an_equal(
    database, ctx, postgres_server, place
):
    database.psql(
        "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'a'), (2, 'b')"
    )
    outcome = backup_verb(ctx, FULL)
    assert (outcome.tables, outcome.rows, outcome.type) == (1, 2, BackupType.FULL)
    assert f" {outcome.dump_version}" in place.server.run("pg_dump", "--version")
    assert place.stored() == [LOCATION, LOCATION + ".json"]
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


def test_another_history_than_planned_is_not_backed_up(ctx, place):
    with pytest.raises(StepFailed) as failed:
        backup_verb(ctx, BackupInput(location=LOCATION, from_state="another"))
    assert failed.value.failure.reason is Reason.STATE_MOVED
    assert place.stored() == []


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


def test_deleting_removes_file_and_manifest_and_may_be_repeated(ctx, place):
    backup_verb(ctx, FULL)
    (ctx.store_dir / "shop" / ".nightly-u1.dump.dead.partial").write_bytes(b"x")
    for _ in range(2):
        delete_backup_verb(ctx, DeleteBackupInput(location=LOCATION))
        assert place.stored() == []


def test_a_dead_attempt_leaves_nothing_after_the_next_one(ctx, place):
    (ctx.store_dir / "shop").mkdir()
    (ctx.store_dir / "shop" / ".nightly-u1.dump.dead.partial").write_bytes(b"x")
    (ctx.store_dir / LOCATION).write_bytes(b"complete, but its manifest was never written")
    backup_verb(ctx, FULL)
    assert place.stored() == [LOCATION, LOCATION + ".json"]
    assert verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION)).entries >= 0


def test_a_missing_store_is_said(ctx):
    (ctx.store_dir).rmdir()
    with pytest.raises(StepFailed) as failed:
        backup_verb(ctx, FULL)
    assert failed.value.failure.reason is Reason.STORE_UNAVAILABLE


def test_rows_hidden_by_row_security_are_an_error_and_not_left_out(database, ctx, role, make_place, place):
    app = role("app")
    database.psql(
        f"CREATE TABLE item (id int); ALTER TABLE item ENABLE ROW LEVEL SECURITY;"
        f'GRANT SELECT ON item TO {app}; GRANT CREATE ON DATABASE "{database.name}" TO {app}'
    )
    with pytest.raises(StepFailed) as failed:
        backup_verb(make_place(user=app).context(), FULL)
    assert failed.value.failure.reason in (Reason.PERMISSION_DENIED, Reason.BACKUP_FAILED)
    assert place.stored() == []


def test_a_role_that_may_not_read_a_table_gets_a_reason_and_no_backup(database, ctx, role, make_place, place):
    app = role("app")
    database.psql("CREATE TABLE secret (id int)")
    with pytest.raises(StepFailed) as failed:
        backup_verb(make_place(user=app).context(), FULL)
    assert failed.value.failure.reason in (Reason.PERMISSION_DENIED, Reason.BACKUP_FAILED)
    assert "secret" in failed.value.failure.message
    assert place.stored() == []


def test_a_plain_owner_can_back_up_and_verify(database, role, make_place):
    owner = role("owner", owns=True)
    database.psql(f"CREATE TABLE item (id int); ALTER TABLE item OWNER TO {owner}")
    ctx = make_place(user=owner).context()
    assert backup_verb(ctx, FULL).tables == 1
    assert verify_backup_verb(ctx, VerifyBackupInput(location=LOCATION)).entries >= 1


def test_a_store_keeps_a_half_written_file_to_itself(tmp_path):
    store = VolumeStore(tmp_path)

    def write_half():
        with store.create("a/b") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_password_of_odd_characters_reaches_pg_dump(place_on, server_folder):
    with EmbeddedPostgres(server_folder / "secret", password="p@ss w:rd/%?'\\") as server:
        place = place_on(server)
        assert backup_verb(place.context(), FULL).size_bytes > 0
        assert verify_backup_verb(place.context(), VerifyBackupInput(location=LOCATION)).entries >= 0


def test_a_server_newer_than_pg_dump_is_said_before_anything_is_made(place):
    programs = place.tmp_path / "programs"
    programs.mkdir()
    (programs / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.3 (Old 12.3-1)'\n")
    (programs / "pg_dump").chmod(0o755)
    ctx = place.context()
    older = replace(ctx, environ={**ctx.environ, "GODWIT_PG_BIN": str(programs)})
    with pytest.raises(StepFailed) as failed:
        backup_verb(older, FULL)
    assert failed.value.failure.reason is Reason.SERVER_TOO_NEW
    assert place.stored() == []


def test_a_missing_pg_dump_is_said(place):
    ctx = place.context()
    with pytest.raises(StepFailed) as failed:
        backup_verb(replace(ctx, environ={**ctx.environ, "GODWIT_PG_BIN": "/nonexistent"}), FULL)
    assert failed.value.failure.reason is Reason.INTERNAL_ERROR
    assert "pg_dump" in failed.value.failure.message


def test_the_role_of_the_connection_is_the_one_that_dumps(database, make_place, role):
    owner, login = role("owner", owns=True), role("login")
    place = make_place(user=login, connection=Connection(role=owner))
    database.psql(
        f"""ALTER ROLE {login} NOINHERIT; GRANT {owner} TO {login};
        SET ROLE {owner}; CREATE TABLE item (id int)"""
    )
    assert backup_verb(place.context(), FULL).tables == 1
