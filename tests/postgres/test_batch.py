"""Everything pending in one transaction: all of it stands, with all history rows, or nothing does."""

import time

import pytest
from failing import failure_of

from godwit.contract.policy import SqlCheck, TransactionMode
from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text);"


def batch(project, **changes):
    return project.policy(transaction=TransactionMode.BATCH, **changes)


def three(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("002_mail", "ALTER TABLE users ADD mail text;", "ALTER TABLE users DROP mail;")
    project.write("003_posts", "CREATE TABLE posts (u int REFERENCES users);", "DROP TABLE posts;")


def test_all_of_them_are_committed_together_each_with_its_row(project):
    three(project)
    outcome = project.deploy(policy=batch(project))
    assert (outcome.applied, outcome.total, outcome.current) == (3, 3, "003_posts")
    assert project.rows() == ["001_users", "002_mail", "003_posts"]
    assert project.database.psql("SELECT count(DISTINCT xmin::text) FROM _prisma_migrations") == "1"
    assert (
        project.database.psql(
            "SELECT count(DISTINCT txid), count(*) FROM godwit.journal WHERE event = 'Applied'"
        )
        == "1|3"
    )


def test_one_that_fails_takes_all_the_others_with_it(project):
    three(project)
    before = project.database.dump()
    project.write("004_bad", "SELECT 1;\nSELECT 1/0;")
    failure, outcome = failure_of(lambda: project.apply(policy=batch(project)))
    assert (failure.reason, failure.migration, failure.line) == (Reason.MIGRATION_FAILED, "004_bad", 2)
    assert failure.standing == "All migrations of the batch were rolled back; nothing of them is left."
    assert (outcome.applied, outcome.total, outcome.partial) == (0, 4, "")
    first = outcome.rungs[0]
    assert (first.rung.value, first.possible, first.taken) == ("Transaction", True, True)
    assert project.database.dump() == before
    project.write("004_bad", "SELECT 1;")
    assert project.deploy("u2", policy=batch(project)).applied == 4


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT 1;\nCREATE INDEX CONCURRENTLY i ON users (name);", "line 2: it cannot run in a transaction"),
        ("VACUUM users;", "line 1: it cannot run in a transaction"),
        ("DO $$ BEGIN COMMIT; END $$;", "line 1: it may end its transaction by itself"),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\nSELECT 1;", "line 1: it sets the isolation level"),
    ],
)
def test_a_file_that_cannot_be_in_one_is_named_at_plan_time(project, sql, says):
    three(project)
    project.write("004_alone", sql)
    failure, _ = failure_of(lambda: project.plan(policy=batch(project)))
    assert (failure.reason, failure.migration) == (Reason.STATEMENT_REFUSED, "004_alone")
    assert f"004_alone/migration.sql, {says}" in failure.message
    assert "set PerMigration" in failure.message
    assert project.plan()


def test_a_single_migration_is_a_batch_of_its_own_whatever_it_needs(project):
    three(project)
    project.deploy(policy=batch(project))
    project.write("004_index", "CREATE INDEX CONCURRENTLY i ON users (name);")
    assert project.deploy("u2", policy=batch(project)).current == "004_index"


def test_what_only_the_server_finds_out_rolls_all_back_and_says_what_to_do(project):
    three(project)
    project.write("004_enum", "CREATE TYPE colour AS ENUM ('red');")
    project.deploy(policy=batch(project))
    project.write("005_value", "ALTER TYPE colour ADD VALUE 'green';")
    project.write("006_used", "CREATE TABLE painted (c colour DEFAULT 'green');")
    failure, outcome = failure_of(lambda: project.apply("u2", policy=batch(project)))
    assert (failure.reason, failure.migration, failure.sqlstate) == (
        Reason.MIGRATION_FAILED,
        "006_used",
        "55P04",
    )
    assert "PerMigration" in failure.hint
    assert outcome.applied == 0
    project.database.psql("DELETE FROM godwit.settings WHERE key = 'activeOperation'")
    assert project.deploy("u3").applied == 2


def test_a_setting_lasts_no_longer_than_its_own_file(project):
    project.write(
        "001_schema",
        "CREATE SCHEMA app; SET LOCAL search_path = app; SET LOCAL work_mem = '9MB'; CREATE TABLE a (id int);"
        "CREATE TEMP TABLE hidden (id int);",
    )
    project.write(
        "002_after",
        "CREATE TABLE b AS SELECT current_setting('work_mem') AS memory, to_regclass('hidden') IS NULL no;",
    )
    assert project.deploy(policy=batch(project)).applied == 2
    assert project.database.psql("SELECT to_regclass('app.a') IS NOT NULL") == "t"
    assert project.database.psql("SELECT memory <> '9MB', no FROM public.b") == "t|t"


def test_a_deferred_constraint_is_asked_at_the_end_of_its_own_file(project):
    project.write(
        "001_pair",
        "CREATE TABLE a (id int PRIMARY KEY, b int);"
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);",
    )
    project.write("002_later", "INSERT INTO b VALUES (1, 1); INSERT INTO a VALUES (1, 1);")
    project.write("003_never", "INSERT INTO b VALUES (2, 2);")
    project.write("004_last", "SELECT 1;")
    failure, _ = failure_of(lambda: project.apply(policy=batch(project)))
    assert (failure.migration, failure.sqlstate) == ("003_never", "23503")


def test_max_lock_hold_counts_for_all_of_them_together(project):
    project.write("001_users", USERS)
    project.deploy()
    for number in range(2, 8):
        project.write(f"00{number}_slow", f"ALTER TABLE users ADD c{number} int; SELECT pg_sleep(0.3);")
    before = project.database.dump()
    began = time.monotonic()
    failure, outcome = failure_of(lambda: project.apply("u2", policy=batch(project, max_lock_hold_ms=700)))
    assert time.monotonic() - began < 5
    assert (failure.reason, outcome.applied) == (Reason.LOCK_HOLD_EXCEEDED, 0)
    assert project.database.dump() == before


def test_checks_are_asked_once_before_the_commit_of_all(project):
    three(project)
    checks = (SqlCheck(name="nobody", sql="SELECT count(*) = 1 FROM users"),)
    failure, outcome = failure_of(lambda: project.apply(policy=batch(project, checks=checks)))
    assert (failure.reason, failure.migration, outcome.applied) == (Reason.CHECK_FAILED, "003_posts", 0)
    assert project.database.psql("SELECT to_regclass('users') IS NULL") == "t"


def test_a_plan_downwards_takes_all_back_or_nothing(project):
    three(project)
    project.write(
        "003_posts", "CREATE TABLE posts (u int REFERENCES users);", "DROP TABLE posts;\nSELECT 1/0;"
    )
    project.write("000_first", "CREATE TABLE first (id int);")
    project.deploy(policy=batch(project))
    project.write("002_mail", "ALTER TABLE users ADD mail text;", "ALTER TABLE users DROP mail;")
    before = project.database.dump()
    down = project.plan("000_first", policy=batch(project))
    failure, outcome = failure_of(lambda: project.revert("u2", RevertScope.PLAN, down, policy=batch(project)))
    assert (failure.migration, failure.line) == ("003_posts", 2)
    assert (outcome.reverted, outcome.total) == (0, 3)
    assert project.database.dump() == before


def test_going_down_is_one_transaction_too(project):
    project.write("000_first", "CREATE TABLE first (id int);")
    three(project)
    project.deploy(policy=batch(project))
    down = project.plan("000_first", policy=batch(project))
    outcome = project.revert("u2", RevertScope.PLAN, down, policy=batch(project))
    assert (outcome.reverted, outcome.current) == (3, "000_first")
    assert project.rows() == ["000_first"]
    assert (
        project.database.psql("SELECT count(DISTINCT txid) FROM godwit.journal WHERE event = 'Reverted'")
        == "1"
    )


def test_a_way_down_that_cannot_be_in_one_is_named_at_plan_time(project):
    project.write("000_first", "CREATE TABLE first (id int);")
    three(project)
    project.write("004_index", "CREATE INDEX i ON users (name);", "DROP INDEX CONCURRENTLY i;")
    project.deploy(policy=batch(project))
    failure, _ = failure_of(lambda: project.plan("000_first", policy=batch(project)))
    assert (failure.reason, failure.migration) == (Reason.STATEMENT_REFUSED, "004_index")
    assert "004_index/down.sql, line 1: it cannot run in a transaction" in failure.message


def test_the_plan_shows_that_all_are_one_transaction(project):
    three(project)
    rung = project.planned(policy=batch(project)).rungs[0]
    assert (rung.possible, rung.why) == (True, "all 3 migrations are one transaction")
