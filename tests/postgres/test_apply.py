"""Apply on a real server: what is committed together, what a failure leaves, what is refused."""

import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from failing import failure_of

from godwit.contract.policy import SqlCheck
from godwit.contract.reasons import Reason

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text);"


def test_each_migration_stands_with_its_history_row_its_journal_row_and_its_down(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("002_mail", "ALTER TABLE users ADD mail text;")
    ref = project.plan()
    outcome = project.apply(plan=ref)
    assert (outcome.applied, outcome.total, outcome.current) == (2, 2, "002_mail")
    assert outcome.state == ref.to_state
    assert project.rows() == ["001_users", "002_mail"]
    assert project.database.psql("SELECT id, event, migration, down_sql FROM godwit.journal ORDER BY id") == (
        "1|Claimed||\n2|Applied|001_users|DROP TABLE users;\n3|Applied|002_mail|\n4|Done||"
    )
    assert outcome.journal_head == 4
    assert project.database.psql(
        "SELECT value ->> 'environment' FROM godwit.settings WHERE key = 'environment'"
    )
    assert project.verify("u1", ref.to_state).current == "002_mail"
    assert project.database.psql("SELECT count(*) FROM godwit.settings WHERE key = 'activeOperation'") == "0"


def test_a_failure_in_the_first_migration_leaves_nothing_but_rows_in_the_journal(project):
    project.database.psql("CREATE TABLE other (id int); INSERT INTO other VALUES (1);")
    project.database.psql("CREATE SCHEMA app")
    project.uri += "?schema=app"
    before = project.database.dump()
    project.write("001_users", f"{USERS}\n\nINSERT INTO users\n  VALUES (1, 'a'), (1, 'b');")
    failure, outcome = failure_of(project.apply)
    assert failure.reason is Reason.MIGRATION_FAILED
    assert (failure.migration, failure.line, failure.sqlstate) == ("001_users", 3, "23505")
    assert failure.file == "001_users/migration.sql"
    assert failure.statement.startswith("INSERT INTO users")
    assert "'a'" not in failure.message
    assert "(id)=(1)" not in failure.model_dump_json()
    assert "nothing of it is left" in failure.standing
    assert (outcome.applied, outcome.total, outcome.partial, outcome.journal_head) == (0, 1, "", 2)
    assert [(r.rung.value, r.possible, r.taken) for r in outcome.rungs] == [
        ("Transaction", True, True),
        ("Undo", False, False),
        ("Down", False, False),
    ]
    assert project.database.dump() == before


def test_the_third_of_five_fails_the_first_two_stay_and_a_corrected_source_goes_on(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("002_mail", "ALTER TABLE users ADD mail text;", "ALTER TABLE users DROP mail;")
    project.write("003_bad", "ALTER TABLE users ADD x int;\nSELECT 1,\n  nothing();")
    project.write("004_later", "CREATE TABLE later (id int);")
    project.write("005_last", "CREATE TABLE last (id int);")
    failure, outcome = failure_of(project.apply)
    assert (failure.reason, failure.migration, failure.line) == (Reason.MIGRATION_FAILED, "003_bad", 3)
    assert (outcome.applied, outcome.total, outcome.current) == (2, 5, "002_mail")
    assert outcome.journal_head == 4
    assert [(r.rung.value, r.possible) for r in outcome.rungs][-1] == ("Down", True)
    assert project.rows() == ["001_users", "002_mail"]
    project.write("003_bad", "ALTER TABLE users ADD x int DEFAULT 1;")
    outcome = project.apply("u2", expected_journal=4)
    assert (outcome.applied, outcome.current) == (3, "005_last")


def test_a_repeated_request_returns_the_recorded_outcome_and_does_nothing(project):
    project.write("001_users", USERS)
    ref = project.plan()
    first = project.apply(plan=ref, expected_journal=0)
    before = project.database.dump()
    again = project.apply(plan=ref, expected_journal=0, attempt=2)
    assert again == first
    assert project.database.dump() == before


def test_a_late_attempt_of_an_ended_run_is_refused(project):
    project.write("001_users", USERS)
    ref = project.plan()
    project.apply("u1", plan=ref, expected_journal=0)
    failure, _ = failure_of(lambda: project.apply("u0", plan=ref, expected_journal=0))
    assert failure.reason is Reason.STATE_MOVED
    late = datetime.now(UTC) - timedelta(seconds=1)
    failure, _ = failure_of(lambda: project.apply("u0", plan=ref, not_after=late))
    assert failure.reason is Reason.TOO_LATE


def test_an_attempt_that_a_later_one_has_overtaken_is_refused(project):
    """The later one failed and left nothing else behind: what it failed on may be gone by now."""
    project.write(
        "001_users", f"{USERS}\nSELECT 1 / count(*) FROM pg_stat_activity WHERE application_name = 'x';"
    )
    ref = project.plan()
    failure, _ = failure_of(lambda: project.apply("u1", plan=ref, attempt=2))
    assert failure.reason is Reason.MIGRATION_FAILED
    failure, _ = failure_of(lambda: project.apply("u1", plan=ref, attempt=1))
    assert failure.reason is Reason.TOO_LATE
    assert "Attempt 2" in failure.message
    assert project.database.psql("SELECT to_regclass('_prisma_migrations') IS NULL") == "t"


def test_a_second_process_of_an_attempt_is_refused(project):
    """Its Job was deleted before anybody looked, and made again; the process of the first may live."""
    project.write("001_users", f"{USERS}\nINSERT INTO later VALUES (1);")
    ref = project.plan()
    failure, _ = failure_of(lambda: project.apply("u1", plan=ref, attempt=1))
    assert failure.reason is Reason.MIGRATION_FAILED
    project.database.psql("CREATE TABLE later (id int)")
    before = project.database.dump()
    failure, _ = failure_of(lambda: project.apply("u1", plan=ref, attempt=1))
    assert failure.reason is Reason.TOO_LATE
    assert "Another process of attempt 1" in failure.message
    assert project.database.dump() == before


def test_a_second_process_that_is_refused_keeps_no_other_operation_out(project):
    """The first was killed with the database claimed. Its run ends by the second, and is planned anew."""
    project.write("001_users", f"{USERS}\nINSERT INTO later VALUES (1);")
    ref = project.plan()
    failure_of(lambda: project.apply("u1", plan=ref, attempt=1))
    project.database.psql(
        "INSERT INTO godwit.settings (key, value) VALUES ('activeOperation', jsonb_build_object("
        "'operation', 'u1', 'object', 'first', 'until', clock_timestamp() + interval '2 minutes'))"
    )
    failure, _ = failure_of(lambda: project.apply("u1", plan=ref, attempt=1))
    assert failure.reason is Reason.TOO_LATE
    project.write("001_users", USERS)
    assert project.deploy("u2").applied == 1


def test_an_operation_that_planned_before_another_began_is_refused(project):
    """The other one failed without applying anything; its plan was made of the same history."""
    project.write("001_users", f"{USERS}\nSELECT 1 / 0;")
    ref = project.plan()
    failure_of(lambda: project.apply("u2", plan=ref, expected_journal=0))
    failure, _ = failure_of(lambda: project.apply("u1", plan=ref, expected_journal=0))
    assert failure.reason is Reason.STATE_MOVED


def test_a_history_that_another_tool_changed_is_refused(project):
    project.write("001_users", USERS)
    project.write("002_mail", "ALTER TABLE users ADD mail text;")
    ref = project.plan()
    project.deploy("u1", plan=ref)
    project.database.psql("DELETE FROM _prisma_migrations WHERE migration_name = '002_mail'")
    second = project.plan()
    project.database.psql("DELETE FROM _prisma_migrations")
    failure, outcome = failure_of(lambda: project.apply("u2", plan=second))
    assert failure.reason is Reason.STATE_MOVED
    assert outcome.applied == 0


def test_a_source_that_was_edited_since_the_plan_is_refused(project):
    project.write("001_users", USERS)
    ref = project.plan()
    project.write("001_users", USERS + " -- edited")
    failure, _ = failure_of(lambda: project.apply(plan=ref))
    assert failure.reason is Reason.PLAN_CHANGED
    assert project.database.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    assert project.database.psql("SELECT event FROM godwit.journal ORDER BY id") == "Claimed\nFailed"


def test_begin_and_commit_around_a_file_are_taken_off(project):
    project.write("001_users", f"-- by hand\nBEGIN;\n{USERS}\nCOMMIT;\n")
    project.write("002_bad", "BEGIN;\nCREATE TABLE half (id int);\nSELECT 1/0;\nCOMMIT;")
    failure, outcome = failure_of(project.apply)
    assert (failure.line, failure.sqlstate, outcome.applied) == (3, "22012", 1)
    assert project.database.psql("SELECT to_regclass('half') IS NULL") == "t"


def test_an_isolation_level_is_set_before_anything_else_in_the_transaction(project):
    project.write(
        "001_level",
        "-- why\nBEGIN;\nSET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n"
        "CREATE TABLE seen AS SELECT current_setting('transaction_isolation') AS level;\nCOMMIT;",
    )
    project.apply()
    assert project.database.psql("SELECT level FROM seen") == "repeatable read"


def test_a_percent_sign_and_a_backslash_in_sql_are_only_characters(project):
    project.write("001_users", USERS + r" INSERT INTO users VALUES (1, '100%s \n %(x)s %%');")
    project.apply()
    assert project.database.psql("SELECT name FROM users") == r"100%s \n %(x)s %%"


def test_an_empty_file_is_applied_like_any_other(project):
    project.write("001_nothing", "-- only a comment\n")
    assert project.apply().current == "001_nothing"


def test_a_deferred_constraint_fails_before_anything_is_recorded(project):
    project.write("001_users", USERS)
    project.write(
        "002_deferred",
        "CREATE TABLE posts (author int REFERENCES users DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO posts VALUES (7);",
    )
    failure, outcome = failure_of(project.apply)
    assert (failure.reason, failure.sqlstate, outcome.applied) == (Reason.MIGRATION_FAILED, "23503", 1)


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("CREATE TABLE a (id int);\nSELECT set_config('search_path', '', false);", 2),
        ("CREATE TABLE a (id int);\nSET search_path = pg_catalog;", 2),
        ("SET ROLE pg_monitor;", 1),
    ],
    ids=["as every pg_dump begins", "SET search_path", "SET ROLE"],
)
def test_a_file_that_changes_the_session_for_good_is_rolled_back(project, sql, line):
    before = project.database.dump()
    project.write("001_session", sql)
    failure, _ = failure_of(project.apply)
    assert (failure.reason, failure.migration, failure.line) == (Reason.SESSION_CHANGED, "001_session", line)
    assert "SET LOCAL" in failure.hint
    assert project.database.dump() == before


def test_set_local_is_fine_and_other_settings_are_set_right_again(project):
    project.write("001_schema", "CREATE SCHEMA app; SET LOCAL search_path = app; CREATE TABLE t (id int);")
    project.write(
        "002_settings", "SET lock_timeout = 0; SET standard_conforming_strings = off; SET my.own = 'x';"
    )
    project.write(
        "003_look",
        "CREATE TABLE seen AS SELECT current_setting('search_path') AS path, "
        "current_setting('standard_conforming_strings') AS strings, current_setting('lock_timeout') AS wait;",
    )
    assert project.apply().applied == 3
    assert project.database.psql("SELECT * FROM seen") == '"public"|on|2s'
    assert project.database.psql("SELECT to_regclass('app.t') IS NOT NULL") == "t"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("more", ["", "CREATE INDEX CONCURRENTLY i ON t (x);"])
def test_a_file_is_utf8_whatever_encoding_it_sets(project, encoding, more):
    sql = f"SET client_encoding = '{encoding}'; CREATE TABLE t (x text); INSERT INTO t VALUES ('é'); {more}"
    project.write("001_à", sql, "DROP TABLE t; -- costs 5 €")
    assert project.deploy().current == "001_à"
    assert project.database.psql("SELECT x FROM t") == "é"
    assert project.database.psql("SELECT down_sql FROM godwit.journal WHERE event = 'Applied'")[-1] == "€"


def test_a_do_block_runs_with_its_history_row_or_not_at_all(project):
    project.write("001_do", "DO $$ BEGIN CREATE TABLE a (id int); END $$;")
    project.write("002_bad", "DO $$ BEGIN CREATE TABLE b (id int); RAISE EXCEPTION 'no'; END $$;")
    failure, outcome = failure_of(project.apply)
    assert (failure.migration, failure.message, outcome.applied, outcome.partial) == ("002_bad", "no", 1, "")
    assert project.rows() == ["001_do"]
    assert project.database.psql("SELECT to_regclass('a') IS NOT NULL, to_regclass('b') IS NULL") == "t|t"


def test_checks_are_asked_before_the_commit_of_the_last_migration(project):
    project.write("001_users", USERS)
    project.write("002_rows", "INSERT INTO users VALUES (1, 'a');")
    checks = (SqlCheck(name="someone", sql="SELECT count(*) = 1 FROM users"),)
    assert project.deploy(policy=project.policy(checks=checks)).applied == 2
    project.write("003_more", "INSERT INTO users VALUES (2, 'b');")
    failure, outcome = failure_of(lambda: project.apply("u2", policy=project.policy(checks=checks)))
    assert (failure.reason, failure.migration) == (Reason.CHECK_FAILED, "003_more")
    assert "someone: it returned false" in failure.message
    assert outcome.applied == 0
    assert project.database.psql("SELECT count(*) FROM users") == "1"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT NULL::bool", "it returned NULL"),
        ("SELECT true WHERE false", "it returned no row"),
        ("SELECT true FROM generate_series(1, 2)", "it returned more than one row"),
        ("SELECT true, true", "it returned 2 columns"),
        ("SELECT 1", "something else than true"),
        ("SELECT pg_sleep(30) IS NOT NULL", "it did not end within 200 ms"),
        ("SELECT true; SELECT true", "it is not one SELECT"),
        ("COMMIT", "it is not one SELECT"),
        ("WITH gone AS (DELETE FROM users RETURNING 1) SELECT true FROM gone", "read-only transaction"),
        ("SELECT set_config('transaction_read_only', 'off', true) = 'off'", "read-write mode"),
        ("SELECT missing FROM users", 'column "missing" does not exist'),
    ],
)
def test_a_check_that_is_not_one_true_value_keeps_the_migration_out(project, sql, why):
    project.write("001_users", USERS + " INSERT INTO users VALUES (1, 'a');")
    before = project.database.dump()
    policy = project.policy(checks=(SqlCheck(name="c", sql=sql, timeout_ms=200),))
    failure, _ = failure_of(lambda: project.apply(policy=policy))
    assert failure.reason is Reason.CHECK_FAILED
    assert why in failure.message
    assert project.database.dump() == before


def test_verify_after_commit_touches_nothing(project):
    project.write("001_users", USERS)
    outcome = project.apply()
    failure, facts = failure_of(lambda: project.verify("u1", "another state"))
    assert (failure.reason, facts.current) == (Reason.VERIFY_FAILED, "001_users")
    checks = (SqlCheck(name="nobody", sql="SELECT false"),)
    failure, _ = failure_of(lambda: project.verify("u1", outcome.state, checks))
    assert (failure.reason, failure.message) == (Reason.VERIFY_FAILED, "Check nobody: it returned false.")
    assert project.rows() == ["001_users"]
    first = project.verify("u1", outcome.state)
    assert project.verify("u1", outcome.state, attempt=2) == first


def test_locks_held_for_too_long_are_given_back_and_nothing_is_kept(project):
    project.write("001_users", USERS)
    project.deploy()
    before = project.database.dump()
    project.write("002_slow", "ALTER TABLE users ADD x int; SELECT pg_sleep(20);")
    began = time.monotonic()
    failure, outcome = failure_of(lambda: project.apply("u2", policy=project.policy(max_lock_hold_ms=300)))
    assert time.monotonic() - began < 5
    assert (failure.reason, failure.migration, outcome.applied) == (Reason.LOCK_HOLD_EXCEEDED, "002_slow", 0)
    assert "AccessExclusiveLock on users" in failure.message
    assert project.database.dump() == before


def test_locks_on_tables_that_the_migration_made_itself_do_not_count(project):
    project.write("001_users", USERS + " SELECT pg_sleep(1);")
    assert project.apply(policy=project.policy(max_lock_hold_ms=200)).applied == 1


def test_a_check_counts_as_holding(project):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_more", "ALTER TABLE users ADD x int;")
    checks = (SqlCheck(name="slow", sql="SELECT pg_sleep(20) IS NOT NULL", timeout_ms=30_000),)
    policy = project.policy(max_lock_hold_ms=300, checks=checks)
    failure, _ = failure_of(lambda: project.apply("u2", policy=policy))
    assert failure.reason is Reason.LOCK_HOLD_EXCEEDED


def test_nobody_queues_behind_a_long_reader_who_is_named(project):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_more", "ALTER TABLE users ADD x int;")
    policy = project.policy(lock_timeout_ms=100, lock_budget_ms=600)
    ref = project.plan(policy=policy)
    with psycopg.connect(project.uri, application_name="report") as reader:
        reader.execute("SELECT * FROM users")
        threading.Event().wait(0.2)
        failure, outcome = failure_of(lambda: project.apply("u2", plan=ref, policy=policy))
        assert failure.reason is Reason.LOCK_BUDGET_EXCEEDED
        assert (
            f"process {reader.info.backend_pid} (report, user postgres, idle in transaction"
            in failure.message
        )
        assert outcome.applied == 0
        assert "lock.refused" not in [event for event, _ in project.log.events]


def test_a_busy_lock_is_tried_again_until_it_is_free(project):
    project.write("001_users", USERS)
    project.deploy()
    project.write("002_more", "ALTER TABLE users ADD x int;")
    policy = project.policy(lock_timeout_ms=200, lock_budget_ms=20_000)
    ref = project.plan(policy=policy)
    with psycopg.connect(project.uri) as reader:
        reader.execute("SELECT * FROM users")
        leaving = threading.Timer(1.0, reader.rollback)
        leaving.start()
        assert project.apply("u2", plan=ref, policy=policy).applied == 1
        leaving.join()


def test_two_steps_at_once_one_applies_and_the_other_sees_that_it_is_done(project):
    project.write("001_users", USERS + " SELECT pg_sleep(0.5);")
    ref = project.plan()
    outcomes = []
    threads = [
        threading.Thread(target=lambda n=n: outcomes.append(project.apply(plan=ref, attempt=n)))
        for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(outcomes) == 2
    assert outcomes[0] == outcomes[1]
    assert project.rows() == ["001_users"]
