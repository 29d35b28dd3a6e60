"""The same migrations in the folder of each tool: one that runs in a transaction, or one that cannot."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from godwit.contract.request import Format


@dataclass(frozen=True)
class Layout:
    """How a tool names and writes a migration."""

    format: Format
    files: Callable[[int, str, str, bool], Mapping[str, str]]
    """Number, SQL up, SQL down, whether in a transaction -> files by name."""
    version: Callable[[int], str] = field(default=str)
    """The name that Godwit gives the migration of a number: what the tool's history calls it."""
    sealed: Callable[[Path], None] = field(default=lambda _: None)
    """What the tool wants done to the folder when a file has changed."""

    def write(self, folder: Path, number: int, up: str, down: str, *, transaction: bool = True) -> str:
        """Write one migration, and give its name."""
        for name, text in self.files(number, up, down, transaction).items():
            (folder / name).write_text(text)
        self.sealed(folder)
        return self.version(number)


def _golang_migrate(number: int, up: str, down: str, _: bool) -> Mapping[str, str]:
    return {f"{number:06}_step.up.sql": up, f"{number:06}_step.down.sql": down}


def _goose(number: int, up: str, down: str, transaction: bool) -> Mapping[str, str]:
    mark = "" if transaction else "-- +goose NO TRANSACTION\n"
    return {f"{number:05}_step.sql": f"{mark}-- +goose Up\n{up}\n\n-- +goose Down\n{down}\n"}


def _dbmate(number: int, up: str, down: str, transaction: bool) -> Mapping[str, str]:
    mark = "" if transaction else " transaction:false"
    text = f"-- migrate:up{mark}\n{up}\n\n-- migrate:down{mark}\n{down}\n"
    return {f"{20260101000000 + number}_step.sql": text}


def _flyway(number: int, up: str, down: str, transaction: bool) -> Mapping[str, str]:
    conf = {} if transaction else {f"V{number}__step.sql.conf": "executeInTransaction=false\n"}
    return {f"V{number}__step.sql": up, f"U{number}__step.sql": down, **conf}


def _atlas(number: int, up: str, down: str, transaction: bool) -> Mapping[str, str]:
    mark = "" if transaction else "-- atlas:txmode none\n\n"
    name = f"{20260101000000 + number}_step.sql"
    return {name: f"{mark}{up}\n", f"{name}.down": down}


def atlas_hash(folder: Path) -> None:
    """What `atlas migrate hash` does."""
    running, lines = hashlib.sha256(), []
    for path in sorted(folder.glob("*.sql")):
        running.update(path.name.encode() + path.read_bytes())
        lines.append((path.name, base64.b64encode(running.digest()).decode()))
    total = hashlib.sha256("".join(name + stored for name, stored in lines).encode()).digest()
    text = "".join(f"{name} h1:{stored}\n" for name, stored in lines)
    (folder / "atlas.sum").write_text(f"h1:{base64.b64encode(total).decode()}\n{text}")


GOLANG_MIGRATE = Layout(Format.GOLANG_MIGRATE, _golang_migrate)
GOOSE = Layout(Format.GOOSE, _goose)
DBMATE = Layout(Format.DBMATE, _dbmate, lambda number: str(20260101000000 + number))
FLYWAY = Layout(Format.FLYWAY, _flyway)
ATLAS = Layout(Format.ATLAS, _atlas, lambda number: str(20260101000000 + number), atlas_hash)
LAYOUTS = {layout.format.value: layout for layout in (GOLANG_MIGRATE, GOOSE, DBMATE, FLYWAY, ATLAS)}
