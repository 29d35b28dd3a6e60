"""An autovacuum gives way to a migration by itself, unless it is one against wraparound."""

from dataclasses import replace

import psycopg
import pytest
from standby import until

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.policy import Environment
from godwit.engine.blockers import look
from godwit.engine.model import Script
from godwit.engine.statements import parse

# Every page that it reads of a table with a limit of 1 costs it long sleeps; other tables cost nothing.
SETTINGS = {
    "autovacuum_naptime": "1s",
    "autovacuum_vacuum_cost_delay": "0",
    "vacuum_cost_page_hit": "10000",
    "vacuum_cost_page_miss": "10000",
    "autovacuum_freeze_max_age": "100000",
}
SLOWLY = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
TABLE = """
CREATE TABLE a (id int, t text) WITH (autovacuum_enabled = off); CREATE TABLE spent ();
INSERT INTO a SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i; DELETE FROM a WHERE id > 1;"""
AGED = """
DO $$ BEGIN FOR i IN 1..110000 LOOP
  BEGIN INSERT INTO spent DEFAULT VALUES; EXCEPTION WHEN division_by_zero THEN END;
END LOOP; END $$;"""


@pytest.fixture(scope="module")
def server(server_folder):
    with EmbeddedPostgres(server_folder / "vacuumed", durable=False, settings=SETTINGS) as server:
        yield server


@pytest.fixture
def vacuumed(server, project):
    """A project on a server with an autovacuum that does not get through the table a."""
    project.database = replace(project.database, server=server, name=project.database.name)
    server.create_database(project.database.name)
    project.uri = project.database.uri
    project.database.psql(TABLE)
    yield project
    server.drop_database(project.database.name)


def vacuum(project):
    """Wait until it is at it; its words for what it does."""
    project.database.psql(f"ALTER TABLE a SET (autovacuum_enabled = on, {SLOWLY})")
    at_it = (
        "SELECT query FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query LIKE '%.a%'"
    )
    with psycopg.connect(project.uri, autocommit=True) as looking:
        until(lambda: looking.execute(at_it).fetchone())
    return project.database.psql(at_it)


def in_the_way(project):
    statements = parse(Script("x.sql", b"ALTER TABLE a ADD x int", ""), Environment.DEVELOPMENT).statements
    with project.context().session() as session:
        return [b.relation for b in look(session, statements).blockers]


@pytest.fixture
def plain(server, vacuumed):
    """The same as a role that may not see what an autovacuum is."""
    server.create_role("plain")
    yield replace(vacuumed, uri=vacuumed.database.uri_as("plain"))
    server.drop_role("plain")


def test_an_autovacuum_is_in_nobodys_way(vacuumed, plain):
    assert "wraparound" not in vacuum(vacuumed)
    assert in_the_way(vacuumed) == []
    assert in_the_way(plain) == []


def test_one_against_wraparound_is(vacuumed, plain):
    vacuumed.database.psql(AGED)
    assert "wraparound" in vacuum(vacuumed)
    assert in_the_way(vacuumed) == ["a"]
    assert in_the_way(plain) == ["a"]
