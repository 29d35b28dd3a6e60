"""Migration folders: generated ones or a team's own, in the layout of each tool.

A file of a tool holds the same SQL, byte for byte, and what that tool needs around it: also the line by which
it runs a file outside of a transaction, where the file holds what cannot be in one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from layouts import atlas_hash

from godwit.contract.base import digest
from godwit.contract.policy import Environment
from godwit.engine.model import Script
from godwit.engine.statements import parse


@dataclass(frozen=True)
class Migration:
    """`number` orders it, from 1; `name` is a Prisma folder's name.

    `apart`: it holds something that cannot be in a transaction.
    """

    number: int
    name: str
    sql: str
    apart: bool = False

    @property
    def version(self) -> str:
        """Fourteen digits, as every tool takes them for a version."""
        return f"{20260101000000 + self.number}"


def generated(count: int) -> list[Migration]:
    """Some of everything that teams write: tables, columns, indexes, keys, rows, a function."""
    return [
        Migration(number, f"{20260101000000 + number}_step_{number}", _sql(number))
        for number in range(1, count + 1)
    ]


def _sql(number: int) -> str:
    match number % 4:
        case 1:
            return (
                f"CREATE TABLE item_{number} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n"
                "  name text NOT NULL, price numeric(10, 2), made timestamptz NOT NULL DEFAULT now());\n"
                f"CREATE INDEX item_{number}_name ON item_{number} (name);\n"
            )
        case 2:
            return (
                f"INSERT INTO item_{number - 1} (name, price)\n"
                "  SELECT 'item ' || g, g FROM generate_series(1, 1000) g;\n"
            )
        case 3:
            return (
                f"ALTER TABLE item_{number - 2} ADD COLUMN note text;\n"
                f"ALTER TABLE item_{number - 2} ADD CONSTRAINT price_{number} CHECK (price >= 0);\n"
            )
        case _:
            return (
                f"CREATE FUNCTION total_{number}() RETURNS numeric LANGUAGE sql STABLE AS\n"
                f"  $$ SELECT coalesce(sum(price), 0) FROM item_{number - 3} $$;\n"
                f"COMMENT ON FUNCTION total_{number}() IS 'Of all items; also of those without any.';\n"
            )


def of_a_team(folder: Path) -> list[Migration]:
    """A Prisma folder that somebody published."""
    names = sorted(path.parent.name for path in folder.glob("*/migration.sql"))
    assert names, f"{folder} has no NAME/migration.sql: name a Prisma Migrate folder."
    found = []
    for number, name in enumerate(names, 1):
        data = (folder / name / "migration.sql").read_bytes()
        parsed = parse(Script(name, data, digest(data)), Environment.DEVELOPMENT)
        apart = not all(statement.transactional for statement in parsed.statements)
        found.append(Migration(number, name, data.decode(), apart))
    return found


Migrations = Sequence[Migration]
Layout = Callable[[Path, Migrations], None]


def prisma(folder: Path, migrations: Migrations) -> None:
    """NAME/migration.sql."""
    (folder / "migration_lock.toml").write_text('provider = "postgresql"\n')
    for each in migrations:
        (folder / each.name).mkdir()
        (folder / each.name / "migration.sql").write_text(each.sql, encoding="utf-8")


def golang_migrate(folder: Path, migrations: Migrations) -> None:
    """VERSION_NAME.up.sql, each in a transaction of its own as the tool sends it: one message."""
    for each in migrations:
        (folder / f"{each.version}_step.up.sql").write_text(each.sql, encoding="utf-8")


def goose(folder: Path, migrations: Migrations) -> None:
    """VERSION_NAME.sql with the annotations that make the file one statement for goose."""
    for each in migrations:
        mark = "-- +goose NO TRANSACTION\n" if each.apart else ""
        text = f"{mark}-- +goose Up\n-- +goose StatementBegin\n{each.sql}\n-- +goose StatementEnd\n"
        (folder / f"{each.version}_step.sql").write_text(text, encoding="utf-8")


def dbmate(folder: Path, migrations: Migrations) -> None:
    """VERSION_NAME.sql with the mark of the way up."""
    for each in migrations:
        mark = "-- migrate:up transaction:false" if each.apart else "-- migrate:up"
        text = f"{mark}\n{each.sql}\n-- migrate:down\n"
        (folder / f"{each.version}_step.sql").write_text(text, encoding="utf-8")


def flyway(folder: Path, migrations: Migrations) -> None:
    """V<version>__NAME.sql."""
    for each in migrations:
        (folder / f"V{each.version}__step.sql").write_text(each.sql, encoding="utf-8")


def atlas(folder: Path, migrations: Migrations) -> None:
    """VERSION_NAME.sql and atlas.sum."""
    for each in migrations:
        mark = "-- atlas:txmode none\n\n" if each.apart else ""
        (folder / f"{each.version}_step.sql").write_text(mark + each.sql, encoding="utf-8")
    atlas_hash(folder)
