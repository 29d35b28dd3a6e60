"""A database that has another tool's history beside this one's: whose word counts for what."""

import pytest
from layouts import ATLAS, DBMATE, FLYWAY, GOLANG_MIGRATE, GOOSE
from project import Project

from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope
from godwit.engine.errors import StepFailed


def refused(call):
    with pytest.raises(StepFailed) as raised:
        call()
    return raised.value.failure


@pytest.fixture
def of(database, tmp_path):
    """A team of a layout, whose first two migrations are in its folder."""

    def make(layout, mark="t"):
        folder = tmp_path / layout.format
        folder.mkdir()
        team = Project(database, folder, database.uri, format=layout.format)
        for number in (1, 2):
            up = f"CREATE TABLE {mark}{number} ();"
            layout.write(folder, number, up, f"DROP TABLE {mark}{number};")
        return team

    return make


@pytest.mark.parametrize(("former", "layout"), [(GOLANG_MIGRATE, GOOSE), (GOOSE, FLYWAY)])
def test_a_baseline_of_the_former_tool_is_none_of_the_present_ones(of, former, layout):
    team = of(former)
    team.database.psql("CREATE TABLE t1 (); CREATE TABLE t2 ();")
    team.deploy("u1", policy=team.policy(baseline="2"))

    team = of(layout)
    policy = team.policy(baseline=layout.version(2))
    planned = team.planned(policy=policy)
    assert (planned.resolutions, planned.pending) == (1, 0)
    team.deploy("u2", policy=policy)
    assert team.planned(policy=policy).direction is None


@pytest.mark.parametrize(("former", "layout"), [(GOLANG_MIGRATE, DBMATE), (DBMATE, GOLANG_MIGRATE)])
def test_the_former_tools_table_of_the_same_name_has_to_go_first(of, former, layout):
    of(former).deploy("u1")
    team = of(layout)
    policy = team.policy(baseline=layout.version(2))
    met = refused(lambda: team.planned(policy=policy))
    assert met.reason is Reason.HISTORY_MISSING
    assert "public.schema_migrations is another tool's history" in met.message
    team.database.psql("ALTER TABLE schema_migrations RENAME TO former_migrations")
    assert team.deploy("u2", policy=policy).resolved == 1
    assert team.planned().pending == 0


def test_the_way_back_that_another_tool_left_is_not_taken_for_ones_own(of):
    of(GOLANG_MIGRATE, "former").deploy("u1")
    team = of(GOOSE, "present")
    team.database.psql("CREATE TABLE present1 (); CREATE TABLE present2 ();")
    team.deploy("u2", policy=team.policy(baseline="2"))
    team.revert("u3", RevertScope.PLAN, team.plan("1"))
    query = "SELECT relname FROM pg_class WHERE relname ~ '(former|present)[12]' ORDER BY 1"
    assert team.database.psql(query).split() == ["former1", "former2", "present1"]


def test_what_a_baseline_stands_for_is_no_target(of):
    team = of(FLYWAY)
    FLYWAY.write(team.folder, 3, "CREATE TABLE t3 ();", "DROP TABLE t3;")
    team.database.psql("CREATE TABLE t1 (); CREATE TABLE t2 ();")
    team.deploy("u1", policy=team.policy(baseline="2"))
    met = refused(lambda: team.planned("1"))
    assert (met.reason, met.migration) == (Reason.TARGET_NOT_FOUND, "1")
    assert "2 at the oldest" in met.message
    plan = team.plan("2")
    outcome = team.revert("u2", RevertScope.PLAN, plan)
    assert (outcome.reverted, outcome.current, plan.target) == (1, "2", "2")
    after = team.planned("2")
    assert (after.direction, after.current) == (None, "2")


def test_what_atlas_passes_over_is_no_target(of):
    team = of(ATLAS)
    for path in team.folder.glob(f"{ATLAS.version(1)}*"):
        path.unlink()
    ATLAS.sealed(team.folder)
    team.deploy("u1")
    ATLAS.write(team.folder, 1, "CREATE TABLE t1 ();", "DROP TABLE t1;")
    assert team.planned().pending == 0
    met = refused(lambda: team.planned(ATLAS.version(1)))
    assert met.reason is Reason.TARGET_NOT_FOUND
    assert f"{ATLAS.version(2)} at the oldest" in met.message


def test_a_repeatable_is_no_target(of):
    team = of(FLYWAY)
    (team.folder / "R__view.sql").write_text("CREATE OR REPLACE VIEW v AS SELECT 1 AS x;")
    team.deploy("u1")
    assert refused(lambda: team.planned("R__view")).reason is Reason.TARGET_NOT_FOUND
    assert team.planned("2").direction is None
