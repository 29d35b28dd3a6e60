"""What the tests of crashes share: databases that are made anew quickly."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from launcher import Launcher

from godwit.cli.embedded import EmbeddedPostgres

from .folders import PROOF, Migration
from .stage import Stage, write_folder

_RESETS_PER_VACUUM = 20


class Beds:
    """Two databases that are made anew for each story: quicker than to create them for each."""

    def __init__(self, server: EmbeddedPostgres, launcher: Launcher, base: Path) -> None:
        self._server, self._launcher, self._base = server, launcher, base
        self._conns = {name: self._made(name) for name in ("crash_calm", "crash_struck")}
        self._used = 0

    def _made(self, name: str) -> psycopg.Connection:
        self._server.create_database(name)
        return psycopg.connect(self._server.uri(name), autocommit=True)

    @contextlib.contextmanager
    def stages(self, migrations: tuple[Migration, ...]) -> Iterator[list[Stage]]:
        """Both of them, holding what folders work on, each with a folder of these migrations."""
        self._used += 1
        made = []
        for name, conn in self._conns.items():
            place = self._base / f"{name}_{self._used}"
            write_folder(place / "migrations", migrations)
            stage = Stage(self._server, self._launcher, name, place / "migrations", conn)
            stage.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL"
            )
            stage.quiet()
            conn.execute(PROOF.encode())
            if self._used % _RESETS_PER_VACUUM == 0:  # autovacuum is off, and the catalog is what grows
                conn.execute("VACUUM")
            made.append(stage)
        yield made
        for stage in made:
            shutil.rmtree(stage.folder.parent)

    def close(self) -> None:
        """Drop both."""
        for name, conn in self._conns.items():
            conn.close()
            self._server.drop_database(name)


@pytest.fixture(scope="module")
def beds(
    postgres_server: EmbeddedPostgres, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beds]:
    """The databases of this module's stories."""
    found = Beds(postgres_server, launcher, tmp_path_factory.mktemp("crashes"))
    yield found
    found.close()
