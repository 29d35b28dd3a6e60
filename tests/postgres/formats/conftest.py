"""A project in the layout of each tool in turn."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from layouts import LAYOUTS, Layout
from project import Project


@dataclass
class Team(Project):
    """A team that works with the tool of a layout. `write` of a number gives the migration's name."""

    layout: Layout = field(kw_only=True)

    def add(self, number: int, up: str, down: str = "SELECT 1;", *, transaction: bool = True) -> str:
        return self.layout.write(self.folder, number, up, down, transaction=transaction)


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Layout:
    """Each tool's layout in turn."""
    return LAYOUTS[request.param]


@pytest.fixture
def team(database: Any, tmp_path: Any, layout: Layout) -> Team:
    """An empty migration folder for a fresh, empty database."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    return Team(database, folder, database.uri, format=layout.format, layout=layout)
