"""Any history, whatever goes wrong in it, ends well: planners driven by a machine that breaks things."""

import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from godwit.api.backup import DatabaseBackup
from godwit.api.common import CANCEL, FINALIZER, REQUESTED_AT
from godwit.api.database import PostgresDatabase
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun

from .world import World

SOURCES = [
    "m1",
    "m1 m2",
    "m1 m2 m3",
    "m1 m2! m3",
    "m1 m2~ m3",
    "m1 m2 m3v",
    "m1- m2 m3",
    "m1 m2d m3!",
    "m1 #",
]
TARGETS = ["Latest", "m1", "m2", "m9"]
POLICIES = [
    {},
    {"environment": "Staging", "rollback": {"automaticRestore": True}},
    {"environment": "Development", "rollback": {"automaticRestore": True, "acceptDataLoss": True}},
    {"environment": "Development", "backup": {"required": False}},
    {"backup": {"volume": {"claimName": "b"}, "deletionPolicy": "Delete", "keep": 1}},
]
TIMES = [
    timedelta(seconds=1),
    timedelta(seconds=20),
    timedelta(minutes=10),
    timedelta(hours=2),
    timedelta(days=3),
]
NAMES = ["shop", "crm"]


def database_spec(number):
    base = {"connection": {"uriFrom": {"name": "s", "key": "uri"}}, "backup": {"volume": {"claimName": "b"}}}
    return {**base, "checkInterval": "72h", **POLICIES[number]}


def migration_spec(source, **more):
    return {
        "databaseRef": {"name": "shop"},
        "source": {"configMaps": [{"name": f"files-{source}"}]},
        "interval": "96h",
        **more,
    }


class Histories(RuleBasedStateMachine):
    """One database, two migrations on it, backups and restores of people, and all that may happen."""

    def __init__(self):
        super().__init__()
        self.world = World()
        self.asked = 0

    @initialize(policy=st.integers(0, len(POLICIES) - 1), source=st.sampled_from(SOURCES))
    def begin(self, policy, source):
        self.world.maps = {"files-shop": source, "files-crm": source}
        self.world.put("PostgresDatabase", "shop", database_spec(policy))
        self.world.put("DatabaseMigration", "shop", migration_spec("shop"))

    def key(self, number):
        keys = sorted(self.world.objects)
        return keys[number % len(keys)] if keys else ("PostgresDatabase", "none")

    def job(self, number):
        jobs = sorted(self.world.jobs)
        return jobs[number % len(jobs)] if jobs else ""

    # The controller

    @rule(rounds=st.integers(1, 12))
    def go_on(self, rounds):
        """Everything gets on: passes over all objects, and a step of every step."""
        for _ in range(rounds):
            for key in sorted(self.world.objects):
                self.world.serve(key)
            for name in sorted(self.world.jobs):
                self.world.step_on(name)

    @rule(which=st.integers(0, 30), effects=st.integers(0, 3))
    def die_in_a_pass(self, which, effects):
        """The controller dies after the status and some of the effects."""
        self.world.serve(self.key(which), effects=effects)

    @rule(which=st.integers(0, 30))
    def somebody_was_first(self, which):
        """The status write meets a conflict."""
        self.world.serve(self.key(which), conflict=True)

    @rule(which=st.integers(0, 30))
    def come_to_rest(self, which):
        """With nothing done, the same observation leads to the same status."""
        world, key = self.world, self.key(which)
        for _ in range(6):
            before = world.version
            world.serve(key, effects=0)
            if world.version == before:
                return
        raise AssertionError(f"{key} writes its status again and again")

    # Steps

    @rule(
        which=st.integers(0, 9),
        how=st.sampled_from(["on", "kill", "lose"]),
        cut=st.integers(0, 3) | st.none(),
    )
    def one_step(self, which, how, cut):
        self.world.step_on(self.job(which), how=how, cut=cut)

    @rule(which=st.integers(0, 9))
    def job_deleted(self, which):
        self.world._drop_job(self.job(which))

    @precondition(lambda self: self.world.past)
    @rule(which=st.integers(0, 50))
    def old_attempt_wakes_up(self, which):
        """A late or repeated step changes nothing once what it was for is over."""
        spec = self.world.past[which % len(self.world.past)]
        over = self.world.answered(spec)
        before = self.world.server.live.snapshot
        self.world.repeat(spec)
        if over:
            assert self.world.server.live.snapshot == before

    # The world outside

    @rule(by=st.sampled_from(TIMES))
    def time_passes(self, by):
        self.world.now += by

    @rule()
    def application_writes(self):
        self.world.server.live.data += 1

    @rule(name=st.sampled_from(["m1", "m2", "m3", "x9"]))
    def another_tool_migrates(self, name):
        live = self.world.server.live
        if name in live.applied:
            live.applied.remove(name)
        else:
            live.applied.append(name)
        live.partial = ""

    @rule(what=st.sampled_from(["reachable", "locked", "blocked"]), value=st.booleans())
    def something_is_wrong(self, what, value):
        setattr(self.world if what == "blocked" else self.world.server, what, value)

    @rule()
    def the_connection_leads_elsewhere(self):
        server = self.world.server
        server.live = type(server.live)(server.next_oid)
        server.next_oid += 1

    # People

    @rule(name=st.sampled_from(NAMES), text=st.sampled_from(SOURCES) | st.none())
    def source_edited(self, name, text):
        if text is None:
            self.world.maps.pop(f"files-{name}", None)
        else:
            self.world.maps[f"files-{name}"] = text
        self.world.version += 1

    @rule(
        name=st.sampled_from(NAMES),
        version=st.sampled_from(TARGETS),
        suspend=st.booleans(),
        failing=st.sampled_from(["Stop", "RollBack"]),
        down=st.booleans(),
    )
    def migration_put(self, name, version, suspend, failing, down):
        more = {"targetVersion": version, "suspend": suspend, "onFailure": failing, "allowDowngrade": down}
        self.world.put("DatabaseMigration", name, migration_spec(name, **more))

    @rule(policy=st.integers(0, len(POLICIES) - 1))
    def database_put(self, policy):
        self.world.put("PostgresDatabase", "shop", database_spec(policy))

    @rule(which=st.integers(0, 30), note=st.sampled_from([REQUESTED_AT, CANCEL]))
    def annotated(self, which, note):
        self.asked += 1
        self.world.annotate(self.key(which), note, f"{self.asked}/{self.asked}")

    @rule(name=st.sampled_from(["by-hand", "again"]), policy=st.sampled_from(["Retain", "Delete"]))
    def backup_put(self, name, policy):
        if ("DatabaseBackup", name) not in self.world.objects and not self.world.terminating:
            spec = {"databaseRef": {"name": "shop"}, "deletionPolicy": policy}
            self.world.put("DatabaseBackup", name, spec)

    @rule(name=st.sampled_from(["undo", "redo"]), which=st.integers(0, 9), lossy=st.booleans())
    def restore_put(self, name, which, lossy):
        backups = sorted(b.metadata.name for b in self.world.all(DatabaseBackup)) or ["none"]
        if ("DatabaseRestore", name) not in self.world.objects and not self.world.terminating:
            spec = {"databaseRef": {"name": "shop"}, "backupRef": {"name": backups[which % len(backups)]}}
            self.world.put("DatabaseRestore", name, {**spec, "acceptDataLoss": lossy})

    @rule(which=st.integers(0, 30), force=st.sampled_from([False, False, False, True]))
    def deleted(self, which, force):
        self.world.delete(self.key(which), force=force)

    @rule(sure=st.integers(0, 9))
    def namespace_deleted(self, sure):
        if sure == 0:
            self.world.terminate()

    @invariant()
    def nothing_is_held_twice(self):
        """Two runs or restores never both have a step that writes."""
        writing = {
            job.spec.request.operation
            for job in self.world.jobs.values()
            if job.spec.request.step in ("apply", "revert", "restore") and not job.ended
        }
        active = {
            b.status.active_operation.uid
            for b in self.world.all(PostgresDatabase)
            if b.status.active_operation
        }
        assert len(writing & active) <= 1

    def teardown(self):
        self.world.settle()
        assert_settled(self.world)


def assert_settled(world):
    """Every object is Ready, Stalled, Waiting or resting, with a reason; whatever ended holds nothing."""
    waits = set()
    for key, found in world.objects.items():
        ready = found.status.condition("Ready")
        assert ready is not None, key
        assert ready.reason, key
        assert not found.metadata.deleting, f"{key} hangs: {ready}"
        stalled, moving = found.status.condition("Stalled"), found.status.condition("Reconciling")
        assert ready.status != "Unknown", f"{key} never ends: {ready}"
        assert ready.status == "True" or stalled or moving or ready.reason == "Suspended", f"{key}: {ready}"
        if moving:
            waits.add(found.metadata.uid)
    for name, job in world.jobs.items():
        assert job.spec.owner.uid in waits, f"Job {name} is left over"
    for run in (*world.all(MigrationRun), *world.all(DatabaseRestore)):
        over = run.status.ended_at is not None
        assert over or run.metadata.uid in waits, run
        assert not over or (run.status.released and FINALIZER not in run.metadata.finalizers), run
    active_runs = {r.spec.migration_ref.uid for r in world.all(MigrationRun) if not r.status.released}
    for migration in world.all(DatabaseMigration):
        assert FINALIZER not in migration.metadata.finalizers or migration.metadata.uid in active_runs
    for base in world.all(PostgresDatabase):
        held = base.status.active_operation
        assert held is None or held.uid in waits, f"held for ever: {held}"
        assert held is not None or FINALIZER not in base.metadata.finalizers


# `make test` looks at some histories; HYPOTHESIS_PROFILE=nightly looks at many.
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
TestHistories = pytest.mark.timeout(3_600 if NIGHTLY else 600)(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=2_000 if NIGHTLY else 80,
    stateful_step_count=50 if NIGHTLY else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # A history is short enough to be read as it is, and shrinking one takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
