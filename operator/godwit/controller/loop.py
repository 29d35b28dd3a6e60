"""The one walk: observe, decide, report, act, and again."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import structlog

from godwit.api.common import Resource, Status
from godwit.api.database import PostgresDatabase
from godwit.api.kinds import KINDS, parse
from godwit.api.migration import DatabaseMigration
from godwit.cluster.port import (
    STATUS_MANAGER,
    Cluster,
    ConflictError,
    GoneError,
    Manifest,
    RefusedError,
    UnavailableError,
)
from godwit.contract.outcome import Failure
from godwit.contract.reasons import Reason
from godwit.controller.act import Actor, NotDoneError
from godwit.controller.metrics import Metrics
from godwit.controller.observe import Observer, Seen
from godwit.controller.queue import Key, WorkQueue
from godwit.controller.references import CONFIG_MAP, References
from godwit.controller.slots import NoSlotError, Slots
from godwit.planner import backup, database, migration, restore, run
from godwit.planner.conditions import Verdict, conditions
from godwit.planner.decision import Decision, Effect, Emit, SetFinalizer
from godwit.planner.step import backoff, overdue

log = structlog.get_logger("godwit.controller")

ECHO = 2.0
"""Seconds until an object is looked at whose event says nothing that its own pass did not write."""
LATER = 1.0
"""The same for a step of which something else than its end was seen."""
CHECKED = 0.2
"""The same for a database whose Check has ended.

In a first deploy the plan ends with it, and what comes of that, up to the backup's Job, goes first.
"""
NO_SLOT = 15.0
"""The same for one that waits for a slot, should whoever was woken before it have no use for one."""
AT_ONCE = 3
"""Conflicts in a row after which the next look comes at once: others write the same object, now and then."""


def utc_now() -> datetime:
    """The time, in UTC, to the second: statuses hold seconds, as metav1.Time does."""
    return datetime.now(UTC).replace(microsecond=0)


def decide(seen: Seen, now: datetime) -> Decision:
    """The decision of the kind that was observed."""
    match seen:
        case database.DatabaseSeen():
            return database.decide(seen, now)
        case migration.MigrationSeen():
            return migration.decide(seen, now)
        case run.RunSeen():
            return run.decide(seen, now)
        case backup.BackupSeen():
            return backup.decide(seen, now)
        case restore.RestoreSeen():
            return restore.decide(seen, now)


class Controller:
    """Serves keys from the queue. Handlers of events only call `changed`, `gone` and `step_changed`."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        image: str,
        max_concurrent_steps: int = 10,
        workers: int = 16,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = WorkQueue(monotonic)
        self.slots = Slots(max_concurrent_steps, self._wake)
        self.metrics = Metrics(self.queue, self.slots)
        self._cluster = cluster
        self._observer = Observer(cluster, image)
        self._actor = Actor(cluster, self.slots, self._made)
        self._references = References()
        self._workers = workers
        self._now = now
        self._failures: dict[Key, int] = {}
        self._not_done: dict[Key, Failure] = {}
        """What the last pass over an object could not do: the next one tells of it until it has done it."""
        self._serving: set[asyncio.Task[None]] = set()

    def changed(self, manifest: Manifest) -> None:
        """An object of ours, or a ConfigMap, is new or different."""
        meta = manifest["metadata"]
        key = Key(manifest["kind"], meta["namespace"], meta["name"])
        if key.kind in KINDS:
            news = self._references.note(manifest)
            self._wake(key, after=0.0 if news.for_itself else ECHO)
            if not news.for_others:
                return
        # Whoever waits for an end looks at once; whoever only tells of others lets those go first who work.
        ended = key.kind == CONFIG_MAP or bool(manifest.get("status", {}).get("outcome"))
        for concerned in self._references.concerned(key):
            tells = concerned.kind in {DatabaseMigration.KIND, PostgresDatabase.KIND}
            self._wake(concerned, after=LATER if tells and not ended else 0.0)

    def _made(self, manifest: Manifest) -> None:
        """A pass has made an object: its own first pass comes before the maker's next, not with its event."""
        meta = manifest["metadata"]
        if not self._references.knows(Key(manifest["kind"], meta["namespace"], meta["name"])):
            self.changed(manifest)

    def gone(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """An object of ours, or a ConfigMap, was deleted: the one with this uid, or whichever it was."""
        key = Key(kind, namespace, name)
        for concerned in self._references.bereaved(key):
            self._wake(concerned)
        if not self._references.forget(key, uid):
            return
        self.queue.forget(key)
        self.slots.forget(key)
        self._failures.pop(key, None)
        self._not_done.pop(key, None)

    def step_changed(self, kind: str, namespace: str, name: str, *, ended: bool = True) -> None:
        """A Job, pod or process of the step of that object changed; its end is what is waited for."""
        at_once = CHECKED if kind == PostgresDatabase.KIND else 0.0
        self._wake(Key(kind, namespace, name), after=at_once if ended else LATER)

    def _wake(self, key: Key, *, after: float = 0.0) -> None:
        """What was never seen has an event of its own to come; what is gone has none.

        A pod goes after its owner; where a namespace went with our rights in it, each look would be refused.
        """
        if self._references.knows(key):
            self.queue.add(key, self._references.group(key), after=after)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until *stop* is set; then let what is being served end."""
        while not stop.is_set():
            key = self.queue.take() if len(self._serving) < self._workers else None
            if key is None:
                await self.queue.wait()
                continue
            task = asyncio.create_task(self._serve(key), name=f"serve {key}")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        await self.idle()

    def under_way(self) -> set[asyncio.Task[None]]:
        """The passes that are being made."""
        return set(self._serving)

    async def idle(self, longest: float | None = None) -> None:
        """Wait until no pass is under way; at most *longest* seconds."""
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=longest)

    async def _serve(self, key: Key) -> None:
        """One pass, and when the next one is due. Nothing that a pass raises ends the loop."""
        started = time.monotonic()
        after: float | None = None
        result = "ok"
        try:
            after = await self.reconcile(key)
            self._failures.pop(key, None)
        except ConflictError:
            after, result = self._backoff(key), "conflict"
            if self._failures[key] <= AT_ONCE:
                after = 0.0
        except NoSlotError:
            after, result = NO_SLOT, "no slot"
        except NotDoneError:  # the status says why
            after, result = self._backoff(key), "not done"
        except (GoneError, UnavailableError, RefusedError, OSError) as error:
            after, result = self._backoff(key), type(error).__name__
            log.warning("pass not finished", key=str(key), error=str(error), again_in=round(after, 1))
        except Exception as error:  # a bug must not end the loop for every other object
            after, result = self._backoff(key), "error"
            log.exception("pass failed", key=str(key), error=type(error).__name__, again_in=round(after, 1))
        finally:
            self.metrics.passed(key.kind, result, time.monotonic() - started)
            self.queue.done(key, after=after)

    def _backoff(self, key: Key) -> float:
        self._failures[key] = self._failures.get(key, 0) + 1
        return backoff(self._failures[key], str(key), first=0.5, most=60.0)

    async def reconcile(self, key: Key) -> float | None:
        """Observe, decide, report, act. Returns seconds until the object must be looked at again."""
        known = self._references.newest(key)
        manifest = await self._cluster.get(key.kind, key.namespace, key.name)
        if manifest is None:
            # A watch that had to begin anew does not say what went meanwhile. What is made anew has another
            # uid, and an event of its own.
            self.slots.forget(key)
            if known is not None:
                self.gone(key.kind, key.namespace, key.name, known)
            return None
        seen = await self._observer.observe(manifest)
        self._learn(seen)
        decision = decide(seen, self._now())
        before = self._not_done.get(key)
        manifest = await self._report(manifest, decision.status, before)
        about = parse(manifest)
        said = [self._actor.act(about, effect) for effect in decision.effects if isinstance(effect, Emit)]
        done = [effect for effect in decision.effects if not isinstance(effect, Emit)]
        told = asyncio.gather(*said)  # nothing waits for an event of Kubernetes, and it never fails
        try:
            for some in together(done):
                acts = (self._actor.act(about, effect) for effect in some)
                for error in await asyncio.gather(*acts, return_exceptions=True):
                    if error is not None:
                        raise error
        except NotDoneError as error:
            self._not_done[key] = error.failure
            await self._report(manifest, decision.status, error.failure)
            if error.failure != before:
                why = Verdict.of(error.failure)
                await self._cluster.event(about.ref, "Warning", why.reason, why.message)
            raise
        finally:
            await told
        return decision.again_in if self._not_done.pop(key, None) is None else 0.0

    async def _report(self, manifest: Manifest, status: Status, not_done: Failure | None = None) -> Manifest:
        """Write the whole status, if it differs from the observed one; what could not be done is its verdict.

        Two verdicts in turn, one before each try and one after, would be news to everybody at each of them.
        """
        resource = parse(manifest)
        if not_done is not None:
            generation = resource.metadata.generation
            told = conditions(resource.status, Verdict.of(not_done), generation, self._now())
            status = status.model_copy(update={"conditions": told})
        wanted, have = _own(status.to_json()), _own(resource.status.to_json())
        if wanted == have:
            return manifest
        try:
            written = await self._cluster.apply_status(manifest, wanted, STATUS_MANAGER)
        except RefusedError as error:  # an event is all that can say so
            text = f"The API server refused the status: {error}"
            await self._cluster.event(resource.ref, "Warning", Reason.POD_REFUSED, text)
            raise
        self.metrics.reported(parse(manifest), parse(written))
        return written

    def _learn(self, seen: Seen) -> None:
        """Steps that are there take a slot, also those that were started before this process.

        One that is held back (no Secret, no image, no node), or lost with its node, leaves it to others: it
        may stay so for days.
        """
        resource, steps = _steps_of(seen)
        key = Key(resource.KIND, resource.metadata.namespace, resource.metadata.name)
        for record in resource.status.steps:
            found = steps.get(record.name)
            if found is not None:
                starting = found.state in {"NoPod", "Pending"} and not found.message
                active = (starting or found.state == "Running") and not found.foreign
                active = active and not overdue(found, self._now())
                self.slots.learn(key, record.job, active=active)


def _steps_of(seen: Seen) -> tuple[Resource, dict[str, Any]]:
    match seen:
        case database.DatabaseSeen():
            return seen.database, {"check": seen.check}
        case migration.MigrationSeen():
            return seen.migration, {"plan": seen.plan}
        case run.RunSeen():
            return seen.run, seen.steps
        case backup.BackupSeen():
            return seen.backup, seen.steps
        case restore.RestoreSeen():
            return seen.restore, seen.steps


def together(effects: Iterable[Effect]) -> Iterator[list[Effect]]:
    """The effects in their order, those together that may be carried out at once.

    Finalizers that are put on are: none of them says anything without the others. They are taken off one
    after the other, the object's own last.
    """
    for put_on, some in itertools.groupby(effects, lambda e: isinstance(e, SetFinalizer) and e.present):
        if put_on:
            yield list(some)
        else:
            yield from ([effect] for effect in some)


def _own(status: dict[str, Any]) -> dict[str, Any]:
    """The part of a status that this field manager owns: all but who holds the database."""
    return {key: value for key, value in status.items() if key != "activeOperation"}
