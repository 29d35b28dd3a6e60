"""Backfills in batches: each with its progress or not at all, resumed after a kill, gentle to standbys."""

import psycopg
import pytest
from failing import failure_of

from godwit.contract.policy import TransactionMode
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput, RevertScope

USERS = """
CREATE TABLE users (id int PRIMARY KEY, name text, mail text, token uuid UNIQUE,
  other int NOT NULL DEFAULT 0);
INSERT INTO users SELECT n * 3, n FROM generate_series(1, 50) n;
"""
BATCHED = "-- godwit: batched by id size 7\n"


class Once:
    """A point at which the step breaks off, when it is reached for the nth time."""

    def __init__(self, name, nth):
        self.name, self.left = name, nth

    def __call__(self, name):
        self.left -= name == self.name
        if self.left == 0:
            raise RuntimeError(name)


def prepared(project, sql, name="002_fill"):
    project.write("001_users", USERS)
    project.deploy()
    project.write(name, sql)


def test_each_batch_is_committed_with_its_progress_and_all_rows_are_changed_once(project):
    prepared(project, f"{BATCHED}UPDATE users SET other = other + 1, mail = txid_current()::text;")
    ref = project.plan()
    outcome = project.deploy("u2", plan=ref)
    assert (outcome.applied, outcome.current, outcome.state) == (1, "002_fill", ref.to_state)
    assert project.database.psql("SELECT min(other), max(other), count(DISTINCT mail) FROM users") == "1|1|8"
    assert project.database.psql("SELECT detail FROM godwit.journal WHERE event = 'Batch'") == (
        '{"end": "150", "upTo": "150", "batches": 8}'
    )
    told = [facts["message"] for event, facts in project.log.events if event == "backfill.progress"]
    assert told[-1] == "002_fill: 8 batches are done: every id up to 150 of 150; the rest is untouched"


def test_a_condition_keeps_its_own_and_its_or(project):
    prepared(project, f"{BATCHED}UPDATE users AS u SET other = 1 WHERE u.id = 3 OR u.name = '50' -- the last")
    project.deploy("u2")
    assert project.database.psql("SELECT count(*) FROM users WHERE other = 1") == "2"


def test_delete_and_insert_select_run_in_batches_too(project):
    prepared(project, f"{BATCHED}DELETE FROM users WHERE id % 2 = 0;")
    project.write("003_copy", "CREATE TABLE copy (id int, name text);")
    project.write(
        "004_copied",
        "-- godwit: batched by u.id size 4\nINSERT INTO copy (id, name)\n"
        "SELECT u.id, coalesce(n.name, u.name) FROM users u LEFT JOIN users n ON n.id = u.id;",
    )
    assert project.deploy("u2").applied == 3
    assert project.database.psql("SELECT count(*), count(DISTINCT id) FROM copy") == "25|25"


@pytest.mark.parametrize("others", [0, 1], ids=["nobody else wrote", "somebody else wrote"])
def test_what_all_batches_of_an_insert_wrote_is_its_own_when_it_is_taken_back(project, others):
    project.write("001_users", USERS + "CREATE TABLE copy (id int, name text);")
    project.deploy()
    insert = "-- godwit: batched by id size 7\nINSERT INTO copy SELECT id, name FROM users;"
    project.write("002_copied", insert, "DELETE FROM copy;")
    project.write("003_bad", "SELECT 1/0;")
    ref = project.plan()
    project.point = Once("apply.after_batch", 3)
    with pytest.raises(RuntimeError):
        project.apply("u9", plan=ref)
    project.point = lambda _: None
    failure_of(lambda: project.apply("u9", plan=ref))
    project.database.psql(f"INSERT INTO copy SELECT 1 FROM generate_series(1, {others})")
    if not others:
        assert project.revert("u9", RevertScope.OPERATION, ref).reverted == 1
        return
    failure, _ = failure_of(lambda: project.revert("u9", RevertScope.OPERATION, ref))
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert "1 rows of public.copy" in failure.message


def test_rows_go_by_a_uuid_too_and_an_empty_table_is_done_at_once(project):
    project.write("001_things", "CREATE TABLE things (key uuid PRIMARY KEY, x int);"
                  "CREATE TABLE none (id int PRIMARY KEY);"
                  "INSERT INTO things SELECT gen_random_uuid(), 0 FROM generate_series(1, 20);")  # fmt: skip
    project.deploy()
    project.write("002_fill", "-- godwit: batched by key size 6\nUPDATE things SET x = x + 1;")
    project.write("003_none", "-- godwit: batched by id size 6\nDELETE FROM none;")
    assert project.deploy("u2").applied == 2
    assert project.database.psql("SELECT min(x), max(x) FROM things") == "1|1"


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_with_the_next_range_and_changes_no_row_twice(project):
    prepared(project, f"{BATCHED}UPDATE users SET other = other + 1;")
    verb = ApplyInput(plan=project.plan(), policy=project.policy())
    points = [
        "after_start:kill", "before_script:kill:2", "before_commit:kill:2", "after_commit:kill",
        "after_batch:kill:2",
    ]  # fmt: skip
    for attempt, point in enumerate(points, start=1):
        assert project.step(verb, "u2", fault=f"apply.{point}", attempt=attempt) is None, point
    outcome = project.step(verb, "u2", attempt=len(points) + 1)
    assert outcome.failure is None
    assert project.database.psql("SELECT min(other), max(other) FROM users") == "1|1"
    assert project.rows() == ["001_users", "002_fill"]


def test_a_batch_that_fails_is_rolled_back_and_what_is_done_is_told(project):
    prepared(project, f"{BATCHED}UPDATE users SET other = 1 / (id - 60);")
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, failure.migration, failure.line) == (Reason.PARTIALLY_APPLIED, "002_fill", 2)
    assert failure.sqlstate == "22012"
    assert failure.standing == (
        "Of 002_fill 2 batches are done: every id up to 42 of 150; the rest is untouched."
    )
    assert (outcome.partial, project.rows()) == ("002_fill", ["001_users", "002_fill!"])
    project.database.psql("DELETE FROM users WHERE id = 60")


def test_the_first_batch_that_fails_leaves_nothing(project):
    prepared(project, f"{BATCHED}UPDATE users SET other = 1 / (id - 3);")
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert (failure.reason, outcome.partial) == (Reason.MIGRATION_FAILED, "")
    assert project.rows() == ["001_users", "002_fill~"]


def test_it_waits_for_no_longer_than_one_batch_on_a_row_that_somebody_holds(project):
    prepared(project, f"{BATCHED}UPDATE users SET other = 1;")
    policy = project.policy(lock_timeout_ms=100, lock_budget_ms=300)
    ref = project.plan(policy=policy)
    with psycopg.connect(project.uri) as other:
        other.execute("UPDATE users SET name = 'x' WHERE id = 150")
        failure, _ = failure_of(lambda: project.apply("u2", plan=ref, policy=policy))
    assert failure.reason is Reason.PARTIALLY_APPLIED
    assert "every id up to 147 of 150" in failure.standing


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("nothing", "there is no column users.nothing"),
        ("name", "users.name is of type text"),
        ("token", "users.token may be NULL"),
        ("other", "users.other has no unique index of its own"),
    ],
)
def test_a_key_that_cannot_be_gone_by_is_refused_at_plan_time(project, key, why):
    prepared(project, f"-- godwit: batched by {key} size 7\nUPDATE users SET mail = 'x';")
    failure, _ = failure_of(project.plan)
    assert (failure.reason, failure.migration, failure.line) == (Reason.STATEMENT_REFUSED, "002_fill", 2)
    assert why in failure.message


def test_a_table_that_the_same_plan_makes_is_asked_when_its_turn_comes(project):
    project.write("001_users", USERS)
    project.write("002_fill", "-- godwit: batched by other size 7\nUPDATE users SET mail = 'x';")
    failure, outcome = failure_of(project.apply)
    assert failure.reason is Reason.STATEMENT_REFUSED
    assert "no unique index" in failure.message
    assert (outcome.applied, outcome.partial, project.rows()) == (1, "", ["001_users", "002_fill~"])


def test_it_is_no_part_of_a_batch_transaction(project):
    prepared(project, f"{BATCHED}UPDATE users SET other = 1;")
    project.write("003_more", "SELECT 1;")
    policy = project.policy(transaction=TransactionMode.BATCH)
    failure, _ = failure_of(lambda: project.plan(policy=policy))
    assert "it runs in batches, each with a transaction of its own" in failure.message


@pytest.mark.parametrize(
    "value", ["bit_or(other)", "own(other)", "sum(other)", "percentile_cont(0.5) WITHIN GROUP (ORDER BY id)"]
)
def test_what_looks_at_all_rows_at_once_is_refused_whoever_made_it(project, value):
    """Each batch would add a row of its own."""
    project.write("001_users", USERS)
    project.write(
        "002_own", "CREATE AGGREGATE own (int) (sfunc = int4pl, stype = int); CREATE TABLE t (n int);"
    )
    project.deploy()
    project.write(
        "003_fill", f"-- godwit: batched by users.id size 7\nINSERT INTO t SELECT {value} FROM users;"
    )
    failure, _ = failure_of(project.plan)
    assert failure.reason is Reason.STATEMENT_REFUSED
    assert "an aggregate looks at all rows at once" in failure.message
    assert project.database.psql("SELECT count(*) FROM t") == "0"


def test_an_aggregate_of_a_migration_before_it_is_met_before_the_first_batch(project):
    project.write("001_users", USERS)
    project.write(
        "002_own", "CREATE AGGREGATE own (int) (sfunc = int4pl, stype = int); CREATE TABLE t (n int);"
    )
    project.write("003_fill", f"{BATCHED}INSERT INTO t SELECT own(other) FROM users;")
    failure, outcome = failure_of(project.apply)
    assert (failure.reason, outcome.applied) == (Reason.STATEMENT_REFUSED, 2)
    assert project.database.psql("SELECT count(*) FROM t") == "0"
