"""The migration tools that Godwit knows, by the contract's name of their format."""

from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats import atlas, dbmate, flyway, golang_migrate, goose, prisma
from godwit.engine.formats.base import MigrationFormat, ResolvingFormat

_FORMATS: Final[dict[Format, MigrationFormat]] = {
    Format.PRISMA: prisma,
    Format.GOLANG_MIGRATE: golang_migrate,
    Format.GOOSE: goose,
    Format.DBMATE: dbmate,
    Format.FLYWAY: flyway,
    Format.ATLAS: atlas,
}
_RESOLVING: Final[dict[Format, ResolvingFormat]] = {Format.PRISMA: prisma}


def format_of(format: Format) -> MigrationFormat:  # noqa: A002  the contract's word
    """The tool's module."""
    return _FORMATS[format]


def resolver_of(format: Format) -> ResolvingFormat | None:  # noqa: A002  as above
    """The tool's module, where the tool has a resolve; else None."""
    return _RESOLVING.get(format)
