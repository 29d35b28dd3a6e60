"""Prisma's real command line, in the versions that teams run, beside Godwit on the same database."""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from node import modules
from project import Project
from project import project as project  # noqa: PLC0414  a fixture

HERE = Path(__file__).parent
TOOLS = HERE / "tools"
VERSIONS = ("6.14", "6.19", "7.10")

_SCHEMA = """
datasource db {{
  provider = "postgresql"
  {url}
}}
"""
_CONFIG = """
export default {
  schema: 'schema.prisma',
  migrations: { path: 'migrations' },
  datasource: { url: process.env.DATABASE_URL },
}
"""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, and give it time: the first test may have to download the tools."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))


@dataclass(frozen=True)
class Ended:
    """What a command line said and with which status it ended."""

    status: int
    text: str


@dataclass(frozen=True)
class Prisma:
    """The command line of one version, in a team's folder, on its database."""

    version: str
    modules: Path
    folder: Path
    uri: str

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        """Its words and environment."""
        main = self.modules / f"prisma-{self.version}" / "build" / "index.js"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
            "DATABASE_URL": self.uri,
            "PRISMA_SCHEMA_ENGINE_BINARY": str(TOOLS / "engine.mjs"),
            "PRISMA_QUERY_ENGINE_LIBRARY": str(TOOLS / "engine.mjs"),  # looked for, never loaded
            "GODWIT_INTEROP_MODULES": str(self.modules),
            "GODWIT_INTEROP_ENGINE": f"engine-{self.version}",
            "CHECKPOINT_DISABLE": "1",
            "PRISMA_HIDE_UPDATE_MESSAGE": "1",
            "NO_COLOR": "1",
            "CI": "1",
        }
        return ["node", str(main), *words], environ

    def on(self, database: Any) -> "Prisma":
        """The same, on another database."""
        return replace(self, uri=database.uri)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it and go on; `communicate()` gives what it says."""
        command, environ = self.command(*words)
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> Ended:
        """Run it to its end."""
        with self.start(*words) as process:
            said, _ = process.communicate(timeout=120)
        return Ended(process.returncode, _COLOURS.sub("", said))

    def deploy(self) -> Ended:
        """`migrate deploy`."""
        return self.run("migrate", "deploy")

    def status(self) -> Ended:
        """`migrate status`."""
        return self.run("migrate", "status")

    def resolve(self, how: str, name: str) -> Ended:
        """`migrate resolve --applied NAME` or `--rolled-back NAME`."""
        return self.run("migrate", "resolve", f"--{how}", name)

    def drift(self) -> Ended:
        """What the migrations would have to add to become the database: status 0 is nothing, 2 something."""
        database = ["--to-config-datasource"]
        if self.version.startswith("6."):
            database = ["--to-schema-datasource", "schema.prisma"]
        return self.run("migrate", "diff", "--from-migrations", "migrations", *database, "--exit-code")


@pytest.fixture(scope="session")
def prisma_modules() -> Path:
    """Where the tools are installed."""
    return modules(TOOLS)


@pytest.fixture
def prisma_of(prisma_modules: Path, project: Project) -> Callable[[str], Prisma]:
    """The command line of a version for the project, which it can read."""

    def make(version: str) -> Prisma:
        folder = project.folder.parent
        old = version.startswith("6.")
        url = 'url = env("DATABASE_URL")' if old else ""
        (folder / "schema.prisma").write_text(_SCHEMA.format(url=url))
        (project.folder / "migration_lock.toml").write_text('provider = "postgresql"\n')
        if not old:
            (folder / "prisma.config.ts").write_text(_CONFIG)
        return Prisma(version, prisma_modules, folder, project.uri)

    return make


@pytest.fixture(params=VERSIONS)
def prisma(request: pytest.FixtureRequest, prisma_of: Callable[[str], Prisma]) -> Prisma:
    """The command line of each version in turn."""
    return prisma_of(request.param)
