"""Restore by swap on a real server: the database is the backup afterwards, the former one is kept."""

from contextlib import ExitStack
from dataclasses import replace

import psycopg
import pytest

from godwit.contract.environment import PG_BIN_VAR
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import (
    CheckInput,
    Connection,
    ObjectRef,
    VerifyInput,
)
from godwit.engine import journal, ownership
from godwit.engine.build import restore_jobs
from godwit.engine.check import check_verb
from godwit.engine.errors import StepFailed
from godwit.engine.maintenance import Names, lock_key
from godwit.engine.restore import restore_verb

LOCATION = "shop/nightly-u1.dump"


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


def test_the_verbs_after_a_restore_look_at_the_restored_database(restoring, database):
    assert restoring.restoring(VerifyInput(state=restoring.backup.state)).wait(60) == 0
    outcome = restoring.outcome()
    assert outcome.get("failure") is None
    assert [v["verb"] for v in outcome["verbs"]] == ["Restore", "Verify"]


def test_slots_and_subscriptions_stay_with_the_former_database_where_that_is_accepted(restoring, database):
    slot, feed = f"slot_{restoring.oid}", f"feed_{restoring.oid}"
    database.psql(
        f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'); CREATE SUBSCRIPTION {feed} "
        "CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)"
    )
    failure = restoring.failing()
    assert slot in failure.message
    assert feed in failure.message
    old = restoring.restore(accept_replication_loss=True).old_database
    try:
        of_slot = f"SELECT database FROM pg_replication_slots WHERE slot_name = '{slot}'"
        assert database.psql(of_slot) == old
        whose = (
            "SELECT string_agg(datname, ',') FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid "
            f"WHERE s.subname = '{feed}'"
        )
        assert database.psql(whose) == old
    finally:
        restoring.server.psql(f"SELECT pg_drop_replication_slot('{slot}')", old)
        restoring.server.psql(f"DROP SUBSCRIPTION {feed}", old)


def test_tables_are_restored_side_by_side_after_the_archive_was_compared(restoring, database, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    called = tmp_path / "called"
    for name in ("pg_dump", "pg_restore"):
        (programs / name).write_text(
            f'#!/bin/sh\necho "$@" >> {called}\nexec {restoring.server.bin_dir / name} "$@"\n'
        )
        (programs / name).chmod(0o755)
    ctx = restoring.context("restore", identity=restoring.identity)
    before = database.dump()
    restore_verb(replace(ctx, environ={**ctx.environ, PG_BIN_VAR: str(programs)}), restoring.verb())
    assert database.dump() == before
    (restored,) = [line for line in called.read_text().splitlines() if "--dbname" in line]
    archive = ctx.store().path(LOCATION)
    parallel = restored.endswith(f" --jobs={restore_jobs()} {archive}")
    assert parallel is (restore_jobs() > 1)


def test_a_table_of_any_name_is_backed_up_counted_and_restored(database, make_restoring):
    odd = '"50% of ""it\'s"" %s"'
    database.psql(f"CREATE TABLE {odd} (id serial); INSERT INTO {odd} DEFAULT VALUES")
    made = make_restoring()
    before = database.dump()
    database.psql(f"DELETE FROM {odd}")
    assert made.failing().reason is Reason.DATA_WOULD_BE_LOST
    assert made.restore(accept_data_loss=True).lost_rows == 1
    assert database.dump() == before


def test_a_monitor_that_looks_into_the_new_database_is_not_in_the_way(restoring, database):
    with ExitStack() as stack:

        def point(name):
            if name == "restore.before_fence":
                (made,) = restoring.databases().keys() - {database.name}
                stack.enter_context(psycopg.connect(restoring.server.uri(made)))

        outcome = restoring.restore(point=point)
    assert restoring.databases() == {database.name: True, outcome.old_database: True}


def test_a_limit_on_idle_sessions_does_not_end_a_restore_that_builds(database, role, make_restoring):
    owner = role("owner", createdb=True, owns=True)
    made = make_restoring(user=owner)
    made.server.psql(f"ALTER ROLE {owner} SET idle_session_timeout = '200ms'")
    idle = (
        "SELECT coalesce(bool_and(clock_timestamp() - state_change > interval '1 s'), true) "
        f"FROM pg_stat_activity WHERE usename = '{owner}'"
    )

    def point(name):
        if name == "restore.built":
            made.wait_for(lambda: made.server.psql(idle) == "t")

    assert made.restore(point=point).lost_rows == 0


def test_large_objects_with_gaps_come_back(database, make_restoring):
    database.psql("SELECT lo_put(lo_create(7), 0, 'begin'); SELECT lo_put(7, 100000, 'end')")
    content = database.psql("SELECT md5(lo_get(7))")
    make_restoring().restore()
    assert database.psql("SELECT md5(lo_get(7))") == content


def test_a_database_without_the_procedural_language_comes_back(database, make_restoring):
    database.psql("DROP EXTENSION plpgsql; CREATE TABLE item (id int); INSERT INTO item VALUES (1)")
    make_restoring().restore()
    assert database.psql("SELECT count(*) FROM item") == "1"


@pytest.mark.parametrize(
    ("encoding", "byte"), [("SQL_ASCII", "E'\\xe9'"), ("LATIN1", "convert_from('\\xe9', 'LATIN1')")]
)
def test_text_comes_back_byte_by_byte_in_any_encoding(encoded, encoding, byte):
    made = encoded(encoding, f"CREATE TABLE item (name text); INSERT INTO item VALUES ({byte})")
    made.restore()
    assert made.database.psql("SELECT name::bytea FROM item") == "\\xe9"


def test_nothing_written_needs_no_consent(restoring, database):
    assert restoring.restore().lost_rows == 0


def test_sequences_never_go_back(restoring, database):
    database.psql(
        "CREATE SEQUENCE down INCREMENT -1; SELECT nextval('item_id_seq') FROM generate_series(1, 50)"
    )
    database.psql("DROP SEQUENCE down")
    restoring.restore(accept_data_loss=True)
    assert int(database.psql("SELECT nextval('item_id_seq')")) == 53


def test_descending_sequences_never_go_back_either(database, make_restoring):
    database.psql("CREATE SEQUENCE falling INCREMENT -2; SELECT nextval('falling')")
    made = make_restoring()
    database.psql("SELECT nextval('falling') FROM generate_series(1, 3)")
    made.restore()
    assert database.psql("SELECT nextval('falling')") == "-9"


def test_a_sequence_that_went_further_than_its_former_bounds_stops_at_them(database, make_restoring):
    database.psql("CREATE SEQUENCE few MAXVALUE 10; SELECT nextval('few') FROM generate_series(1, 10)")
    database.psql("CREATE SEQUENCE less MAXVALUE 10")
    made = make_restoring()
    for name in ("few", "less"):
        database.psql(
            f"ALTER SEQUENCE {name} MAXVALUE 99; SELECT nextval('{name}') FROM generate_series(1, 9)"
        )
    database.psql("SELECT nextval('less') FROM generate_series(1, 9)")
    made.restore()
    assert database.psql("SELECT last_value, is_called FROM few") == "10|t"
    assert database.psql("SELECT last_value, is_called FROM less") == "10|t"


def test_the_journal_is_carried_over_whole_with_its_own_row_and_a_stamp_that_counts(restoring, database):
    ctx = restoring.context("apply", operation="earlier", environment=Environment.STAGING)
    with ctx.session(writing=True) as session:
        journal.ensure(session)
        journal.append(session, ctx.request, journal.Event.APPLIED, verb="Apply", migration="m1")
        ownership.write_stamp(session, Environment.PRODUCTION)
    outcome = restoring.restore()
    with restoring.context("look").session() as session:
        assert [(e.verb, e.event) for e in journal.entries_of(session, "earlier")] == [("Apply", "Applied")]
        own = [(e.verb, e.event) for e in journal.entries_of(session, "r1")]
        assert own == [("Restore", "Claimed"), ("Restore", "Done")]
        assert ownership.stamp(session) is Environment.PRODUCTION
        assert journal.head(session) == outcome.journal_head
    assert database.psql("SELECT count(*) FROM godwit.settings WHERE key = 'activeOperation'") == "0"


def test_the_same_request_again_returns_what_was_done(restoring, database):
    first = restoring.restore()
    database.psql("INSERT INTO item (name) VALUES ('after')")
    assert restoring.restore() == first
    assert database.psql("SELECT count(*) FROM item") == "3"


def test_the_same_object_made_anew_elsewhere_does_not_restore_twice_and_says_so(restoring, database):
    first = restoring.restore()
    database.psql("INSERT INTO item (name) VALUES ('since')")
    again = restoring.restore(request={"operation": "another-uid"}, accept_data_loss=True)
    assert (first.repeats, again) == (False, first.model_copy(update={"repeats": True}))
    assert database.psql("SELECT count(*) FROM item WHERE name = 'since'") == "1"
    assert restoring.restore() == first


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


def test_a_plain_owner_with_createdb_can_restore(database, role, make_restoring):
    owner = role("owner", createdb=True, owns=True)
    database.psql(
        f"SET ROLE {owner}; CREATE TABLE item (id serial PRIMARY KEY); INSERT INTO item DEFAULT VALUES"
    )
    made = make_restoring(user=owner)
    assert check_verb(made.context("check"), CheckInput(store=True)).rollback_options[-1].possible
    database.psql("DELETE FROM item")
    assert made.restore(accept_data_loss=True).lost_rows == 1
    assert database.psql("SELECT id FROM item") == "1"


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


def test_large_objects_come_back(database, make_restoring):
    database.psql("SELECT lo_from_bytea(4711, 'abc')")
    made = make_restoring()
    database.psql("SELECT lo_unlink(4711)")
    assert made.failing().reason is Reason.DATA_WOULD_BE_LOST
    made.restore(accept_data_loss=True)
    assert database.psql("SELECT convert_from(lo_get(4711), 'UTF8')") == "abc"


def test_the_two_locks_names_and_keys_are_the_same_for_every_attempt():
    assert Names.of("shop", "r1") == Names.of("shop", "r1")
    assert Names.of("shop", "r1") != Names.of("shop", "r2")
    long = Names.of("ü" * 31, "r1")
    assert len(long.building.encode()) <= 63
    assert long.building.startswith(long.all_building)
    assert 0 <= lock_key("shop") < 2**63


def test_a_login_that_takes_the_owners_role_can_restore(database, make_restoring, role):
    owner, login = role("owner", createdb=True, owns=True), role("login")
    database.psql(
        f"ALTER ROLE {login} NOINHERIT; GRANT {owner} TO {login}; SET ROLE {owner};"
        "CREATE SCHEMA app; CREATE TABLE app.item (id int); INSERT INTO app.item VALUES (1)"
    )
    made = make_restoring(user=login, connection=Connection(role=owner, schemas=("app",)))
    database.psql("DELETE FROM app.item")
    assert made.restore(accept_data_loss=True).lost_rows == 1
    assert database.psql("SELECT id FROM app.item") == "1"


def test_everything_that_a_schema_can_hold_comes_back(database, make_restoring):
    database.psql(
        """
        CREATE TYPE mood AS ENUM ('good', 'bad');
        CREATE TABLE day (at date, mood mood, twice int GENERATED ALWAYS AS (2 * n) STORED, n int)
            PARTITION BY RANGE (at);
        CREATE TABLE day_1 PARTITION OF day FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
        CREATE TABLE child (id int REFERENCES parent) INHERITS (parent);
        CREATE VIEW good AS SELECT * FROM day WHERE mood = 'good';
        CREATE MATERIALIZED VIEW summed AS SELECT mood, count(*) FROM day GROUP BY mood;
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE TRIGGER touched BEFORE UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION touch();
        ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
        CREATE POLICY seen ON parent USING (id > 0);
        CREATE UNLOGGED TABLE quick (id int);
        CREATE PUBLICATION news FOR TABLE parent;
        INSERT INTO day VALUES ('2026-01-02', 'good', DEFAULT, 3);
        INSERT INTO parent DEFAULT VALUES;
        REFRESH MATERIALIZED VIEW summed;
        """
    )
    before = database.dump()
    made = make_restoring()
    database.psql("DROP TABLE child; UPDATE day SET n = 4; DROP VIEW good")
    made.restore(accept_data_loss=True)
    assert database.dump() == before


def test_rows_of_a_savepoint_before_the_snapshot_are_no_loss(database, make_restoring):
    database.psql("CREATE TABLE a (id int)")
    with psycopg.connect(database.uri) as other:
        other.execute("SELECT pg_current_xact_id()")  # holds the snapshot's xmin back
        database.psql("BEGIN; SAVEPOINT s; INSERT INTO a VALUES (1); RELEASE s; COMMIT")
        made = make_restoring()
    assert made.restore().lost_rows == 0


def test_a_former_database_that_was_renamed_back_is_the_live_one_in_every_respect(restoring):
    """Neither waits the next restore for the first one's claim, nor says the live database that it may go."""
    first = restoring.restore()
    live, server = restoring.database.name, restoring.server
    server.psql(f"DROP DATABASE {live}")
    server.psql(f'ALTER DATABASE "{first.old_database}" RENAME TO {live}')

    ref = ObjectRef(kind="DatabaseRestore", namespace="shop", name="again", uid="r2")
    again = restoring.restore(request={"object": ref, "operation": "r2"})
    assert again.lost_rows == 0
    comments = "SELECT datname FROM pg_database d WHERE shobj_description(d.oid, 'pg_database') <> ''"
    assert server.psql(f"{comments} AND starts_with(datname, '{live[:30]}')") == again.old_database
