"""The tool that a database's own tables show, for steps without a folder to look at: backups, restores."""

from typing import Final

from godwit.engine.formats import atlas, common, dbmate, flyway, golang_migrate, goose, prisma
from godwit.engine.formats.base import MigrationFormat
from godwit.engine.session import Session

_TOOLS: Final[tuple[MigrationFormat, ...]] = (prisma, goose, flyway, atlas)
"""Those whose table no other tool has."""
_SHARED: Final = "schema_migrations"


def shown_by(session: Session, state: str = "") -> MigrationFormat:
    """The tool whose history table is there; Prisma's where there is none, or several.

    Where it is known in which *state* the history is: a tool whose history is in it, if there is one. A
    database may have the table of a former tool, also while the present one has none yet.
    """
    found = [tool for tool in _TOOLS if any(common.home(session, table) for table in tool.TABLES)]
    columns = common.columns(session, _SHARED)
    if columns == golang_migrate.COLUMNS:
        found.append(golang_migrate)
    if columns == dbmate.COLUMNS:
        found.append(dbmate)
    if state:
        others = (*_TOOLS, golang_migrate, dbmate)
        fitting = (t for t in (*found, *others) if t.read_history(session).state == state)
        if (tool := next(fitting, None)) is not None:
            return tool
    return found[0] if len(found) == 1 else prisma
