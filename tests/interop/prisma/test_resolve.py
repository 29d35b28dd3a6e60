"""`spec.resolve` and `spec.baseline` do what `prisma migrate resolve` does, and are refused where it is."""

from dataclasses import replace

import pytest

from godwit.contract.policy import Resolve, ResolveAs
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed

BOOK = ("1_book", "CREATE TABLE book (id int);\n")
BROKEN = ("2_broken", "ALTER TABLE book ADD COLUMN a int;\nSELECT 1 / 0;\n")
MENDED = ("2_broken", "ALTER TABLE book ADD COLUMN a int;\n")
LATER = ("3_later", "ALTER TABLE book ADD COLUMN b int;\n")

OPTIONS = {ResolveAs.APPLIED: "applied", ResolveAs.ROLLED_BACK: "rolled-back"}

# Ids and times differ; the error text is each one's own words.
_ROWS = """
SELECT migration_name, checksum, finished_at IS NULL, rolled_back_at IS NULL, applied_steps_count,
       CASE logs WHEN '' THEN 'empty' ELSE coalesce(left(logs, 0), 'NULL') END,
       finished_at = started_at, rolled_back_at >= started_at
  FROM _prisma_migrations ORDER BY started_at"""


@pytest.fixture
def other(project, database_on, postgres_server):
    """The same folder with a database of its own, where Prisma's command line alone is at work."""
    database = database_on(postgres_server)
    return replace(project, database=database, uri=database.uri)


def declared(how: ResolveAs, name: str) -> dict:
    return {"resolve": (Resolve(migration=name, as_=how),)}


@pytest.mark.parametrize("how", OPTIONS)
def test_a_failed_migration_is_resolved_with_the_same_rows(prisma, project, other, how):
    for migration in (BOOK, BROKEN):
        project.write(*migration)
    for database in (project.database, other.database):
        assert prisma.on(database).deploy().status == 1
    told = prisma.on(other.database).resolve(OPTIONS[how], BROKEN[0])
    assert told.status == 0, told
    project.write(*MENDED)
    policy = project.policy(**declared(how, BROKEN[0]))
    outcome = project.deploy("u1", policy=policy)
    assert outcome.resolved == 1
    assert prisma.on(other.database).deploy().status == 0
    ours, theirs = (p.database.psql(_ROWS) for p in (project, other))
    # Applied as a mended file, the row has another checksum than the file that Prisma resolved.
    assert [r.split("|")[2:] for r in ours.splitlines()] == [r.split("|")[2:] for r in theirs.splitlines()]
    status = prisma.status()
    assert (status.status, "up to date" in status.text) == (0, True), status
    assert project.planned(policy=policy).direction is None


def test_a_database_is_baselined_with_the_same_rows(prisma, project, other):
    for database in (project.database, other.database):
        database.psql(BOOK[1] + MENDED[1])
    for migration in (BOOK, MENDED, LATER):
        project.write(*migration)
    for name in (BOOK[0], MENDED[0]):
        assert prisma.on(other.database).resolve("applied", name).status == 0
    assert prisma.on(other.database).deploy().status == 0
    policy = project.policy(baseline=MENDED[0])
    outcome = project.deploy("u1", policy=policy)
    assert (outcome.resolved, outcome.applied) == (1, 1)
    assert project.database.psql(_ROWS) == other.database.psql(_ROWS)
    status = prisma.status()
    assert (status.status, "up to date" in status.text) == (0, True), status
    assert prisma.drift().status == 0
    assert project.planned(policy=policy).direction is None


REFUSED = {
    "P3017": (ResolveAs.APPLIED, "9_unknown"),
    "P3011": (ResolveAs.ROLLED_BACK, "3_later"),
    "P3012": (ResolveAs.ROLLED_BACK, "1_book"),
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_prisma_refuses_is_refused(prisma_of, project, code):
    prisma = prisma_of("6.19")
    project.write(*BOOK)
    project.deploy("u1")
    project.write(*LATER)
    how, name = REFUSED[code]
    told = prisma.resolve(OPTIONS[how], name)
    assert (told.status, code in told.text) == (1, True), told
    with pytest.raises(StepFailed) as raised:
        project.planned(policy=project.policy(**declared(how, name)))
    assert raised.value.failure.reason is Reason.RESOLVE_REFUSED
    assert code in raised.value.failure.message


def test_a_migration_that_was_undone_by_hand_is_refused_as_applied(prisma_of, project):
    prisma = prisma_of("7.10")
    project.write(*BOOK)
    project.deploy("u1")
    project.database.psql("UPDATE _prisma_migrations SET rolled_back_at = now()")
    told = prisma.resolve("applied", BOOK[0])
    assert (told.status, "P3008" in told.text) == (1, True), told
    with pytest.raises(StepFailed) as raised:
        project.planned(policy=project.policy(**declared(ResolveAs.APPLIED, BOOK[0])))
    assert "P3008" in raised.value.failure.message
