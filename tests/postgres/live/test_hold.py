"""Whatever keeps others out is cut off in time, whoever the step is and whatever it has locked."""

import time

import pytest
from failing import refused_under

from godwit.contract.reasons import Reason
from godwit.contract.request import Connection

SETUP = """
CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
CREATE VIEW v AS SELECT id FROM a; CREATE SEQUENCE s;"""


def cut_off(project, **changes):
    """The failure of the second migration, which holds for two minutes if nobody stops it."""
    began = time.monotonic()
    failure = refused_under(project, step=changes, max_lock_hold_ms=300)
    assert time.monotonic() - began < 60
    return failure


def test_a_login_that_takes_a_role_without_rights_to_the_login_cuts_itself_off(project, role):
    """The role that owns the tables may not signal the login's sessions, nor see what they wait for."""
    owner, login = role("owner", owns=True), role("login")
    project.database.psql(f"GRANT {owner} TO {login}; ALTER SCHEMA public OWNER TO {owner}")
    project.uri = project.database.uri_as(login)
    connection = Connection(role=owner)
    project.write("001_tables", SETUP)
    project.verify("u1", project.apply("u1", connection=connection).state, connection=connection)
    project.write("002_slow", "ALTER TABLE a ADD x int; SELECT pg_sleep(120);")
    failure = cut_off(project, connection=connection)
    assert failure.reason is Reason.LOCK_HOLD_EXCEEDED
    assert "AccessExclusiveLock on a " in failure.message


@pytest.mark.parametrize(
    ("sql", "held"),
    [
        ("CREATE OR REPLACE VIEW v AS SELECT id FROM a WHERE id > 0", "AccessExclusiveLock on v "),
        ("ALTER SEQUENCE s RESTART", "ShareRowExclusiveLock on s "),
    ],
)
def test_a_view_and_a_sequence_keep_others_out_as_well(project, sql, held):
    project.write("001_tables", SETUP)
    project.deploy("u1")
    project.write("002_slow", f"{sql}; SELECT pg_sleep(120);")
    failure = cut_off(project)
    assert failure.reason is Reason.LOCK_HOLD_EXCEEDED
    assert held in failure.message
