"""What only Flyway has: repeatables, checksums, baselines, rows without success."""

from pathlib import Path
from typing import Any

import pytest
from peers import PEERS, Peer
from project import Project

from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.errors import StepFailed

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(600)]

_ROWS = (
    "SELECT installed_rank, version, description, type, script, checksum, success"
    " FROM flyway_schema_history ORDER BY installed_rank"
)


@pytest.fixture
def team(database: Any, tmp_path: Path) -> Project:
    folder = tmp_path / "sql"
    (folder / "views").mkdir(parents=True)
    (folder / "V1__the_table.sql").write_text("CREATE TABLE a (id int);\r\n")
    (folder / "views" / "R__my_view.sql").write_text("CREATE OR REPLACE VIEW v AS SELECT id FROM a;\n")
    return Project(database, folder, database.uri, format=Format.FLYWAY)


@pytest.fixture
def flyway(team: Project) -> Peer:
    return PEERS["flyway"](team.uri, team.folder)


def test_rows_are_those_that_flyway_writes(team, flyway, database_on, postgres_server):
    team.deploy()
    assert flyway.settled() == ""
    other = database_on(postgres_server)
    assert PEERS["flyway"](other.uri, team.folder).up().status == 0
    assert team.database.psql(_ROWS) == other.psql(_ROWS)


def test_a_changed_repeatable_runs_again_by_either(team, flyway):
    assert flyway.up().status == 0
    view = team.folder / "views" / "R__my_view.sql"
    view.write_text("CREATE OR REPLACE VIEW v AS SELECT id, 1 AS one FROM a;\n")
    assert team.planned().pending_names == ("R__my_view",)
    team.deploy()
    assert flyway.settled() == ""
    assert flyway.tool.run("validate").status == 0
    view.write_text("CREATE OR REPLACE VIEW v AS SELECT id, 1 AS one, 2 AS two FROM a;\n")
    assert flyway.up().status == 0
    planned = team.planned()
    assert (planned.pending, planned.current) == (0, "1")


def test_an_edited_version_is_refused_by_both(team, flyway):
    team.deploy()
    (team.folder / "V1__the_table.sql").write_text("CREATE TABLE a (id bigint);\n")
    assert "checksum mismatch" in flyway.up().text.lower()
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.EDITED_MIGRATION


def test_a_baseline_stands_for_everything_up_to_it(team, flyway):
    team.database.psql("CREATE TABLE a (id int)")
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.HISTORY_MISSING
    assert flyway.tool.run("baseline", "-baselineVersion=1").status == 0
    (team.folder / "V2__more.sql").write_text("ALTER TABLE a ADD COLUMN note text;\n")
    assert team.planned().pending_names == ("2", "R__my_view")
    team.deploy()
    assert flyway.settled() == ""


@pytest.mark.parametrize("by_godwit", [True, False])
def test_a_row_without_success_stops_both_until_it_is_repaired(team, flyway, by_godwit):
    team.deploy()
    (team.folder / "V2__bad.sql").write_text("CREATE TABLE b (id int);\nSELECT 1/0;\n")
    (team.folder / "V2__bad.sql.conf").write_text("executeInTransaction=false\n")
    if by_godwit:
        with pytest.raises(StepFailed) as raised:
            team.apply("u2")
        assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    else:
        assert "failed!" in flyway.up().text
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.FAILED_EARLIER
    assert "failed migration to version 2" in flyway.up().text
    team.database.psql("DROP TABLE b")
    assert flyway.tool.run("repair").status == 0
    (team.folder / "V2__bad.sql").write_text("CREATE TABLE b (id int);\n")
    team.deploy("u3")
    assert flyway.settled() == ""
