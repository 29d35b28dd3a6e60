"""Fixtures of every test: a real PostgreSQL server, and fresh databases and roles on it."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from launcher import Launcher
from psycopg import sql

from godwit.cli import embedded
from godwit.cli.embedded import SUPERUSER, EmbeddedPostgres, StopMode

# How long an example takes says how busy the machine is.
settings.register_profile("godwit", deadline=None)
settings.load_profile("godwit")

TESTS = Path(__file__).parent

# A folder of PostgreSQL's programs that the servers of the tests are of, instead of the embedded ones.
PROGRAMS_VAR = "GODWIT_TEST_PG_BIN"

# pg_dump marks its scripts with a random key since 2025 (CVE-2025-8714), and sequences move also when a
# transaction is rolled back: neither says anything about the database's content.
_UNSTABLE = re.compile(r"^(\\(un)?restrict .*|SELECT pg_catalog\.setval\(.*)\n", re.MULTILINE)
_ROWS = re.compile(r"^(COPY .* FROM stdin;\n)(.*?)^\\\.$", re.MULTILINE | re.DOTALL)


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests' servers be of the version that PROGRAMS_VAR names."""
    folder = os.environ.get(PROGRAMS_VAR)
    if folder:
        patch = pytest.MonkeyPatch()
        patch.setattr(embedded, "programs", lambda _user: Path(folder))
        said = subprocess.run([Path(folder) / "postgres", "-V"], capture_output=True, text=True, check=True)
        if " 14." in said.stdout:  # which knows no other way, and no word for it
            patch.setattr(embedded, "BY_FILES", "")
        config.add_cleanup(patch.undo)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies below tests/cluster, and give it the time that a real Kubernetes needs.

    Of the scenarios on the local cluster the first deploys stay with the fast tests; all the others together
    take minutes.
    """
    for item in items:
        # The conformance suite and the scenarios run on the local cluster too, and need nothing there.
        params = item.callspec.params if hasattr(item, "callspec") else {}
        local = "local" in (params.get("bed"), params.get("stage"))
        if (TESTS / "cluster") not in item.path.parents:
            continue
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))
        if not local:
            item.add_marker(pytest.mark.cluster)
        elif "stage" in params and item.path.stem != "test_scenario_deploy":
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how a test failed that was run again and then passed: somebody has to look for the cause."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"run again: {report.nodeid}", sep="_")
        terminalreporter.line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.section(title, sep="-")
            terminalreporter.line(text)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that the server's unprivileged user can reach; pytest's own are closed when root runs it."""
    folder = Path(tempfile.mkdtemp(prefix="godwit-test-", dir=_memory()))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _memory() -> str | None:
    """A file system in memory for the servers, or None where it is missing, small or runs no programs.

    To make a database is to make 300 files: some file systems take a tenth of a second of a processor for it.
    """
    with contextlib.suppress(OSError):
        found = os.statvfs(MEMORY)
        if found.f_bavail * found.f_frsize >= 4 * 2**30 and not found.f_flag & os.ST_NOEXEC:
            return MEMORY
    return None


MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL server for the whole session (with xdist: for each worker)."""
    with SharedServer(server_folder / "server", durable=False, settings=TEST_SETTINGS) as server:
        # What a server's first session in a database caches is copied into those that are made from it.
        server.psql("SELECT 1", "template1")
        yield server


class SharedServer(EmbeddedPostgres):
    """Makes and drops databases in a session that stays, for half of what it costs with psql each time."""

    _session: psycopg.Connection | None = None

    def create_database(self, name: str, *, owner: str = SUPERUSER) -> None:
        self._do(sql.SQL(f"CREATE DATABASE {{}} OWNER {{}}{embedded.BY_FILES}"), name, owner)

    def drop_database(self, name: str) -> None:
        self._do(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), name)

    def stop(self, mode: StopMode = "fast") -> None:
        self._leave()
        super().stop(mode)

    def _do(self, statement: sql.SQL, *names: str) -> None:
        composed = statement.format(*map(sql.Identifier, names))
        if self._session is not None:
            try:
                self._session.execute(composed)
            except psycopg.OperationalError:
                if not self._session.closed:
                    raise
                self._leave()  # a test has ended the session, or crashed the server
            else:
                return
        self._session = psycopg.connect(self.uri(), autocommit=True)
        self._session.execute(composed)

    def _leave(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None


# Small, for a machine that runs other tests at the same time, and able to do what any test asks for.
TEST_SETTINGS = {
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_size": "256MB",
    "max_prepared_transactions": "5",
    "wal_level": "logical",
    "autovacuum": "off",  # its locks and its changes of statistics would make tests differ from run to run
    "log_min_duration_statement": "-1",
}


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """What starts steps' processes without importing the runner anew for each."""
    with Launcher() as started:
        yield started


@dataclass(frozen=True)
class Database:
    """A fresh database of the test server."""

    server: EmbeddedPostgres
    name: str

    @property
    def uri(self) -> str:
        """libpq URI over TCP, as superuser."""
        return self.server.uri(self.name)

    def uri_as(self, user: str) -> str:
        """libpq URI over TCP, as `user` (made by the fixture `role`); the server asks for no password."""
        return self.server.uri(self.name, user=user)

    def psql(self, sql: str) -> str:
        """Run SQL as superuser and return its rows as lines of a|b|c."""
        return self.server.psql(sql, self.name)

    def dump(self, *, without: tuple[str, ...] = ("godwit",), schema_only: bool = False) -> str:
        """The database as text by pg_dump, equal for equal content.

        Left out: schemas in `without` (by default Godwit's journal), sequence values, random marks. Rows are
        sorted, because their physical order says nothing.
        """
        options = [f"--exclude-schema={schema}" for schema in without]
        options += ["--schema-only"] if schema_only else []
        text = _UNSTABLE.sub("", self.server.run("pg_dump", *options, database=self.name))
        return _ROWS.sub(
            lambda match: match[1] + "".join(sorted(match[2].splitlines(keepends=True))) + "\\.", text
        )


_numbers = count(1)


@pytest.fixture
def database_on(request: pytest.FixtureRequest) -> Iterator[Callable[..., Database]]:
    """Make a fresh, empty database on a server, named by the test and a number.

    Dropped afterwards, also while in use.
    """
    label = re.sub(r"\W+", "_", request.node.name.lower()).strip("_")[:40]
    made: list[Database] = []

    def make(server: EmbeddedPostgres) -> Database:
        fresh = Database(server, f"{label}_{next(_numbers)}")
        server.create_database(fresh.name)
        made.append(fresh)
        return fresh

    yield make
    for fresh in made:
        fresh.server.drop_database(fresh.name)


@pytest.fixture
def database(postgres_server: EmbeddedPostgres, database_on: Callable[..., Database]) -> Database:
    """A fresh, empty database of the session's server."""
    return database_on(postgres_server)


@pytest.fixture
def role(postgres_server: EmbeddedPostgres, database: Database) -> Iterator[Callable[..., str]]:
    """Make login roles without superuser rights: role("app"), role("owner", createdb=True) -> its full name.

    The name gets the database's number: roles belong to the whole server. `owns=True` makes it the owner
    of the test's database.
    """
    made: list[str] = []

    def make(name: str, *, createdb: bool = False, owns: bool = False) -> str:
        full = f"{name}_{database.name.rsplit('_', 1)[1]}"
        postgres_server.create_role(full, createdb=createdb)
        made.append(full)
        if owns:
            postgres_server.psql(f'ALTER DATABASE "{database.name}" OWNER TO "{full}"')
        return full

    yield make
    # What the roles own goes with its databases, so those go first; `database` may find its own gone.
    postgres_server.drop_database(database.name)
    for name in reversed(made):
        for owned in postgres_server.psql(
            f"SELECT datname FROM pg_database WHERE datdba = '{name}'::regrole"
        ).splitlines():
            postgres_server.drop_database(owned)
        postgres_server.drop_role(name)
