"""Each tool's real command line beside Godwit, in one folder and on one database."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from peers import PEERS, Peer
from project import Project

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, and give it time: the first test may have to build the tools."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(1800))


@dataclass
class Team(Project):
    """A team that works with a tool, and with Godwit."""

    peer: Peer = field(kw_only=True)

    def add(self, number: int, up: str, down: str = "SELECT 1;", *, transaction: bool = True) -> str:
        return self.peer.layout.write(self.folder, number, up, down, transaction=transaction)


@pytest.fixture(params=sorted(PEERS))
def make_team(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Team]:
    """A team of each tool in turn, for a database."""
    folder = tmp_path / "migrations"
    folder.mkdir()

    def make(database: Any) -> Team:
        peer = PEERS[request.param](database.uri, folder)
        return Team(database, folder, database.uri, format=peer.layout.format, peer=peer)

    return make


@pytest.fixture
def team(make_team: Callable[[Any], Team], database: Any) -> Team:
    """A team with an empty folder and a fresh, empty database."""
    return make_team(database)
