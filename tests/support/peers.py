"""The real migration tools beside which Godwit is tested: where their programs are, and how they are run."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import golang
import layouts
import maven
import node
from installed import MissingToolError
from layouts import Layout

INTEROP = Path(__file__).parents[1] / "interop"
_NO_DRIVERS = "no_clickhouse,no_libsql,no_mssql,no_mysql,no_sqlite3,no_vertica,no_ydb"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Ended:
    """What a command line said, and with which status it ended."""

    status: int
    text: str


@dataclass(frozen=True)
class Tool:
    """A command line: `words` come before those of each command. It sees nothing of our environment."""

    words: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it and go on; `communicate()` gives what it says."""
        return subprocess.Popen(
            [*self.words, *words],
            cwd=self.folder,
            env={"HOME": str(self.folder), "NO_COLOR": "1", "PATH": "/usr/bin:/bin"} | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> Ended:
        """Run it to its end."""
        with self.start(*words) as process:
            said, _ = process.communicate(timeout=100)
        return Ended(process.returncode, _COLOURS.sub("", said))


def golang_migrate() -> Path:
    """The program `migrate`. Raises MissingToolError."""
    package = "github.com/golang-migrate/migrate/v4/cmd/migrate"
    return golang.program(INTEROP / "golang_migrate" / "tools", package, tags="postgres")


def goose() -> Path:
    """The program `goose`. Raises MissingToolError."""
    package = "github.com/pressly/goose/v3/cmd/goose"
    return golang.program(INTEROP / "goose" / "tools", package, tags=_NO_DRIVERS)


def dbmate() -> Path:
    """The program `dbmate`. Raises MissingToolError."""
    modules = node.modules(INTEROP / "dbmate" / "tools")
    found = sorted(modules.glob("@dbmate/*/bin/dbmate"))
    if not found:
        raise MissingToolError("npm has no dbmate for this kind of machine.")
    return found[0]


def atlas() -> Path:
    """The program `atlas`. Raises MissingToolError.

    The command line of the newest release that is a Go module, on the newest library that it can be built
    with: its own one asks PostgreSQL for a setting that 16 has no more.
    """
    folder, package = INTEROP / "atlas" / "tools", "ariga.io/atlas/cmd/atlas"
    added = {"ariga.io/atlas:sql/migrate/from_version.go": "added/from_version.go"}
    return golang.program(folder, package, added=added)


def atlas_library() -> Path:
    """The newest Atlas library in a small program of ours. Raises MissingToolError."""
    return golang.program(INTEROP / "atlas" / "newest", ".")


def flyway() -> tuple[str, ...]:
    """Java with Flyway's command line, which asks nobody for a newer one. Raises MissingToolError."""
    jars = maven.jars(INTEROP / "flyway" / "tools")
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
    return ("java", *quick, "-cp", f"{jars}/*", "org.flywaydb.commandline.Main", "-skipCheckForUpdate")


@cache
def _quicker_flyway() -> tuple[str, ...]:
    """The same with what Java has read of its classes, which saves a third of a start."""
    java, *words = flyway()
    nowhere = ("-url=jdbc:postgresql://127.0.0.1:1/", "-user=x", "-password=x", "-connectRetries=0", "info")
    archive = maven.classes(INTEROP / "flyway" / "tools", (*words, *nowhere))
    return (java, f"-XX:SharedArchiveFile={archive}", "-Xlog:disable", *words)


@dataclass(frozen=True)
class Peer:
    """A tool in a team's folder, on its database, told in its own words."""

    tool: Tool
    layout: Layout
    folder: Path
    up_words: tuple[str, ...]
    down_words: tuple[str, ...] | None
    """None: it cannot go down."""
    status_words: tuple[str, ...]
    clean: Callable[[Ended, Path], bool]
    """Whether what it says of its status means that nothing is pending and nothing failed."""
    has_lock: bool = False
    """Whether its command line takes a lock while it migrates."""
    remembers_failure: bool = False
    """Whether its history knows of a migration that failed."""

    def up(self) -> Ended:
        """Apply everything that is pending."""
        return self.tool.run(*self.up_words)

    def down(self) -> Ended:
        """Take the newest back."""
        assert self.down_words is not None
        return self.tool.run(*self.down_words)

    def settled(self) -> str:
        """Empty when the tool says that nothing is pending and nothing failed, else what it says."""
        said = self.tool.run(*self.status_words)
        return "" if self.clean(said, self.folder) else f"{said.status}: {said.text}"


def _plain(uri: str) -> str:
    return f"{uri}?sslmode=disable"


def _golang_migrate_peer(uri: str, folder: Path) -> Peer:
    def clean(said: Ended, folder: Path) -> bool:
        newest = max(int(path.name.split("_")[0]) for path in folder.glob("*.up.sql"))
        return said.status == 0 and said.text.split() == [str(newest)]

    words = (str(golang_migrate()), "-path", str(folder), "-database", _plain(uri))
    return Peer(
        Tool(words, folder),
        layouts.GOLANG_MIGRATE,
        folder,
        ("up",),
        ("down", "1"),
        ("version",),
        clean,
        has_lock=True,
        remembers_failure=True,
    )


def _goose_peer(uri: str, folder: Path) -> Peer:
    def clean(said: Ended, _: Path) -> bool:
        return said.status == 0 and "Pending" not in said.text

    words = (str(goose()), "-dir", str(folder), "postgres", _plain(uri))
    return Peer(Tool(words, folder), layouts.GOOSE, folder, ("up",), ("down",), ("status",), clean)


def _dbmate_peer(uri: str, folder: Path) -> Peer:
    def clean(said: Ended, _: Path) -> bool:
        return said.status == 0 and "Pending: 0" in said.text

    words = (str(dbmate()), "--no-dump-schema", "-d", str(folder), "-u", _plain(uri))
    status = ("status", "--exit-code")
    return Peer(Tool(words, folder), layouts.DBMATE, folder, ("migrate",), ("rollback",), status, clean)


def _flyway_peer(uri: str, folder: Path) -> Peer:
    def clean(said: Ended, _: Path) -> bool:
        return said.status == 0 and not re.search(r"Pending|Failed|Outdated", said.text)

    where = re.sub(r"^postgres(ql)?://[^@]*@", "jdbc:postgresql://", uri)
    # The lock of a session, which lets it build an index concurrently; the key is the same.
    settings = ("-postgresql.transactional.lock=false", "-color=never")
    words = (
        *_quicker_flyway(),
        f"-url={where}",
        "-user=postgres",
        "-password=none",
        f"-locations=filesystem:{folder}",
    )
    return Peer(
        Tool((*words, *settings), folder, {"REDGATE_DISABLE_TELEMETRY": "true"}),
        layouts.FLYWAY,
        folder,
        ("migrate",),
        None,
        ("info",),
        clean,
        has_lock=True,
    )


def _atlas_peer(uri: str, folder: Path) -> Peer:
    def clean(said: Ended, _: Path) -> bool:
        return said.status == 0 and "Migration Status: OK" in said.text

    where = ("--dir", f"file://{folder}", "--url", f"{_plain(uri)}&search_path=public")
    words = {name: ("migrate", name, *where) for name in ("apply", "status")}
    tool = Tool((str(atlas()),), folder, {"ATLAS_NO_UPDATE_NOTIFIER": "true"})
    return Peer(tool, layouts.ATLAS, folder, words["apply"], None, words["status"], clean, has_lock=True)


PEERS: dict[str, Callable[[str, Path], Peer]] = {
    "golang-migrate": _golang_migrate_peer,
    "goose": _goose_peer,
    "dbmate": _dbmate_peer,
    "flyway": _flyway_peer,
    "atlas": _atlas_peer,
}
