"""`godwit status`: how DatabaseMigrations stand, as a table and as an exit status."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from godwit.cli.table import age, condition, table
from godwit.contract.progress import RunProgress

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
    """The cluster does not answer, refuses to be read, or has no CRDs of Godwit."""


def verdict(migration: Manifest) -> Exit:
    """How one DatabaseMigration stands. What was said of an earlier generation does not count."""
    status, meta = migration.get("status", {}), migration["metadata"]
    if status.get("observedGeneration", -1) != meta.get("generation", 1) or meta.get("deletionTimestamp"):
        return Exit.NOT_READY
    if condition(migration, "Stalled").get("status") == "True":
        return Exit.STALLED
    return Exit.READY if condition(migration, "Ready").get("status") == "True" else Exit.NOT_READY


def report(
    migrations: Sequence[Manifest], now: datetime, runs: Mapping[str, Manifest] = MappingProxyType({})
) -> tuple[str, Exit]:
    """The table, a paragraph for each that is not Ready, and the worst verdict. At least one migration.

    *runs*: those under way, by name; how far one is stands below its migration's paragraph.
    """
    parts = [table(migrations, now)]
    verdicts = [verdict(migration) for migration in migrations]
    for migration, how in zip(migrations, verdicts, strict=True):
        if how is not Exit.READY:
            run = runs.get(migration.get("status", {}).get("activeRun", ""))
            parts.append(f"{migration['metadata']['name']}: {_why(migration)}{_how_far(run, now)}")
    return "\n\n".join(parts), max(verdicts)


def _why(migration: Manifest) -> str:
    status, generation = migration.get("status", {}), migration["metadata"].get("generation", 1)
    if status.get("observedGeneration", -1) != generation:
        return f"the operator has not looked at generation {generation} yet."
    ready = condition(migration, "Ready")
    return ready.get("message") or ready.get("reason") or "no condition yet."


def _how_far(run: Manifest | None, now: datetime) -> str:
    """A line of its own; nothing while the run's step has told nothing."""
    told = (run or {}).get("status", {}).get("progress")
    if run is None or not told:
        return ""
    progress = RunProgress.model_validate(told)
    return f"\n  {run['metadata']['name']}, {age(progress.at, now)} ago: {progress}"
