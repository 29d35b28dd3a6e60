"""`spec.resolve` and `spec.baseline` in the tables of other tools than Prisma."""

import pytest
from layouts import LAYOUTS

from godwit.contract.policy import Resolve, ResolveAs
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, Format, RevertScope
from godwit.engine.errors import StepFailed
from godwit.engine.formats.registry import format_of, resolver_of

HALF = {
    Format.GOLANG_MIGRATE: "DO $$ BEGIN CREATE TABLE b (id int); COMMIT; PERFORM 1/0; END $$;",
}


RESOLVING = [name for name, layout in LAYOUTS.items() if resolver_of(format_of(layout.format)) is not None]


@pytest.fixture(params=RESOLVING)
def layout(request):
    """Each tool in turn whose history can be told what became of a migration."""
    return LAYOUTS[request.param]


def test_all_but_atlas_can_be_told():
    assert [name for name in LAYOUTS if name not in RESOLVING] == ["Atlas"]


@pytest.mark.parametrize("layout", ["Atlas"], indirect=True)
def test_it_is_refused_with_the_way_out_for(team):
    name = team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    for policy in (team.policy(baseline=name), saying(team, ResolveAs.APPLIED, name)):
        met = failure(lambda: team.planned(policy=policy))  # noqa: B023
        assert met.reason is Reason.RESOLVE_REFUSED
        assert "the tool's own commands" in met.message


def saying(team, how, name, requested_at=""):
    return team.policy(resolve=(Resolve(migration=name, as_=how, requested_at=requested_at),))


def failure(call):
    with pytest.raises(StepFailed) as raised:
        call()
    return raised.value.failure


@pytest.fixture
def half(team):
    """A team whose second migration is half done: its table stands."""
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    body = HALF.get(team.format, "CREATE TABLE b (id int);\nSELECT 1/0;")
    team.second = team.add(2, body, "DROP TABLE b;", transaction=False)
    assert failure(team.apply).reason is Reason.PARTIALLY_APPLIED
    assert failure(team.planned).reason is Reason.FAILED_EARLIER
    return team


def test_where_the_database_is_when_a_file_behind_another_is_half_done(team):
    first = team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    body = HALF.get(team.format, "CREATE TABLE b (id int);\nSELECT 1/0;")
    team.add(2, body, "DROP TABLE b;", transaction=False)
    with pytest.raises(StepFailed) as raised:
        team.apply()
    assert raised.value.outcome.current == first


def mend(team):
    """The file as it should have been; a later one after it."""
    team.add(2, "CREATE TABLE b (id int);", "DROP TABLE b;", transaction=team.format is Format.GOLANG_MIGRATE)
    team.third = team.add(3, "CREATE TABLE c (id int);", "DROP TABLE c;")


def tables(team):
    return team.database.psql(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^[a-d]$' ORDER BY 1"
    ).split()


def test_a_half_done_migration_is_rolled_back_by_hand_and_runs_again(half):
    half.database.psql("DROP TABLE b")
    mend(half)
    policy = saying(half, ResolveAs.ROLLED_BACK, half.second)
    planned = half.planned(policy=policy)
    assert (planned.resolutions, planned.pending_names) == (1, (half.second, half.third))
    outcome = half.deploy("u2", policy=policy)
    assert (outcome.resolved, outcome.applied, outcome.current) == (1, 2, half.third)
    assert outcome.state == planned.to_state
    assert tables(half) == ["a", "b", "c"]
    assert half.planned(policy=policy).direction is None


def test_a_half_done_migration_is_brought_to_its_end_by_hand_and_counts_as_applied(half):
    mend(half)
    policy = saying(half, ResolveAs.APPLIED, half.second)
    planned = half.planned(policy=policy)
    assert (planned.resolutions, planned.pending_names) == (1, (half.third,))
    outcome = half.deploy("u2", policy=policy)
    assert (outcome.resolved, outcome.applied, outcome.state) == (1, 1, planned.to_state)
    assert half.planned(policy=policy).direction is None
    assert half.planned().applied == 3


def test_with_nothing_else_to_do_the_history_alone_is_changed(half):
    policy = saying(half, ResolveAs.APPLIED, half.second)
    outcome = half.deploy("u2", policy=policy)
    assert (outcome.resolved, outcome.applied, outcome.current) == (1, 0, half.second)
    assert half.planned(policy=policy).direction is None


@pytest.mark.parametrize("how", [ResolveAs.APPLIED, ResolveAs.ROLLED_BACK])
def test_another_attempt_finds_it_done_and_taking_back_takes_it_back_too(half, how):
    if how is ResolveAs.ROLLED_BACK:
        half.database.psql("DROP TABLE b")
    before = half.database.dump()
    mend(half)
    half.add(3, "SELECT 1/0;", "SELECT 1;")
    policy = saying(half, how, half.second)
    plan = half.plan(policy=policy)
    assert failure(lambda: half.apply("u2", plan=plan, policy=policy)).reason is Reason.MIGRATION_FAILED
    again = failure(lambda: half.apply("u2", plan=plan, policy=policy, attempt=2))
    assert again.reason is Reason.MIGRATION_FAILED
    if how is ResolveAs.ROLLED_BACK and half.format is not Format.GOLANG_MIGRATE:
        return  # what it applied itself cannot be in a transaction, and is not taken back unasked
    outcome = half.revert("u2", RevertScope.OPERATION, plan, policy)
    assert (outcome.resolved, outcome.state) == (0, plan.from_state)
    assert half.database.dump() == before
    assert failure(half.planned).reason is Reason.FAILED_EARLIER
    assert half.planned(policy=policy).resolutions == 1


def test_a_later_failure_has_to_be_asked_for_again(half):
    half.database.psql("DROP TABLE b")
    policy = saying(half, ResolveAs.ROLLED_BACK, half.second)
    assert failure(lambda: half.apply("u2", policy=policy)).reason is Reason.PARTIALLY_APPLIED
    assert failure(lambda: half.planned(policy=policy)).reason is Reason.FAILED_EARLIER
    half.database.psql("DROP TABLE b")
    mend(half)
    assert half.deploy("u3", policy=saying(half, ResolveAs.ROLLED_BACK, half.second, "2")).resolved == 1


def existing(team):
    team.database.psql("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    return [
        team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;"),
        team.add(2, "CREATE TABLE b (id int);", "DROP TABLE b;"),
        team.add(3, "CREATE TABLE c (id int);", "DROP TABLE c;"),
    ]


def test_a_baseline_marks_what_is_there_and_the_rest_runs(team):
    names = existing(team)
    assert failure(team.planned).reason is Reason.HISTORY_MISSING
    policy = team.policy(baseline=names[1])
    planned = team.planned(policy=policy)
    assert (planned.resolutions, planned.pending_names) == (1, (names[2],))
    outcome = team.deploy(policy=policy)
    assert (outcome.resolved, outcome.applied, outcome.state) == (1, 1, planned.to_state)
    assert tables(team) == ["a", "b", "c"]
    assert team.planned(policy=policy).direction is None
    assert team.planned().pending == 0


def test_a_baseline_with_nothing_else_to_do(team):
    names = existing(team)
    team.database.psql("CREATE TABLE c (id int)")
    policy = team.policy(baseline=names[2])
    plan = team.plan(policy=policy)
    first = team.deploy(plan=plan, policy=policy)
    assert (first.resolved, first.applied) == (1, 0)
    assert team.planned(policy=policy).direction is None


def test_a_baseline_is_found_done_by_another_attempt_and_taken_back(team):
    names = existing(team)
    team.add(3, "SELECT 1/0;", "SELECT 1;")
    policy = team.policy(baseline=names[1])
    plan = team.plan(policy=policy)
    for attempt in (1, 2):
        met = failure(lambda: team.apply("u1", plan=plan, policy=policy, attempt=attempt))  # noqa: B023
        assert met.reason is Reason.MIGRATION_FAILED
    outcome = team.revert("u1", RevertScope.OPERATION, plan, policy)
    assert (outcome.resolved, outcome.state) == (0, plan.from_state)
    assert team.planned(policy=policy).resolutions == 1


def test_a_baseline_of_an_empty_database_is_passed_over(team):
    name = team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    outcome = team.deploy(policy=team.policy(baseline=name))
    assert (outcome.resolved, outcome.applied) == (0, 1)


def test_a_baseline_counts_where_the_tool_has_made_its_table_and_written_nothing(team):
    names = existing(team)
    with team.context().session(writing=True) as session:
        format_of(team.format).ensure_table(session)
    policy = team.policy(baseline=names[1])
    assert team.planned(policy=policy).pending_names == (names[2],)


def test_what_did_not_fail_or_is_not_known_is_refused_without_prismas_codes(team):
    name = team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    team.deploy()
    for how, wanted in [
        (ResolveAs.ROLLED_BACK, name),
        (ResolveAs.ROLLED_BACK, "99"),
        (ResolveAs.APPLIED, "99"),
    ]:
        met = failure(lambda: team.planned(policy=saying(team, how, wanted)))  # noqa: B023
        assert met.reason is Reason.RESOLVE_REFUSED
        assert "Prisma" not in met.message


def test_a_format_that_is_found_out_resolves_too(half):
    half.format = Format.AUTO
    policy = saying(half, ResolveAs.APPLIED, half.second)
    assert half.deploy("u2", policy=policy).resolved == 1


def test_what_the_newest_version_would_say_of_others_is_refused(team):
    names = existing(team)
    team.database.psql("DROP TABLE b")
    team.add(2, "SELECT 1;", "SELECT 1;")
    team.deploy(
        "u1", policy=team.policy(baseline=names[0]), plan=team.plan(names[0], team.policy(baseline=names[0]))
    )
    policy = saying(team, ResolveAs.APPLIED, names[2])
    if team.format is not Format.GOLANG_MIGRATE:
        if format_of(team.format).STRICT_ORDER:
            assert failure(lambda: team.planned(policy=policy)).reason is Reason.OUT_OF_ORDER
        else:
            assert team.planned(policy=policy).pending_names == (names[1],)
        return
    met = failure(lambda: team.planned(policy=policy))
    assert met.reason is Reason.RESOLVE_REFUSED
    assert f"say that {names[1]} is applied as well" in met.message
    both = team.policy(resolve=tuple(Resolve(migration=n, as_=ResolveAs.APPLIED) for n in names[1:]))
    assert team.deploy("u2", policy=both).resolved == 2
    assert team.database.psql("TABLE schema_migrations") == "3|f"


def test_a_migration_that_was_half_taken_back_is_made_whole_again(team):
    first = team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    down = "DO $$ BEGIN DROP TABLE b; COMMIT; PERFORM 1/0; END $$;"
    second = team.add(2, "CREATE TABLE b (id int);", down, transaction=False)
    team.deploy("u1")
    plan = team.plan(first)
    assert failure(lambda: team.revert("u2", RevertScope.PLAN, plan)).reason is Reason.PARTIALLY_APPLIED
    met = failure(team.planned)
    assert (met.reason, met.migration) == (Reason.FAILED_EARLIER, second)
    team.database.psql("CREATE TABLE b (id int)")
    team.add(3, "CREATE TABLE c (id int);", "DROP TABLE c;")
    team.deploy("u3", policy=saying(team, ResolveAs.APPLIED, second))
    assert tables(team) == ["a", "b", "c"]
    assert team.planned().pending == 0


def test_made_whole_again_is_said_once_also_where_nothing_else_is_to_do(team):
    first = team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    down = "DO $$ BEGIN DROP TABLE b; COMMIT; PERFORM 1/0; END $$;"
    second = team.add(2, "CREATE TABLE b (id int);", down, transaction=False)
    team.deploy("u1")

    def half(operation, policy):
        plan = team.plan(first, policy)
        met = failure(lambda: team.revert(operation, RevertScope.PLAN, plan, policy))
        assert met.reason is Reason.PARTIALLY_APPLIED

    half("u2", team.policy())
    team.database.psql("CREATE TABLE b (id int)")
    policy = saying(team, ResolveAs.APPLIED, second)
    planned = team.planned(policy=policy)
    assert (planned.direction, planned.resolutions, planned.pending) == (Direction.UP, 1, 0)
    assert team.deploy("u3", policy=policy).applied == 0
    assert team.planned().pending == team.planned(policy=policy).resolutions == 0
    half("u4", policy)
    assert failure(lambda: team.planned(policy=policy)).reason is Reason.FAILED_EARLIER


@pytest.mark.parametrize("layout", ["Atlas"], indirect=True)
def test_where_nobody_can_be_told_a_new_row_says_that_a_migration_is_whole_again(team):
    first = team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    down = "-- atlas:txmode none\n\nDO $$ BEGIN COMMIT; PERFORM 1/0; END $$;"
    team.add(2, "CREATE TABLE b (id int);", down)
    team.deploy("u1")
    plan = team.plan(first)
    assert failure(lambda: team.revert("u2", RevertScope.PLAN, plan)).reason is Reason.PARTIALLY_APPLIED
    assert failure(team.planned).reason is Reason.FAILED_EARLIER
    team.database.psql("UPDATE atlas_schema_revisions SET executed_at = now() WHERE version LIKE '%2'")
    assert team.planned().pending == 0


@pytest.mark.parametrize("layout", ["Flyway"], indirect=True)
def test_a_repeatable_that_is_half_done_after_it_ran_before_is_brought_to_its_end(team):
    team.add(1, "CREATE TABLE a (id int);", "DROP TABLE a;")
    script = team.folder / "R__fill.sql"
    script.write_text("SELECT 1;")
    team.deploy("u1")
    script.write_text("INSERT INTO a VALUES (7);\nSELECT 1/0;")
    (team.folder / "R__fill.sql.conf").write_text("executeInTransaction=false\n")
    assert failure(lambda: team.apply("u2")).reason is Reason.PARTIALLY_APPLIED
    policy = saying(team, ResolveAs.APPLIED, "R__fill")
    assert team.deploy("u3", policy=policy).resolved == 1
    assert team.planned().pending == 0
    assert team.database.psql("SELECT count(*) FROM a") == "1"
