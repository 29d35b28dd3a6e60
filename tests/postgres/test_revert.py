"""Going down, and taking back after a failure: what loses nothing, and what stops."""

import pytest
from failing import failure_of

from godwit.contract.outcome import Rung
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text);"
PLAN, OPERATION = RevertScope.PLAN, RevertScope.OPERATION


@pytest.fixture
def three(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("002_mail", "ALTER TABLE users ADD mail text;", "ALTER TABLE users DROP mail;")
    project.write("003_posts", "CREATE TABLE posts (id int);", "DROP TABLE posts;")
    return project


def test_down_to_an_older_version_runs_newest_first_and_the_database_is_as_it_was(three):
    three.deploy("u1", policy=three.policy(), plan=three.plan("001_users"))
    before = three.database.dump()
    three.deploy("u2")
    ref = three.plan("001_users")
    outcome = three.revert("u3", PLAN, ref)
    assert (outcome.reverted, outcome.total, outcome.current) == (2, 2, "001_users")
    assert outcome.state == ref.to_state
    assert [(r.rung.value, r.taken) for r in outcome.rungs] == [("Down", True)]
    assert three.database.dump() == before
    assert three.database.psql(
        "SELECT event, migration FROM godwit.journal WHERE operation = 'u3' ORDER BY id"
    ).split() == ["Claimed|", "Reverted|003_posts", "Reverted|002_mail", "Done|"]
    three.verify("u3", outcome.state)
    assert three.deploy("u4").applied == 2


def test_a_plan_for_another_target_than_it_names_is_refused(three):
    three.deploy("u1")
    ref = three.plan("001_users").model_copy(update={"target": "002_mail"})
    failure, _ = failure_of(lambda: three.revert("u2", PLAN, ref))
    assert failure.reason is Reason.PLAN_CHANGED
    assert three.rows() == ["001_users", "002_mail", "003_posts"]


def test_newest_application_first_not_newest_name(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("003_posts", "CREATE TABLE posts (author int REFERENCES users);", "DROP TABLE posts;")
    project.deploy("u1")
    project.write("002_late", "CREATE VIEW v AS SELECT * FROM posts;", "DROP VIEW v;")
    project.deploy("u2")
    ref = project.plan("001_users")
    assert project.revert("u3", PLAN, ref).reverted == 2
    assert project.rows() == ["001_users"]


def test_the_down_script_as_it_was_applied_is_used_even_when_the_source_has_lost_it(three):
    three.deploy("u1")
    (three.folder / "003_posts" / "down.sql").write_text("SELECT 1/0;")
    (three.folder / "002_mail" / "down.sql").unlink()
    assert three.revert("u2", PLAN, three.plan("001_users")).reverted == 2
    assert three.database.psql("SELECT to_regclass('posts') IS NULL") == "t"


def test_a_way_back_belongs_to_the_application_that_stands(three):
    three.deploy("u1")
    down = three.revert("u2", PLAN, three.plan("002_mail"))
    three.verify("u2", down.state)
    three.write("003_posts", "CREATE TABLE notes (id int);", "DROP TABLE notes;")
    three.database.psql(
        "CREATE TABLE notes (id int); INSERT INTO _prisma_migrations (id, checksum, migration_name, "
        "started_at, finished_at, applied_steps_count) SELECT 'by Prisma itself', "
        "encode(sha256('CREATE TABLE notes (id int);'), 'hex'), '003_posts', now(), now(), 1"
    )
    assert three.revert("u3", PLAN, three.plan("002_mail")).reverted == 1
    assert three.database.psql("SELECT to_regclass('notes') IS NULL") == "t"


def test_a_repeated_request_to_go_down_returns_the_recorded_outcome(three):
    three.deploy("u1")
    ref = three.plan("002_mail")
    first = three.revert("u2", PLAN, ref)
    assert three.revert("u2", PLAN, ref, attempt=2) == first
    assert three.rows() == ["001_users", "002_mail"]


def test_a_down_script_that_fails_leaves_its_migration_applied(three):
    three.deploy("u1")
    ref = three.plan("001_users")
    three.database.psql("CREATE VIEW mails AS SELECT mail FROM users")
    failure, outcome = failure_of(lambda: three.revert("u2", PLAN, ref))
    assert (failure.reason, failure.migration, failure.sqlstate) == (
        Reason.MIGRATION_FAILED,
        "002_mail",
        "2BP01",
    )
    assert failure.file == "002_mail/down.sql"
    assert failure.standing == (
        "002_mail stays applied, its way back was rolled back; 1 migrations were taken back before it."
    )
    assert (outcome.reverted, outcome.total, outcome.current) == (1, 2, "002_mail")
    assert three.rows() == ["001_users", "002_mail"]


def test_production_by_its_stamp_needs_consent_to_go_down(three):
    production = three.policy(environment=Environment.PRODUCTION)
    three.deploy("u1", policy=production, environment=Environment.PRODUCTION)
    consent = three.policy(environment=Environment.PRODUCTION, allow_downgrade=True)
    ref = three.plan("002_mail", consent)
    failure, _ = failure_of(lambda: three.revert("u2", PLAN, ref))
    assert failure.reason is Reason.DOWNGRADE_FORBIDDEN
    assert three.revert("u3", PLAN, ref, consent).reverted == 1


def fails_at_the_end(project):
    """A run whose last migration fails; returns its plan."""
    project.write("009_bad", "SELECT 1/0;")
    ref = project.plan()
    failure_of(lambda: project.apply("u9", plan=ref))
    return ref


def test_what_a_failed_run_committed_is_taken_back_where_that_loses_nothing(three):
    three.write("000_first", "CREATE TABLE kept (id int);")
    three.deploy("u1", plan=three.plan("000_first"))
    before = three.database.dump()
    ref = fails_at_the_end(three)
    outcome = three.revert("u9", OPERATION, ref)
    assert (outcome.reverted, outcome.total, outcome.current) == (3, 3, "000_first")
    assert outcome.state == ref.from_state
    assert three.database.dump() == before


def test_rows_that_the_application_wrote_meanwhile_stop_it_before_anything_is_taken_back(three):
    ref = fails_at_the_end(three)
    three.database.psql("INSERT INTO users VALUES (1, 'a'), (2, 'b')")
    before = three.database.dump()
    failure, outcome = failure_of(lambda: three.revert("u9", OPERATION, ref))
    assert (failure.reason, failure.migration) == (Reason.DATA_WOULD_BE_LOST, "001_users")
    assert "2 rows of public.users" in failure.message
    assert failure.standing.endswith("its way back was rolled back; nothing was taken back.")
    assert (outcome.reverted, outcome.current) == (0, "003_posts")
    assert three.database.dump() == before
    consent = three.policy(allow_data_loss=True)
    assert three.revert("u9", OPERATION, ref, consent).reverted == 3


def test_values_of_a_new_column_count_and_defaults_do_not(project):
    project.write("001_users", USERS + "INSERT INTO users SELECT g, g FROM generate_series(1, 9) g;")
    project.deploy("u1")
    project.write("002_level", "ALTER TABLE users ADD level int DEFAULT 5;", "ALTER TABLE users DROP level;")
    ref = fails_at_the_end(project)
    project.database.psql("INSERT INTO users (id) VALUES (10); UPDATE users SET name = 'x' WHERE id = 1")
    before = project.database.dump()
    project.database.psql("UPDATE users SET level = 6 WHERE id = 2")
    failure, _ = failure_of(lambda: project.revert("u9", OPERATION, ref))
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert "1 values of public.users.level" in failure.message
    project.database.psql("UPDATE users SET level = 5 WHERE id = 2")
    assert project.database.dump() == before
    assert project.revert("u9", OPERATION, ref).reverted == 1


@pytest.mark.parametrize(
    ("up", "down", "write", "lost"),
    [
        ("CREATE TABLE t AS SELECT 1 AS x;", "DROP TABLE t;", "", ""),
        ("CREATE TABLE t AS SELECT 1 AS x;", "DROP TABLE t;", "UPDATE t SET x = 2", "1 rows of public.t"),
        (
            "CREATE TABLE t (x int);",
            "DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$;",
            "INSERT INTO t VALUES (1)",
            "t",
        ),
        (
            "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (x int, m mood);",
            "DROP TYPE mood CASCADE; DROP TABLE t;",
            "INSERT INTO t VALUES (1, 'a')",
            "1 rows of public.t",
        ),
        ("INSERT INTO base VALUES (7);", "DELETE FROM base WHERE x = 7;", "INSERT INTO base VALUES (8)", ""),
        (
            "INSERT INTO base VALUES (7);",
            "DELETE FROM base WHERE x >= 7;",
            "INSERT INTO base VALUES (8)",
            "1 rows",
        ),
        (
            "INSERT INTO base VALUES (7);",
            "CREATE TABLE kept AS SELECT 1 AS x; UPDATE kept SET x = 2; DELETE FROM base WHERE x = 7;",
            "",
            "",
        ),
        ("INSERT INTO base VALUES (7);", "TRUNCATE base;", "", "rows of public.base"),
        ("CREATE INDEX i ON base (x);", "DROP INDEX i;", "INSERT INTO base VALUES (8)", ""),
        ("CREATE VIEW v AS SELECT * FROM base;", "DROP VIEW v;", "INSERT INTO base VALUES (8)", ""),
        (
            "ALTER TABLE base ADD g int GENERATED ALWAYS AS (x * 2) STORED;",
            "ALTER TABLE base DROP g;",
            "INSERT INTO base VALUES (8)",
            "",
        ),
        (
            "CREATE TABLE p (x int) PARTITION BY LIST (x); CREATE TABLE p1 PARTITION OF p DEFAULT;",
            "DROP TABLE p;",
            "INSERT INTO p VALUES (1)",
            "1 rows of public.p1",
        ),
        (
            "ALTER TABLE base ADD j json DEFAULT '{}', ADD n numeric DEFAULT 0, ADD v char(3) DEFAULT '5%';",
            "ALTER TABLE base DROP j, DROP n, DROP v;",
            "UPDATE base SET x = 3 WHERE x = 2; UPDATE base SET j = '{}', n = 0, v = '5%' WHERE x = 1",
            "",
        ),
        (
            "ALTER TABLE base ADD j json DEFAULT '{}';",
            "ALTER TABLE base DROP j;",
            "UPDATE base SET j = '{\"a\": 1}' WHERE x = 1",
            "1 values of public.base.j",
        ),
        (
            "ALTER TYPE pair ADD ATTRIBUTE c text;",
            "ALTER TYPE pair DROP ATTRIBUTE c;",
            "UPDATE held SET p = ROW(1, 2, 'c') WHERE id = 1",
            "1 values of public.held.p",
        ),
        (
            "ALTER TYPE pair ADD ATTRIBUTE c text;",
            "ALTER TYPE pair DROP ATTRIBUTE c;",
            "UPDATE held SET many = ARRAY[ROW(1, 2, 'c')::pair] WHERE id = 1",
            "1 values of public.held.many",
        ),
        ("ALTER TYPE pair ADD ATTRIBUTE c text;", "ALTER TYPE pair DROP ATTRIBUTE c;", "", ""),
    ],
    ids=[
        "rows that the migration wrote itself",
        "such a row, changed since",
        "a table dropped by a block",
        "a type dropped with what depends on it",
        "seed rows deleted",
        "seed rows deleted, and another's with them",
        "a table that the way back makes itself",
        "truncated",
        "an index",
        "a view",
        "a generated column",
        "a partition dropped with its parent",
        "defaults of types that cannot be compared, or compared only loosely",
        "a value of a type that cannot be compared",
        "a part of a type that a column is of",
        "a part of a type that a column has an array of",
        "a part of a type that nobody filled",
    ],
)
def test_what_taking_back_loses(project, up, down, write, lost):
    project.write(
        "001_base",
        "CREATE TABLE base (x int); INSERT INTO base VALUES (1), (2);"
        "CREATE TYPE pair AS (a int, b int); CREATE TABLE held (id int, p pair, many pair[]);"
        "INSERT INTO held (id) VALUES (1), (2);",
    )
    project.deploy("u1")
    project.write("002_it", up, down)
    ref = fails_at_the_end(project)
    if write:
        project.database.psql(write)
    before = project.database.dump()
    if not lost:
        assert project.revert("u9", OPERATION, ref).reverted == 1
        return
    failure, _ = failure_of(lambda: project.revert("u9", OPERATION, ref))
    assert failure.reason is Reason.DATA_WOULD_BE_LOST
    assert lost in failure.message
    assert project.database.dump() == before


def test_a_migration_that_destroyed_data_is_not_taken_back(project):
    project.write("001_users", USERS + "INSERT INTO users VALUES (1, 'a');")
    project.deploy("u1")
    project.write("002_drop", "ALTER TABLE users DROP name;", "ALTER TABLE users ADD name text;")
    project.write("003_posts", "CREATE TABLE posts (id int);", "DROP TABLE posts;")
    ref = fails_at_the_end(project)
    failure, outcome = failure_of(lambda: project.revert("u9", OPERATION, ref))
    assert (failure.reason, failure.migration) == (Reason.DATA_WOULD_BE_LOST, "002_drop")
    assert (outcome.reverted, outcome.current) == (0, "003_posts")


def test_a_missing_way_back_is_told_before_anything_is_taken_back(project):
    project.write("001_users", USERS)
    project.write("002_posts", "CREATE TABLE posts (id int);", "DROP TABLE posts;")
    ref = fails_at_the_end(project)
    failure, outcome = failure_of(lambda: project.revert("u9", OPERATION, ref))
    assert (failure.reason, failure.migration, outcome.reverted) == (Reason.DOWN_MISSING, "001_users", 0)
    assert project.rows() == ["001_users", "002_posts"]


def test_an_empty_way_back_is_none_unless_there_was_nothing_to_do(project):
    project.write("001_nothing", "-- nothing", "-- nothing")
    project.write("002_users", USERS, "-- to be written")
    down = next(r for r in project.planned().rungs if r.rung is Rung.DOWN)
    assert (down.possible, down.why) == (False, "002_users has no usable down.sql")
    ref = fails_at_the_end(project)
    failure, outcome = failure_of(lambda: project.revert("u9", OPERATION, ref))
    assert (failure.reason, failure.migration, outcome.reverted) == (Reason.DOWN_MISSING, "002_users", 0)
    assert project.rows() == ["001_nothing", "002_users"]


def test_a_half_done_file_is_not_taken_back_by_down_scripts(project):
    project.write("001_users", USERS, "DROP TABLE users;")
    project.write("002_half", "INSERT INTO users VALUES (1, 'a'); VACUUM nothing;", "DELETE FROM users;")
    ref = project.plan()
    failure, outcome = failure_of(lambda: project.apply("u1", plan=ref))
    assert (failure.reason, outcome.partial) == (Reason.PARTIALLY_APPLIED, "002_half")
    failure, outcome = failure_of(lambda: project.revert("u1", OPERATION, ref))
    assert (failure.reason, outcome.partial, outcome.reverted) == (Reason.PARTIALLY_APPLIED, "002_half", 0)
    assert project.database.psql("SELECT count(*) FROM users") == "1"


def test_an_attempt_to_apply_that_wakes_up_after_the_way_back_changes_nothing(three):
    ref = fails_at_the_end(three)
    outcome = three.revert("u9", OPERATION, ref)
    three.verify("u9", outcome.state)
    before = three.database.dump()
    failure, outcome = failure_of(lambda: three.apply("u9", plan=ref, expected_journal=0))
    assert (failure.reason, outcome.applied) == (Reason.STATE_MOVED, 0)
    assert three.database.dump() == before


def test_taking_back_nothing_is_done_at_once(project):
    project.write("001_bad", "SELECT 1/0;")
    ref = project.plan()
    failure_of(lambda: project.apply("u1", plan=ref))
    outcome = project.revert("u1", OPERATION, ref)
    assert (outcome.reverted, outcome.total, outcome.state) == (0, 0, ref.from_state)


def test_where_a_database_is_says_the_order_of_names_and_not_that_of_time(project):
    for name in ("003_c", "001_a", "002_b"):
        project.write(name, f"CREATE TABLE t{name} (id int);", f"DROP TABLE t{name};")
        outcome = project.apply(name)
        assert (outcome.current, project.verify(name, outcome.state).current) == ("003_c", "003_c")
    policy = project.policy(allow_downgrade=True)
    back = project.planned("002_b", policy)
    assert (back.current, back.target) == ("003_c", "002_b")
    assert project.revert("back", RevertScope.PLAN, project.plan("002_b", policy), policy).current == "002_b"
