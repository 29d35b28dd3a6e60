"""What taking back would lose where a plain look at the rows does not tell."""

import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import RevertScope
from godwit.engine.errors import StepFailed


def fails_at_the_end(project):
    """A run whose last migration fails; returns its plan."""
    project.write("009_bad", "SELECT 1/0;")
    ref = project.plan()
    with pytest.raises(StepFailed):
        project.apply("u9", plan=ref)
    return ref


def refused(project, ref):
    """The failure to take back, which changed nothing."""
    before = project.database.dump()
    with pytest.raises(StepFailed) as failed:
        project.revert("u9", RevertScope.OPERATION, ref)
    assert project.database.dump() == before
    assert failed.value.failure.reason is Reason.DATA_WOULD_BE_LOST
    return failed.value.failure.message


@pytest.fixture
def secured(project, database, role):
    """A run of a plain owner that failed after it had made a table whose rows it cannot see itself."""
    owner, app = role("owner", owns=True), role("app")
    project.uri = database.uri_as(owner)
    project.write(
        "001_note",
        f"CREATE TABLE note (owner text); GRANT ALL ON note TO {app};"
        "ALTER TABLE note ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON note USING (owner = current_user);",
        "DROP TABLE note;",
    )
    return app, fails_at_the_end(project)


def test_rows_that_row_security_hides_from_the_role_are_not_lost(project, database, secured):
    app, ref = secured
    database.psql(f"SET ROLE {app}; INSERT INTO note VALUES ('{app}')")
    assert "rows of public.note that row security hides from the role" in refused(project, ref)
    assert database.psql("SELECT count(*) FROM note") == "1"


def test_a_table_with_row_security_and_without_rows_is_taken_back(project, secured):
    assert project.revert("u9", RevertScope.OPERATION, secured[1]).reverted == 1
