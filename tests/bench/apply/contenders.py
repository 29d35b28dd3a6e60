"""Who applies the same migrations: psql, Godwit, and other tools, each as its own documentation says.

Every one is a process that is started, applies everything to an empty database, and ends. What it needs
before that (Godwit's plan) is made outside of the time.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from apply import folders
from apply.folders import Layout, Migration
from apply.steps import Measured, Runner, measure

from godwit.contract.outcome import ApplyOutcome


class Contender(Protocol):
    """One way to apply a list of migrations; `prepare` is called once, `apply` for each fresh database."""

    name: str

    def prepare(self, folder: Path, migrations: Sequence[Migration]) -> None:
        """Write the migrations into *folder*, which is empty."""

    def apply(self, database: Any) -> Measured:
        """Apply all of them to *database*, which is empty."""


@dataclass
class Psql:
    """One session of psql over all files; with *whole*, each file in a transaction that can be in one."""

    name: str
    whole: bool
    files: list[tuple[Path, bool]] = field(default_factory=list)
    log: Path = Path()

    def prepare(self, folder: Path, migrations: Sequence[Migration]) -> None:
        self.log = folder / "psql.log"
        for each in migrations:
            path = folder / f"{each.number}.sql"
            path.write_text(each.sql, encoding="utf-8")
            self.files.append((path, self.whole and not each.apart))

    def apply(self, database: Any) -> Measured:
        server = database.server
        command = [str(server.bin_dir / "psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        for file, whole in self.files:
            one = ["-f", str(file)]
            command += ["-c", "BEGIN", *one, "-c", "COMMIT"] if whole else one
        return measure(command, server.environment(database.name), log=self.log)


@dataclass
class Godwit:
    """A step of a run as a process: Apply with history, journal and lock watch, then Verify."""

    name: str = "Godwit: Apply and Verify"
    count: int = 0
    runner: Runner | None = None

    def prepare(self, folder: Path, migrations: Sequence[Migration]) -> None:
        self.runner = Runner(folder)
        folders.prisma(self.runner.source, migrations)
        self.count = len(migrations)

    def apply(self, database: Any) -> Measured:
        assert self.runner is not None
        planned, _ = self.runner.plan(database.uri)
        assert planned.pending == self.count
        outcome, measured = self.runner.apply(database.uri, planned)
        applied = outcome.get(ApplyOutcome)
        assert applied is not None
        assert applied.applied == self.count
        return measured


@dataclass
class Peer:
    """Another tool. `command` is given the URI and the folder of its files, `environ` the one around them."""

    name: str
    layout: Layout
    command: Callable[[str, Path], list[str]]
    environ: Callable[[str, Path], dict[str, str]] = lambda _, __: {}
    folder: Path = Path()

    def prepare(self, folder: Path, migrations: Sequence[Migration]) -> None:
        self.folder = folder
        (folder / "migrations").mkdir()
        self.layout(folder / "migrations", migrations)

    def apply(self, database: Any) -> Measured:
        uri = f"{database.uri}?sslmode=disable"
        files = self.folder / "migrations"
        environ = os.environ | self.environ(uri, self.folder)
        return measure(self.command(uri, files), environ, log=self.folder / "peer.log", folder=self.folder)
