"""Passes of the controller over objects on a cluster that refuses or loses something."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from godwit.api.common import FINALIZER, SPEC_HASH
from godwit.api.kinds import parse
from godwit.cluster.local import LocalCluster
from godwit.cluster.port import ConflictError, GoneError, Manifest, RefusedError
from godwit.contract.reasons import Reason
from godwit.controller.act import Actor, NotDoneError
from godwit.controller.loop import CHECKED, ECHO, Controller, together, utc_now
from godwit.controller.queue import Key
from godwit.controller.slots import Slots
from godwit.planner.decision import (
    Create,
    Delete,
    DeleteStep,
    Effect,
    Hold,
    SaveDocument,
    SetFinalizer,
    StepSeen,
    StepSpec,
    StepState,
    Unreachable,
)

NAMESPACE = "shop"
OWNER = {"kind": "PostgresDatabase", "name": "shop"}
KEY = Key("PostgresDatabase", NAMESPACE, "shop")
DATABASE = {
    "apiVersion": "godwit.dev/v1alpha1",
    "kind": "PostgresDatabase",
    "metadata": {"name": "shop", "namespace": NAMESPACE},
    "spec": {
        "connection": {"uriFrom": {"name": "shop", "key": "uri"}},
        "environment": "Development",
        "backup": {"required": False},
    },
}


class Cluster(LocalCluster):
    """A local cluster that refuses every Job while `why` says so, and ConfigMaps when it is full of them."""

    why = ""
    full = False
    found: Manifest | None = None
    """What has the name of whatever is to be created."""
    conflicts = 0
    """How many of the next writes of a status meet a conflict."""
    shown: StepSeen | None = None
    """How every step stands."""

    async def create(self, manifest: Manifest) -> Manifest:
        if self.full and manifest["kind"] == "ConfigMap":
            raise RefusedError("exceeded quota: configmaps=0")
        return self.found or await super().create(manifest)

    async def apply_status(self, observed: Manifest, status: Manifest, manager: str) -> Manifest:
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError("the object has been modified")
        return await super().apply_status(observed, status, manager)

    async def observe_step(self, job: str, namespace: str, owner_uid: str, request_hash: str) -> StepSeen:
        return self.shown or await super().observe_step(job, namespace, owner_uid, request_hash)

    async def read_document(self, namespace: str, job: str) -> str | None:
        return '{"event": "document"}' if self.full else await super().read_document(namespace, job)

    async def start_step(self, spec: StepSpec) -> None:
        if self.why:
            raise RefusedError(self.why)
        await super().start_step(spec)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(namespaces=(NAMESPACE,)) as made:
        yield made


class Bench:
    """A controller whose time passes when it is told to; events of its own writes reach it."""

    def __init__(self, cluster: Cluster, **options: int) -> None:
        self.time = 0.0
        self.passes: list[float] = []
        self.cluster = cluster
        self.controller = Controller(cluster, image="local", monotonic=lambda: self.time, **options)

    async def until(self, time: float) -> None:
        while self.time < time:
            while (key := self.controller.queue.take()) is not None:
                self.passes.append(self.time)
                before = await self.found()
                await self.controller._serve(key)
                after = await self.found()
                if after != before:
                    self.controller.changed(after)
            self.time += 0.1

    def settled(self, *manifests: Manifest) -> None:
        """These were applied, and nothing is due any more."""
        for manifest in manifests:
            self.controller.changed(self.cluster.apply(manifest))
        self.drained()

    def drained(self) -> set[Key]:
        """What was due, and is not any more."""
        due = set()
        while (key := self.controller.queue.take()) is not None:
            due.add(key)
            self.controller.queue.done(key, after=None)
        return due

    async def found(self) -> Manifest:
        found = await self.cluster.get(*_place(KEY))
        assert found is not None
        return found

    async def ready(self) -> Manifest:
        conditions = (await self.found())["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "Ready")


def of_database(key: Key, **spec: object) -> Manifest:
    """An object of DATABASE."""
    return {
        "apiVersion": "godwit.dev/v1alpha1",
        "kind": key.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": {"databaseRef": {"name": "shop"}, **spec},
    }


def _place(key: Key) -> tuple[str, str, str]:
    return key.kind, key.namespace, key.name


async def test_what_the_api_server_refuses_is_tried_again_ever_later_and_told_once(cluster: Cluster):
    cluster.why = "exceeded quota: count/jobs.batch=0"
    bench = Bench(cluster)
    bench.controller.changed(cluster.apply(DATABASE))
    await bench.until(5)
    told = await bench.ready()
    assert (told["status"], told["reason"]) == ("False", "PodRefused")
    version = (await bench.found())["metadata"]["resourceVersion"]

    await bench.until(300)
    assert len(bench.passes) < 25
    assert (await bench.found())["metadata"]["resourceVersion"] == version

    cluster.why = ""
    await bench.until(400)
    assert (await bench.ready())["reason"] != "PodRefused"


@pytest.mark.parametrize(("conflicts", "most"), [(2, 0.0), (1_000, 300.0)])
async def test_a_conflict_is_looked_at_again_at_once_and_one_after_the_other_ever_later(
    cluster: Cluster, conflicts: int, most: float
):
    # Somebody who writes at the same moment, or a webhook that answers every write with 409.
    cluster.conflicts = conflicts
    bench = Bench(cluster)
    bench.controller.changed(cluster.apply(DATABASE))
    await bench.until(0.1 + most)
    assert len(bench.passes) < 25
    assert (cluster.conflicts == 0) is (conflicts == 2)


async def test_who_takes_an_object_does_not_wake_it_before_what_it_was_taken_for(cluster: Cluster):
    bench = Bench(cluster)
    queue = bench.controller.queue
    made = cluster.apply(DATABASE)
    bench.controller.changed(made)
    assert queue.take() == KEY
    queue.done(KEY, after=None)
    operation = {"kind": "MigrationRun", "name": "shop-1", "uid": "u", "since": "2026-01-01T00:00:00Z"}
    taken = made | {
        "metadata": made["metadata"] | {"finalizers": [FINALIZER]},
        "status": {"activeOperation": operation},
    }
    bench.controller.changed(taken)
    assert queue.take() is None
    bench.time = ECHO
    assert queue.take() == KEY


async def test_of_a_check_and_a_plan_that_end_together_the_plan_goes_first(cluster: Cluster):
    bench = Bench(cluster)
    queue = bench.controller.queue
    plan = Key("DatabaseMigration", NAMESPACE, "books")
    bench.settled(DATABASE, of_database(plan, source={"configMaps": [{"name": "books"}]}))
    bench.time = 10.0
    for key in (KEY, plan):
        bench.controller.step_changed(*_place(key), ended=True)
    assert queue.take() == plan
    queue.done(plan, after=None)
    assert queue.take() is None
    bench.time += CHECKED
    assert queue.take() == KEY


async def test_what_a_pass_makes_is_looked_at_without_its_event(cluster: Cluster):
    bench = Bench(cluster)
    about = parse(cluster.apply(DATABASE))
    key = Key("DatabaseBackup", NAMESPACE, "shop-1")
    backup = of_database(key)
    backup["metadata"]["annotations"] = {SPEC_HASH: "h"}
    await bench.controller._actor.act(about, Create(backup))
    assert bench.controller.queue.take() == key
    bench.controller.queue.done(key, after=None)
    await bench.controller._actor.act(about, Create(backup))
    assert bench.controller.queue.take() is None


def test_finalizers_are_put_on_together_and_taken_off_one_after_the_other():
    on = [SetFinalizer(KEY.kind, NAMESPACE, name, "", present=True) for name in ("a", "b")]
    off = [SetFinalizer(KEY.kind, NAMESPACE, name, "", present=False) for name in ("a", "b")]
    hold, made = Hold(NAMESPACE, "shop", "1", None), Create({})
    assert list(together([hold, *on, made])) == [[hold], on, [made]]
    assert list(together([hold, *off])) == [[hold], [off[0]], [off[1]]]


async def test_an_object_made_while_its_name_was_looked_up_is_looked_at(cluster: Cluster):
    bench = Bench(cluster)
    bench.controller.changed(cluster.apply(DATABASE))
    cluster.remove(*_place(KEY))
    made: list[Manifest] = []
    look_up = cluster.get

    async def get(kind: str, namespace: str, name: str) -> Manifest | None:
        found = await look_up(kind, namespace, name)
        if found is None and not made:
            made.append(cluster.apply(DATABASE))
            bench.controller.changed(made[0])
        return found

    cluster.get = get  # type: ignore[method-assign]
    key = bench.controller.queue.take()
    assert key is not None
    await bench.controller._serve(key)
    assert bench.controller.queue.take() == KEY


@pytest.mark.parametrize("made_anew", [False, True], ids=["gone", "made anew meanwhile"])
async def test_what_went_while_no_watch_saw_it_is_told_to_those_who_wait_for_it(
    cluster: Cluster, made_anew: bool
):
    # After a watch has lost its place, kopf tells of what there is; of what went meanwhile it says nothing.
    bench = Bench(cluster)
    queue = bench.controller.queue
    place = Key("DatabaseBackup", NAMESPACE, "b")
    backup = of_database(place)
    bench.settled(DATABASE, backup)
    cluster.remove(*_place(place))
    look_up = cluster.get

    async def get(kind: str, namespace: str, name: str) -> Manifest | None:
        found = await look_up(kind, namespace, name)
        if found is None and made_anew:
            bench.controller.changed(cluster.apply(backup))
        return found

    cluster.get = get  # type: ignore[method-assign]
    queue.add(place, "its group")
    assert queue.take() == place
    await bench.controller._serve(place)
    due = bench.drained()
    assert KEY in due
    assert (place in due) is made_anew


async def test_a_document_that_the_api_server_refuses_keeps_nothing_else_from_being_done(cluster: Cluster):
    cluster.full = True
    about = parse(cluster.apply(DATABASE))
    assert (
        await Actor(cluster, Slots(1), print).act(about, SaveDocument(NAMESPACE, "job", "shop-plan-1"))
        is None
    )
    assert await cluster.get("ConfigMap", NAMESPACE, "shop-plan-1") is None


@pytest.mark.parametrize(
    "effect",
    [
        pytest.param(SetFinalizer(KEY.kind, NAMESPACE, "shop", "", present=True), id="a finalizer"),
        pytest.param(Delete(KEY.kind, NAMESPACE, "shop", ""), id="a deletion"),
        pytest.param(DeleteStep(NAMESPACE, "shop-check-1"), id="a Job's deletion"),
        pytest.param(Hold(NAMESPACE, "shop", "1", None), id="who holds the database"),
    ],
)
async def test_whatever_the_api_server_refuses_is_told_with_its_own_words(cluster: Cluster, effect: Effect):
    # An admission policy, or a right that was taken away: a log alone would say why nothing gets on.
    async def refuse(*_: object, **__: object) -> None:
        raise RefusedError("denied by policy hands-off")

    about = parse(cluster.apply(DATABASE))
    for name in ("set_finalizer", "delete", "delete_step", "apply_status"):
        setattr(cluster, name, refuse)
    with pytest.raises(NotDoneError, match=r"shop.*: denied by policy hands-off") as caught:
        await Actor(cluster, Slots(1), print).act(about, effect)
    assert caught.value.failure.reason is Reason.POD_REFUSED


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(
            {"ownerReferences": [{**OWNER, "uid": "former"}]}, GoneError, id="its former namesake's"
        ),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, GoneError, id="about to go"),
        pytest.param({"ownerReferences": []}, NotDoneError, id="nobody's"),
        pytest.param(
            {"ownerReferences": [{**OWNER, "name": "crm", "uid": "c"}]}, NotDoneError, id="another's"
        ),
        pytest.param({"annotations": {}}, NotDoneError, id="a stranger's of that name"),
        pytest.param({"annotations": {SPEC_HASH: "b"}}, NotDoneError, id="of another content"),
    ],
)
async def test_what_is_left_of_an_owner_that_was_made_anew_is_waited_out(
    cluster: Cluster, change: Manifest, error: type[Exception]
):
    # A garbage collector takes it in a moment; Stalled meanwhile would end what waits for the owner.
    about = parse(cluster.apply(DATABASE))
    owner = {**OWNER, "uid": about.metadata.uid}
    copy = {"name": "copy", "annotations": {SPEC_HASH: "a"}, "ownerReferences": [owner]}
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": copy}
    cluster.found = {**wanted, "metadata": {**copy, **change}}
    with pytest.raises(error):
        await Actor(cluster, Slots(1), print).act(about, Create(wanted))


async def test_whoever_waits_for_a_slot_is_woken_when_one_is_free_and_asks_seldom_before(cluster: Cluster):
    delay = cluster.delay_steps(lambda _: True)
    cluster.add_secret(NAMESPACE, "shop", {"uri": "postgresql://db.invalid/shop"})
    bench = Bench(cluster, max_concurrent_steps=1)
    bench.controller.slots.enter(Key("DatabaseBackup", NAMESPACE, "other"), "other")
    bench.controller.changed(cluster.apply(DATABASE))

    await bench.until(60)
    assert len(bench.passes) < 10
    assert cluster.jobs(NAMESPACE) == []

    bench.controller.slots.leave(NAMESPACE, "other")
    await bench.until(61)
    assert len(cluster.jobs(NAMESPACE)) == 1
    delay.release()


async def test_a_pod_that_is_lost_with_its_node_is_told_of_once_and_gives_its_slot_to_others(
    cluster: Cluster,
):
    bench = Bench(cluster)
    bench.controller.changed(cluster.apply(DATABASE))
    await bench.until(1)
    assert len(bench.controller.slots) == 1

    gone = utc_now() - timedelta(hours=1)
    cluster.shown = StepSeen(StepState.RUNNING, unreachable=Unreachable(gone, "Pod p was to be gone."))
    await bench.until(400)
    ready = await bench.ready()
    assert (ready["status"], ready["reason"]) == ("False", "PodUnreachable")
    assert "Pod p was to be gone." in ready["message"]
    assert [event.reason for event in cluster.events].count("PodUnreachable") == 1
    assert len(bench.controller.slots) == 0
    assert len(cluster.jobs(NAMESPACE)) == 1


async def test_a_status_that_is_refused_is_told_by_an_event(cluster: Cluster):
    # CRDs that are older than the operator lack a field: no status can be written, and none can say why.
    async def refuse(*_: object, **__: object) -> Manifest:
        raise RefusedError(".status.moon: field not declared in schema")

    cluster.apply_status = refuse  # type: ignore[method-assign]
    bench = Bench(cluster)
    bench.controller.changed(cluster.apply(DATABASE))
    await bench.until(300)
    assert len(bench.passes) < 25
    (told,) = cluster.events
    assert (told.type, told.reason) == ("Warning", "PodRefused")
    assert ".status.moon" in told.message
