"""`spec.resolve` and `spec.baseline` leave the tool's own rows, and the tool goes on."""

import pytest
from peers import PEERS

from godwit.contract.policy import Resolve, ResolveAs
from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.errors import StepFailed

# Atlas' history cannot be told: tests/postgres/formats/test_resolved.py.
pytestmark = pytest.mark.parametrize("make_team", sorted(set(PEERS) - {"atlas"}), indirect=True)
# What each table says, apart from times and numbers of their own.
ROWS = {
    Format.GOLANG_MIGRATE: "SELECT version, dirty FROM schema_migrations",
    Format.GOOSE: "SELECT id, version_id, is_applied FROM goose_db_version ORDER BY id",
    Format.DBMATE: "SELECT version FROM schema_migrations ORDER BY version",
    Format.FLYWAY: (
        "SELECT installed_rank, version, description, type, script, checksum, installed_by, success"
        " FROM flyway_schema_history ORDER BY installed_rank"
    ),
}
HALF = "CREATE TABLE b (id int);\nSELECT 1/0;"
# A file is one message to golang-migrate's server: only a block that commits can be half done.
HALF_GO = "DO $$ BEGIN CREATE TABLE b (id int); COMMIT; PERFORM 1/0; END $$;"


@pytest.fixture
def another(make_team, database_on, postgres_server):
    """The same team with a database of its own, where the tool alone is at work."""
    return lambda: make_team(database_on(postgres_server))


def rows(team):
    return team.database.psql(ROWS[team.format])


def half_done(team, *, by_the_tool):
    """The second migration is half done: its table stands."""
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    body = HALF_GO if team.format is Format.GOLANG_MIGRATE else HALF
    name = team.add(2, body, "DROP TABLE b;", transaction=False)
    if by_the_tool:
        team.peer.up()
    else:
        with pytest.raises(StepFailed):
            team.apply()
    team.add(2, "CREATE TABLE b (id int);", "DROP TABLE b;", transaction=team.format is Format.GOLANG_MIGRATE)
    return name


def goes_on(team):
    """The tool finds nothing pending, and applies what comes next."""
    assert team.peer.settled() == ""
    name = team.add(4, "CREATE TABLE d (id int);", "DROP TABLE d;")
    done = team.peer.up()
    assert done.status == 0, done.text
    assert team.peer.settled() == ""
    planned = team.planned()
    assert (planned.pending, planned.current, planned.findings.errors) == (0, name, 0)


@pytest.mark.parametrize("how", ResolveAs)
@pytest.mark.parametrize("by_the_tool", [True, False])
def test_what_is_half_done_is_resolved_and_the_tool_goes_on(team, another, how, by_the_tool):
    by_the_tool = by_the_tool and team.format in {Format.GOLANG_MIGRATE, Format.FLYWAY}  # others forget it
    name = half_done(team, by_the_tool=by_the_tool)
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.FAILED_EARLIER
    if how is ResolveAs.ROLLED_BACK:
        team.database.psql("DROP TABLE b")
    team.add(3, "CREATE TABLE c (id int);", "DROP TABLE c;")
    outcome = team.deploy("u2", policy=team.policy(resolve=(Resolve(migration=name, as_=how),)))
    assert (outcome.resolved, outcome.applied) == (1, 2 if how is ResolveAs.ROLLED_BACK else 1)
    other = another()
    assert other.peer.up().status == 0
    assert rows(team) == rows(other)
    goes_on(team)


def test_a_database_that_had_tables_is_baselined_and_the_tool_goes_on(team, another):
    other = another()
    for number, table in enumerate("abc", 1):
        name = team.add(number, f"CREATE TABLE {table} (id int);", f"DROP TABLE {table};")
        for database in (team.database, other.database):
            database.psql(f"CREATE TABLE {table} (id int)")
    outcome = team.deploy(policy=team.policy(baseline=name))
    assert (outcome.resolved, outcome.applied) == (1, 0)
    told = {
        Format.GOLANG_MIGRATE: ("force", "3"),
        Format.FLYWAY: ("baseline", "-baselineVersion=3"),
    }.get(team.format)
    if told is None:  # no command of its own: the rows of migrations that ran
        other.database.psql("DROP TABLE a, b, c")
        told = other.peer.up_words
    done = other.peer.tool.run(*told)
    assert done.status == 0, done.text
    assert rows(team) == rows(other)
    goes_on(team)
