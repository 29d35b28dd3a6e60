"""What is demanded of a script is demanded in the server: no script gets past it, and none loses by it."""

import pytest
from failing import failure_of

from godwit.contract.policy import SqlCheck
from godwit.contract.reasons import Reason

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text);"
FORGETS = {
    "by name": "DEALLOCATE ALL;",
    "in a block": "DO $$ BEGIN EXECUTE 'DEALLO' || 'CATE ALL'; END $$; CREATE TABLE more (id int);",
    "alone": "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$;",
}


@pytest.mark.parametrize("sql", FORGETS.values(), ids=FORGETS)
def test_a_script_that_forgets_all_prepared_statements_is_applied_once_and_so_is_what_follows(project, sql):
    project.write("001_users", USERS)
    project.write("002_mail", "ALTER TABLE users ADD mail text;")  # looks at others' locks, as 004 does
    project.write("003_forgets", f"{sql}\n")
    project.write("004_index", "CREATE INDEX users_name ON users (name);")
    project.write("005_more", "INSERT INTO users VALUES (1, 'a');")
    assert project.apply().applied == 5
    assert project.rows() == ["001_users", "002_mail", "003_forgets", "004_index", "005_more"]
    assert project.database.psql("SELECT count(*) FROM users") == "1"
    applied = "SELECT migration FROM godwit.journal WHERE event = 'Applied' ORDER BY id"
    assert project.database.psql(applied).split() == project.rows()


def test_a_prepared_statement_of_a_script_is_its_own(project):
    project.write("001_users", USERS)
    project.write("002_prepares", "PREPARE mine AS SELECT 1; EXECUTE mine;")
    project.write("003_again", "EXECUTE mine; DEALLOCATE mine;")
    assert project.apply().applied == 3


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("UPDATE _prisma_migrations SET checksum = 'x'", "public._prisma_migrations"),
        ("DELETE FROM godwit.journal", "godwit.journal"),
        ("CREATE TRIGGER t BEFORE INSERT ON godwit.journal FOR EACH ROW EXECUTE FUNCTION nothing()",
         "godwit.journal"),
    ],
)  # fmt: skip
def test_a_cast_of_the_databases_own_does_not_let_a_change_of_the_history_through(project, change, table):
    """What fails in the server is a conversion of text, and somebody may have made one that never fails."""
    project.write("001_users", USERS)
    project.deploy()
    before = project.database.dump(without=())
    quoted = change.replace("'", "''''")
    project.write(
        "002_change",
        "CREATE FUNCTION zero(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0';\n"
        "CREATE CAST (text AS int) WITH FUNCTION zero(text);\n"
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';\n"
        f"DO 'BEGIN EXECUTE ''{quoted}''; END';",
    )
    failure, outcome = failure_of(lambda: project.apply("u2"))
    assert failure.reason is Reason.STATEMENT_REFUSED
    assert failure.message == f"The script changed {table}, which says what is applied; no migration may."
    assert (failure.migration, outcome.applied) == ("002_change", 0)
    assert project.rows() == ["001_users"]
    after = project.database.dump(without=())
    assert [line for line in before.splitlines() if line not in after] == []
    assert "zero" not in after


def test_what_a_script_left_changed_is_named_with_both_values(project):
    project.write("001_users", USERS)
    moves = "PERFORM set_config('search_' || 'path', 'pg_catalog', false)"
    project.write("002_path", f"DO $$ BEGIN {moves}; END $$; CREATE TABLE public.b (id int);")
    failure, outcome = failure_of(project.apply)
    assert failure.reason is Reason.SESSION_CHANGED
    assert 'search_path from "public" to pg_catalog' in failure.message
    assert (failure.migration, outcome.applied) == ("002_path", 1)
    assert project.database.psql("SELECT to_regclass('public.b') IS NULL") == "t"


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL ROLE {other}; CREATE TABLE mine (id int);",
        "SELECT set_config('role', '{other}', true); CREATE TABLE mine (id int);",
    ],
)
def test_a_role_that_a_script_takes_for_itself_need_not_write_the_history(project, role, sql):
    other = role("other")
    project.database.psql(f"GRANT CREATE ON SCHEMA public TO {other}")
    project.write("1_a", "CREATE TABLE a (id int);")
    project.deploy("u1")
    project.write("2_mine", sql.format(other=other))
    project.deploy("u2")
    assert project.database.psql("SELECT relowner::regrole FROM pg_class WHERE relname = 'mine'") == other
    assert project.rows() == ["1_a", "2_mine"]


def test_a_check_before_commit_means_the_sessions_own_schema(project):
    project.write("1_a", "CREATE SCHEMA side; SET LOCAL search_path = side; CREATE TABLE a (id int);")
    checks = (SqlCheck(name="side", sql="SELECT to_regclass('a') IS NULL"),)
    project.deploy("u1", policy=project.policy(checks=checks))


@pytest.mark.parametrize(
    ("sql", "changed"),
    [
        ("SET LOCAL search_path = side; SET ROLE {other};", "the role"),
        ("SELECT set_config('search_path', 'side', true); SET ROLE {other};", "the role"),
        ("SET LOCAL ROLE {other}; SET search_path = side;", "search_path"),
        ("SET LOCAL search_path = side; SET search_path = public, side;", "search_path"),
        ("SET LOCAL ROLE {other}; RESET ROLE; SET ROLE {other};", "the role"),
        ("SET LOCAL ROLE {other}; SET SESSION AUTHORIZATION {other};", "the session's user"),
    ],
)
def test_what_is_set_for_the_file_alone_hides_no_other_setting(project, role, sql, changed):
    other = role("other")
    project.write("1_a", "CREATE TABLE a (id int);")
    project.deploy("u1")
    project.write("2_b", sql.format(other=other))
    failure, _ = failure_of(lambda: project.apply("u2"))
    assert failure.reason is Reason.SESSION_CHANGED
    assert f"changed {changed} from" in failure.message
    assert project.rows() == ["1_a"]


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL search_path = side; SET LOCAL ROLE {other}; RESET work_mem;",
        "SET LOCAL SESSION AUTHORIZATION {other}; SELECT set_config('search_path', 'side', true);",
        "SELECT set_config(name, 'side', true) FROM (VALUES ('search_' || 'path')) AS v (name);",
    ],
)
def test_what_is_set_for_the_file_alone_is_its_own(project, role, sql):
    project.write("1_a", sql.format(other=role("other")))
    assert project.deploy("u1").applied == 1


def test_the_history_and_the_journal_are_looked_at_by_key_however_many_tables_there_are(project):
    """Each migration asks for them twice: what reads the whole catalog would grow with every table."""
    project.write("001_users", USERS)
    look = "DO $$ DECLARE asked text; line text; BEGIN CREATE TABLE plans (line text);"
    look += " FOR asked IN SELECT name FROM pg_prepared_statements WHERE statement ~ 'pg_stat_get_xact'"
    look += " AND parameter_types = '{}' LOOP"
    look += " FOR line IN EXECUTE 'EXPLAIN EXECUTE ' || asked LOOP INSERT INTO plans VALUES (line);"
    look += " END LOOP; END LOOP; END $$;\nSELECT 1;"
    project.write("002_look", look)
    assert project.apply().applied == 2
    plan = project.database.psql("SELECT line FROM plans")
    assert "pg_class_oid_index" in plan
    assert "Seq Scan" not in plan
