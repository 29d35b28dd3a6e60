"""What the demo plays on: an embedded PostgreSQL, a cluster in memory, and the operator's own controller."""

import contextlib
import hashlib
import logging
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from godwit.cli.demo_manifests import CLAIM, COUNTS, NAME, NAMESPACE
from godwit.cli.embedded import HOST, SUPERUSER, EmbeddedPostgres
from godwit.cluster.local import LocalCluster
from godwit.controller.local import serving
from godwit.controller.loop import Controller

Manifest = dict[str, Any]

_IMAGE = "local"
"""Steps run as processes here, so that nothing asks for an image of this name."""
# pg_dump's random mark (CVE-2025-8714), and sequences, which move also when a transaction is rolled back
# (manual, section 9.17): neither says anything about what a failed migration left behind.
_UNSTABLE = re.compile(r"^(\\(un)?restrict .*|SELECT pg_catalog\.setval\(.*)\n", re.MULTILINE)


class Stage:
    """A server with one database, and a cluster with one namespace that the controller looks after."""

    def __init__(self, folder: Path, server: EmbeddedPostgres, cluster: LocalCluster) -> None:
        self.folder = folder
        self.server = server
        self.cluster = cluster

    @property
    def uri(self) -> str:
        """The database's connection, password included."""
        return self.server.uri(NAME)

    async def get(self, kind: str, name: str) -> Manifest | None:
        """An object of the namespace, or None."""
        return await self.cluster.get(kind, NAMESPACE, name)

    async def all(self, *kinds: str) -> list[Manifest]:
        """All objects of those kinds, kind by kind."""
        return [found for kind in kinds for found in await self.cluster.list(kind, NAMESPACE)]

    def psql(self, sql: str) -> str:
        """Run SQL in the database as the application would; rows as lines of a|b|c."""
        return self.server.psql(sql, NAME)

    def rows(self) -> dict[str, int]:
        """How many rows each of the application's tables has."""
        lines = self.psql(COUNTS).splitlines()
        return {table: int(count) for table, count in (line.split("|") for line in lines)}

    def history(self) -> list[str]:
        """The applied migrations, as Prisma's own table has them."""
        sql = "SELECT migration_name FROM _prisma_migrations WHERE finished_at IS NOT NULL ORDER BY 1"
        return self.psql(sql).splitlines()

    def dump(self) -> str:
        """The database by pg_dump, without Godwit's own journal and what changes by itself."""
        return _UNSTABLE.sub("", self.server.run("pg_dump", "--exclude-schema=godwit", database=NAME))


def digest(text: str) -> str:
    """SHA-256 of a text, shortened for people."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def new_folder(wanted: Path | None) -> Path:
    """An empty folder that the server's user may pass through. Raises FileExistsError, OSError."""
    if wanted is None:
        # Not below a folder of root's: PostgreSQL then runs as another user, who must get in.
        folder = Path(tempfile.mkdtemp(prefix="godwit-demo-", dir="/var/tmp"))
    else:
        folder = wanted.absolute()
        folder.mkdir()
    folder.chmod(0o711)
    return folder


@contextlib.contextmanager
def stage_server(folder: Path, *, keep: bool) -> Iterator[EmbeddedPostgres]:
    """The server, with an empty database. With *keep*, it goes on after a success."""
    server = EmbeddedPostgres(folder / "server", password=secrets.token_urlsafe(18))
    server.start()
    try:
        server.create_database(NAME)
        yield server
    except BaseException:
        server.stop()
        raise
    if not keep:
        server.stop()


@asynccontextmanager
async def stage_cluster(folder: Path, server: EmbeddedPostgres) -> AsyncIterator[Stage]:
    """The cluster with the controller at work. What it logs goes to `operator.log` in *folder*."""
    backups = folder / "backups"
    backups.mkdir(mode=0o700)
    with _logged(folder / "operator.log"):
        async with LocalCluster(namespaces=(NAMESPACE,), pg_bin=server.bin_dir) as cluster:
            cluster.add_volume(NAMESPACE, CLAIM, backups)
            async with serving(cluster, Controller(cluster, image=_IMAGE)):
                yield Stage(folder, server, cluster)


def password_file(folder: Path, server: EmbeddedPostgres) -> Path:
    """A password file for psql (manual, section 34.16), which only its owner can read."""
    path = folder / "pgpass"
    path.touch(mode=0o600)
    path.write_text(f"{HOST}:{server.port}:*:{SUPERUSER}:{server.password}\n", encoding="utf-8")
    return path


def remove(folder: Path) -> None:
    """Remove a folder that `new_folder` made."""
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send the logs of the controller and of every library to a file: the screen is for the demo."""
    with path.open("w", encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        root = logging.getLogger()
        root.addHandler(handler)
        structlog.configure(logger_factory=structlog.WriteLoggerFactory(file))
        try:
            yield
        finally:
            structlog.reset_defaults()
            root.removeHandler(handler)
