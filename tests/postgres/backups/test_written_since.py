"""What was written since a backup is counted exactly, or said to be unknown."""

import threading
from dataclasses import replace

import psycopg

from godwit.contract.request import (
    BackupInput,
)
from godwit.engine.dump import backup_verb
from godwit.engine.snapshot import total

LOCATION = "shop/nightly-u1.dump"
FULL = BackupInput(location=LOCATION)


def test_rows_written_while_the_dump_runs_are_not_in_its_count(database, ctx, place):
    database.psql("CREATE TABLE item (id int)")

    def point(name):
        if name == "backup.before_rename":  # pg_dump has ended, its snapshot is still held
            database.psql("INSERT INTO item VALUES (1), (2)")

    assert backup_verb(replace(ctx, point=point), FULL).rows == 0
    assert place.written() == {"public.item": (2, 0, False)}


def test_nothing_written_counts_nothing(database, ctx, place):
    database.psql("CREATE TABLE item (id int); INSERT INTO item VALUES (1)")
    backup_verb(ctx, FULL)
    assert place.written() == {}


def test_inserts_updates_and_deletes_are_counted_exactly(database, ctx, place):
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
    assert place.written() == {
        "public.a": (2, 0, False),
        "public.b": (3, 3, False),
        "public.c": (0, 4, False),
    }


def test_counts_stay_exact_after_vacuum_freeze_and_a_crash(database, ctx, postgres_server, place):
    database.psql("CREATE TABLE a (id int, n int); INSERT INTO a SELECT g, 0 FROM generate_series(1, 100) g")
    backup_verb(ctx, FULL)
    database.psql(
        "UPDATE a SET n = 1 WHERE id = 1; DELETE FROM a WHERE id = 2; INSERT INTO a VALUES (200, 0), (201, 0)"
    )
    database.psql("VACUUM FREEZE a")
    assert place.written() == {"public.a": (3, 2, False)}


def test_rows_of_a_savepoint_that_was_open_at_the_snapshot_are_counted_as_written_since(database, ctx, place):
    database.psql("CREATE TABLE a (id int); INSERT INTO a VALUES (0)")
    with psycopg.connect(database.uri) as other:
        other.execute("INSERT INTO a VALUES (1)")
        other.execute("SAVEPOINT s")
        other.execute("INSERT INTO a VALUES (2)")
        # Committed after the other began and before the snapshot: these the dump does hold.
        database.psql("INSERT INTO a VALUES (3); INSERT INTO a VALUES (4)")
        assert backup_verb(ctx, FULL).rows == 3
        other.commit()
    assert place.written() == {"public.a": (2, 0, False)}
    database.psql("DELETE FROM a WHERE id IN (3, 4)")
    assert place.written() == {"public.a": (2, 2, False)}


def test_new_and_dropped_tables_count_with_all_rows_and_rewritten_ones_are_unknown(database, ctx, place):
    database.psql("CREATE TABLE gone AS SELECT 1 AS n; CREATE TABLE rewritten AS SELECT 1 AS n")
    backup_verb(ctx, FULL)
    database.psql(
        "DROP TABLE gone; CREATE TABLE made AS SELECT generate_series(1, 3) AS n;"
        "CREATE TABLE empty (id int);"
        "ALTER TABLE rewritten ALTER n TYPE bigint"
    )
    assert place.written() == {
        "public.gone": (0, 1, False),
        "public.made": (3, 0, False),
        "public.rewritten": (0, 0, True),
    }


def test_large_objects_count_as_far_as_the_role_can_see_them(database, ctx, role, make_place, place):
    database.psql("SELECT lo_from_bytea(4711, 'abc')")
    backup_verb(ctx, FULL)
    assert place.written() == {}
    database.psql("SELECT lo_put(4711, 0, 'xyz'); SELECT lo_from_bytea(4712, 'new')")
    assert place.written() == {
        "pg_catalog.pg_largeobject": (2, 1, False),
        "pg_catalog.pg_largeobject_metadata": (1, 0, False),
    }
    plain = make_place(user=role("plain", owns=True))
    assert plain.written()["pg_catalog.pg_largeobject"] == (0, 0, True)


def test_the_journal_and_the_history_table_are_nobodys_writes(database, ctx, place):
    backup_verb(ctx, FULL)
    database.psql(
        "CREATE SCHEMA godwit; CREATE TABLE godwit.journal AS SELECT 1 AS id;"
        "CREATE TABLE _prisma_migrations AS SELECT 1 AS id"
    )
    assert place.written() == {}
    assert total([]) == 0


def test_a_table_is_locked_for_its_own_count_only(database, ctx, place):
    database.psql("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    backup_verb(ctx, FULL)
    found = []
    with psycopg.connect(database.uri) as other:
        other.execute("LOCK TABLE b IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=lambda: found.append(place.written()))
        thread.start()
        held = "SELECT count(*) FROM pg_locks WHERE relation = '{}'::regclass AND {}"
        place.wait_for(lambda: database.psql(held.format("b", "NOT granted")) == "1")
        assert database.psql(held.format("a", "granted")) == "0"
        other.rollback()
        thread.join(30)
    assert found == [{}]
