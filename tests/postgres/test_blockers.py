"""Who stands in the way of a statement: only holders of locks that really conflict with it."""

import psycopg
import pytest

from godwit.contract.policy import Environment
from godwit.engine.blockers import look
from godwit.engine.model import Script
from godwit.engine.statements import parse


def statements(sql):
    return parse(Script("x.sql", sql.encode(), ""), Environment.DEVELOPMENT).statements


@pytest.mark.parametrize(
    ("sql", "holder", "in_the_way"),
    [
        ("ALTER TABLE a ADD x int", "SELECT * FROM a", ["a"]),
        ("ALTER TABLE a ADD x int", "SELECT * FROM b", []),
        ("CREATE INDEX ON a (id)", "SELECT * FROM a", []),
        ("CREATE INDEX ON a (id)", "UPDATE a SET id = 1", ["a"]),
        ("ALTER TABLE a ADD FOREIGN KEY (id) REFERENCES b", "SELECT * FROM b", []),
        ("ALTER TABLE a ADD FOREIGN KEY (id) REFERENCES b", "DELETE FROM b", ["b"]),
        ("ALTER TABLE a ADD FOREIGN KEY (id) REFERENCES b, ADD x int", "SELECT * FROM a", ["a"]),
        ("CREATE TABLE c (id int REFERENCES b)", "SELECT * FROM b", []),
        ("CREATE TABLE c (id int REFERENCES b)", "DELETE FROM b", ["b"]),
        ("CREATE TRIGGER t AFTER INSERT ON a EXECUTE FUNCTION f()", "SELECT * FROM a", []),
        ("DROP TABLE a; DROP TABLE b", "SELECT * FROM a, b", ["a", "b"]),
        ("ALTER INDEX a_pkey RENAME TO a_key", "SELECT * FROM a", []),
        ("ALTER TABLE missing ADD x int", "SELECT * FROM a", []),
    ],
)
def test_who_is_in_the_way(project, sql, holder, in_the_way):
    project.database.psql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);")
    with (
        psycopg.connect(project.uri, application_name="app") as other,
        project.context().session() as session,
    ):
        other.execute(holder)
        found = look(session, statements(sql)).blockers
        assert sorted(b.relation for b in found) == in_the_way
        assert {(b.pid, b.application) for b in found} <= {(other.info.backend_pid, "app")}


def test_a_prepared_transaction_is_named_as_one(project):
    project.database.psql("CREATE TABLE a (id int); BEGIN; DELETE FROM a; PREPARE TRANSACTION 'left';")
    try:
        with project.context().session() as session:
            (found,) = look(session, statements("ALTER TABLE a ADD x int")).blockers
            assert str(found).startswith("a prepared transaction (")
    finally:
        project.database.psql("ROLLBACK PREPARED 'left'")


def test_what_a_role_may_not_see_is_called_hidden(project, role):
    user = role("plain")
    project.database.psql("CREATE TABLE a (id int)")
    with psycopg.connect(project.uri, application_name="app") as other:
        other.execute("SELECT * FROM a")
        project.uri = project.database.uri_as(user)
        with project.context().session() as session:
            (found,) = look(session, statements("ALTER TABLE a ADD x int")).blockers
        assert (found.age, found.pid) == (None, other.info.backend_pid)
        assert "for a hidden time" in str(found)


A, B = "public.a", "public.b"
SHARE, ROW, ALL = "ShareLock", "ShareRowExclusiveLock", "AccessExclusiveLock"


@pytest.mark.parametrize(
    ("case", "sql", "taken"),
    [
        (
            "the strongest mode of each, ordered by name",
            "TRUNCATE b; CREATE INDEX ON a (id);" * 2,
            [(A, SHARE), (B, ALL)],
        ),
        (
            "a foreign key lets both be read",
            "ALTER TABLE b ADD FOREIGN KEY (id) REFERENCES a",
            [(A, ROW), (B, ROW)],
        ),
        (
            "beside a column not",
            "ALTER TABLE b ADD FOREIGN KEY (id) REFERENCES a, ADD x int",
            [(A, ROW), (B, ALL)],
        ),
        ("the table of an index that is dropped", "DROP INDEX a_name", [(A, ALL)]),
        (
            "what comes after work with rows is not taken ahead",
            "ALTER TABLE b ADD x int; UPDATE b SET x = 1; DROP TABLE a",
            [(B, ALL)],
        ),
        ("nor after a validation", "ALTER TABLE a VALIDATE CONSTRAINT k; DROP TABLE b", []),
        (
            "nor after a SET, which may give names another meaning",
            "SET LOCAL search_path = x; DROP TABLE b",
            [],
        ),
        ("what is not there", "ALTER TABLE IF EXISTS c ADD x int", []),
        ("what the file makes itself", "CREATE TABLE c (id int); ALTER TABLE c ADD x int", []),
        ("a view cannot be", "CREATE OR REPLACE VIEW v AS SELECT 2 AS x", []),
        (
            "a catalog is not",
            "ALTER TABLE pg_catalog.pg_class SET (fillfactor = 90), ALTER relname SET NOT NULL",
            [],
        ),
    ],
)
def test_what_is_locked_ahead(project, case, sql, taken):
    project.database.psql(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int); CREATE VIEW v AS SELECT 1 AS x;"
        "CREATE INDEX a_name ON a (id);"
    )
    with project.context().session() as session:
        assert list(look(session, statements(sql)).lockable) == taken, case


def test_the_tables_that_a_dropped_tables_keys_point_to_are_looked_at(project):
    project.database.psql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int REFERENCES a);")
    with psycopg.connect(project.uri) as other, project.context().session() as session:
        other.execute("SELECT * FROM a")
        assert [b.relation for b in look(session, statements("DROP TABLE b")).blockers] == ["a"]


def test_a_table_that_the_role_may_only_point_to_is_left_to_the_statement(project, role):
    owner = role("owner", owns=True)
    project.database.psql(
        f"CREATE TABLE a (id int PRIMARY KEY); GRANT REFERENCES ON a TO {owner};"
        f"CREATE TABLE b (id int); ALTER TABLE b OWNER TO {owner};"
    )
    project.uri = project.database.uri_as(owner)
    with project.context().session() as session:
        seen = look(session, statements("ALTER TABLE b ADD FOREIGN KEY (id) REFERENCES a"))
    assert seen.lockable == ((B, ROW),)


def test_a_schema_that_only_the_scripts_own_role_may_enter_is_not_looked_into(project, role):
    login, owner = role("login", owns=True), role("owner")
    project.database.psql(
        f"ALTER ROLE {login} NOINHERIT; GRANT {owner} TO {login}; GRANT ALL ON SCHEMA public TO {login};"
        f"CREATE SCHEMA secret AUTHORIZATION {owner}; CREATE TABLE secret.t (id int);"
        f"ALTER TABLE secret.t OWNER TO {owner};"
    )
    project.uri = project.database.uri_as(login)
    project.write("001_t", f"SET LOCAL ROLE {owner}; ALTER TABLE secret.t ADD x int; RESET ROLE;")
    assert project.deploy().applied == 1
