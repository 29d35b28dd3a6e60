"""Who stands in the way of a statement: only holders of locks that really conflict with it."""

import psycopg
import pytest

from godwit.contract.policy import Environment
from godwit.engine.blockers import blockers, lock_mode
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
        found = blockers(session, statements(sql))
        assert sorted(b.relation for b in found) == in_the_way
        assert {(b.pid, b.application) for b in found} <= {(other.info.backend_pid, "app")}


def test_a_prepared_transaction_is_named_as_one(project):
    project.database.psql("CREATE TABLE a (id int); BEGIN; DELETE FROM a; PREPARE TRANSACTION 'left';")
    try:
        with project.context().session() as session:
            (found,) = blockers(session, statements("ALTER TABLE a ADD x int"))
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
            (found,) = blockers(session, statements("ALTER TABLE a ADD x int"))
        assert (found.age, found.pid) == (None, other.info.backend_pid)
        assert "for a hidden time" in str(found)


@pytest.mark.parametrize(
    ("sql", "mode"),
    [
        ("CREATE INDEX ON a (id)", "ShareLock"),
        ("CREATE TABLE c PARTITION OF p DEFAULT", "AccessExclusiveLock"),
        ("TRUNCATE a", "AccessExclusiveLock"),
    ],
)
def test_the_lock_that_a_statement_takes(sql, mode):
    assert lock_mode(statements(sql)[0]) == mode
