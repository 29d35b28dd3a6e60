"""Rows that each tool itself would have written, and those that it left."""

import pytest
from layouts import ATLAS, DBMATE, GOLANG_MIGRATE, GOOSE
from project import Project

from godwit.contract.reasons import Reason
from godwit.contract.request import Format, RevertScope
from godwit.engine.errors import StepFailed
from godwit.engine.formats import atlas


@pytest.fixture
def of(database, tmp_path):
    def make(layout):
        return Project(database, tmp_path, database.uri, format=layout.format)

    return make


def test_golang_migrates_one_row_stands_for_all_before_it(of):
    team = of(GOLANG_MIGRATE)
    for number in (1, 2, 3):
        GOLANG_MIGRATE.write(team.folder, number, f"CREATE TABLE t{number} ();", f"DROP TABLE t{number};")
    team.database.psql(
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL);"
        "INSERT INTO schema_migrations VALUES (2, false); CREATE TABLE t1 (); CREATE TABLE t2 ();"
    )
    planned = team.planned()
    assert (planned.applied, planned.current, planned.pending_names) == (2, "2", ("3",))
    team.deploy()
    assert team.database.psql("TABLE schema_migrations") == "3|f"


def test_golang_migrates_dirty_version_stops_everything(of):
    team = of(GOLANG_MIGRATE)
    GOLANG_MIGRATE.write(team.folder, 1, "SELECT 1;", "SELECT 1;")
    team.database.psql(
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL);"
        "INSERT INTO schema_migrations VALUES (1, true)"
    )
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.FAILED_EARLIER


def test_golang_migrate_sends_a_file_as_one_message_so_a_concurrent_index_must_be_alone(of):
    team = of(GOLANG_MIGRATE)
    GOLANG_MIGRATE.write(team.folder, 1, "CREATE TABLE a (); CREATE INDEX CONCURRENTLY i ON a ((1));", "")
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.STATEMENT_REFUSED


def test_the_tables_are_the_tools_own_to_the_letter(of):
    columns = (
        "SELECT column_name, data_type, is_nullable, column_default, is_identity"
        " FROM information_schema.columns WHERE table_name = '{}' ORDER BY ordinal_position"
    )
    team = of(GOOSE)
    GOOSE.write(team.folder, 1, "SELECT 1;", "SELECT 1;")
    team.deploy()
    assert team.database.psql(columns.format("goose_db_version")).splitlines() == [
        "id|integer|NO||YES",
        "version_id|bigint|NO||NO",
        "is_applied|boolean|NO||NO",
        "tstamp|timestamp without time zone|NO|now()|NO",
    ]
    rows = team.database.psql("SELECT id, version_id, is_applied FROM goose_db_version ORDER BY id")
    assert rows.splitlines() == ["1|0|t", "2|1|t"]


def test_goose_refuses_an_older_pending_one(of):
    team = of(GOOSE)
    GOOSE.write(team.folder, 2, "SELECT 2;", "SELECT 2;")
    team.deploy()
    GOOSE.write(team.folder, 1, "SELECT 1;", "SELECT 1;")
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.OUT_OF_ORDER
    assert raised.value.failure.terminal  # only another source can help


def test_gooses_newest_row_of_a_version_counts(of):
    team = of(GOOSE)
    GOOSE.write(team.folder, 1, "CREATE TABLE a ();", "DROP TABLE a;")
    team.deploy()
    team.database.psql("INSERT INTO goose_db_version (version_id, is_applied) VALUES (1, false)")
    assert team.planned().pending_names == ("1",)


def test_dbmate_takes_an_older_pending_one(of):
    team = of(DBMATE)
    late = DBMATE.write(team.folder, 2, "SELECT 2;", "SELECT 2;")
    team.deploy()
    early = DBMATE.write(team.folder, 1, "SELECT 1;", "SELECT 1;")
    assert team.planned().pending_names == (early,)
    team.deploy("u2")
    assert team.database.psql("TABLE schema_migrations").splitlines() == [late, early]


@pytest.mark.parametrize("layout", [GOOSE, DBMATE])
def test_a_half_done_file_is_not_run_again_though_the_tool_has_no_word_for_it(of, layout):
    team = of(layout)
    name = layout.write(team.folder, 1, "CREATE TABLE a ();\nSELECT 1/0;", "DROP TABLE a;", transaction=False)
    with pytest.raises(StepFailed) as raised:
        team.apply()
    assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.FAILED_EARLIER
    # A person ends it, and says so in the tool's own table.
    table = "goose_db_version (version_id, is_applied) VALUES ({}, true)"
    if layout is DBMATE:
        table = "schema_migrations VALUES ('{}')"
    team.database.psql(f"INSERT INTO {table.format(name)}")
    assert team.planned().pending == 0


@pytest.mark.parametrize(
    ("layout", "table"),
    [
        (GOLANG_MIGRATE, "schema_migrations (version varchar PRIMARY KEY)"),
        (DBMATE, "schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)"),
    ],
)
def test_another_tools_table_of_the_same_name_is_no_history(of, layout, table):
    team = of(layout)
    layout.write(team.folder, 1, "SELECT 1;", "SELECT 1;")
    team.database.psql(f"CREATE TABLE {table}")
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.HISTORY_MISSING


ATLAS_ROW = (
    "SELECT applied, total, error, error_stmt, jsonb_path_query_array(partial_hashes, '$.size()')"
    " FROM atlas_schema_revisions"
)


def test_atlas_row_tells_how_far_a_file_got(of):
    team = of(ATLAS)
    body = "CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY a_i ON a (id);\nSELECT 1/0;\nSELECT 2;"
    ATLAS.write(team.folder, 1, body, "DROP TABLE a;", transaction=False)
    with pytest.raises(StepFailed) as raised:
        team.apply()
    assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    applied, total, error, statement, hashes = team.database.psql(ATLAS_ROW).split("|")
    assert (applied, total, statement, hashes) == ("2", "4", "SELECT 1/0", "[2]")
    assert "division by zero" in error
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.FAILED_EARLIER


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_atlas_row_is_whole_when_a_killed_attempt_was_gone_on_with(of, killed_at):
    team = of(ATLAS)
    body = "CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY a_i ON a (id);\nINSERT INTO a VALUES (1);"
    ATLAS.write(team.folder, 1, body, "DROP TABLE a;", transaction=False)

    class KilledError(BaseException):
        pass

    counts = []

    def point(boundary: str) -> None:
        if boundary in {"apply.after_commit", "apply.after_progress"}:
            counts.append(team.database.psql("SELECT applied FROM atlas_schema_revisions"))
            if len(counts) == killed_at:
                raise KilledError

    team.point = point
    plan = team.plan()
    with pytest.raises(KilledError):
        team.apply(plan=plan)
    assert counts == ["1", "2", "3"][:killed_at]
    team.point = lambda _: None
    team.apply(plan=plan)
    assert team.database.psql(ATLAS_ROW) == "3|3|||[1]"  # JSON's null, as Atlas leaves it
    assert team.database.psql("SELECT count(*) FROM a") == "1"
    assert team.planned().pending == 0


def test_atlas_table_in_its_own_schema_is_no_data_of_the_application(of):
    team = of(ATLAS)
    team.database.psql("CREATE SCHEMA atlas_schema_revisions")
    names = [
        ATLAS.write(team.folder, 1, "CREATE TABLE a (id int);", "DROP TABLE a;"),
        ATLAS.write(team.folder, 2, "CREATE TABLE b (id int);", "DROP TABLE b;"),
    ]
    team.deploy()
    assert team.database.psql("SELECT count(*) FROM atlas_schema_revisions.atlas_schema_revisions") == "2"
    assert team.context(step="backup", format=Format.AUTO).format is atlas
    outcome = team.revert("u2", RevertScope.PLAN, team.plan(names[0]))
    assert (outcome.reverted, outcome.current) == (1, names[0])
    team.verify("u2", outcome.state)
    change = "DELETE FROM atlas_schema_revisions.atlas_schema_revisions;"
    ATLAS.write(team.folder, 2, change, "SELECT 1;")
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.STATEMENT_REFUSED
    ATLAS.write(team.folder, 2, f"DO $$ BEGIN EXECUTE '{change}'; END $$;", "SELECT 1;")
    with pytest.raises(StepFailed) as raised:
        team.apply("u3")
    assert raised.value.failure.reason is Reason.STATEMENT_REFUSED
