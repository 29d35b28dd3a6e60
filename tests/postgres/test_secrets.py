"""The connection's password, wherever a migration repeats it: it shows in no outcome and in no log."""

import pytest

from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput, PlanInput

SECRET = "S3cret-w0rd-of-the-database"


@pytest.fixture
def with_password(project, database):
    """The project with a password in its connection; the test server asks for none."""
    project.uri = database.uri.replace("@", f":{SECRET}@", 1)
    return project


def shown(project):
    """Everything that the step has told."""
    return project._outcome_file.read_text() + project._said_file.read_text()


def test_a_finding_does_not_quote_it(with_password):
    with_password.write("1_a", f"SELECT 1 '{SECRET}' broken;")
    with_password.step(PlanInput(policy=with_password.policy()), "u0")
    assert "syntax error" in shown(with_password)
    assert SECRET[:8] not in shown(with_password)


@pytest.mark.parametrize("before", [260, 275, 280])
def test_no_part_of_it_is_left_where_a_statement_is_cut(with_password, before):
    with_password.write("1_a", f"SELECT {'1' * before}::text, '{SECRET}', 1 / 0;")
    policy = with_password.policy()
    outcome = with_password.step(ApplyInput(plan=with_password.plan(policy=policy), policy=policy))
    assert outcome.failure.reason is Reason.MIGRATION_FAILED
    assert outcome.failure.statement.startswith("SELECT 1")
    assert SECRET[:5] not in shown(with_password)
