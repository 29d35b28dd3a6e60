"""The scripts of a plan, parsed: each becomes a step, or a finding. Pure."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from godwit.contract.outcome import Failure, Finding, Severity
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.compare import Aim, error, warning
from godwit.engine.errors import StepFailed
from godwit.engine.formats.registry import format_of
from godwit.engine.model import ParsedScript, PlannedMigration, Script, Source
from godwit.engine.statements import parse

# SET without LOCAL lasts as long as the session, which the history row and the next migration share.
_LASTING: Final = re.compile(r"(re)?set\s+(?!local\b|constraints\b|transaction\b)", re.IGNORECASE)
_LASTING_CALL: Final = re.compile(r"\bset_config\s*\([^)]*,\s*(false|'f\w*'|'0')\s*\)", re.IGNORECASE)


def up_steps(
    chosen: Aim,
    environment: Environment,
    tables: Collection[str],
    findings: list[Finding],
    destroys: Callable[[Collection[str]], bool],
) -> list[PlannedMigration]:
    """The pending migrations whose files can run; what is wrong with the others goes to *findings*.

    *tables* are the migration tool's own, which no script may change. *destroys*: whether data may be
    destroyed by what happens besides when rows are added to some tables.
    """
    steps = []
    for migration in chosen.ups:
        try:
            run = parse(migration.up, environment, tables=tables, migration=migration.name)
        except StepFailed as exc:
            findings.append(_as_finding(exc.failure, migration.name))
            continue
        findings += _script_findings(run, migration.name)
        down = migration.down
        if down is not None:
            try:
                back = parse(down, environment, tables=tables, migration=migration.name)
                if run.statements and not back.statements:
                    down = None  # as good as none: it would take back the history's row alone
            except StepFailed as exc:
                # Not kept in the journal either: a corrected one in the source must not lose to it.
                down = None
                unusable = _as_finding(exc.failure, migration.name)
                findings.append(unusable.model_copy(update={"severity": Severity.WARNING}))
        besides = not run.destructive and destroys(run.adds)
        if besides:
            findings.append(_besides(run, migration.name))
        destructive = run.destructive or besides
        steps.append(PlannedMigration(migration.name, migration.up.checksum, run, down, destructive))
    return steps


def _besides(run: ParsedScript, migration: str) -> Finding:
    return warning(
        Reason.DATA_WOULD_BE_LOST,
        f"{run.script.path}: adding rows to {', '.join(sorted(run.adds))} sets off a trigger, a rule or a "
        "function that can destroy data; no down.sql brings that back.",
        migration,
        next(s.line for s in run.statements if s.adds),
    )


def down_steps(
    source: Source,
    chosen: Aim,
    kept: Mapping[str, Script],
    environment: Environment,
    findings: list[Finding],
) -> list[PlannedMigration]:
    """What takes migrations back, by the journal's down scripts (*kept*) before the source's.

    What cannot be taken back goes to *findings*.
    """
    by_name = {m.name: m for m in source.migrations}
    tables = format_of(source.format).TABLES
    steps = []
    for row in chosen.downs:
        migration = by_name.get(row.name)
        same = migration is not None and format_of(source.format).same_script(row.checksum, migration.up)
        script = kept.get(row.name) or (migration.down if migration and same else None)
        if script is None:
            findings.append(error(Reason.DOWN_MISSING, f"{row.name} has no down.sql.", row.name))
            continue
        up = _parsed_or_none(migration.up, environment) if migration and same else None
        try:
            run = parse(script, environment, tables=tables, migration=row.name)
        except StepFailed as exc:
            findings.append(_as_finding(exc.failure, row.name))
            continue
        if not run.statements and (up is None or up.statements):
            findings.append(error(Reason.DOWN_MISSING, f"The down.sql of {row.name} is empty.", row.name))
            continue
        findings += _script_findings(run, row.name)
        steps.append(
            PlannedMigration(row.name, row.checksum, run, up_destructive=up is None or up.destructive)
        )
    return steps


def _parsed_or_none(script: Script, environment: Environment) -> ParsedScript | None:
    try:
        return parse(script, environment, tables=())
    except StepFailed:
        return None


def _as_finding(failure: Failure, migration: str) -> Finding:
    return error(failure.reason, failure.message, migration, failure.line)


def _script_findings(run: ParsedScript, migration: str) -> list[Finding]:
    """What a person should know about a file: its first destructive statement, settings that outlive it."""
    found = []
    lossy = next((s for s in run.statements if s.destructive), None)
    if lossy:
        found.append(
            warning(
                Reason.DATA_WOULD_BE_LOST,
                f"{run.script.path}, line {lossy.line}: it can destroy data; no down.sql brings that back.",
                migration,
                lossy.line,
            )
        )
    lasting = next(
        (s for s in run.statements if _LASTING.match(s.text) or _LASTING_CALL.search(s.text)), None
    )
    if lasting:
        found.append(
            warning(
                Reason.SESSION_CHANGED,
                f"{run.script.path}, line {lasting.line}: the setting outlives the migration; use SET LOCAL.",
                migration,
                lasting.line,
            )
        )
    return found
