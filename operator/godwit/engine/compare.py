"""The source against the history: what is to run, and everything that speaks against it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from godwit.contract.outcome import Finding, Severity
from godwit.contract.policy import EditedMigrations, Environment, Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction
from godwit.engine.formats.base import MigrationFormat
from godwit.engine.formats.registry import format_of
from godwit.engine.model import History, HistoryRow, Migration, Resolution, Script, Source

LATEST: Final = "Latest"
NOTHING: Final = ""
"""The target of a plan after which nothing is applied; only a plan says it, never a person."""


_EDITED: Final = {
    EditedMigrations.REFUSE: Severity.ERROR,
    EditedMigrations.WARN: Severity.WARNING,
    EditedMigrations.ACCEPT: Severity.INFO,
}


def newest(tool: MigrationFormat, names: Iterable[str]) -> str:
    """Where a database is that has these migrations: the last in the tool's order; NOTHING where it has none.

    One that came later may be older: out of order, by resolve, or from another tool.
    """
    return max(names, key=tool.sort_key, default=NOTHING)


def newest_of(tool: MigrationFormat, history: History) -> str:
    """The same of *history*, in which a baseline stands for what has no rows."""
    baseline = (history.baseline,) if history.baseline else ()
    return newest(tool, (*(row.name for row in history.applied), *baseline))


@dataclass(frozen=True)
class Aim:
    """What is to run: `ups` in order, or `downs` with the newest application first; never both."""

    ups: tuple[Migration, ...] = ()
    downs: tuple[HistoryRow, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def direction(self) -> Direction | None:
        """None when nothing is to run."""
        if self.downs:
            return Direction.DOWN
        return Direction.UP if self.ups else None


def error(reason: Reason, message: str, migration: str = "", line: int = 0) -> Finding:
    """A finding that refuses the plan."""
    return Finding(severity=Severity.ERROR, reason=reason, message=message, migration=migration, line=line)


def warning(reason: Reason, message: str, migration: str = "", line: int = 0) -> Finding:
    """A finding for people."""
    return Finding(severity=Severity.WARNING, reason=reason, message=message, migration=migration, line=line)


def aim(source: Source, history: History, target: str) -> Aim:
    """What leads from *history* to *target*: LATEST, a migration's name, or NOTHING.

    Only a target that was named takes anything back. With something to take back, older pending migrations
    wait for the next plan.
    """
    tool, known = format_of(source.format), {m.name for m in source.migrations}
    if target not in {LATEST, NOTHING} and target not in known:
        last = newest(tool, known)
        how = f" Its newest is named {last}." if last else ""
        text = f"No migration of the source is named {target}.{how}"
        return Aim(findings=(error(Reason.TARGET_NOT_FOUND, text),))
    pending = tool.pending(source, history)
    if target == LATEST:
        return Aim(ups=pending)
    if target == NOTHING:
        return Aim(downs=history.applied[::-1])
    sort_key = tool.sort_key
    limit = sort_key(target)
    if _below_the_first(tool, source, history, target):
        text = (
            f"{target} is older than {history.baseline}, with which the history begins: what is older counts "
            f"as there, and nothing takes it back. The target can be {history.baseline} at the oldest."
        )
        return Aim(findings=(error(Reason.TARGET_NOT_FOUND, text, target),))
    beyond = tuple(row for row in history.applied if sort_key(row.name) > limit)
    if beyond:
        return Aim(downs=beyond[::-1])
    return Aim(ups=tuple(m for m in pending if sort_key(m.name) <= limit))


def _below_the_first(tool: MigrationFormat, source: Source, history: History, target: str) -> bool:
    """Whether *target* is among what the history counts as there and knows nothing of."""
    migration = source.get(target)
    if not history.baseline or migration is None or migration.repeatable:
        return False
    known = {row.name for row in history.applied}
    return target not in known and tool.sort_key(target) < tool.sort_key(history.baseline)


def compare(
    source: Source,
    history: History,
    chosen: Aim,
    kept: Mapping[str, Script],
    edited: EditedMigrations = EditedMigrations.REFUSE,
) -> list[Finding]:
    """What the history says against *chosen*; *kept* are the down scripts in the journal."""
    found = _history_findings(history)
    by_name = {m.name: m for m in source.migrations}
    sort_key, same_script = format_of(source.format).sort_key, format_of(source.format).same_script
    leaving = {row.name for row in chosen.downs}
    for row in history.applied:
        migration = by_name.get(row.name)
        # What the journal kept takes it back, so the source need not know it any more.
        if row.name in leaving and row.name in kept:
            if migration and not same_script(row.checksum, migration.up):
                found.append(
                    warning(
                        Reason.EDITED_MIGRATION,
                        f"{row.name} was edited after it had been applied; the journal's down.sql is used.",
                        row.name,
                    )
                )
        elif migration is None and row.name not in leaving:
            found.append(
                error(
                    Reason.MISSING_ON_DISK,
                    f"{row.name} is applied, but the source does not have it.",
                    row.name,
                )
            )
        elif migration and not migration.repeatable and not same_script(row.checksum, migration.up):
            found.append(
                Finding(
                    severity=_EDITED[edited],
                    reason=Reason.EDITED_MIGRATION,
                    message=f"{row.name} was edited after it had been applied.",
                    migration=row.name,
                )
            )
    newest = max((sort_key(row.name) for row in history.applied), default=None)
    tell = error if format_of(source.format).STRICT_ORDER else warning
    found += [
        tell(Reason.OUT_OF_ORDER, f"{m.name} is pending and older than what is applied.", m.name)
        for m in chosen.ups
        if newest is not None and not m.repeatable and sort_key(m.name) < newest
    ]
    return found


def _history_findings(history: History) -> list[Finding]:
    found = [
        error(
            Reason.FAILED_EARLIER,
            f"{row.name} was started{_at(row)}, failed and was not resolved.",
            row.name,
        )
        for row in history.failed
    ]
    found += [
        error(
            Reason.FAILED_EARLIER,
            f"The way back of {name} was begun at {at:%Y-%m-%d %H:%M:%S %Z} and is half done. Bring it to "
            "its end and remove the row of the history, or make it whole again and resolve it as Applied.",
            name,
        )
        for name, at in history.half_back
    ]
    if history.in_the_way:
        table = f"{history.schema}.{history.in_the_way}"
        found.append(
            error(
                Reason.HISTORY_MISSING,
                f"The table {table} is another tool's history, and this tool's is to have that name. "
                "Rename it or, when nobody needs it any more, drop it.",
            )
        )
    elif history.unmanaged_tables and not history.exists:
        found.append(
            error(Reason.HISTORY_MISSING, f"The schema {history.schema} has tables, but no history table.")
        )
    return found


def _at(row: HistoryRow) -> str:
    """When it began; not every tool's history says it."""
    return f" at {row.started_at:%Y-%m-%d %H:%M:%S %Z}" if row.started_at.year > 1 else ""


def resolve_finding(chosen: Aim, changes: Sequence[Resolution]) -> list[Finding]:
    """Going down, the history is what is gone by: nobody changes it in the same run."""
    if not chosen.downs or not changes:
        return []
    what = changes[0].declared.migration
    text = (
        f"{what} cannot be resolved while migrations are taken back; first resolve it at the present target."
    )
    return [error(Reason.RESOLVE_REFUSED, text, what)]


def downgrade_finding(chosen: Aim, policy: Policy) -> list[Finding]:
    """In Production going down needs `allowDowngrade`."""
    forbidden = policy.environment is Environment.PRODUCTION and not policy.allow_downgrade
    if not chosen.downs or not forbidden:
        return []
    count = len(chosen.downs)
    return [
        error(
            Reason.DOWNGRADE_FORBIDDEN,
            f"The target is older than what is applied: {chosen.downs[0].name} would be taken back"
            f"{f', and {count - 1} more' if count > 1 else ''}.",
        )
    ]
