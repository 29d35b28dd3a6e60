"""The real migration tools beside which Godwit is tested: where their programs are, and how they are run."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import golang
import node

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
        raise node.MissingToolError("npm has no dbmate for this kind of machine.")
    return found[0]
