"""What only Atlas has: a sum file, counted statements, a table in a schema of its own, baselines.

`atlas` is its command line, `library` the newest release's library, which no command line can be had of.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layouts import ATLAS
from peers import PEERS, Ended, Peer, Tool, atlas_library
from project import Project

from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.errors import StepFailed

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(1800)]

# Without times, and without partial_hashes: up to Atlas 1.0 they stay when all is applied, later they go.
_ROWS = (
    "SELECT version, description, type, applied, total, error, error_stmt, hash"
    " FROM {}atlas_schema_revisions ORDER BY version"
)
_OWN = "atlas_schema_revisions."
_HALF = "CREATE TABLE b (id int);\nINSERT INTO b VALUES (1);\n"


@pytest.fixture
def team(database: Any, tmp_path: Path) -> Project:
    folder = tmp_path / "migrations"
    folder.mkdir()
    ATLAS.write(folder, 1, "-- a\nCREATE TABLE a (id int);\nINSERT INTO a VALUES (1);", "DROP TABLE a;")
    return Project(database, folder, database.uri, format=Format.ATLAS)


@pytest.fixture
def atlas(team: Project) -> Peer:
    return PEERS["atlas"](team.uri, team.folder)


@pytest.fixture
def library(team: Project) -> Callable[[str], Ended]:
    """`pending` or `apply` by the newest library: the versions that are pending, or why it refuses."""
    tool = Tool((str(atlas_library()),), team.folder)
    where = (str(team.folder), f"{team.uri}?sslmode=disable&search_path=public")
    return lambda what: tool.run(what, *where)


def unbound(peer: Peer) -> Peer:
    """The same with a URL that names no schema."""

    def plain(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.replace("&search_path=public", "") for word in words)

    return replace(peer, up_words=plain(peer.up_words), status_words=plain(peer.status_words))


def refused(team: Project) -> StepFailed:
    with pytest.raises(StepFailed) as raised:
        team.planned()
    return raised.value


def test_rows_are_those_that_atlas_writes(team, atlas, library, database_on, postgres_server):
    ATLAS.write(team.folder, 2, _HALF, "DROP TABLE b;", transaction=False)
    team.deploy()
    assert atlas.settled() == ""
    assert library("pending") == Ended(0, "")
    other = database_on(postgres_server)
    assert PEERS["atlas"](other.uri, team.folder).up().status == 0
    rows = team.database.psql(_ROWS.format(""))
    assert rows == other.psql(_ROWS.format(""))
    assert [row.split("|")[:5] for row in rows.splitlines()] == [
        ["20260101000001", "step", "2", "2", "2"],
        ["20260101000002", "step", "2", "2", "2"],
    ]


def test_a_folder_that_is_not_its_sum_files_is_refused_by_all(team, atlas, library):
    team.deploy()
    (team.folder / f"{ATLAS.version(1)}_step.sql").write_text("CREATE TABLE a (id bigint);\n")
    (team.folder / f"{ATLAS.version(2)}_more.sql").write_text("CREATE TABLE b (id int);\n")
    assert "checksum mismatch" in atlas.up().text
    assert "checksum mismatch" in library("pending").text
    assert refused(team).failure.reason is Reason.CHECKSUM_MISMATCH
    assert atlas.tool.run("migrate", "hash", "--dir", f"file://{team.folder}").status == 0
    assert team.planned().pending_names == (ATLAS.version(2),)  # Atlas does not look whether one was edited
    team.deploy("u2")
    assert atlas.settled() == ""


@pytest.mark.parametrize("newest", [False, True])
def test_left_half_done_by_godwit_atlas_goes_on_behind_what_is_done(team, atlas, library, newest):
    name = ATLAS.write(team.folder, 2, f"{_HALF}SELECT 1/0;", "DROP TABLE b;", transaction=False)
    with pytest.raises(StepFailed) as raised:
        team.apply()
    assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    assert refused(team).failure.reason is Reason.FAILED_EARLIER
    said = atlas.tool.run(*atlas.status_words).text
    assert f"Current Version: {name} (2 statements applied)" in said
    assert "SELECT 1/0" in said
    assert "division by zero" in said
    ATLAS.write(team.folder, 2, f"{_HALF}SELECT 1;", "DROP TABLE b;", transaction=False)
    done = library("apply") if newest else atlas.up()
    assert done.status == 0, done.text
    assert team.database.psql("SELECT count(*) FROM b") == "1"
    planned = team.planned()
    assert (planned.pending, planned.current) == (0, name)


def test_left_half_done_by_atlas_nobody_but_atlas_goes_on(team, atlas):
    name = ATLAS.write(team.folder, 2, f"{_HALF}SELECT 1/0;", "DROP TABLE b;", transaction=False)
    assert atlas.up().status != 0
    assert refused(team).failure.reason is Reason.FAILED_EARLIER
    ATLAS.write(team.folder, 2, f"{_HALF}SELECT 1;", "DROP TABLE b;", transaction=False)
    assert atlas.up().status == 0
    planned = team.planned()
    assert (planned.pending, planned.current) == (0, name)


def test_killed_between_two_statements_either_goes_on(team, atlas):
    name = ATLAS.write(team.folder, 2, f"{_HALF}SELECT 1;", "DROP TABLE b;", transaction=False)

    class KilledError(BaseException):
        pass

    def point(boundary: str) -> None:
        if boundary == "apply.after_commit" and team.database.psql("SELECT to_regclass('b')") == "b":
            raise KilledError

    team.point = point
    with pytest.raises(KilledError):
        team.apply()
    rows = team.database.psql(_ROWS.format("")).splitlines()
    assert rows[-1].split("|")[3:5] == ["1", "3"]
    done = atlas.up()
    assert done.status == 0, done.text
    assert team.database.psql("SELECT count(*) FROM b") == "1"
    assert team.planned().current == name


def test_a_baseline_stands_for_everything_up_to_it(team, atlas, library):
    team.database.psql("CREATE TABLE a (id int)")
    assert refused(team).failure.reason is Reason.HISTORY_MISSING
    ATLAS.write(team.folder, 2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    name = ATLAS.write(team.folder, 3, "CREATE TABLE c (id int);", "DROP TABLE c;")
    done = atlas.tool.run(*atlas.up_words, "1", "--baseline", ATLAS.version(1))
    assert done.status == 0, done.text
    planned = team.planned()
    assert (planned.applied, planned.pending_names) == (2, (name,))
    assert library("pending") == Ended(0, f"{name}\n")
    team.deploy()
    assert atlas.settled() == ""


def test_versions_that_were_set_by_hand_count(team, atlas):
    team.database.psql("CREATE TABLE a (id int)")
    name = ATLAS.write(team.folder, 2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    where = atlas.up_words[2:]
    assert atlas.tool.run("migrate", "set", ATLAS.version(1), *where).status == 0
    assert team.planned().pending_names == (name,)
    team.deploy()
    assert atlas.settled() == ""


def test_an_older_pending_one_is_refused_by_all(team, atlas, library):
    ATLAS.write(team.folder, 3, "CREATE TABLE c (id int);", "DROP TABLE c;")
    team.deploy()
    ATLAS.write(team.folder, 2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    assert "out of order" in atlas.up().text
    assert "out of order" in library("pending").text
    assert refused(team).failure.reason is Reason.OUT_OF_ORDER


def test_the_tables_own_schema_is_gone_on_with(team, atlas):
    atlas = unbound(atlas)
    done = atlas.up()
    assert done.status == 0, done.text
    assert team.planned().pending == 0
    ATLAS.write(team.folder, 2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    team.deploy()
    assert atlas.settled() == ""
    assert len(team.database.psql(_ROWS.format(_OWN)).splitlines()) == 2
    assert team.database.psql("SELECT to_regclass('public.atlas_schema_revisions')") == ""


def test_the_tables_own_schema_is_begun_with_where_it_is_there(team, atlas):
    atlas = unbound(atlas)
    team.database.psql("CREATE SCHEMA atlas_schema_revisions")
    team.deploy()
    assert atlas.settled() == ""
    name = ATLAS.write(team.folder, 2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    done = atlas.up()
    assert done.status == 0, done.text
    assert team.planned().current == name
