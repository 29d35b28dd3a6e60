"""The migration tools that Godwit knows, by the contract's name of their format."""

from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats import atlas, dbmate, flyway, golang_migrate, goose, prisma
from godwit.engine.formats.base import BaseliningFormat, MigrationFormat, ResolvingFormat

_FORMATS: Final[dict[Format, MigrationFormat]] = {
    Format.PRISMA: prisma,
    Format.GOLANG_MIGRATE: golang_migrate,
    Format.GOOSE: goose,
    Format.DBMATE: dbmate,
    Format.FLYWAY: flyway,
    Format.ATLAS: atlas,
}
_BASELINING: Final[tuple[BaseliningFormat, ...]] = (flyway,)
_RESOLVING: Final[tuple[ResolvingFormat, ...]] = (prisma, golang_migrate, goose, dbmate, *_BASELINING)


def format_of(format: Format) -> MigrationFormat:  # noqa: A002  the contract's word
    """The tool's module."""
    return _FORMATS[format]


def resolver_of(tool: MigrationFormat) -> ResolvingFormat | None:
    """The same module, where the tool's history can be told what became of a migration; else None."""
    return next((resolving for resolving in _RESOLVING if resolving is tool), None)


def baseliner_of(tool: MigrationFormat) -> BaseliningFormat | None:
    """The same module, where the tool has a word of its own for a baseline; else None."""
    return next((baselining for baselining in _BASELINING if baselining is tool), None)
