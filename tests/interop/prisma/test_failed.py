"""A migration that failed under one is failed for the other; either resolves it, either goes on."""

import re

import pytest

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed

BOOK = ("1_book", "CREATE TABLE book (id int);\nINSERT INTO book VALUES (1), (1);\n")
BROKEN = ("2_broken", "ALTER TABLE book ADD COLUMN a int;\nSELECT 1 / 0;\n")
MENDED = ("2_broken", "ALTER TABLE book ADD COLUMN a int;\n")
LATER = ("3_later", "ALTER TABLE book ADD COLUMN b int;\n")
HALF = ("2_half", "CREATE TABLE half (id int);\nCREATE UNIQUE INDEX CONCURRENTLY one ON book (id);\n")


def refused(project) -> StepFailed:
    with pytest.raises(StepFailed) as raised:
        project.planned()
    return raised.value


def test_failed_under_prisma(prisma, project):
    for migration in (BOOK, BROKEN, LATER):
        project.write(*migration)
    assert prisma.deploy().status == 1
    failure = refused(project).failure
    assert (failure.reason, failure.migration) == (Reason.FAILED_EARLIER, BROKEN[0])
    resolved = prisma.resolve("rolled-back", BROKEN[0])
    assert resolved.status == 0, resolved
    project.write(*MENDED)
    assert project.deploy("u1").applied == 2
    assert project.rows() == ["1_book", "2_broken~", "2_broken", "3_later"]
    assert prisma.status().status == 0
    assert prisma.drift().status == 0


def test_failed_under_prisma_and_resolved_as_applied(prisma, project):
    for migration in (BOOK, BROKEN):
        project.write(*migration)
    assert prisma.deploy().status == 1
    project.database.psql("ALTER TABLE book ADD COLUMN a int")
    assert prisma.resolve("applied", BROKEN[0]).status == 0
    planned = project.planned()
    assert (planned.pending, planned.applied, planned.current) == (0, 2, BROKEN[0])


def test_failed_under_godwit_and_rolled_back_is_merely_pending_for_prisma(prisma, project):
    for migration in (BOOK, BROKEN, LATER):
        project.write(*migration)
    with pytest.raises(StepFailed):
        project.apply("u1")
    status = prisma.status()
    assert (status.status, "have not yet been applied" in status.text) == (1, True), status
    project.write(*MENDED)
    deployed = prisma.deploy()
    assert deployed.status == 0, deployed
    assert project.planned().pending == 0


def test_half_done_under_godwit_is_failed_for_prisma(prisma, project):
    for migration in (BOOK, HALF):
        project.write(*migration)
    with pytest.raises(StepFailed) as raised:
        project.apply("u1")
    assert raised.value.failure.reason is Reason.PARTIALLY_APPLIED
    status = prisma.status()
    assert (status.status, bool(re.search("migrations? have failed", status.text))) == (1, True), status
    deployed = prisma.deploy()
    assert (deployed.status, "P3009" in deployed.text, HALF[0] in deployed.text) == (1, True, True), deployed
    project.database.psql("DELETE FROM book")
    project.database.psql("DROP TABLE half")
    assert prisma.resolve("rolled-back", HALF[0]).status == 0
    assert project.deploy("u2").applied == 1
    assert project.rows() == ["1_book", "2_half~", "2_half"]
    assert prisma.status().status == 0
