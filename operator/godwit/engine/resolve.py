"""What people say of the history, `spec.resolve` and `spec.baseline`: as the tool's own commands take it.

These are `prisma migrate resolve`, `migrate force`, `flyway repair` and `flyway baseline`; goose and dbmate
have none, and get the rows of versions. Each declaration is carried out once in a database, known there by
the journal, and may stay in the manifest: a failure that comes later is not covered by it. `due` and
`resolved` are pure; the rest runs under the migration lock, in the operation of an Apply.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from godwit.contract.outcome import Finding, Severity
from godwit.contract.policy import Policy, Resolve, ResolveAs
from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine import journal, ownership
from godwit.engine.compare import error, warning
from godwit.engine.context import StepContext
from godwit.engine.formats.base import ResolvingFormat
from godwit.engine.formats.registry import baseliner_of, format_of, resolver_of
from godwit.engine.journal import Entry, Event
from godwit.engine.model import Declared, History, HistoryRow, Resolution, Source
from godwit.engine.rows import row_as_json, row_of
from godwit.engine.session import Session

BASELINE: Final = "Baseline"
"""How a baseline is called beside ResolveAs."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def due(
    policy: Policy, source: Source, history: History, carried_out: Collection[Declared]
) -> tuple[tuple[Resolution, ...], list[Finding]]:
    """What of *policy* is to be carried out on *history*, the baseline first, and what speaks against it.

    Refusals are those of Prisma's command line (its codes are named), and what a tool's history cannot say.
    What holds already changes nothing and is no error.
    """
    if not policy.resolve and not policy.baseline:
        return (), []
    if resolver_of(format_of(source.format)) is None:
        text = f"The format {source.format} has no resolve and no baseline here: use the tool's own commands."
        return (), [error(Reason.RESOLVE_REFUSED, text)]
    found: list[Resolution] = []
    findings: list[Finding] = []
    if policy.baseline and Declared(BASELINE, policy.baseline, "") not in carried_out:
        _collect(_baseline(policy.baseline, source, history), found, findings)
    for entry in policy.resolve:
        if Declared(entry.as_, entry.migration, entry.requested_at) not in carried_out:
            _collect(_resolve(entry, source, resolved(history, found)), found, findings)
    return tuple(found), findings


def _collect(
    result: tuple[Resolution | None, Finding | None], found: list[Resolution], findings: list[Finding]
) -> None:
    resolution, finding = result
    found.extend([resolution] if resolution else [])
    findings.extend([finding] if finding else [])


def _baseline(name: str, source: Source, history: History) -> tuple[Resolution | None, Finding | None]:
    declared, tool = Declared(BASELINE, name, ""), format_of(source.format)
    wanted = source.get(name)
    if wanted is None:
        text = f"The source has no migration {name} for the baseline{_code(source, 'P3017')}."
        return None, _refused(text, name)
    if wanted.repeatable:
        return None, _refused(f"{name} has no version, which a baseline needs.", name)
    limit = tool.sort_key(name)
    covered = [m for m in source.migrations if not m.repeatable and tool.sort_key(m.name) <= limit]
    if not history.rows and not history.unmanaged_tables and not history.baseline:
        text = f"The schema {history.schema} has no tables: the baseline {name} is passed over, all runs."
        return Resolution(declared), warning(Reason.RESOLVED, text, name)
    if not history.rows and not history.baseline:
        own = baseliner_of(tool) is not None
        marks = Resolution(declared, baseline=name) if own else Resolution(declared, applied=tuple(covered))
        return marks, _told(f"{len(covered)} up to {name} are marked applied", name)
    standing = {row.name for row in history.applied}
    missing = next(
        (m.name for m in covered if m.name not in standing and not _below_baseline(m.name, source, history)),
        None,
    )
    if missing is None:
        return Resolution(declared), None
    text = (
        f"The history has rows already, but {missing} is not applied: a baseline is for a database without a "
        f"history. Say in `spec.resolve` what became of {missing}."
    )
    return None, _refused(text, missing)


def _below_baseline(name: str, source: Source, history: History) -> bool:
    sort_key = format_of(source.format).sort_key
    return bool(history.baseline) and sort_key(name) <= sort_key(history.baseline)


def _resolve(entry: Resolve, source: Source, history: History) -> tuple[Resolution | None, Finding | None]:
    name = entry.migration
    declared = Declared(entry.as_, name, entry.requested_at)
    rows = [row for row in history.rows if row.name == name]
    failed = tuple(row.id for row in rows if row.failed)
    previous = _before(name, source, history)
    match entry.as_:
        case ResolveAs.APPLIED:
            migration = source.get(name)
            if name in dict(history.half_back):
                made = Resolution(declared, whole=True)  # carried out at once: it covers no later one
                return made, _told(f"{name} is noted as whole again", name, "the journal")
            if any(row.applied for row in rows) and not failed:
                return Resolution(declared), None
            if migration is None:
                return None, _refused(f"The source has no migration {name}{_code(source, 'P3017')}.", name)
            if not migration.repeatable and _below_baseline(name, source, history):
                return Resolution(declared), None
            if not migration.repeatable and any(row.finished_at is not None for row in rows):
                code = _code(source, "P3008")
                text = f"{name} was applied and rolled back; it cannot be marked as applied{code}."
                return None, _refused(text, name)
            if history.newest_only and (also := _also_marked(name, source, history)):
                text = (
                    f"The history knows the newest version only, which stands for all before it: with {name} "
                    f"it would say that {also} is applied as well. Say first what became of {also}."
                )
                return None, _refused(text, name)
            made = Resolution(declared, rolled_back=failed, previous=previous, applied=(migration,))
            return made, _told(f"{name} is marked as applied", name)
        case ResolveAs.ROLLED_BACK:
            if failed:
                made = Resolution(declared, rolled_back=failed, previous=previous)
                return made, _told(f"the failed {name} is marked as rolled back", name)
            if not rows:
                code = _code(source, "P3011")
                text = f"The history knows no {name} that could have been rolled back{code}."
                return None, _refused(text, name)
            if all(row.finished_at is not None for row in rows):
                code = _code(source, "P3012")
                text = f"{name} did not fail: it cannot be marked as rolled back{code}."
                return None, _refused(text, name)
            return Resolution(declared), None


def _code(source: Source, code: str) -> str:
    return f" (Prisma's {code})" if source.format is Format.PRISMA else ""


def _before(name: str, source: Source, history: History) -> str:
    """The newest applied migration before *name*."""
    sort_key = format_of(source.format).sort_key
    older = [row.name for row in history.applied if sort_key(row.name) < sort_key(name)]
    return max(older, key=sort_key, default="")


def _also_marked(name: str, source: Source, history: History) -> str:
    """A migration before *name* that is not applied; nothing where all are."""
    sort_key = format_of(source.format).sort_key
    standing = {row.name for row in history.applied}
    older = (m.name for m in source.migrations if sort_key(m.name) < sort_key(name))
    return next((older_name for older_name in older if older_name not in standing), "")


def _refused(text: str, migration: str) -> Finding:
    return error(Reason.RESOLVE_REFUSED, text, migration)


def _told(text: str, migration: str, where: str = "the history") -> Finding:
    message = f"Before anything runs, {text} in {where}; nothing of it runs for that."
    return Finding(severity=Severity.INFO, reason=Reason.RESOLVED, message=message, migration=migration)


def resolved(history: History, resolutions: Sequence[Resolution]) -> History:
    """*history* as it is once *resolutions* have been carried out."""
    ids = {row_id for resolution in resolutions for row_id in resolution.rolled_back}
    marked = [migration for resolution in resolutions for migration in resolution.applied]
    baseline = next((r.baseline for r in resolutions if r.baseline), history.baseline)
    whole = {r.declared.migration for r in resolutions if r.declared.how == ResolveAs.APPLIED}
    half = tuple((name, at) for name, at in history.half_back if name not in whole)
    history = replace(history, half_back=half)
    if not ids and not marked and baseline == history.baseline:
        return history
    last = max((row.started_at for row in history.rows), default=_EPOCH)
    rank = max((row.rank for row in history.rows), default=0)
    rows = [replace(row, rolled_back_at=row.started_at) if row.id in ids else row for row in history.rows]
    for place, migration in enumerate(marked, 1):
        when = last + timedelta(milliseconds=place)
        rows.append(HistoryRow("", migration.name, migration.up.checksum, when, when, rank=rank + place))
    return replace(history, exists=True, rows=tuple(rows), unmanaged_tables=False, baseline=baseline)


def carry_out(
    ctx: StepContext, session: Session, source: Source, resolutions: Sequence[Resolution], verb: str
) -> None:
    """Change the history as *resolutions* say, all or nothing, and keep in the journal that it was done.

    It was done to the history of the tool that *source* is of, and to no other's.
    """
    tool = _resolver(ctx)
    with session.transaction():
        tool.ensure_table(session)
        tool.lock_history(session)
        journal.ensure(session)
        ownership.write_stamp(session, ctx.request.environment)
        for resolution in resolutions:
            before = tool.read_history(session).rows
            rolled_back = tool.mark_rolled_back(session, resolution.rolled_back, resolution.previous)
            made = [tool.mark_applied(session, migration) for migration in resolution.applied]
            own = baseliner_of(tool)
            if resolution.baseline and own is not None:
                made.append(own.mark_baseline(session, resolution.baseline))
            there = {(row.id, row.name, row.applied) for row in tool.read_history(session).rows}
            gone = [row_as_json(r) for r in before if (r.id, r.name, r.applied) not in there]
            declared = resolution.declared
            journal.append(
                session,
                ctx.request,
                Event.RESOLVED,
                verb=verb,
                migration=declared.migration,
                detail={
                    "as": declared.how,
                    "format": source.format,
                    "requestedAt": declared.requested_at,
                    "made": made,
                    "rolledBack": rolled_back,
                    **({"replaced": gone} if gone else {}),
                },
            )


def take_back(ctx: StepContext, session: Session, entries: Sequence[Entry], verb: str) -> None:
    """Undo what the journal's *entries* (Resolved) of this operation changed; they are due again then."""
    tool = _resolver(ctx)
    with session.transaction():
        tool.lock_history(session)
        for entry in reversed(entries):
            detail = entry.detail
            if detail["made"] or detail["rolledBack"]:
                before = [row_of(row) for row in detail.get("replaced", ())]
                tool.unmark(session, detail["made"], detail["rolledBack"], before)
        journal.append(session, ctx.request, Event.UNRESOLVED, verb=verb)


def _resolver(ctx: StepContext) -> ResolvingFormat:
    tool = resolver_of(ctx.format)
    assert tool is not None  # noqa: S101  the plan refuses what the format cannot do
    return tool
