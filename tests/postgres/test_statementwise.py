"""Files that cannot run in a transaction: half way, undone, resumed, stopped."""

import threading

import psycopg
import pytest
from failing import failure_of
from waiting import until_answered

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason

USERS = """
CREATE TABLE users (id int PRIMARY KEY, name text);
INSERT INTO users SELECT g, g FROM generate_series(1, 50) g;
"""
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


def test_a_lone_concurrent_index_shows_prismas_started_and_finished_row(project):
    project.write("001_users", USERS)
    project.write("002_index", "CREATE INDEX CONCURRENTLY users_name ON users (name);")
    ref = project.plan()
    outcome = project.deploy(plan=ref)
    assert (outcome.applied, outcome.state) == (2, ref.to_state)
    assert project.rows() == ["001_users", "002_index"]
    assert project.database.psql(INVALID) == "0"
    assert (
        project.database.psql("SELECT applied_steps_count, logs IS NULL FROM _prisma_migrations")
        == "1|t\n1|t"
    )


def test_a_unique_index_that_meets_a_duplicate_is_undone_and_a_corrected_source_goes_on(project):
    project.write("001_users", USERS + "UPDATE users SET name = 'same' WHERE id < 3;")
    project.deploy()
    before = project.database.dump()
    project.write("002_index", "-- unique\nCREATE UNIQUE INDEX CONCURRENTLY users_name ON users (name);")
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, failure.migration, failure.line) == (Reason.MIGRATION_FAILED, "002_index", 2)
    assert failure.sqlstate == "23505"
    assert "same" not in failure.model_dump_json()
    assert (
        failure.standing == "The INVALID index public.users_name was dropped. Nothing of 002_index is left."
    )
    assert (outcome.applied, outcome.partial, outcome.current) == (0, "", "001_users")
    assert [(r.rung.value, r.possible, r.taken) for r in outcome.rungs][:2] == [
        ("Transaction", False, False),
        ("Undo", True, True),
    ]
    assert project.database.psql(INVALID) == "0"
    assert project.rows() == ["001_users", "002_index~"]
    assert "23505" in project.database.psql("SELECT logs FROM _prisma_migrations WHERE logs IS NOT NULL")
    after = [line for line in project.database.dump().splitlines() if "002_index" not in line]
    assert after == before.splitlines()
    project.write("002_index", "CREATE INDEX CONCURRENTLY users_name ON users (name);")
    assert project.deploy("u3").current == "002_index"
    assert project.rows() == ["001_users", "002_index~", "002_index"]


def test_a_half_done_file_stops_with_its_exact_state(project):
    project.write("001_users", USERS + "UPDATE users SET name = 'same' WHERE id < 3;")
    project.deploy()
    project.write(
        "002_index",
        "UPDATE users SET id = id + 1000;\n"
        "CREATE UNIQUE INDEX CONCURRENTLY ON users (name);\n"
        "UPDATE users SET id = 0;",
    )
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, failure.migration, failure.line) == (Reason.PARTIALLY_APPLIED, "002_index", 2)
    assert failure.standing == (
        "The INVALID index public.users_name_idx was dropped. "
        "Of the 3 statements of 002_index these are done: 1 (line 1)."
    )
    assert (outcome.partial, outcome.current, outcome.applied) == ("002_index", "001_users", 0)
    assert [(r.rung.value, r.possible, r.taken) for r in outcome.rungs] == [
        ("Transaction", False, False),
        ("Undo", True, True),
        ("Down", False, False),
    ]
    assert project.rows() == ["001_users", "002_index!"]
    assert project.database.psql("SELECT min(id) FROM users") == "1001"
    refused, _ = failure_of(project.plan)
    assert refused.reason is Reason.FAILED_EARLIER


def test_the_next_attempt_of_the_same_operation_goes_on_where_it_stands(project):
    project.write("001_users", USERS + "UPDATE users SET name = 'same' WHERE id < 3;")
    project.deploy()
    project.write(
        "002_index", "UPDATE users SET id = id + 1000;\nCREATE UNIQUE INDEX CONCURRENTLY ON users (name);"
    )
    ref = project.plan()
    failure_of(lambda: project.apply("u2", plan=ref))
    project.database.psql("UPDATE users SET name = id")
    assert project.apply("u2", plan=ref, attempt=2).current == "002_index"
    assert project.database.psql("SELECT min(id), max(id) FROM users") == "1001|1050"
    assert project.database.psql("SELECT count(*) FROM _prisma_migrations WHERE logs IS NOT NULL") == "0"


def broken_off(project, sql):
    """A file that ran until its CONCURRENTLY, where its session ended; the plan of it."""
    project.write("001_users", USERS + "CREATE TABLE others (id int);")
    project.deploy()
    project.write("002_own", sql)
    ref = project.plan()
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'godwit apply%'"
    project.point = lambda name: name == "apply.before_statement" and project.database.psql(end)
    assert failure_of(lambda: project.apply("u2", plan=ref))[0].reason is Reason.CONNECTION_LOST
    project.point = lambda _: None
    return ref


INDEX = "CREATE INDEX CONCURRENTLY i ON others (id);"


def goes_no_further(project, first, what):
    """A file that begins so, broken off behind that, is not gone on with: *what* went with its session."""
    ref = broken_off(project, f"{first}\n{INDEX}\nDELETE FROM users;")
    failure, outcome = failure_of(lambda: project.apply("u2", plan=ref))
    assert (failure.reason, outcome.partial) == (Reason.PARTIALLY_APPLIED, "002_own")
    assert f"{what} went with the session" in failure.message
    assert project.database.psql("SELECT count(*) FROM users") == "50"


@pytest.mark.parametrize(
    "make",
    [
        "CREATE TEMP TABLE users (id int);",
        "SELECT 1 AS id INTO TEMP users;",
        "CREATE TABLE pg_temp.users (id int);",
        "CREATE TABLE pg_temp.users AS SELECT 1 AS id;",
    ],
)
def test_a_real_table_is_not_taken_for_a_temporary_one_that_went_with_its_session(project, make):
    goes_no_further(project, make, "its temporary table users")


def test_a_file_that_has_dropped_its_temporary_table_is_gone_on_with(project):
    sql = (
        f"CREATE TEMP TABLE t AS SELECT 7 AS n;\nINSERT INTO others SELECT n FROM t;\nDROP TABLE t;\n{INDEX}"
    )
    ref = broken_off(project, sql)
    assert project.apply("u2", plan=ref).current == "002_own"
    assert project.database.psql("SELECT id FROM others") == "7"


@pytest.mark.parametrize(
    "sets",
    [
        "SET TimeZone = 'Asia/Tokyo';",
        "SELECT set_config('TimeZone', 'Asia/Tokyo', false);",
        "SELECT pg_catalog.set_config('TimeZone', 'Asia/Tokyo', false), set_config('a.b', 'c', false) AS x;",
    ],
)
def test_a_setting_is_made_again_in_the_session_that_goes_on(project, sets):
    at = "CREATE TABLE at (t timestamptz);"
    ref = broken_off(project, f"{at}\n{sets}\n{INDEX}\nINSERT INTO at VALUES ('2020-01-01 00:00');")
    assert project.apply("u2", plan=ref).current == "002_own"
    assert project.database.psql("SELECT t = '2020-01-01 00:00 Asia/Tokyo' FROM at") == "t"


@pytest.mark.parametrize(
    "sets",
    [
        "DO $$ BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END $$;",
        "INSERT INTO others SELECT length(set_config('TimeZone', 'Asia/Tokyo', false));",
        "SELECT set_config('TimeZone', 'Asia/Tokyo', false) FROM others;",
    ],
)
def test_a_file_whose_settings_went_with_their_session_is_not_gone_on_with(project, sets):
    goes_no_further(project, sets, "what line 1 may have set")


def test_an_invalid_index_of_somebody_else_is_left_alone_and_named(project):
    project.write("001_users", USERS + "UPDATE users SET name = 'same' WHERE id < 3;")
    project.deploy()
    with (
        psycopg.connect(project.uri, autocommit=True) as other,
        pytest.raises(psycopg.errors.UniqueViolation),
    ):
        other.execute("CREATE UNIQUE INDEX CONCURRENTLY users_name ON users (name)")
    project.write("002_index", "CREATE INDEX CONCURRENTLY IF NOT EXISTS users_name ON users (name);")
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert failure.reason is Reason.MIGRATION_FAILED
    assert "users_name is there and INVALID" in failure.message
    assert (outcome.partial, project.rows()) == ("", ["001_users", "002_index~"])
    assert project.database.psql(INVALID) == "1"
    project.write("002_index", "CREATE INDEX CONCURRENTLY users_name ON users (name);")
    failure, _ = failure_of(lambda: project.apply("u3"))
    assert (failure.reason, failure.sqlstate) == (Reason.MIGRATION_FAILED, "42P07")
    assert project.database.psql(INVALID) == "1"


def test_a_strangers_invalid_index_is_no_fault_of_the_plan(project):
    project.write("001_users", USERS + "UPDATE users SET name = 'same' WHERE id < 3;")
    project.deploy()
    with (
        psycopg.connect(project.uri, autocommit=True) as other,
        pytest.raises(psycopg.errors.UniqueViolation),
    ):
        other.execute("CREATE UNIQUE INDEX CONCURRENTLY users_name ON users (name)")
    project.write("002_index", "CREATE INDEX CONCURRENTLY users_id ON users (id, name);")
    assert project.deploy("u2").current == "002_index"


def test_a_do_block_that_commits_runs_alone_and_stops_where_nobody_can_judge(project):
    project.write("001_users", USERS)
    project.write(
        "002_batches",
        "DO $$ BEGIN FOR i IN 1..3 LOOP "
        "UPDATE users SET name = name || 'x' WHERE id = i; COMMIT; END LOOP; END $$;",
    )
    assert project.deploy().current == "002_batches"
    assert project.database.psql("SELECT name FROM users WHERE id = 3") == "3x"
    project.write("003_bad", "DO $$ BEGIN UPDATE users SET name = 'y'; COMMIT; PERFORM 1/0; END $$;")
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, failure.migration, failure.sqlstate) == (
        Reason.PARTIALLY_APPLIED,
        "003_bad",
        "22012",
    )
    assert "division by zero" in failure.message
    assert outcome.partial == "003_bad"
    assert project.rows()[-1] == "003_bad!"


@pytest.mark.parametrize("sql", ["VACUUM FULL users;", "REINDEX SCHEMA public;"])
def test_nobody_queues_behind_what_keeps_others_out_in_a_transaction_of_its_own(project, sql):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_rebuild", sql)
    policy = project.policy(lock_timeout_ms=100, lock_budget_ms=600)
    ref = project.plan(policy=policy)
    with psycopg.connect(project.uri, application_name="report") as reader:
        reader.execute("SELECT * FROM users WHERE id = 1")
        failure, outcome = failure_of(lambda: project.apply("u2", plan=ref, policy=policy))
        assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
        assert (failure.migration, failure.standing) == ("002_rebuild", "Nothing of 002_rebuild is left.")
        assert (outcome.partial, project.rows()) == ("", ["001_users", "002_rebuild~"])
        policy = project.policy(lock_timeout_ms=100, lock_budget_ms=20_000)
        ref = project.plan(policy=policy)
        leaving = threading.Timer(0.5, reader.rollback)
        leaving.start()
        assert project.apply("u3", plan=ref, policy=policy).applied == 1
        leaving.join()


def test_a_do_block_that_commits_waits_no_longer_for_a_lock_than_any_other(project):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_alter", "DO $$ BEGIN ALTER TABLE users ADD x int; COMMIT; END $$;")
    policy = project.policy(lock_timeout_ms=100)
    ref = project.plan(policy=policy)
    with psycopg.connect(project.uri) as reader:
        reader.execute("SELECT * FROM users")
        failure, _ = failure_of(lambda: project.apply("u2", plan=ref, policy=policy))
    assert (failure.reason, failure.sqlstate) == (Reason.PARTIALLY_APPLIED, "55P03")


SLOW = """
CREATE FUNCTION slow(id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
'BEGIN PERFORM pg_sleep(0.5); RETURN id; END';
"""


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("VACUUM FULL users;", Reason.LOCK_HOLD_EXCEEDED),
        ("DO $$ BEGIN LOCK TABLE users; PERFORM pg_sleep(60); COMMIT; END $$;", Reason.PARTIALLY_APPLIED),
    ],
)
def test_what_keeps_others_out_in_a_transaction_of_its_own_is_cut_off_in_time(project, sql, reason):
    project.write("001_users", f"{USERS}{SLOW}CREATE INDEX i ON users (slow(id)) WHERE id < 0;")
    project.deploy()
    project.database.psql("DROP INDEX i; CREATE INDEX i ON users (slow(id)) WHERE id <= 3")
    project.write("002_rebuild", sql)
    failure, _ = failure_of(lambda: project.apply("u2", policy=project.policy(max_lock_hold_ms=300)))
    assert failure.reason is reason
    assert "held AccessExclusiveLock on users for longer than maxLockHold (0.3 s)" in failure.message


def test_a_procedure_that_never_commits_runs_in_the_transaction(project):
    project.write(
        "001_users", USERS + "CREATE PROCEDURE p() LANGUAGE sql AS 'UPDATE users SET name = 1/(id - 1)';"
    )
    project.write("002_call", "CALL p();")
    failure, outcome = failure_of(project.apply)
    assert (failure.reason, outcome.partial, project.rows()) == (Reason.MIGRATION_FAILED, "", ["001_users"])


def test_detaching_a_partition_concurrently(project):
    project.write(
        "001_parts",
        "CREATE TABLE p (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);",
    )
    project.write("002_detach", "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY;")
    assert project.deploy().current == "002_detach"
    assert project.database.psql("SELECT count(*) FROM pg_inherits") == "0"


def test_waiters_of_our_own_role_on_the_migration_lock_are_cancelled_before_concurrently(project):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_index", "CREATE INDEX CONCURRENTLY users_name ON users (name);")
    ref = project.plan()
    cancelled = []

    def wait_in_the_server():
        with psycopg.connect(project.uri, autocommit=True) as prisma:
            try:
                prisma.execute("SELECT pg_advisory_lock(72707369)")
            except psycopg.errors.QueryCanceled as error:
                cancelled.append(error)

    waiting = threading.Thread(target=wait_in_the_server)

    def start_waiting(name):
        if name == "apply.after_start":
            waiting.start()
            until_answered(
                project, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", "1"
            )

    project.point = start_waiting
    assert project.apply("u2", plan=ref).current == "002_index"
    waiting.join(timeout=10)
    assert len(cancelled) == 1


def test_waiters_of_another_role_stop_it_and_are_named(project, role):
    user = role("other")
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_index", "CREATE INDEX CONCURRENTLY users_name ON users (name);")
    ref = project.plan()
    with psycopg.connect(project.database.uri_as(user), autocommit=True) as prisma:
        waiting = threading.Thread(target=prisma.execute, args=("SELECT pg_advisory_lock(72707369)",))

        def start_waiting(name):
            if name == "apply.after_start":
                waiting.start()
                until_answered(
                    project, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", "1"
                )

        project.point = start_waiting
        failure, outcome = failure_of(lambda: project.apply("u2", plan=ref))
        waiting.join(timeout=10)
        assert failure.reason is Reason.LOCK_WAITERS
        assert f"process {prisma.info.backend_pid} (" in failure.message
        assert user in failure.message
        assert (outcome.partial, project.rows()) == ("", ["001_users", "002_index~"])


def test_production_wants_the_mark_in_a_file_that_could_be_left_half_done(project):
    project.write("001_users", USERS)
    body = "CREATE INDEX CONCURRENTLY i ON users (name);\nCREATE INDEX CONCURRENTLY j ON users (id, name);"
    project.write("002_index", body)
    policy = project.policy(environment=Environment.PRODUCTION)
    failure, _ = failure_of(lambda: project.plan(policy=policy))
    assert failure.reason is Reason.STATEMENT_REFUSED
    project.write("002_index", f"-- godwit: no-transaction\n{body}")
    assert project.deploy(policy=policy, environment=Environment.PRODUCTION).applied == 2
