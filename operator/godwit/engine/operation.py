"""What one operation did to the database so far, by its rows in the journal: for resuming and taking back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict

import psycopg

from godwit.contract.outcome import Rung, RungState
from godwit.contract.policy import Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import PlanRef
from godwit.engine import journal
from godwit.engine.compare import newest_of
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail
from godwit.engine.formats.base import MigrationFormat
from godwit.engine.formats.registry import format_of
from godwit.engine.journal import Entry, Event
from godwit.engine.model import History, Plan, Source
from godwit.engine.plan import plan_of
from godwit.engine.resolve import BASELINE
from godwit.engine.rows import row_of
from godwit.engine.session import Session

_SAID = {Event.FAILED, Event.RESOLVED}
"""Rows that begin and end nothing."""


@dataclass(frozen=True)
class Own:
    """One operation's rows, oldest first, and what follows from them."""

    entries: tuple[Entry, ...]
    operation: str = ""

    @staticmethod
    def read(session: Session, operation: str) -> "Own":
        """From the journal. Raises StepFailed(JournalForbidden), psycopg.Error."""
        return Own(journal.entries_of(session, operation), operation)

    @property
    def applied(self) -> dict[str, Entry]:
        """Migrations that it applied and that stand, by name, in order of application."""
        return self._last(Event.APPLIED)

    @property
    def reverted(self) -> dict[str, Entry]:
        """Migrations that it took back and did not apply again, by name."""
        return self._last(Event.REVERTED)

    def refuse_after_taking_back(self) -> None:
        """Applying after the way back has begun comes too late. Raises StepFailed(StateMoved)."""
        if any(entry.verb == "Revert" for entry in self.entries):
            raise fail(
                Reason.STATE_MOVED,
                "This operation is being taken back, or was: it applies nothing any more.",
                standing="Nothing was changed by this step.",
            )

    @property
    def resolved(self) -> tuple[Entry, ...]:
        """The declarations on the history that it carried out, unless it took them back."""
        if any(entry.event is Event.UNRESOLVED for entry in self.entries):
            return ()
        return tuple(entry for entry in self.entries if entry.event is Event.RESOLVED)

    @property
    def resolved_count(self) -> int:
        """How many of them changed the history."""
        return sum(bool(e.detail["made"] or e.detail["rolledBack"]) for e in self.resolved)

    def _last(self, wanted: Event) -> dict[str, Entry]:
        last: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.event in {Event.APPLIED, Event.REVERTED}:
                last.pop(entry.migration, None)
                last[entry.migration] = entry
        return {name: entry for name, entry in last.items() if entry.event is wanted}

    @cached_property
    def _by_migration(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.migration, []).append(entry)
        return found

    def of(self, name: str) -> Sequence[Entry]:
        """Its rows about one migration, oldest first."""
        return self._by_migration.get(name, ())

    def txids(self, name: str) -> list[int]:
        """Numbers of the transactions in which it applied the migration, as far as the journal keeps them."""
        events = {Event.APPLIED, Event.STATEMENT}
        found = [entry.txid for entry in self.of(name) if entry.event in events]
        return found + [n for e in self.of(name) if e.event is Event.BATCH for n in e.detail.get("txids", ())]

    def unfinished(self, verb: str) -> str:
        """Name of a migration that it began outside a transaction and did not end, or nothing."""
        open_files: dict[str, bool] = {}
        for entry in self.entries:
            if entry.verb == verb and entry.migration and entry.event not in _SAID:
                open_files[entry.migration] = entry.event not in {
                    Event.APPLIED,
                    Event.REVERTED,
                    Event.ABANDONED,
                }
        return next((name for name, is_open in open_files.items() if is_open), "")

    def without(self, history: History) -> History:
        """The history as it was before this operation."""
        said = [e.detail for e in self.entries if e.event is Event.RESOLVED]
        ours = {e.detail["row"] for e in self.entries if "row" in e.detail}
        failed = {row["id"] for detail in said for row in detail["rolledBack"]}
        rows = {row.id: row for row in history.rows if row.id not in ours}
        gone = [data for entry in self.reverted.values() for data in entry.detail["rows"]]
        gone += [data for e in self.entries if "row" in e.detail for data in e.detail.get("replaced", ())]
        rows |= {row.id: row for row in map(row_of, gone) if row.id not in ours}
        rows |= {i: replace(row, rolled_back_at=None) for i, row in rows.items() if i in failed}
        for detail in reversed(said):  # each may have changed what the one before it wrote
            rows = {i: row for i, row in rows.items() if i not in detail["made"]}
            rows |= {row.id: row for row in map(row_of, detail.get("replaced", ()))}
        ordered = sorted(rows.values(), key=lambda r: (r.rank, r.started_at, r.name, r.id))
        baselined = any(detail["as"] == BASELINE and detail["made"] for detail in said)
        return replace(
            history,
            rows=tuple(ordered),
            unmanaged_tables=history.unmanaged_tables or baselined,
            baseline="" if baselined else history.baseline,
        )

    def down_rung(self) -> RungState:
        """Whether its committed migrations have a way back that destroys nothing by itself."""
        names = list(self.applied)
        if not names:
            return RungState(rung=Rung.DOWN, possible=False, why="no migration of this run was committed")
        for name, entry in self.applied.items():
            if entry.down is None:
                return RungState(rung=Rung.DOWN, possible=False, why=f"{name} has no down.sql")
            if entry.detail["destructive"]:
                why = f"{name} destroyed or rewrote data, which its down.sql does not bring back"
                return RungState(rung=Rung.DOWN, possible=False, why=why)
        why = f"for the {len(names)} committed, unless data was written to what they made"
        return RungState(rung=Rung.DOWN, possible=True, why=why)


def planned_again(session: Session, source: Source, ref: PlanRef, *, policy: Policy, own: Own) -> Plan:
    """The plan as it comes out under the lock, this operation's own work left out of the history.

    Raises StepFailed: StateMoved, PlanChanged, or what refuses the plan.
    """
    base = check_base(session, ref, own, format_of(source.format))
    plan = plan_of(session, source, policy=policy, target=ref.target, history=base, operation=own.operation)
    if plan.refusal is not None:
        raise fail(
            plan.refusal.reason,
            plan.refusal.message,
            standing="Nothing was changed by this step.",
            migration=plan.refusal.migration,
            line=plan.refusal.line,
        )
    if plan.outcome.plan != ref.plan:
        raise fail(
            Reason.PLAN_CHANGED,
            f"Under the lock the plan came out as {plan.outcome.plan[:12]} instead of {ref.plan[:12]}.",
            standing="Nothing was changed by this step.",
        )
    return plan


def check_base(session: Session, ref: PlanRef, own: Own, format: MigrationFormat) -> History:  # noqa: A002
    """The history as it was before this operation, after making sure that nobody else changed it since.

    Raises StepFailed(StateMoved): other tools than ours write no journal row, but history rows.
    """
    history = format.read_history(session)
    standing = {row.id for row in history.applied}
    applied = list(own.applied.items())
    if history.newest_only:  # a file that began has taken the row of the one before
        half = own.unfinished("Apply")
        applied = [] if any(row.name == half for row in history.failed) else applied[-1:]
    gone = [name for name, entry in applied if entry.detail["row"] not in standing]
    base = own.without(history)
    if gone or base.state != ref.from_state:
        what = f"the row of {gone[0]} is gone" if gone else "other migrations are applied, or failed"
        raise fail(
            Reason.STATE_MOVED,
            f"The history is not what the plan began with: {what}.",
            standing="Nothing was changed by this step.",
        )
    return base


class Facts(TypedDict):
    """The fields of MigrationProgress that the database tells."""

    applied: int
    reverted: int
    resolved: int
    total: int
    current: str
    state: str
    journal_head: int


def facts(ctx: StepContext, session: Session, own: Own, total: int) -> Facts:
    """Where the database stands now; *own* is what was known before, for when it does not answer any more."""
    try:
        if session.line.closed or session.line.broken:
            with ctx.session() as fresh:
                return _facts(ctx, fresh, total)
        return _facts(ctx, session, total)
    except (psycopg.Error, StepFailed):
        return Facts(
            applied=len(own.applied),
            reverted=len(own.reverted),
            resolved=own.resolved_count,
            total=total,
            current="",
            state="",
            journal_head=0,
        )


def _current(ctx: StepContext, own: Own, history: History) -> str:
    """Where the database is; the one row that a history may have can be that of a file which is half done."""
    if not history.newest_only or not history.failed:
        return newest_of(ctx.format, history)
    begun = [e for e in own.entries if e.event is Event.STARTED and e.migration == history.failed[-1].name]
    replaced = begun[-1].detail.get("replaced", ()) if begun else ()
    return str(replaced[-1]["name"]) if replaced else ""


def _facts(ctx: StepContext, session: Session, total: int) -> Facts:
    own = Own.read(session, ctx.request.operation)
    history = ctx.format.read_history(session)
    return Facts(
        applied=len(own.applied),
        reverted=len(own.reverted),
        resolved=own.resolved_count,
        total=total,
        current=_current(ctx, own, history),
        state=history.state,
        journal_head=journal.head(session),
    )
