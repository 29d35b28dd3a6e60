"""What the journal says of a database after a restore: what came since the backup did not happen to it."""

from dataclasses import replace

import pytest
from layouts import LAYOUTS

from godwit.contract.policy import Environment, Resolve, ResolveAs
from godwit.contract.reasons import Reason
from godwit.contract.request import Format, ObjectRef, RevertScope
from godwit.engine.errors import StepFailed

BOOK = ("1_book", "CREATE TABLE book (id int);\n")
TITLE = ("2_title", "ALTER TABLE book ADD COLUMN title text;\n")
DOWN = "ALTER TABLE book DROP COLUMN title;\n"


def failing(call, *args, **options):
    with pytest.raises(StepFailed) as failed:
        call(*args, **options)
    return failed.value.failure.reason


def taken_back(project, operation):
    """Back to the first migration, by a run of its own."""
    project.revert(operation, RevertScope.PLAN, project.plan("1_book"))
    project.verify(operation, project.planned("1_book").from_state)


def another(project, make_restoring):
    """The backup of another operation, and its restore."""
    ref = ObjectRef(kind="DatabaseRestore", namespace="shop", name="another", uid="r2")
    development = Environment.DEVELOPMENT
    return make_restoring(project.database, environment=development, object=ref, operation="r2")


def test_a_baseline_that_the_backup_has_not_is_carried_out_again(project, make_restoring):
    project.database.psql("CREATE TABLE book (id int)")
    project.write(*BOOK)
    policy = project.policy(baseline="1_book")
    before = make_restoring(environment=Environment.DEVELOPMENT)
    project.deploy("u1", policy=policy)
    assert project.planned(policy=policy).resolutions == 0

    before.restore(accept_data_loss=True)
    assert project.planned(policy=policy).resolutions == 1
    assert project.deploy("u2", policy=policy).resolved == 1
    assert project.planned(policy=policy).resolutions == 0


def test_what_was_carried_out_before_the_backup_stays_so(project, make_restoring):
    project.write(*BOOK)
    project.write("2_half", "CREATE TABLE half (id int);\nCREATE INDEX CONCURRENTLY one ON missing (id);\n")
    failing(project.apply)
    project.database.psql("DROP TABLE half")
    project.write("2_half", "CREATE INDEX CONCURRENTLY one ON book (id);\n")
    policy = project.policy(resolve=(Resolve(migration="2_half", as_=ResolveAs.ROLLED_BACK),))
    project.deploy("u2", policy=policy)
    made = make_restoring(environment=Environment.DEVELOPMENT)
    project.write("3_title", TITLE[1])
    project.deploy("u3", policy=policy)

    made.restore(accept_data_loss=True)
    plan = project.planned(policy=policy)
    assert (plan.resolutions, plan.pending_names) == (0, ("3_title",))


def test_the_way_back_of_what_was_taken_back_since_is_known_again(project, make_restoring):
    project.write(*BOOK)
    project.write(*TITLE, DOWN)
    project.deploy("u1")
    made = make_restoring(environment=Environment.DEVELOPMENT)
    taken_back(project, "u2")
    (project.folder / "2_title" / "down.sql").unlink()

    made.restore(accept_data_loss=True)
    taken_back(project, "u3")
    assert project.rows() == ["1_book"]


def test_the_backup_of_a_former_timeline_brings_its_own_back(project, make_restoring):
    """What a restore left behind has happened again after a second one, of a backup from before the first."""
    project.write(*BOOK)
    first = make_restoring(environment=Environment.DEVELOPMENT)
    project.write(*TITLE, DOWN)
    project.deploy("u1")
    second = another(project, make_restoring)
    first.restore(accept_data_loss=True)
    (project.folder / "2_title" / "down.sql").unlink()
    project.deploy("u2")
    assert failing(project.planned, "1_book") is Reason.DOWN_MISSING
    with first.context().session() as session:
        identity = session.identity

    second.restore(request={"identity": identity}, accept_data_loss=True)
    taken_back(project, "u3")
    assert project.rows() == ["1_book"]


@pytest.fixture
def goose(project):
    """A project of a tool whose own history does not tell what is half done."""
    made = replace(project, format=Format.GOOSE)
    layout = LAYOUTS["Goose"]
    layout.write(made.folder, 1, "CREATE TABLE book (id int);", "DROP TABLE book;", transaction=True)
    layout.write(
        made.folder, 2, "CREATE TABLE half (id int);\nSELECT 1/0;", "DROP TABLE half;", transaction=False
    )
    return made


def test_what_was_half_done_is_whole_after_a_restore(goose, make_restoring):
    made = make_restoring(environment=Environment.DEVELOPMENT)
    assert failing(goose.apply) is Reason.PARTIALLY_APPLIED
    assert failing(goose.planned) is Reason.FAILED_EARLIER

    made.restore(accept_data_loss=True)
    assert goose.planned().pending == 2
    another(goose, make_restoring).restore(accept_data_loss=True)
    assert goose.planned().pending == 2


def test_what_was_half_done_in_the_backup_is_half_done_after_a_restore(goose, make_restoring):
    assert failing(goose.apply) is Reason.PARTIALLY_APPLIED
    made = make_restoring(environment=Environment.DEVELOPMENT)
    goose.database.psql("DROP TABLE half")
    policy = goose.policy(resolve=(Resolve(migration="2", as_=ResolveAs.ROLLED_BACK),))
    LAYOUTS["Goose"].write(goose.folder, 2, "SELECT 1;", "SELECT 1;", transaction=True)
    goose.deploy("u2", policy=policy)
    assert goose.planned().pending == 0

    made.restore(accept_data_loss=True)
    assert failing(goose.planned) is Reason.FAILED_EARLIER


def test_a_way_back_that_was_half_done_is_forgotten_by_a_restore(project, make_restoring):
    project.write(*BOOK)
    project.write(
        "2_more", "CREATE TABLE more (id int);\n", "DROP TABLE more;\nDROP INDEX CONCURRENTLY no;\n"
    )
    project.deploy("u1")
    made = make_restoring(environment=Environment.DEVELOPMENT)
    assert failing(project.revert, "u2", RevertScope.PLAN, project.plan("1_book")) is Reason.PARTIALLY_APPLIED
    assert failing(project.planned) is Reason.FAILED_EARLIER

    made.restore(accept_data_loss=True)
    assert project.planned().pending == 0
