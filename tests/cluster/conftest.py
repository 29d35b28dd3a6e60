"""Fixtures of the tests on a cluster: the real one, and the port's two implementations."""

from collections.abc import AsyncIterator

import pytest
from conformance.bed import Bed


@pytest.fixture(params=["local", "kubernetes"])
def bed(request: pytest.FixtureRequest) -> Bed:
    """A bed of each implementation in turn."""
    found: Bed = request.getfixturevalue(f"{request.param}_cluster")
    return found


@pytest.fixture
async def local_cluster() -> AsyncIterator[Bed]:
    """The local cluster with an empty namespace."""
    from conformance.local import local_bed

    async with local_bed() as made:
        yield made
