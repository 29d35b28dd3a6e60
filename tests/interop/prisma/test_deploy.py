"""Deployed by Prisma's command line and seen by Godwit, and the other way round."""

import pytest

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed

INIT = ("20240101000000_init", "CREATE TABLE book (id int PRIMARY KEY, title text NOT NULL);\n")
INDEX = ("20240102000000_index", "CREATE INDEX CONCURRENTLY book_title ON book (title);\n")
PRICE = (
    "20240103000000_price",
    "ALTER TABLE book ADD COLUMN price numeric;\nINSERT INTO book VALUES (1, 'a', 2);\n",
)
ODD = ("20240104000000_odd", "-- umlauts: äöü, and nothing else\r\n")

UP_TO_DATE = "Database schema is up to date!"


def test_what_prisma_deployed_is_up_to_date_for_godwit(prisma, project):
    for migration in (INIT, INDEX, PRICE, ODD):
        project.write(*migration)
    deployed = prisma.deploy()
    assert (deployed.status, "successfully applied" in deployed.text) == (0, True), deployed
    planned = project.planned()
    assert (planned.direction, planned.pending, planned.applied) == (None, 0, 4)
    assert planned.findings.errors == planned.findings.warnings == 0


def test_what_godwit_applied_is_up_to_date_for_prisma(prisma, project):
    for migration in (INIT, INDEX, PRICE, ODD):
        project.write(*migration)
    project.deploy()
    status = prisma.status()
    assert (status.status, UP_TO_DATE in status.text) == (0, True), status
    again = prisma.deploy()
    assert (again.status, "No pending migrations to apply." in again.text) == (0, True), again
    drift = prisma.drift()
    assert (drift.status, "No difference detected." in drift.text) == (0, True), drift


def test_each_goes_on_where_the_other_stopped(prisma, project):
    project.write(*INIT)
    assert prisma.deploy().status == 0
    project.write(*INDEX)
    assert project.deploy("u1").applied == 1
    project.write(*PRICE)
    deployed = prisma.deploy()
    assert (deployed.status, PRICE[0] in deployed.text, INDEX[0] in deployed.text) == (0, True, False)
    project.write(*ODD)
    assert project.deploy("u2").applied == 1
    assert project.rows() == [INIT[0], INDEX[0], PRICE[0], ODD[0]]
    assert UP_TO_DATE in prisma.status().text


def test_what_godwit_took_back_is_pending_for_prisma(prisma, project):
    project.write(*INIT)
    project.write(*PRICE, "ALTER TABLE book DROP COLUMN price;\nDELETE FROM book;\n")
    project.deploy("u1")
    plan = project.plan(target=INIT[0])
    project.revert("u2", "Plan", plan)
    status = prisma.status()
    assert (status.status, PRICE[0] in status.text) == (1, True), status
    assert prisma.deploy().status == 0
    assert project.planned().pending == 0


def test_an_edited_migration_is_ignored_by_prisma_and_refused_by_godwit(prisma, project):
    project.write(*INIT)
    assert prisma.deploy().status == 0
    project.write(INIT[0], INIT[1] + "-- one more line\n")
    assert prisma.status().status == 0
    with pytest.raises(StepFailed) as raised:
        project.planned()
    assert raised.value.failure.reason is Reason.EDITED_MIGRATION


@pytest.mark.parametrize("edit", [("\n", "\r\n"), ("\r\n", "\n")], ids=["CRLF", "LF"])
def test_other_line_ends_are_no_edit_for_either(prisma_of, project, edit):
    prisma = prisma_of("7.10")
    before, after = edit
    (project.folder / INIT[0]).mkdir()
    script = project.folder / INIT[0] / "migration.sql"
    script.write_bytes(f"CREATE TABLE book ({before}id int);{before}".encode())
    assert prisma.deploy().status == 0
    script.write_bytes(f"CREATE TABLE book ({after}id int);{after}".encode())
    assert project.planned().pending == 0
