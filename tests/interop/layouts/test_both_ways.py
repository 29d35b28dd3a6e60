"""Begun by one and gone on with by the other: afterwards both say the same of the same database."""

import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import Format, RevertScope
from godwit.engine.errors import StepFailed


def two(team) -> list[str]:
    return [
        team.add(1, "CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;"),
        team.add(2, "CREATE TABLE b (id int);\nINSERT INTO b VALUES (1);", "DROP TABLE b;"),
    ]


def test_begun_by_the_tool_and_gone_on_with_by_godwit(team):
    names = two(team)
    done = team.peer.up()
    assert done.status == 0, done.text
    planned = team.planned()
    assert (planned.pending, planned.applied, planned.current) == (0, 2, names[-1])
    name = team.add(3, "CREATE INDEX CONCURRENTLY b_i ON b (id);", "DROP INDEX b_i;", transaction=False)
    assert team.planned().pending_names == (name,)
    team.deploy()
    assert team.peer.settled() == ""
    again = team.peer.up()
    assert again.status == 0, again.text
    assert team.planned().pending == 0


def test_begun_by_godwit_and_gone_on_with_by_the_tool(team):
    two(team)
    team.deploy()
    assert team.peer.settled() == ""
    name = team.add(3, "ALTER TABLE b ADD COLUMN note text;", "ALTER TABLE b DROP COLUMN note;")
    assert team.peer.settled() != ""
    done = team.peer.up()
    assert done.status == 0, done.text
    planned = team.planned()
    assert (planned.pending, planned.current, planned.findings.errors) == (0, name, 0)


def test_the_tool_takes_back_what_godwit_applied(team):
    names = two(team)
    team.deploy()
    if team.peer.down_words is None:  # its open source edition has no way back
        assert team.peer.tool.run("undo").status != 0
        return
    done = team.peer.down()
    assert done.status == 0, done.text
    planned = team.planned()
    assert (planned.current, planned.pending_names) == (names[0], (names[1],))
    team.deploy("u2")
    assert team.peer.settled() == ""


def test_godwit_takes_back_what_the_tool_applied(team):
    names = two(team)
    assert team.peer.up().status == 0
    outcome = team.revert("u1", RevertScope.PLAN, team.plan(names[0]))
    assert (outcome.reverted, outcome.current) == (1, names[0])
    assert team.peer.settled() != ""
    done = team.peer.up()
    assert done.status == 0, done.text
    assert team.planned().pending == 0


def test_nobody_can_tell_by_the_schema_who_applied(team, make_team, database_on, postgres_server):
    two(team)
    team.deploy()
    other = make_team(database_on(postgres_server))
    assert other.peer.up().status == 0
    assert team.database.dump(schema_only=True) == other.database.dump(schema_only=True)


def test_the_folder_is_recognised(team):
    two(team)
    assert team.peer.up().status == 0
    team.format = Format.AUTO
    assert team.planned().pending == 0


def test_failed_by_the_tool_and_seen_by_godwit(team):
    names = two(team)
    team.add(3, "CREATE TABLE c (id int);\nSELECT 1/0;", "DROP TABLE c;")
    said = team.peer.up()
    assert said.status != 0 or "failed!" in said.text, said.text
    if team.peer.remembers_failure:
        with pytest.raises(StepFailed) as raised:
            team.planned()
        assert raised.value.failure.reason is Reason.FAILED_EARLIER
        return
    name = team.add(3, "CREATE TABLE c (id int);", "DROP TABLE c;")
    planned = team.planned()
    assert (planned.current, planned.pending_names) == (names[-1], (name,))
    team.deploy()
    assert team.peer.settled() == ""


def test_failed_by_godwit_and_gone_on_with_by_the_tool(team):
    two(team)
    team.add(3, "CREATE TABLE c (id int);\nSELECT 1/0;", "DROP TABLE c;")
    with pytest.raises(StepFailed):
        team.apply()
    team.add(3, "CREATE TABLE c (id int);", "DROP TABLE c;")
    done = team.peer.up()
    assert done.status == 0, done.text
    assert team.peer.settled() == ""
    assert team.planned().pending == 0


def test_left_half_done_by_godwit_and_seen_by_both(team):
    two(team)
    team.deploy()
    if team.format is Format.GOLANG_MIGRATE:
        body = "DO $$ BEGIN CREATE TABLE c (id int); COMMIT; PERFORM 1/0; END $$;"
    else:
        body = "CREATE TABLE c (id int);\nSELECT 1/0;"
    team.add(3, body, "DROP TABLE c;", transaction=False)
    with pytest.raises(StepFailed) as raised:
        team.apply("u2")
    assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    assert team.peer.settled() != ""
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.FAILED_EARLIER
