"""A real streaming standby: never a target; its lag and what it does to its readers are told."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from standby import caught_up, standby

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed


@pytest.fixture(scope="module")
def replica(postgres_server: EmbeddedPostgres, server_folder: Path) -> Iterator[EmbeddedPostgres]:
    with standby(postgres_server, server_folder / "replica", slot="replica") as server:
        yield server


def test_a_streaming_standby_is_no_target(project, replica):
    caught_up(project.database.server, replica)
    elsewhere = replace(project, uri=replica.uri(project.database.name))
    with pytest.raises(StepFailed) as refused, elsewhere.context().session(writing=True):
        pass
    failure = refused.value.failure
    assert failure.reason is Reason.STANDBY_REFUSED
    assert "primary" in failure.reason.advice.next
    assert failure.standing == "Nothing was changed."
