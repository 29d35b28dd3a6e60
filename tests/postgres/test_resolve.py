"""`spec.resolve` and `spec.baseline` in a database: once, under the lock, together with what they are for."""

import pytest

from godwit.contract.policy import EditedMigrations, Policy, Resolve, ResolveAs
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput, RevertScope
from godwit.engine.apply import apply_verb
from godwit.engine.errors import StepFailed

BOOK = ("1_book", "CREATE TABLE book (id int);\nINSERT INTO book VALUES (1), (1);\n")
HALF = ("2_half", "CREATE TABLE half (id int);\nCREATE UNIQUE INDEX CONCURRENTLY one ON book (id);\n")
MENDED = ("2_half", "CREATE INDEX CONCURRENTLY one ON book (id);\n", "DROP INDEX one;\n")
LATER = ("3_later", "ALTER TABLE book ADD COLUMN b int;\n", "ALTER TABLE book DROP COLUMN b;\n")


def saying(project, how: ResolveAs, name: str, requested_at: str = "", **more) -> Policy:
    entry = Resolve(migration=name, as_=how, requested_at=requested_at)
    return project.policy(resolve=(entry,), **more)


@pytest.fixture
def half(project):
    """A project whose second migration is half done: its table stands, its index does not."""
    project.write(*BOOK)
    project.write(*HALF)
    with pytest.raises(StepFailed):
        project.apply("u1")
    assert project.rows() == ["1_book", "2_half!"]
    project.database.psql("DROP TABLE half")
    project.write(*MENDED)
    return project


def failure(project, **options):
    with pytest.raises(StepFailed) as raised:
        project.planned(**options)
    return raised.value.failure


def resolved(project) -> list[str]:
    return project.database.psql(
        "SELECT migration || ' ' || (detail ->> 'as') FROM godwit.journal "
        "WHERE event = 'Resolved' ORDER BY id"
    ).splitlines()


def test_planning_tells_of_it_and_writes_nothing(half):
    before = half.database.dump(without=())
    policy = saying(half, ResolveAs.ROLLED_BACK, "2_half")
    plan = half.planned(policy=policy)
    assert (plan.resolutions, plan.pending, plan.findings.infos) == (1, 1, 1)
    assert plan.findings.first[0].reason is Reason.RESOLVED
    assert half.database.dump(without=()) == before


def test_a_half_done_migration_is_resolved_and_run_again(half):
    policy = saying(half, ResolveAs.ROLLED_BACK, "2_half")
    outcome = half.deploy("u2", policy=policy)
    assert (outcome.resolved, outcome.applied) == (1, 1)
    assert half.rows() == ["1_book", "2_half~", "2_half"]
    assert resolved(half) == ["2_half RolledBack"]


def test_the_declaration_may_stay_and_changes_nothing_more(half):
    policy = saying(half, ResolveAs.ROLLED_BACK, "2_half")
    half.deploy("u2", policy=policy)
    assert half.planned(policy=policy).direction is None
    half.write(*LATER)
    outcome = half.deploy("u3", policy=policy)
    assert (outcome.resolved, outcome.applied) == (0, 1)
    assert resolved(half) == ["2_half RolledBack"]


def test_a_later_failure_of_the_same_migration_has_to_be_asked_for_again(half):
    half.write(*HALF)
    policy = saying(half, ResolveAs.ROLLED_BACK, "2_half")
    with pytest.raises(StepFailed):
        half.apply("u2", policy=policy)
    assert half.rows() == ["1_book", "2_half~", "2_half!"]
    half.database.psql("DROP TABLE half")
    half.write(*MENDED)
    assert failure(half, policy=policy).reason is Reason.FAILED_EARLIER
    again = saying(half, ResolveAs.ROLLED_BACK, "2_half", "the second time")
    assert half.deploy("u3", policy=again).resolved == 1
    assert half.rows() == ["1_book", "2_half~", "2_half~", "2_half"]


def test_with_nothing_pending_the_history_alone_is_changed(half):
    half.database.psql("CREATE INDEX one ON book (id)")
    policy = saying(half, ResolveAs.APPLIED, "2_half")
    plan = half.planned(policy=policy)
    assert (plan.resolutions, plan.pending, plan.direction) == (1, 0, "Up")
    outcome = half.deploy("u2", policy=policy)
    assert (outcome.resolved, outcome.applied, outcome.current) == (1, 0, "2_half")
    assert half.rows() == ["1_book", "2_half~", "2_half"]
    assert half.planned(policy=policy).direction is None


def test_another_attempt_finds_it_done(half):
    half.write("3_later", "SELECT 1 / 0;\n")
    policy = saying(half, ResolveAs.ROLLED_BACK, "2_half")
    plan = half.plan(policy=policy)
    verb = ApplyInput(plan=plan, policy=policy)

    def broken(name: str) -> None:
        if name == "apply.after_resolve":
            raise KeyboardInterrupt

    half.point = broken
    with pytest.raises(KeyboardInterrupt):
        apply_verb(half.context("u2", "apply"), verb)
    half.point = lambda _: None
    with pytest.raises(StepFailed) as raised:
        apply_verb(half.context("u2", "apply", attempt=2), verb)
    assert raised.value.failure.reason is Reason.MIGRATION_FAILED
    assert (raised.value.outcome.resolved, raised.value.outcome.applied) == (1, 1)
    assert resolved(half) == ["2_half RolledBack"]


def test_taking_the_operation_back_takes_it_back_too(half):
    before = half.database.dump()
    half.write("3_later", "SELECT 1 / 0;\n")
    policy = saying(half, ResolveAs.ROLLED_BACK, "2_half")
    plan = half.plan(policy=policy)
    with pytest.raises(StepFailed):
        half.apply("u2", plan=plan, policy=policy)
    outcome = half.revert("u2", RevertScope.OPERATION, plan, policy)
    assert (outcome.resolved, outcome.state) == (0, plan.from_state)
    assert half.database.dump() == before
    half.write(*LATER)
    assert half.planned(policy=policy).resolutions == 1


def test_a_baseline_marks_and_the_rest_runs(project):
    project.database.psql("CREATE TABLE book (id int)")
    project.write(*BOOK)
    project.write(*LATER)
    policy = project.policy(baseline="1_book")
    assert failure(project).reason is Reason.HISTORY_MISSING
    outcome = project.deploy("u1", policy=policy)
    assert (outcome.resolved, outcome.applied) == (1, 1)
    assert project.database.psql("SELECT count(*) FROM book") == "0"
    assert resolved(project) == ["1_book Baseline"]
    assert project.planned(policy=policy).direction is None


def test_a_baseline_of_an_empty_database_is_passed_over(project):
    project.write(*BOOK)
    policy = project.policy(baseline="1_book")
    assert project.planned(policy=policy).findings.first[0].reason is Reason.RESOLVED
    outcome = project.deploy("u1", policy=policy)
    assert (outcome.resolved, outcome.applied) == (0, 1)
    assert project.database.psql("SELECT count(*) FROM book") == "2"


def test_going_down_refuses_to_resolve_as_well(half):
    half.write(*BOOK, "DROP TABLE book;\n")
    half.write("0_before", "SELECT 1;\n")
    policy = saying(half, ResolveAs.ROLLED_BACK, "2_half")
    assert failure(half, policy=policy, target="0_before").reason is Reason.RESOLVE_REFUSED


@pytest.mark.parametrize(
    ("edited", "severity"), [(EditedMigrations.WARN, "Warning"), (EditedMigrations.ACCEPT, "Info")]
)
def test_an_edited_migration_stops_nothing_where_the_policy_says_so(project, edited, severity):
    project.write("1_book", "CREATE TABLE book (id int);\n")
    project.deploy("u1")
    project.write("1_book", "CREATE TABLE book (id bigint);\n")
    project.write(*LATER)
    assert failure(project).reason is Reason.EDITED_MIGRATION
    policy = project.policy(edited=edited)
    (finding,) = project.planned(policy=policy).findings.first
    assert (finding.severity, finding.reason) == (severity, Reason.EDITED_MIGRATION)
    assert project.deploy("u2", policy=policy).applied == 1


MORE = (
    "2_more",
    "CREATE TABLE more ();",
    "DROP TABLE more;\nCREATE UNIQUE INDEX CONCURRENTLY one ON book (id);",
)


@pytest.fixture
def half_back(project):
    """A project whose second migration was half taken back: its table is gone, its row stands."""
    project.write(*BOOK)
    project.write(*MORE)
    project.deploy("u1")
    with pytest.raises(StepFailed) as raised:
        project.revert("u2", RevertScope.PLAN, project.plan("1_book"))
    assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    assert project.rows() == ["1_book", "2_more"]
    return project


@pytest.mark.parametrize("target", ["Latest", "1_book"])
def test_nothing_follows_a_way_back_that_is_half_done(half_back, target):
    found = failure(half_back, target=target)
    assert (found.reason, found.migration) == (Reason.FAILED_EARLIER, "2_more")
    assert found.message.startswith("The way back of 2_more was begun at ")
    policy = saying(half_back, ResolveAs.ROLLED_BACK, "2_more")
    assert failure(half_back, target=target, policy=policy).reason is Reason.RESOLVE_REFUSED


def test_a_migration_that_was_half_taken_back_is_made_whole_again(half_back):
    half_back.database.psql("CREATE TABLE more ()")
    policy = saying(half_back, ResolveAs.APPLIED, "2_more")
    assert (half_back.planned(policy=policy).pending, half_back.planned(policy=policy).resolutions) == (0, 1)
    half_back.write(*LATER)
    half_back.deploy("u3", policy=policy)
    assert resolved(half_back) == ["2_more Applied"]
    assert half_back.planned().pending == 0


def test_what_was_said_of_one_way_back_does_not_cover_the_next(half_back):
    half_back.database.psql("CREATE TABLE more ()")
    policy = saying(half_back, ResolveAs.APPLIED, "2_more")
    assert failure(half_back, target="1_book", policy=policy).reason is Reason.RESOLVE_REFUSED
    half_back.deploy("u3", policy=policy)
    assert half_back.planned(policy=policy).direction is None
    with pytest.raises(StepFailed) as raised:
        half_back.revert("u4", RevertScope.PLAN, half_back.plan("1_book", policy), policy)
    assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    for target in ("Latest", "1_book"):
        assert failure(half_back, target=target, policy=policy).reason is Reason.FAILED_EARLIER
    asked = saying(half_back, ResolveAs.APPLIED, "2_more", requested_at="again")
    assert half_back.planned(policy=asked).resolutions == 1


def test_a_way_back_is_brought_to_its_end_by_hand(half_back):
    half_back.database.psql("DELETE FROM _prisma_migrations WHERE migration_name = '2_more'")
    assert half_back.planned().pending_names == ("2_more",)
    assert half_back.deploy("u3").applied == 1
    half_back.write(*MORE[:2], "DROP TABLE more;")
    assert half_back.planned().findings.errors == 0
