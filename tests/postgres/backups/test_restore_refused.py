"""A restore that may not be, or cannot be, leaves the database as it was, and open."""

import json
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from godwit.contract.outcome import Rung
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    BackupInput,
    BackupType,
    CheckInput,
    Connection,
)
from godwit.engine.check import check_verb
from godwit.engine.dump import backup_verb
from godwit.engine.errors import StepFailed

LOCATION = "shop/nightly-u1.dump"


def test_what_was_written_since_stops_it_without_a_fence(restoring, database):
    database.psql("INSERT INTO item (name) VALUES ('c'); DELETE FROM item WHERE id = 1")
    passed = []
    failure = restoring.failing(point=passed.append)
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert "public.item (1 inserted or updated, 1 deleted or updated)" in failure.message
    assert passed == ["restore.start"]


def test_the_moment_that_a_loss_counts_from_is_told_in_utc_wherever_the_server_stands(
    database, make_restoring
):
    database.psql(
        f"ALTER DATABASE \"{database.name}\" SET timezone = 'Asia/Tokyo'; CREATE TABLE item (id int)"
    )
    made = make_restoring()
    database.psql("INSERT INTO item VALUES (1)")
    moment = made.backup.started_at.astimezone(UTC)
    assert f"the snapshot at {moment:%Y-%m-%dT%H:%M:%SZ}" in made.failing().message


def test_what_is_written_after_the_first_count_is_seen_behind_the_fence(restoring, database):
    def point(name):
        if name == "restore.before_fence":
            database.psql("INSERT INTO item (name) VALUES ('late')")

    assert restoring.failing(point=point).reason is Reason.DATA_WOULD_BE_LOST


def test_a_fence_that_somebody_opened_stops_the_swap_for_what_may_have_been_written(restoring, database):
    def point(name):
        if name == "restore.before_swap":
            restoring.server.psql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true')
            database.psql("INSERT INTO item (name) VALUES ('uncounted')")

    failure = restoring.failing(point=point, accept_data_loss=True)
    assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
    assert "was opened to connections" in failure.message
    assert database.psql("SELECT count(*) FROM item") == "3"


def test_a_rewritten_table_is_an_unknown_loss(restoring, database):
    database.psql("ALTER TABLE item ALTER id TYPE bigint")
    assert restoring.failing().reason is Reason.DATA_WOULD_BE_LOST
    assert restoring.restore(accept_data_loss=True).lost_rows == -1


def test_a_schema_of_others_is_never_rewound_whatever_was_accepted(database, make_restoring):
    database.psql("CREATE SCHEMA billing; CREATE TABLE billing.invoice (id int)")
    made = make_restoring()
    database.psql("INSERT INTO billing.invoice VALUES (1)")
    assert made.failing(accept_data_loss=True).reason is Reason.SHARED_DATABASE
    declared = {"connection": Connection(schemas=("public", "billing"))}
    assert made.restore(accept_data_loss=True, request=declared).lost_rows == 1


def test_another_database_of_the_name_is_refused(restoring, database):
    restoring.server.psql(f'ALTER DATABASE "{database.name}" RENAME TO "{database.name}_moved"')
    restoring.server.create_database(database.name)
    try:
        with pytest.raises(StepFailed) as failed:
            restoring.restore()
        assert failed.value.failure.reason is Reason.DATABASE_CHANGED
    finally:
        restoring.server.drop_database(database.name)
        restoring.server.psql(f'ALTER DATABASE "{database.name}_moved" RENAME TO "{database.name}"')
    assert restoring.untouched()


def test_a_copy_of_a_restored_database_is_not_said_to_be_restored(restoring, database, make_restoring):
    restoring.restore()
    copy = replace(database, name=f"{database.name}_copy")
    restoring.server.psql(f"CREATE DATABASE {copy.name} TEMPLATE {database.name}")
    made = make_restoring(copy)
    with pytest.raises(StepFailed) as failed:
        made.restore()
    assert failed.value.failure.reason is Reason.RESTORE_NOT_POSSIBLE
    assert "came with a copy" in failed.value.failure.message
    assert made.restore(request={"spec_hash": "h2", "operation": "r2"}).lost_rows == 0


@pytest.mark.parametrize("damage", ["missing", "another checksum", "truncated", "flipped", "schema only"])
def test_a_backup_that_is_not_whole_changes_nothing(restoring, database, damage):
    archive = restoring.tmp_path / "store" / LOCATION
    changes = {}
    match damage:
        case "missing":
            changes["location"] = "shop/none.dump"
        case "another checksum":
            changes["sha256"] = "0" * 64
        case "truncated":
            archive.write_bytes(archive.read_bytes()[:-300])
        case "flipped":
            data = bytearray(archive.read_bytes())
            data[-40] ^= 0xFF
            archive.write_bytes(data)
        case "schema only":
            location = "shop/schema.dump"
            made = backup_verb(
                restoring.context("backup"), BackupInput(location=location, type=BackupType.SCHEMA_ONLY)
            )
            changes |= {"location": location, "sha256": made.sha256}
    assert restoring.failing(**changes).reason in (Reason.BACKUP_UNUSABLE, Reason.RESTORE_FAILED)


def test_an_archive_other_than_its_manifest_says_is_found_before_the_fence(restoring, database):
    manifest = restoring.tmp_path / "store" / (LOCATION + ".json")
    told = json.loads(manifest.read_text())
    told["tables"]["public.item"]["rows"] = 99
    manifest.write_text(json.dumps(told))
    passed = []
    failure = restoring.failing(point=passed.append, accept_data_loss=True)
    assert failure.reason is Reason.RESTORE_FAILED
    assert "public.item is 2 instead of 99" in failure.message
    assert "restore.before_fence" not in passed


def test_a_role_without_createdb_is_told_before_anything(database, role, make_restoring):
    owner = role("owner", owns=True)
    made = make_restoring(user=owner)
    failure = made.failing()
    assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
    assert "CREATEDB" in failure.message
    options = {o.rung: o for o in check_verb(made.context("check"), CheckInput()).rollback_options}
    assert not options[Rung.RESTORE].possible
    assert "CREATEDB" in options[Rung.RESTORE].why
    assert options[Rung.TRANSACTION].possible


def test_a_prepared_transaction_stands_in_the_way(restoring, database):
    database.psql("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'waiting'")
    try:
        failure = restoring.failing()
        assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
        assert "prepared transactions" in failure.message
    finally:
        database.psql("ROLLBACK PREPARED 'waiting'")


def test_a_transaction_prepared_meanwhile_stops_the_swap_and_the_fence_is_lifted(restoring, database):
    def point(name):
        if name == "restore.before_fence":
            database.psql(
                "BEGIN; SELECT 1; LOCK TABLE other IN ACCESS SHARE MODE; PREPARE TRANSACTION 'late'"
            )

    try:
        assert restoring.failing(point=point).reason is Reason.RESTORE_NOT_POSSIBLE
    finally:
        database.psql("ROLLBACK PREPARED 'late'")


def test_a_logical_slot_stands_in_the_way(restoring, database):
    database.psql(f"SELECT pg_create_logical_replication_slot('slot_{restoring.oid}', 'pgoutput')")
    try:
        assert "replication slots" in restoring.failing().message
    finally:
        database.psql(f"SELECT pg_drop_replication_slot('slot_{restoring.oid}')")


def test_a_session_that_may_not_be_ended_stops_it(database, role, make_restoring):
    owner = role("owner", createdb=True, owns=True)
    made = make_restoring(user=owner)
    with psycopg.connect(database.uri) as superuser:
        superuser.execute("SELECT 1")
        failure = made.failing()
        assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
        assert "may not end the sessions of postgres" in failure.message


def test_a_session_that_came_meanwhile_and_may_not_be_ended_lifts_the_fence(database, role, make_restoring):
    owner = role("owner", createdb=True, owns=True)
    made = make_restoring(user=owner)
    with ExitStack() as stack:

        def point(name):
            if name == "restore.before_fence":
                stack.enter_context(psycopg.connect(database.uri)).execute("SELECT 1")

        assert made.failing(point=point).reason is Reason.RESTORE_NOT_POSSIBLE


@pytest.mark.slow
def test_a_migrator_that_holds_the_lock_keeps_it_out(restoring, database):
    with psycopg.connect(database.uri) as other:
        other.execute("SELECT pg_advisory_lock(72707369)")
        assert restoring.failing().reason is Reason.LOCK_HELD


def test_it_comes_too_late_or_after_somebody_else(restoring, database):
    past = datetime(2020, 1, 1, tzinfo=UTC)
    assert restoring.failing(request={"not_after": past}).reason is Reason.TOO_LATE
    assert restoring.failing(request={"expected_journal": 7}).reason is Reason.STATE_MOVED
