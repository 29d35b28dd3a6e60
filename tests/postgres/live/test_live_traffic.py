"""An application goes on, on primary and standby, while each procedure of the runbook is carried out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from standby import caught_up, standby
from traffic import SCENARIOS, prepare, traffic

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.policy import Environment

ROWS = 20_000
ALLOWED_S = 2 + 5
"""The defaults of lockTimeout and maxLockHold together: a query that waits for longer fails."""
LOAD = {"rows": ROWS, "clients": 3, "period": 0.02, "patience": ALLOWED_S}


@pytest.fixture(scope="module")
def replica(postgres_server: EmbeddedPostgres, server_folder: Path) -> Iterator[EmbeddedPostgres]:
    with standby(postgres_server, server_folder / "reading", slot="reading") as server:
        yield server


# Each takes its time and a load of its own on both servers: these two are run often.
OFTEN = {"add a column with a default", "fill a column in batches"}


@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in SCENARIOS]
)
def test_no_query_fails_and_none_waits_longer_than_allowed(project, replica, scenario):
    prepare(project, scenario, ROWS, environment=Environment.PRODUCTION)
    policy = project.policy(environment=Environment.PRODUCTION, lock_budget_ms=60_000)
    assert policy.lock_timeout_ms + policy.max_lock_hold_ms == ALLOWED_S * 1000
    plan = project.plan(policy=policy)
    caught_up(project.database.server, replica)
    with (
        traffic(project.uri, writes=True, report=(0.3, 0.5), **LOAD) as primary,
        traffic(replica.uri(project.database.name), writes=False, **LOAD) as reading,
    ):
        project.deploy("u1", plan=plan, policy=policy, environment=Environment.PRODUCTION)
        caught_up(project.database.server, replica)
    assert len(project.rows()) == 1 + len(SCENARIOS[scenario])
    assert (primary.failed, reading.failed) == ([], [])
