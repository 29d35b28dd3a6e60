"""Whatever tool a folder is of: applied, failed, gone on with, taken back, each with the tool's own rows."""

import re

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, Format, RevertScope
from godwit.engine.errors import StepFailed
from godwit.engine.formats.registry import format_of


class KilledError(BaseException):
    """The process is gone."""


def history(team):
    with team.context().session() as session:
        return format_of(team.format).read_history(session)


def tables(team) -> set[str]:
    found = team.database.psql("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^[a-d]$'")
    return set(found.splitlines())


def three(team) -> list[str]:
    return [
        team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;"),
        team.add(2, "CREATE TABLE b (id int);", "DROP TABLE b;"),
        team.add(10, "CREATE TABLE c (id int);", "DROP TABLE c;"),
    ]


def test_everything_is_applied_once_and_then_nothing_is_pending(team):
    names = three(team)
    planned = team.planned()
    assert planned.pending_names == tuple(names)
    outcome = team.deploy()
    assert (outcome.applied, outcome.current) == (3, names[-1])
    assert outcome.state == planned.to_state
    assert tables(team) == {"a", "b", "c"}
    after = team.planned()
    assert (after.pending, after.current, after.applied) == (0, names[-1], 3)
    assert after.findings.errors == 0
    assert history(team).applied[-1].name == names[-1]


def test_a_later_operation_goes_on_from_the_history(team):
    three(team)
    team.deploy()
    name = team.add(11, "CREATE TABLE d (id int);", "DROP TABLE d;")
    assert team.planned().pending_names == (name,)
    team.deploy("u2")
    assert tables(team) == {"a", "b", "c", "d"}


def test_a_repeated_attempt_applies_nothing_twice(team):
    three(team)
    plan = team.plan()
    first = team.apply(plan=plan)
    again = team.apply(plan=plan)
    assert again == first


def test_a_removed_row_is_given_as_the_history_had_it(team):
    names = three(team)
    team.deploy()
    tool = format_of(team.format)
    with team.context().session(writing=True) as session:
        for name, previous in zip(reversed(names), [*reversed(names[:-1]), ""], strict=True):
            there = [row for row in tool.read_history(session).rows if row.name == name]
            assert list(tool.remove_row(session, name, previous)) == there
            assert len(there) == 1
            assert tool.remove_row(session, name, previous) == ()
        assert tool.read_history(session).rows == ()


def test_a_failed_one_leaves_nothing_and_the_ones_before_it_stand(team):
    names = three(team)[:1]
    team.add(2, "CREATE TABLE b (id int); SELECT 1/0;", "DROP TABLE b;")
    with pytest.raises(StepFailed) as raised:
        team.apply()
    assert raised.value.failure.reason is Reason.MIGRATION_FAILED
    assert tables(team) == {"a"}
    found = history(team)
    assert [row.name for row in found.applied] == names
    assert found.failed == ()
    team.add(2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    team.deploy("u2")
    assert tables(team) == {"a", "b", "c"}


def test_an_older_version_is_gone_back_to(team):
    names = three(team)
    team.deploy()
    plan = team.plan(names[0])
    assert plan.direction is Direction.DOWN
    outcome = team.revert("u2", RevertScope.PLAN, plan)
    assert (outcome.reverted, outcome.current) == (2, names[0])
    assert outcome.state == plan.to_state
    team.verify("u2", outcome.state)
    assert tables(team) == {"a"}
    assert team.planned().pending_names == tuple(names[1:])
    team.deploy("u3")
    assert tables(team) == {"a", "b", "c"}


def test_an_older_source_and_an_older_target_take_back_all_that_the_source_lacks(team):
    names = three(team)
    team.add(11, "CREATE TABLE d (id int);", "DROP TABLE d;")
    team.deploy()
    for version in (*names[1:], team.layout.version(11)):
        for path in [p for p in team.folder.iterdir() if re.match(rf"[VU0]*{version}_", p.name)]:
            path.unlink()
    team.layout.sealed(team.folder)
    plan = team.plan(names[0])

    def killed(point):
        if point == "revert.after_migration":
            raise KilledError

    team.point = killed
    with pytest.raises(KilledError):
        team.revert("u2", RevertScope.PLAN, plan)
    team.point = lambda _: None
    outcome = team.revert("u2", RevertScope.PLAN, plan)
    assert (outcome.reverted, outcome.current, outcome.state) == (3, names[0], plan.to_state)
    team.verify("u2", outcome.state)
    assert tables(team) == {"a"}
    assert team.planned(names[0]).direction is None
    three(team)
    team.deploy("u3")
    assert tables(team) == {"a", "b", "c"}


def test_an_operation_takes_back_what_it_applied_itself_and_no_more(team):
    names = three(team)
    team.deploy()
    team.add(11, "CREATE TABLE d (id int);", "DROP TABLE d;")
    team.add(12, "CREATE INDEX d_i ON d (id);", "DROP INDEX d_i;")
    plan = team.plan()
    team.apply("u2", plan=plan)
    outcome = team.revert("u2", RevertScope.OPERATION, plan)
    assert (outcome.reverted, outcome.current, outcome.state) == (2, names[-1], plan.from_state)
    assert tables(team) == {"a", "b", "c"}


def test_all_of_a_first_operation_can_be_taken_back(team):
    three(team)
    plan = team.plan()
    team.apply("u1", plan=plan)
    outcome = team.revert("u1", RevertScope.OPERATION, plan)
    assert (outcome.reverted, outcome.current, outcome.state) == (3, "", plan.from_state)
    assert history(team).rows == ()
    assert tables(team) == set()


def test_an_index_is_built_concurrently_where_the_file_may(team):
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    name = team.add(2, "CREATE INDEX CONCURRENTLY a_i ON a (id);", "DROP INDEX a_i;", transaction=False)
    outcome = team.deploy()
    assert outcome.current == name
    assert team.database.psql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_i'::regclass") == "t"
    plan = team.plan("Latest")
    assert plan.direction is Direction.UP
    team.revert("u2", RevertScope.PLAN, team.plan(team.layout.version(1)))
    assert [row.name for row in history(team).applied] == [team.layout.version(1)]


@pytest.mark.parametrize("layout", ["Goose", "Dbmate"], indirect=True)
def test_a_way_back_from_the_journal_runs_as_the_tools_folder_says(team):
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    down = "DROP INDEX CONCURRENTLY a_i;\nDROP TABLE b;"
    up = "CREATE INDEX CONCURRENTLY a_i ON a (id);\nCREATE TABLE b ();"
    team.add(2, up, down, transaction=False)
    production = {"environment": Environment.PRODUCTION}
    policy = team.policy(allow_downgrade=True, **production)
    team.deploy("u1", policy=policy, **production)
    plan = team.plan(team.layout.version(1), policy)
    outcome = team.revert("u2", RevertScope.PLAN, plan, policy, **production)
    assert (outcome.reverted, outcome.current) == (1, team.layout.version(1))
    assert tables(team) == {"a"}
    assert team.database.psql("SELECT to_regclass('a_i') IS NULL") == "t"


@pytest.mark.parametrize("layout", ["Goose", "Dbmate", "Flyway", "Atlas"], indirect=True)
def test_a_procedure_that_commits_may_have_company_in_a_file_outside_a_transaction(team):
    goose = team.format is Format.GOOSE
    begin, end = ("-- +goose StatementBegin\n", "\n-- +goose StatementEnd") if goose else ("", "")
    body = "BEGIN INSERT INTO a VALUES (1); COMMIT; INSERT INTO a VALUES (2); COMMIT; END"
    procedure = f"{begin}CREATE PROCEDURE fill() LANGUAGE plpgsql AS '{body}';{end}"
    up = f"CREATE TABLE a (id int);\n{procedure}\nCALL fill();\nDROP PROCEDURE fill;"
    team.add(1, up, "DROP TABLE a;", transaction=False)
    assert team.deploy().applied == 1
    assert team.database.psql("SELECT count(*) FROM a") == "2"
    assert team.database.psql("SELECT count(*) FROM pg_proc WHERE proname = 'fill'") == "0"


def test_a_file_of_which_nothing_is_left_is_free_to_be_tried_again(team):
    team.add(1, "CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1);", "DROP TABLE a;")
    team.add(2, "CREATE UNIQUE INDEX CONCURRENTLY a_i ON a (id);", "DROP INDEX a_i;", transaction=False)
    with pytest.raises(StepFailed) as raised:
        team.apply()
    assert "Nothing of" in raised.value.failure.standing
    assert [row.name for row in history(team).applied] == [team.layout.version(1)]
    assert history(team).failed == ()
    team.database.psql("DELETE FROM a")
    team.deploy("u2")
    assert team.planned().pending == 0


def test_a_file_outside_a_transaction_is_gone_on_with_behind_one_of_the_same_operation(team):
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    name = team.add(2, "CREATE INDEX CONCURRENTLY a_i ON a (id);", "DROP INDEX a_i;", transaction=False)
    plan = team.plan()

    def killed(point):
        if point == "apply.before_statement":
            raise KilledError

    team.point = killed
    with pytest.raises(KilledError):
        team.apply(plan=plan)
    team.point = lambda _: None
    outcome = team.deploy(plan=plan)
    assert (outcome.applied, outcome.current, outcome.state) == (2, name, plan.to_state)
    assert team.planned().pending == 0


def test_a_database_with_tables_and_no_history_is_refused(team):
    three(team)
    team.database.psql("CREATE TABLE stranger ()")
    with pytest.raises(StepFailed) as raised:
        team.planned()
    assert raised.value.failure.reason is Reason.HISTORY_MISSING


def test_a_folder_and_a_database_are_recognised(team):
    three(team)
    team.deploy()
    team.format = Format.AUTO
    assert team.planned().pending == 0
    with team.context(step="backup").session():
        context = team.context(step="backup", format=Format.AUTO)
    assert context.format is format_of(team.layout.format)
