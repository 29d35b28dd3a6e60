"""A database that had tables before it had a history."""

import pytest

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed

SCRIPT = "CREATE TABLE book (id int PRIMARY KEY);\n"


def test_baselined_by_prisma(prisma, project):
    project.database.psql(SCRIPT)
    project.write("0_init", SCRIPT)
    deployed = prisma.deploy()
    assert (deployed.status, "P3005" in deployed.text) == (1, True), deployed
    with pytest.raises(StepFailed) as raised:
        project.planned()
    assert raised.value.failure.reason is Reason.HISTORY_MISSING
    assert prisma.resolve("applied", "0_init").status == 0
    project.write("1_more", "ALTER TABLE book ADD COLUMN title text;\n")
    assert project.deploy().applied == 1
    assert prisma.status().status == 0
    assert prisma.drift().status == 0
