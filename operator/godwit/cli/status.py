"""`godwit status`: how DatabaseMigrations stand, as a table and as an exit status."""

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any

from godwit.cli.table import condition, table

Manifest = dict[str, Any]


class Exit(IntEnum):
    """What a script can go by; of several migrations, the worst."""

    READY = 0
    """All are Ready, for the spec as it is now."""
    NOT_READY = 1
    """Not yet: planning, waiting, running, suspended, or the operator has not looked at the spec yet."""
    STALLED = 2
    """Stalled until somebody acts; or there is no such DatabaseMigration."""
    UNKNOWN = 3
    """The cluster does not answer, or refuses to be read."""


def verdict(migration: Manifest) -> Exit:
    """How one DatabaseMigration stands. What was said of an earlier generation does not count."""
    status, meta = migration.get("status", {}), migration["metadata"]
    if status.get("observedGeneration", -1) != meta.get("generation", 1) or meta.get("deletionTimestamp"):
        return Exit.NOT_READY
    if condition(migration, "Stalled").get("status") == "True":
        return Exit.STALLED
    return Exit.READY if condition(migration, "Ready").get("status") == "True" else Exit.NOT_READY


def report(migrations: Sequence[Manifest], now: datetime) -> tuple[str, Exit]:
    """The table, a paragraph for each that is not Ready, and the worst verdict. At least one migration."""
    parts = [table(migrations, now)]
    verdicts = [verdict(migration) for migration in migrations]
    for migration, how in zip(migrations, verdicts, strict=True):
        if how is not Exit.READY:
            parts.append(f"{migration['metadata']['name']}: {_why(migration)}")
    return "\n\n".join(parts), max(verdicts)


def _why(migration: Manifest) -> str:
    status, generation = migration.get("status", {}), migration["metadata"].get("generation", 1)
    if status.get("observedGeneration", -1) != generation:
        return f"the operator has not looked at generation {generation} yet."
    ready = condition(migration, "Ready")
    return ready.get("message") or ready.get("reason") or "no condition yet."
