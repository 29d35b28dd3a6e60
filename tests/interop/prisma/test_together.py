"""Both at the same time: one waits for the other, and every migration is applied once."""

import threading

import psycopg
import pytest
from waiting import until

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed

MIGRATIONS = (
    ("1_book", "CREATE TABLE book (id int PRIMARY KEY);\n"),
    ("2_price", "ALTER TABLE book ADD COLUMN price numeric;\n"),
)
GATE = 4711  # a lock of the test's own, at which a migration waits

_WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {} AND NOT granted"


def test_prisma_waits_for_godwit(prisma, project):
    for migration in MIGRATIONS:
        project.write(*migration)
    started = []

    def point(name: str) -> None:
        if name == "apply.before_commit" and not started:
            started.append(prisma.start("migrate", "deploy"))
            until(lambda: project.database.psql(_WAITS.format(72707369)) == "1", "the command line waits")

    project.point = point
    project.deploy()
    with started[0] as process:
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, "No pending migrations to apply." in said) == (0, True), said
    assert project.rows() == ["1_book", "2_price"]


def test_godwit_waits_for_prisma_and_plans_again(prisma, project):
    for migration in MIGRATIONS:
        project.write(*migration)
    project.write("1_book", f"{MIGRATIONS[0][1]}SELECT pg_advisory_xact_lock({GATE});\n")
    plan = project.plan()
    with psycopg.connect(project.uri, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(%s)", (GATE,))
        with prisma.start("migrate", "deploy") as process:
            until(lambda: project.database.psql(_WAITS.format(GATE)) == "1", "the command line is at work")
            failures = []
            step = threading.Thread(target=lambda: failures.append(_failure_of(project, plan)))
            step.start()
            at_work = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'godwit apply#1%'"
            until(lambda: project.database.psql(at_work) == "1", "the step has connected")
            gate.execute("SELECT pg_advisory_unlock(%s)", (GATE,))
            said, _ = process.communicate(timeout=60)
            step.join(60)
    assert process.returncode == 0, said
    assert [failure.reason for failure in failures] == [Reason.STATE_MOVED]
    assert project.planned().pending == 0
    assert project.rows() == ["1_book", "2_price"]


def test_who_waits_in_vain_says_so_and_changes_nothing(prisma_of, project):
    prisma = prisma_of("6.19")
    project.write("1_book", f"{MIGRATIONS[0][1]}SELECT pg_advisory_xact_lock({GATE});\n")
    plan = project.plan()
    with psycopg.connect(project.uri, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(%s)", (GATE,))
        with prisma.start("migrate", "deploy") as process:
            until(lambda: project.database.psql(_WAITS.format(GATE)) == "1", "the command line is at work")
            failure = _failure_of(project, plan)
            gate.execute("SELECT pg_advisory_unlock(%s)", (GATE,))
            said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert failure.reason is Reason.LOCK_HELD
    assert project.rows() == ["1_book"]


def _failure_of(project, plan):
    with pytest.raises(StepFailed) as raised:
        project.apply("u1", plan=plan)
    return raised.value.failure
