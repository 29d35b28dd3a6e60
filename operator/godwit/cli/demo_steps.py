"""Following the steps of the demo: what the objects' statuses and the steps' own logs say, as it comes."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from godwit.api.common import StepRecord
from godwit.api.kinds import parse
from godwit.cli.demo_manifests import NAME, NAMESPACE
from godwit.cli.demo_show import Show
from godwit.cli.demo_stage import Stage
from godwit.cli.plan import number
from godwit.cli.table import condition
from godwit.cluster.local_objects import Change
from godwit.contract.outcome import (
    BackupOutcome,
    CheckOutcome,
    MigrationProgress,
    PlanOutcome,
    StepOutcome,
    VerifyOutcome,
)

Manifest = dict[str, Any]

KINDS = ("PostgresDatabase", "DatabaseMigration", "DatabaseBackup", "MigrationRun")
PATIENCE = 120.0
"""Seconds that an act may take before the demo gives up."""
_LOOK_EVERY = 0.1
"""Seconds after which it is looked again though nothing was told: a step's log tells of nothing."""


class DemoError(Exception):
    """Something that the demo promised was not so."""


@dataclass
class Follower:
    """Prints each step once, when it has its outcome. One for the whole demo."""

    stage: Stage
    show: Show
    on_plan: Callable[[Manifest, Manifest | None], None]
    """Told of each new plan: the DatabaseMigration, and the ConfigMap with the plan."""
    _printed: set[str] = field(default_factory=set)
    _plans: set[str] = field(default_factory=set)
    _logs: dict[str, str] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, settled: Callable[[Manifest], bool], steps: int) -> tuple[Manifest, float]:
        """Follow until the DatabaseMigration is *settled*; the object, and how many seconds that took.

        *steps*: how many the act has, for the bar. Raises DemoError when it takes too long, or when the
        migration is Stalled and that is not what was waited for.
        """
        started = time.monotonic()
        done = 0
        # A failure of before stays in the status until the plan is made anew.
        old = _plan_key(await self.stage.get("DatabaseMigration", NAME))
        end = self.stage.cluster.watch(self._noticed)
        try:
            with self.show.live():
                while True:
                    self._changed.clear()
                    done = await self._look(done, steps)
                    found = await self.stage.get("DatabaseMigration", NAME)
                    if found is not None and _current(found):
                        if settled(found):
                            await self._look(done, steps)  # what ended since the last one
                            return found, time.monotonic() - started
                        stalled = condition(found, "Stalled").get("status") == "True"
                        if stalled and _plan_key(found) != old:
                            raise DemoError(f"Stalled: {condition(found, 'Ready')['message']}")
                    if time.monotonic() - started > PATIENCE:
                        told = condition(found or {}, "Ready").get("message", "nothing")
                        raise DemoError(f"Not done within {PATIENCE:.0f} s. The status says: {told}")
                    await self._wait()
        finally:
            end()

    def _noticed(self, change: Change) -> None:
        if change.kind == "Job":
            self._keep_log(change.name)
        self._changed.set()

    def _keep_log(self, job: str) -> None:
        """The log goes with its Job, which goes as soon as its outcome is in a status."""
        log = self.stage.cluster.log(NAMESPACE, job)
        if log is not None:
            self._logs[job] = log

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY):
                await self._changed.wait()

    async def _look(self, done: int, steps: int) -> int:
        """Print what has ended since; show what is under way. The number of steps that have ended."""
        records = [
            record for manifest in await self.stage.all(*KINDS) for record in parse(manifest).status.steps
        ]
        ended = [r for r in records if _ended(r) and r.job not in self._printed]
        for record in sorted(ended, key=lambda r: r.ended_at or r.started_at):
            done += 1
            self._print(record, done, max(steps, done))
            if record.name == "plan":
                await self._tell_plan()
        under_way = next((r for r in records if not _ended(r)), None)
        if under_way is not None:
            self._keep_log(under_way.job)
            self.show.now(done, max(steps, done), self._doing(under_way))
        return done

    def _doing(self, record: StepRecord) -> str:
        last = next(reversed(self._events(record.job)), None)
        return f"{record.name}: {last['message']}" if last else record.name

    def _print(self, record: StepRecord, done: int, total: int) -> None:
        self._printed.add(record.job)
        outcome = record.outcome
        assert outcome is not None  # noqa: S101  _ended looked
        seconds = (outcome.ended_at - outcome.started_at).total_seconds()
        self.show.step(record.name, done, total, seconds, facts(outcome), failed=outcome.failure is not None)
        for name, took in self._migrations(record.job):
            self.show.detail(name, took)

    async def _tell_plan(self) -> None:
        found = await self.stage.get("DatabaseMigration", NAME)
        plan = (found or {}).get("status", {}).get("plan") or {}
        if found is None or plan.get("ref") is None or plan["ref"]["plan"] in self._plans:
            return
        self._plans.add(plan["ref"]["plan"])
        self.on_plan(found, await self._document(plan["document"]))

    async def _document(self, name: str) -> Manifest | None:
        """The plan's ConfigMap: it is made right after the status that names it."""
        deadline = time.monotonic() + 5.0
        while (found := await self.stage.get("ConfigMap", name)) is None and time.monotonic() < deadline:
            self._changed.clear()
            await self._wait()
        return found

    def _events(self, job: str) -> list[Manifest]:
        return [json.loads(line) for line in self._logs.get(job, "").splitlines() if line.startswith("{")]

    def _migrations(self, job: str) -> list[tuple[str, float]]:
        """What the step did to each migration, and how many seconds that took, by its log."""
        begun: dict[str, datetime] = {}
        found = []
        for event in self._events(job):
            at = datetime.fromisoformat(event["time"])
            if event["event"] == "migration.started":
                begun[event["migration"]] = at
            elif event["event"] in {"migration.applied", "migration.reverted"}:
                found.append((event["message"], (at - begun[event["migration"]]).total_seconds()))
        return found


def facts(outcome: StepOutcome) -> str:
    """What came of a step, in one line."""
    failure = outcome.failure
    if failure is not None:
        where = f" in {failure.migration} line {failure.line}" if failure.migration else ""
        state = f" (SQLSTATE {failure.sqlstate})" if failure.sqlstate else ""
        return f"{failure.reason}{where}{state}"
    said = []
    for verb in outcome.verbs:
        match verb:
            case PlanOutcome():
                found = verb.findings
                count = number(found.errors + found.warnings + found.infos, "finding")
                said.append(f"{verb.pending} pending, {number(verb.statements, 'statement')}, {count}")
            case CheckOutcome() if len(outcome.verbs) == 1:
                said.append(f"{verb.identity.host}:{verb.identity.port}, {_size(verb.size_bytes)}")
            case BackupOutcome():
                said.append(
                    f"{verb.tables} tables, {verb.rows} rows, {_size(verb.size_bytes)}, the archive read back"
                )
            case MigrationProgress():
                word = "taken back" if verb.reverted else "applied"
                said.append(f"{verb.reverted or verb.applied} of {verb.total} {word}")
            case VerifyOutcome():
                said.append(f"history verified, {number(verb.checks, 'check')} true")
            case _:
                continue
    return ", ".join(said)


def _plan_key(migration: Manifest | None) -> str:
    return str((migration or {}).get("status", {}).get("planKey", ""))


def _current(migration: Manifest) -> bool:
    return bool(migration["status"].get("observedGeneration") == migration["metadata"]["generation"])


def _ended(record: StepRecord) -> bool:
    return record.outcome is not None and record.outcome.attempt == record.attempt


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
