"""Restore by swap on a real server: the database is the backup afterwards, or untouched and open."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from godwit.contract.environment import DATABASE_URI_VAR, PG_BIN_VAR
from godwit.contract.outcome import Rung
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    BackupInput,
    BackupType,
    CheckInput,
    Connection,
    ObjectRef,
    RestoreInput,
    StepRequest,
)
from godwit.engine import journal, ownership
from godwit.engine.check import check_verb
from godwit.engine.context import StepContext
from godwit.engine.dump import backup_verb
from godwit.engine.errors import StepFailed
from godwit.engine.restore import Names, lock_key, restore_verb
from godwit.runner.log import JsonLog, redactor

LOCATION = "shop/nightly-u1.dump"
MAINTENANCE = "postgres"


class Restoring:
    """A database with a backup, and steps that restore it."""

    def __init__(self, database, tmp_path, *, user="postgres", **request):
        self.database, self.tmp_path, self.user = database, tmp_path, user
        self.server = database.server
        for name in ("store", "scratch"):
            (tmp_path / name).mkdir(exist_ok=True)
        self.request = request
        self.backup = backup_verb(self.context("backup"), BackupInput(location=LOCATION))
        self.oid = int(self.database.psql("SELECT oid FROM pg_database WHERE datname = current_database()"))
        with self.context("look").session() as session:
            self.identity = session.identity

    def context(self, step, **changes):
        fields = {
            "object": ObjectRef(kind="DatabaseRestore", namespace="shop", name="back", uid="r1"),
            "step": step,
            "operation": "r1",
            "spec_hash": "h1",
            "verbs": (),
        }
        return StepContext(
            request=StepRequest(**(fields | self.request | changes)),
            environ={
                DATABASE_URI_VAR: self.database.uri_as(self.user),
                PG_BIN_VAR: str(self.server.bin_dir),
                "PATH": os.environ["PATH"],
            },
            source_dir=self.tmp_path / "source",
            store_dir=self.tmp_path / "store",
            scratch_dir=self.tmp_path / "scratch",
            log=JsonLog(sys.stdout, redactor(())),
        )

    def verb(self, **changes):
        return RestoreInput(**({"location": LOCATION, "sha256": self.backup.sha256} | changes))

    def restore(self, *, point=None, request=None, **changes):
        ctx = self.context("restore", identity=self.identity, **(request or {}))
        if point is not None:
            ctx = replace(ctx, point=point)
        return restore_verb(ctx, self.verb(**changes))

    def started(self, *, fault="", **changes):
        """The runner as a Job would run it: a process of its own."""
        ctx = self.context("restore", identity=self.identity, verbs=(self.verb(**changes),))
        outcome = self.tmp_path / "outcome.json"
        outcome.unlink(missing_ok=True)
        (self.tmp_path / "request.json").write_text(json.dumps(ctx.request.to_json()))
        env = (
            os.environ
            | ctx.environ
            | {
                "GODWIT_REQUEST_FILE": str(self.tmp_path / "request.json"),
                "GODWIT_OUTCOME_FILE": str(outcome),
                "GODWIT_STORE_DIR": str(self.tmp_path / "store"),
                "GODWIT_SCRATCH_DIR": str(self.tmp_path / "scratch"),
            }
        )
        if fault:
            env |= {"GODWIT_FAULT": fault, "GODWIT_FAULT_INJECTION": "1"}
        return subprocess.Popen([sys.executable, "-m", "godwit.runner"], env=env)

    def outcome(self):
        return json.loads((self.tmp_path / "outcome.json").read_text())

    def databases(self):
        """Name -> whether it takes connections, of this test's databases."""
        rows = self.server.psql(
            f"SELECT datname, datallowconn FROM pg_database WHERE datname LIKE '{self.database.name[:30]}%'"
        )
        return {name: allowed == "t" for name, _, allowed in (r.partition("|") for r in rows.splitlines())}

    def untouched(self):
        """Open, alone, with the OID and the comment that it had."""
        now = self.server.psql(
            "SELECT oid, shobj_description(oid, 'pg_database') FROM pg_database "
            f"WHERE datname = '{self.database.name}'"
        )
        assert self.databases() == {self.database.name: True}
        assert now == f"{self.oid}|{self.comment}"
        return True

    comment = ""


@pytest.fixture
def restoring(database, tmp_path):
    """A database with some tables, and its backup."""
    database.psql(
        "CREATE TABLE item (id serial PRIMARY KEY, name text); INSERT INTO item (name) VALUES ('a'), ('b');"
        "CREATE TABLE other (id int)"
    )
    made = Restoring(database, tmp_path)
    yield made
    clean(made)


def clean(made):
    for name in made.databases():
        if name != made.database.name:
            made.server.drop_database(name)


def failing(made, **changes):
    with pytest.raises(StepFailed) as failed:
        made.restore(**changes)
    assert made.untouched()
    return failed.value.failure


def test_the_database_is_the_backup_afterwards_and_the_former_one_is_kept(restoring, database):
    before = database.dump()
    database.psql("DROP TABLE other; UPDATE item SET name = 'changed'; INSERT INTO item (name) VALUES ('c')")
    outcome = restoring.restore(accept_data_loss=True)
    assert database.dump() == before
    assert restoring.databases() == {database.name: True, outcome.old_database: True}
    assert (
        restoring.server.psql("SELECT name FROM item ORDER BY id", outcome.old_database)
        == "changed\nchanged\nc"
    )
    assert outcome.lost_rows == 3
    assert outcome.identity.name == database.name
    assert outcome.identity.database_oid != restoring.oid
    assert outcome.state == restoring.backup.state


def test_nothing_written_needs_no_consent(restoring, database):
    assert restoring.restore().lost_rows == 0


def test_what_was_written_since_stops_it_without_a_fence(restoring, database):
    database.psql("INSERT INTO item (name) VALUES ('c'); DELETE FROM item WHERE id = 1")
    passed = []
    failure = failing(restoring, point=passed.append)
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert "public.item (1 inserted or updated, 1 deleted or updated)" in failure.message
    assert passed == ["restore.start"]


def test_what_is_written_after_the_first_count_is_seen_behind_the_fence(restoring, database):
    def point(name):
        if name == "restore.before_fence":
            database.psql("INSERT INTO item (name) VALUES ('late')")

    assert failing(restoring, point=point).reason is Reason.DATA_WOULD_BE_LOST


def test_a_rewritten_table_is_an_unknown_loss(restoring, database):
    database.psql("ALTER TABLE item ALTER id TYPE bigint")
    assert failing(restoring).reason is Reason.DATA_WOULD_BE_LOST
    assert restoring.restore(accept_data_loss=True).lost_rows == -1


def test_a_schema_of_others_is_never_rewound_whatever_was_accepted(database, tmp_path):
    database.psql("CREATE SCHEMA billing; CREATE TABLE billing.invoice (id int)")
    made = Restoring(database, tmp_path)
    database.psql("INSERT INTO billing.invoice VALUES (1)")
    assert failing(made, accept_data_loss=True).reason is Reason.SHARED_DATABASE
    declared = {"connection": Connection(schemas=("public", "billing"))}
    assert made.restore(accept_data_loss=True, request=declared).lost_rows == 1
    clean(made)


def test_what_no_dump_holds_is_carried_over(database, role, tmp_path):
    app, owner = role("app"), role("owner", createdb=True, owns=True)
    database.psql(
        f"""ALTER DATABASE "{database.name}" CONNECTION LIMIT 17;
        REVOKE ALL ON DATABASE "{database.name}" FROM PUBLIC;
        GRANT CONNECT ON DATABASE "{database.name}" TO {app} WITH GRANT OPTION;
        ALTER DATABASE "{database.name}" SET search_path TO "$user", public, "odd name";
        ALTER DATABASE "{database.name}" SET work_mem TO '5MB';
        ALTER DATABASE "{database.name}" SET app.label TO 'it''s';
        ALTER ROLE {app} IN DATABASE "{database.name}" SET statement_timeout TO '7s';
        COMMENT ON DATABASE "{database.name}" IS 'The shop''s';"""
    )
    query = f"""
        SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit,
               shobj_description(oid, 'pg_database')
          FROM pg_database d WHERE datname = '{database.name}';
        SELECT a.* FROM pg_database d, aclexplode(d.datacl) a
         WHERE datname = '{database.name}' ORDER BY 1, 2, 3;
        SELECT setrole, unnest(setconfig)
          FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
         WHERE datname = '{database.name}' ORDER BY 1, 2"""
    before = database.psql(query)
    assert owner in before
    assert "5MB" in before
    made = Restoring(database, tmp_path)
    made.restore()
    assert database.psql(query) == before
    clean(made)


def test_sequences_never_go_back(restoring, database):
    database.psql(
        "CREATE SEQUENCE down INCREMENT -1; SELECT nextval('item_id_seq') FROM generate_series(1, 50)"
    )
    database.psql("DROP SEQUENCE down")
    restoring.restore(accept_data_loss=True)
    assert int(database.psql("SELECT nextval('item_id_seq')")) == 53


def test_descending_sequences_never_go_back_either(database, tmp_path):
    database.psql("CREATE SEQUENCE falling INCREMENT -2; SELECT nextval('falling')")
    made = Restoring(database, tmp_path)
    database.psql("SELECT nextval('falling') FROM generate_series(1, 3)")
    made.restore()
    assert database.psql("SELECT nextval('falling')") == "-9"
    clean(made)


def test_the_journal_is_carried_over_whole_with_the_restores_own_row_and_a_stamp_that_counts(
    restoring, database
):
    ctx = restoring.context("apply", operation="earlier", environment=Environment.STAGING)
    with ctx.session(writing=True) as session:
        journal.ensure(session)
        journal.append(session, ctx.request, journal.Event.APPLIED, verb="Apply", migration="m1")
        ownership.write_stamp(session, Environment.PRODUCTION)
    outcome = restoring.restore()
    with restoring.context("look").session() as session:
        assert [(e.verb, e.event) for e in journal.entries_of(session, "earlier")] == [("Apply", "Applied")]
        assert [(e.verb, e.event) for e in journal.entries_of(session, "r1")] == [("Restore", "Done")]
        assert ownership.stamp(session) is Environment.PRODUCTION
        assert journal.head(session) == outcome.journal_head
    assert database.psql("SELECT count(*) FROM godwit.settings WHERE key = 'activeOperation'") == "0"


def test_the_same_request_again_returns_what_was_done(restoring, database):
    first = restoring.restore()
    database.psql("INSERT INTO item (name) VALUES ('after')")
    assert restoring.restore() == first
    assert database.psql("SELECT count(*) FROM item") == "3"


def test_the_same_object_made_anew_elsewhere_does_not_restore_twice(restoring, database):
    first = restoring.restore()
    assert restoring.restore(request={"operation": "another-uid"}) == first


def test_an_old_backup_can_be_restored_once_more_after_a_restore(restoring, database):
    first = restoring.restore()
    restoring.identity = first.identity
    failure = None
    with pytest.raises(StepFailed) as failed:
        restoring.restore(request={"operation": "r2", "spec_hash": "h2"})
    failure = failed.value.failure
    assert failure.reason is Reason.DATA_WOULD_BE_LOST  # nothing can be counted across databases
    second = restoring.restore(request={"operation": "r2", "spec_hash": "h2"}, accept_data_loss=True)
    assert second.lost_rows == -1
    assert len({first.old_database, second.old_database}) == 2


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
    assert failing(restoring, **changes).reason in (Reason.BACKUP_UNUSABLE, Reason.RESTORE_FAILED)


def test_an_archive_other_than_its_manifest_says_is_found_before_the_fence(restoring, database):
    manifest = restoring.tmp_path / "store" / (LOCATION + ".json")
    told = json.loads(manifest.read_text())
    told["tables"]["public.item"]["rows"] = 99
    manifest.write_text(json.dumps(told))
    passed = []
    failure = failing(restoring, point=passed.append, accept_data_loss=True)
    assert failure.reason is Reason.RESTORE_FAILED
    assert "public.item is 2 instead of 99" in failure.message
    assert "restore.before_fence" not in passed


def test_a_role_without_createdb_is_told_before_anything(database, role, tmp_path):
    owner = role("owner", owns=True)
    made = Restoring(database, tmp_path, user=owner)
    failure = failing(made)
    assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
    assert "CREATEDB" in failure.message
    options = {o.rung: o for o in check_verb(made.context("check"), CheckInput()).rollback_options}
    assert not options[Rung.RESTORE].possible
    assert "CREATEDB" in options[Rung.RESTORE].why
    assert options[Rung.TRANSACTION].possible


def test_a_plain_owner_with_createdb_can_restore(database, role, tmp_path):
    owner = role("owner", createdb=True, owns=True)
    database.psql(
        f"SET ROLE {owner}; CREATE TABLE item (id serial PRIMARY KEY); INSERT INTO item DEFAULT VALUES"
    )
    made = Restoring(database, tmp_path, user=owner)
    assert check_verb(made.context("check"), CheckInput(store=True)).rollback_options[-1].possible
    database.psql("DELETE FROM item")
    assert made.restore(accept_data_loss=True).lost_rows == 1
    assert database.psql("SELECT id FROM item") == "1"
    clean(made)


def test_a_prepared_transaction_stands_in_the_way(restoring, database):
    database.psql("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'waiting'")
    try:
        failure = failing(restoring)
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
        assert failing(restoring, point=point).reason is Reason.RESTORE_NOT_POSSIBLE
    finally:
        database.psql("ROLLBACK PREPARED 'late'")


def test_a_logical_slot_stands_in_the_way(restoring, database):
    database.psql(f"SELECT pg_create_logical_replication_slot('slot_{restoring.oid}', 'pgoutput')")
    try:
        assert "replication slots" in failing(restoring).message
    finally:
        database.psql(f"SELECT pg_drop_replication_slot('slot_{restoring.oid}')")


def test_other_sessions_are_ended_and_new_ones_reach_the_restored_database(restoring, database):
    database.psql("INSERT INTO other VALUES (7)")
    with ExitStack() as stack:
        held = [stack.enter_context(psycopg.connect(database.uri)) for _ in range(3)]
        for conn in held:
            conn.execute("SELECT count(*) FROM item")
        restoring.restore(accept_data_loss=True)
        for conn in held:
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
    assert database.psql("SELECT count(*) FROM other") == "0"


def test_a_session_that_may_not_be_ended_stops_it(database, role, tmp_path):
    owner = role("owner", createdb=True, owns=True)
    made = Restoring(database, tmp_path, user=owner)
    with psycopg.connect(database.uri) as superuser:
        superuser.execute("SELECT 1")
        failure = failing(made)
        assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
        assert "may not end the sessions of postgres" in failure.message


def test_a_session_that_came_meanwhile_and_may_not_be_ended_lifts_the_fence(database, role, tmp_path):
    owner = role("owner", createdb=True, owns=True)
    made = Restoring(database, tmp_path, user=owner)
    with ExitStack() as stack:

        def point(name):
            if name == "restore.before_fence":
                stack.enter_context(psycopg.connect(database.uri)).execute("SELECT 1")

        assert failing(made, point=point).reason is Reason.RESTORE_NOT_POSSIBLE


def test_the_fence_is_lifted_when_its_time_is_over(restoring, database):
    seen = []

    def point(name):
        if name == "restore.counted":
            # What goes on behind the fence takes too long: it opens by itself, before the step goes on.
            wait_for(lambda: restoring.databases()[database.name])
            seen.append("open")

    failure = failing(restoring, point=point, fence_timeout_ms=1500)
    assert failure.reason is Reason.RESTORE_NOT_POSSIBLE
    assert "fenceTimeout" in failure.message
    assert seen == ["open"]


def test_a_fence_says_how_to_open_it_while_it_stands(restoring, database):
    restoring.server.psql(f"COMMENT ON DATABASE \"{database.name}\" IS 'The shop'")
    restoring.comment = "The shop"
    seen = []

    def point(name):
        if name == "restore.counted":
            seen.append(restoring.server.psql(f"SELECT shobj_description({restoring.oid}, 'pg_database')"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        restoring.restore(point=point)
    assert (
        f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true;' in seen[0]
        or f"ALTER DATABASE {database.name} ALLOW" in seen[0]
    )
    assert restoring.untouched()


@pytest.mark.slow
def test_two_restores_of_one_database_at_once_become_one(restoring, database):
    inside = threading.Event()
    go_on = threading.Event()

    def point(name):
        if name == "restore.built":
            inside.set()
            go_on.wait(20)

    done = []
    thread = threading.Thread(target=lambda: done.append(restoring.restore(point=point)))
    thread.start()
    assert inside.wait(20)
    with pytest.raises(StepFailed) as failed:
        restoring.restore(request={"operation": "r2", "spec_hash": "h2"})
    assert failed.value.failure.reason is Reason.LOCK_HELD
    go_on.set()
    thread.join(30)
    assert done[0].lost_rows == 0


@pytest.mark.slow
def test_a_migrator_that_holds_the_lock_keeps_it_out(restoring, database):
    with psycopg.connect(database.uri) as other:
        other.execute("SELECT pg_advisory_lock(72707369)")
        assert failing(restoring).reason is Reason.LOCK_HELD


def test_it_comes_too_late_or_after_somebody_else(restoring, database):
    past = datetime(2020, 1, 1, tzinfo=UTC)
    assert failing(restoring, request={"not_after": past}).reason is Reason.TOO_LATE
    assert failing(restoring, request={"expected_journal": 7}).reason is Reason.STATE_MOVED


POINTS = ("start", "before_build", "built", "before_fence", "fenced", "counted", "before_swap", "swapped")


@pytest.mark.parametrize("point", POINTS)
def test_a_restore_killed_anywhere_is_done_once_by_the_next_attempt(restoring, database, point):
    database.psql("INSERT INTO other VALUES (1)")
    step = restoring.started(fault=f"restore.{point}:kill", accept_data_loss=True)
    assert step.wait(60) == -signal.SIGKILL
    assert restoring.started(accept_data_loss=True).wait(60) == 0
    outcome = restoring.outcome()
    assert outcome.get("failure") is None, outcome
    assert outcome["resumed"] is (point == "swapped")
    assert outcome["verbs"][0]["lostRows"] == 1
    assert restoring.databases() == {database.name: True, outcome["verbs"][0]["oldDatabase"]: True}
    assert database.psql("SELECT count(*) FROM other") == "0"
    assert database.psql("SELECT count(*) FROM godwit.journal WHERE verb = 'Restore'") == "1"


@pytest.mark.parametrize("point", ["before_build", "fenced"])
def test_a_restore_told_to_end_leaves_the_database_as_it_was_and_open(restoring, database, point):
    step = restoring.started(fault=f"restore.{point}:delay:2")
    wait_for(lambda: reached(restoring, point))
    step.send_signal(signal.SIGTERM)
    assert step.wait(60) == 0
    outcome = restoring.outcome()
    assert outcome["failure"]["reason"] == Reason.CONNECTION_LOST
    assert restoring.untouched()


def reached(restoring, point):
    """Whether the step is at the point, by what it did before it."""
    names = restoring.databases()
    if point == "before_build":
        return (
            restoring.server.psql(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 72707369"
            )
            != "0"
        )
    return not all(names.values())


def test_a_server_that_restarts_behind_the_fence_finds_the_database_open_again(database, tmp_path):
    made = Restoring(database, tmp_path)
    stopped = []

    def point(name):
        if name == "restore.counted":
            made.server.restart(crash=True)
            stopped.append(made.databases()[database.name])

    with pytest.raises(StepFailed) as failed:
        made.restore(point=point)
    assert failed.value.failure.reason in (Reason.CONNECTION_LOST, Reason.DATABASE_UNREACHABLE)
    assert stopped == [False]
    assert made.databases() == {database.name: True} or made.databases()[database.name]
    clean(made)


def test_a_fence_of_somebody_else_is_not_lifted(restoring, database):
    restoring.server.psql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
    try:
        with pytest.raises(StepFailed):
            restoring.restore()
        assert restoring.databases() == {database.name: False}
    finally:
        restoring.server.psql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true')


def test_the_two_locks_names_and_keys_are_the_same_for_every_attempt():
    assert Names.of("shop", "r1") == Names.of("shop", "r1")
    assert Names.of("shop", "r1") != Names.of("shop", "r2")
    long = Names.of("ü" * 31, "r1")
    assert len(long.building.encode()) <= 63
    assert long.building.startswith(long.all_building)
    assert 0 <= lock_key("shop") < 2**63


def wait_for(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
