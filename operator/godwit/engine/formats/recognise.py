"""Which tool a folder of migrations belongs to, by its files. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats import dbmate_folder, flyway_folder, goose_folder
from godwit.engine.formats.atlas_sum import SUM
from godwit.engine.formats.prisma_folder import LOCK, UP
from godwit.engine.formats.text import invalid

_GOLANG_MIGRATE: Final = re.compile(r"[0-9]+_.*\.up\.sql")
_NAMED: Final = 6
"""File names that a refusal tells."""


def telling(path: str) -> bool:
    """Whether the file at *path* may tell something."""
    return path in {LOCK, SUM} or path.endswith((".sql", ".tar.gz"))


def recognise(files: Mapping[str, bytes]) -> Format:
    """The format of the folder with *files*. Raises StepFailed(SourceInvalid) for none, and for several."""
    found = _candidates(files)
    if len(found) == 1:
        return found[0]
    if not files:
        raise invalid("The folder holds no migration: no file in it ends in .sql or .tar.gz.")
    seen = ", ".join(sorted(files)[:_NAMED])
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    what = f"could be {' or '.join(found)}" if found else "is of no format that is known"
    raise invalid(f"The folder {what}. Seen: {seen}{more}. Name its format.")


def _candidates(files: Mapping[str, bytes]) -> list[Format]:
    names = [path.rsplit("/", 1)[-1] for path in files]
    flat = {path: data for path, data in files.items() if path.endswith(".sql") and "/" not in path}
    texts = [data.decode(errors="replace") for data in flat.values()]
    found = []
    if LOCK in files or UP in names or _pairs(flat):
        found.append(Format.PRISMA)
    if any(_GOLANG_MIGRATE.fullmatch(path) for path in flat):
        found.append(Format.GOLANG_MIGRATE)
    if any(map(goose_folder.marked, texts)):
        found.append(Format.GOOSE)
    if any(map(dbmate_folder.marked, texts)):
        found.append(Format.DBMATE)
    if any(map(flyway_folder.recognised, files)):
        found.append(Format.FLYWAY)
    if SUM in files:
        found.append(Format.ATLAS)
    return found


def _pairs(flat: Mapping[str, bytes]) -> bool:
    """NAME.sql with NAME.down.sql, as ConfigMaps hold Prisma's folders."""
    return any(f"{path.removesuffix('.down.sql')}.sql" in flat for path in flat if path.endswith(".down.sql"))
