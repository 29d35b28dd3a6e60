"""A real PgBouncer between a step and PostgreSQL: refused with the way out, or used as it was declared."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pgbouncer import pgbouncer

from godwit.contract.policy import Pooler
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection
from godwit.engine.errors import StepFailed

DECLARED = Connection(pooler=Pooler.SESSION)


@pytest.fixture
def pooled(project, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Put a PgBouncer between the project and its database."""
    with ExitStack() as stack:

        def pool(mode: str, *, ignore_options: bool = False) -> None:
            server = project.database.server
            port = stack.enter_context(
                pgbouncer(server, tmp_path / "pooler", mode=mode, ignore_options=ignore_options)
            )
            project.uri = project.uri.replace(f":{server.port}/", f":{port}/")

        yield pool


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("ignore_options", [False, True])
def test_a_pooler_that_nobody_declared_is_refused_and_the_ways_out_are_named(
    project, pooled, mode, ignore_options
):
    pooled(mode, ignore_options=ignore_options)
    with pytest.raises(StepFailed) as refused, project.context().session(writing=True):
        pass
    failure = refused.value.failure
    assert failure.reason is Reason.POOLER_REFUSED
    assert "direct connection" in failure.hint
    assert "pooler: Session" in failure.hint
    assert failure.standing == "Nothing was changed."


def test_a_declared_session_pooler_carries_a_whole_deployment(project, pooled):
    project.write("1_a", "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);", "DROP TABLE a;")
    project.write("2_b", "CREATE INDEX CONCURRENTLY a_twice ON a (id);")
    plan = project.plan()
    pooled("session", ignore_options=True)
    applied = project.apply(plan=plan, connection=DECLARED)
    project.verify("u1", applied.state, connection=DECLARED)
    assert project.rows() == ["1_a", "2_b"]


def test_a_pooler_that_was_declared_as_session_but_shares_its_connections_is_refused(project, pooled):
    pooled("transaction", ignore_options=True)
    with pytest.raises(StepFailed) as refused, project.context(connection=DECLARED).session(writing=True):
        pass
    failure = refused.value.failure
    assert failure.reason is Reason.POOLER_REFUSED
    assert "transaction mode" in failure.message
    assert "direct connection" in failure.hint
