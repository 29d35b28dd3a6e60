"""A cluster in memory that drives every planner as the controller does: observe, decide, report, act."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, cast

from godwit.api.common import FINALIZER, SPEC_HASH, Metadata, Resource, Status
from godwit.api.database import PostgresDatabase
from godwit.api.kinds import parse
from godwit.contract.reasons import Reason
from godwit.contract.request import ApplyInput, RestoreInput, RevertInput
from godwit.planner import backup, database, migration, restore, run
from godwit.planner.decision import (
    Create,
    Decision,
    Delete,
    DeleteStep,
    Effect,
    Emit,
    Hold,
    SaveDocument,
    SetFinalizer,
    StartStep,
    StepSeen,
    StepSpec,
    StepState,
)

from .builders import NOW
from .ledger import Server
from .records import Killed, usable
from .sight import Job, Key, Sight

DECIDE: dict[str, Callable[[Any, datetime], Decision]] = {
    "PostgresDatabase": database.decide,
    "DatabaseMigration": migration.decide,
    "MigrationRun": run.decide,
    "DatabaseBackup": backup.decide,
    "DatabaseRestore": restore.decide,
}
STATUS_LIMIT = 32 * 1024
SOON = 2.0
"""Seconds after which an object is looked at that nothing but its own report has changed."""


class Conflict(Exception):  # noqa: N818  as the port's
    """The object changed since it was observed."""


class NotDone(Exception):  # noqa: N818
    """A name is taken."""


@dataclass
class World(Sight):
    """Everything there is. `version` counts every change."""

    now: datetime = NOW
    version: int = 0
    past: list[StepSpec] = field(default_factory=list)
    """Every step that was ever started."""
    server: Server = field(default_factory=Server)
    events: list[Emit] = field(default_factory=list)
    _uids: Any = field(default_factory=lambda: count(1))

    # What people do

    def put(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Create an object, or change its spec."""
        old = self.objects.get((kind, name))
        if self.terminating:
            return
        if old is None:
            self._create({"kind": kind, "metadata": {"name": name}, "spec": spec})
            return
        fresh = parse({"kind": kind, "metadata": {"name": name}, "spec": spec})
        meta = {"generation": old.metadata.generation + 1}
        self._set(old.model_copy(update={"spec": fresh.spec}), meta)  # type: ignore[attr-defined]

    def annotate(self, key: Key, name: str, value: str) -> None:
        old = self.objects.get(key)
        if old is not None:
            self._set(old, {"annotations": {**old.metadata.annotations, name: value}})

    def delete(self, key: Key, *, force: bool = False) -> None:
        """As kubectl: it goes when nothing holds it; *force* strips the finalizers."""
        old = self.objects.get(key)
        if old is None:
            return
        if old.metadata.finalizers and not force:
            if not old.metadata.deleting:
                self._set(old, {"deletion_timestamp": self.now})
            return
        self._remove(key)

    def terminate(self) -> None:
        """Delete the namespace: nothing can be created any more, everything is deleted."""
        self.terminating = True
        for key in list(self.objects):
            self.delete(key)
        for name in list(self.jobs):
            self._drop_job(name)

    # What the cluster does

    def step_on(self, name: str, *, how: str = "on", cut: int | None = None) -> None:
        """A step gets on by one state; or is killed (before or after its effect); or loses its outcome."""
        job = self.jobs.get(name)
        if job is None or job.ended:
            return
        self.version += 1
        if how == "kill":
            job.state, job.seen = (
                StepState.CRASHED,
                StepSeen(StepState.CRASHED, Reason.STEP_CRASHED, "killed"),
            )
        elif job.state is StepState.NO_POD and not self.blocked:
            job.state = StepState.PENDING
        elif job.state is StepState.PENDING and self._source_text(job.spec) is not None:
            job.state = StepState.RUNNING
        elif job.state is StepState.RUNNING:
            self._end_step(job, lose=how == "lose", cut=cut)

    def repeat(self, spec: StepSpec) -> None:
        """A process of that step wakes up, whoever still knows of it; its outcome goes nowhere."""
        text = self._source_text(spec)
        if text is not None:
            self.server.run(spec.request, text, self.now)
            self.version += 1

    def answered(self, spec: StepSpec) -> bool:
        """Whether what the step was for has ended, and this step's last attempt had answered."""
        owner = self.objects.get((spec.owner.kind, spec.owner.name))
        if owner is None or owner.metadata.uid != spec.owner.uid:
            return False
        told = owner.status.step(spec.request.step)
        done = getattr(owner.status, "ended_at", None) is not None
        return done and told is not None and told.outcome is not None and told.state == StepState.FINISHED

    def _end_step(self, job: Job, *, lose: bool, cut: int | None) -> None:
        request = job.spec.request
        self._check_backup(job.spec)
        try:
            outcome = self.server.run(request, self._source_text(job.spec) or "", self.now, cut)
        except Killed:
            lose, outcome = True, None
        if lose or outcome is None:
            job.state, job.seen = StepState.CRASHED, StepSeen(StepState.CRASHED, Reason.STEP_CRASHED, "lost")
            return
        assert len(outcome.encode()) <= 4096
        job.state, job.seen = StepState.FINISHED, StepSeen(StepState.FINISHED, outcome=outcome)

    def _check_backup(self, spec: StepSpec) -> None:
        """No Apply that may write has no backup behind it, where the policy asks for one."""
        request = spec.request
        act = request.verbs[0]
        if not isinstance(act, ApplyInput | RevertInput) or request.step != "apply":
            return
        assert request.not_after is not None
        assert request.expected_journal is not None
        assert request.identity is not None
        if act.policy.backup_required and self.now <= request.not_after:
            made = [f for f in self.server.files.values() if f.operation == request.operation]
            age = timedelta(hours=1)
            assert any(usable(f, request, act.plan.from_state, age) for f in made), "Apply without a backup"

    # One pass of the controller

    def serve(self, key: Key, *, effects: int | None = None, conflict: bool = False) -> float | None:
        """One pass; the controller dies after that many effects, or somebody else was first (*conflict*)."""
        observed = self.objects.get(key)
        if observed is None:
            return None
        seen = self.observe(observed)
        decision = DECIDE[key[0]](seen, self.now)
        assert decision == DECIDE[key[0]](seen, self.now), "the same observation, another decision"
        if conflict:
            self._set(observed, {})
            return 0.0
        before = self.version
        self._report(key, observed, decision.status)
        try:
            for effect in decision.effects[:effects]:
                self._act(observed, effect)
        except (Conflict, NotDone):
            return 1.0
        if effects is None and decision.again_in is not None:
            assert decision.again_in > 0 or self.version != before, (
                f"{key}: again at once, but nothing happened"
            )
        if effects is None and (decision.again_in is None or decision.again_in > SOON):
            # Where nothing has changed, the same is seen again.
            self._assert_through(key, decision if self.version == before else None)
        return decision.again_in

    def _assert_through(self, key: Key, decision: Decision | None) -> None:
        """Its own report wakes an object late: whoever has more to do asks for another look."""
        found = self.objects.get(key)
        if found is not None:
            decision = decision or DECIDE[key[0]](self.observe(found), self.now)
            left = [e for e in decision.effects if not isinstance(e, Emit)]
            assert left == [], f"{key}: {left} is left to do, and no look was asked for"

    # Report and act

    def _report(self, key: Key, observed: Resource, status: Status) -> None:
        if status == observed.status:  # type: ignore[attr-defined]
            return
        wanted = {k: v for k, v in status.to_json().items() if k != "activeOperation"}
        have = {k: v for k, v in observed.status.to_json().items() if k != "activeOperation"}  # type: ignore[attr-defined]
        assert len(json.dumps(wanted)) < STATUS_LIMIT
        if wanted == have:
            return
        if isinstance(observed, PostgresDatabase) and observed.status.active_operation is not None:
            wanted["activeOperation"] = observed.status.active_operation.to_json()
        told = type(observed.status).model_validate(wanted)  # type: ignore[attr-defined]
        self._set(self.objects[key].model_copy(update={"status": told}), {})

    def _act(self, about: Resource, effect: Effect) -> None:
        match effect:
            case StartStep(spec):
                self._start(about, spec)
            case DeleteStep(_, name):
                self._drop_job(name)
            case Create(manifest):
                self._create_once(manifest)
            case Delete("ConfigMap", _, name, uid):
                if name in self.copies and self.copies[name][0] == uid:
                    del self.copies[name]
                    self.version += 1
            case Delete(kind, _, name, uid):
                found = self.objects.get((kind, name))
                if found is not None and found.metadata.uid == uid:
                    self.delete((kind, name))
            case SetFinalizer(kind, _, name, uid, present):
                self._finalizer((kind, name), uid, present=present)
            case Hold():
                self._hold(effect)
            case Emit():
                self.events.append(effect)
            case SaveDocument(_, job, name):
                if job in self.jobs and name not in self.copies:
                    self.copies[name] = (f"u{next(self._uids)}", about.metadata.uid, "")
                    self.version += 1

    def _start(self, about: Resource, spec: StepSpec) -> None:
        if self.terminating:
            raise NotDone
        assert spec.owner.uid == about.metadata.uid
        assert len(spec.job) <= 63
        if isinstance(spec.request.verbs[0], ApplyInput | RevertInput | RestoreInput):
            base = self._get(PostgresDatabase, self._database_of(about))
            assert base is not None
            assert base.status.active_operation is not None, "a writing step, but the database is not held"
            assert base.status.active_operation.uid == spec.request.operation, "two operations at once"
        if spec.job not in self.jobs:
            self.jobs[spec.job] = Job(spec, spec.request.hash)
            self.past.append(spec)
            self.version += 1

    def _database_of(self, resource: Resource) -> str:
        name = resource.spec.database_ref.name  # type: ignore[attr-defined]
        return cast("str", name)

    def _drop_job(self, name: str) -> None:
        if self.jobs.pop(name, None) is not None:
            self.version += 1

    def _create_once(self, manifest: dict[str, Any]) -> None:
        kind, meta = manifest["kind"], manifest["metadata"]
        owners = {ref["uid"] for ref in meta.get("ownerReferences", ())}
        if kind == "ConfigMap":
            if meta["name"] not in self.copies:
                text = " ".join(manifest.get("data", {}).values())
                self.copies[meta["name"]] = (f"u{next(self._uids)}", next(iter(owners)), text)
                self.version += 1
            elif self.copies[meta["name"]][1] not in owners:
                raise NotDone
            return
        found = self.objects.get((kind, meta["name"]))
        if found is None:
            if self.terminating:
                raise NotDone
            self._create(manifest)
            return
        have = {ref.uid for ref in found.metadata.owner_references}
        same = found.metadata.annotations.get(SPEC_HASH) == meta["annotations"][SPEC_HASH]
        if not same or not owners <= have or found.metadata.deleting:
            raise NotDone

    def _create(self, manifest: dict[str, Any]) -> None:
        meta = {"namespace": "team", **manifest["metadata"], "uid": f"uid-{next(self._uids)}"}
        made = parse({**manifest, "metadata": meta})
        self._set(made, {})

    def _finalizer(self, key: Key, uid: str, *, present: bool) -> None:
        found = self.objects.get(key)
        if found is None or found.metadata.uid != uid:
            if present:
                raise Conflict
            return
        if present == (FINALIZER in found.metadata.finalizers):
            return
        if present and found.metadata.deleting:
            raise Conflict
        self._set(found, {"finalizers": (FINALIZER,) if present else ()})
        if found.metadata.deleting:
            self._remove(key)

    def _hold(self, hold: Hold) -> None:
        key = ("PostgresDatabase", hold.database)
        found = self.objects.get(key)
        if found is None:
            return
        if found.metadata.resource_version != hold.resource_version:
            raise Conflict
        told = found.status.model_copy(update={"active_operation": hold.operation})  # type: ignore[attr-defined]
        self._set(found.model_copy(update={"status": told}), {})

    def _set(self, resource: Resource, meta: dict[str, Any]) -> None:
        self.version += 1
        update = {**meta, "resource_version": str(self.version)}
        told: Metadata = resource.metadata.model_copy(update=update)
        self.objects[(resource.KIND, told.name)] = resource.model_copy(update={"metadata": told})

    def _remove(self, key: Key) -> None:
        """The object is gone, and with it what it owns (background deletion)."""
        uid = self.objects.pop(key).metadata.uid
        self.version += 1
        for other, found in list(self.objects.items()):
            if any(ref.uid == uid for ref in found.metadata.owner_references):
                self.delete(other)
        for name, (_, owner, _) in list(self.copies.items()):
            if owner == uid:
                del self.copies[name]
        for name, job in list(self.jobs.items()):
            if job.spec.owner.uid == uid:
                self._drop_job(name)

    # Left alone

    def settle(self) -> None:
        """Nothing goes wrong any more; time passes until nothing happens. A hot loop is an AssertionError."""
        self.server.reachable, self.server.locked, self.blocked = True, False, False
        until, quiet_since, rounds = self.now + timedelta(hours=30), self.now, 0
        while self.now < until and self.now - quiet_since < timedelta(hours=2):
            rounds += 1
            assert rounds < 2_000, "it never comes to rest"
            before = self.version
            waits = self._serve_all()
            for name in list(self.jobs):
                self.step_on(name)
            if self.version != before:
                quiet_since = self.now
            if any(not job.ended for job in self.jobs.values()):
                waits.append(1.0)
            self.now += timedelta(seconds=max(1.0, min(waits, default=3_600.0)))

    def _serve_all(self) -> list[float]:
        for _ in range(60):
            before = self.version
            waits = [self.serve(key) for key in sorted(self.objects)]
            if self.version == before:
                return [w for w in waits if w is not None]
        raise AssertionError("a hot loop: " + ", ".join(map(str, sorted(self.objects))))
