"""The port's conformance suite, objects: both implementations do the same, or local is wrong."""

import pytest
from conformance.bed import Bed, config_map, database, eventually, migration, owner_reference

from godwit.api.common import FINALIZER
from godwit.cluster.port import (
    OPERATION_MANAGER,
    STATUS_MANAGER,
    ConflictError,
    GoneError,
    Manifest,
    RefusedError,
)
from godwit.contract.request import ObjectRef

KIND = "DatabaseMigration"
NOBODY = "00000000-0000-4000-8000-000000000000"
OPERATION = {"kind": "MigrationRun", "name": "orders-1", "uid": "u-1", "since": "2026-01-01T00:00:00Z"}


async def test_create_gives_the_object_its_metadata(bed: Bed):
    made = await bed.cluster.create(migration(bed))

    meta = made["metadata"]
    assert (meta["name"], meta["namespace"], meta["generation"]) == ("orders", bed.namespace, 1)
    assert meta["uid"]
    assert meta["resourceVersion"]
    assert meta["creationTimestamp"]
    assert await bed.cluster.get(KIND, bed.namespace, "orders") == made


async def test_create_fills_in_the_defaults_that_the_schema_names(bed: Bed):
    spec = (await bed.cluster.create(migration(bed)))["spec"]

    assert spec["targetVersion"] == "Latest"
    assert spec["format"] == "Prisma"
    assert spec["strategy"]["maxReplicaLag"] == "10s"
    assert spec["gates"] == {"approval": "Never", "rehearsal": "Never"}
    assert (spec["suspend"], spec["runHistoryLimit"]) == (False, 10)


async def test_create_keeps_given_values_and_fills_in_beside_them(bed: Bed):
    spec = (await bed.cluster.create(migration(bed, suspend=True, strategy={"maxLockHold": "1s"})))["spec"]

    assert spec["suspend"] is True
    assert spec["strategy"]["maxLockHold"] == "1s"
    assert spec["strategy"]["maxReplicaLag"] == "10s"


async def test_create_prunes_what_the_schema_does_not_know(bed: Bed):
    made = await bed.cluster.create(migration(bed, unheardOf=1, verify={"checks": [], "other": "x"}))

    assert "unheardOf" not in made["spec"]
    assert "other" not in made["spec"]["verify"]


async def test_create_ignores_a_status(bed: Bed):
    made = await bed.cluster.create({**migration(bed), "status": {"phase": "Ready"}})

    assert "phase" not in made.get("status", {})


async def test_creating_again_returns_the_first_object_unchanged(bed: Bed):
    first = await bed.cluster.create(migration(bed))

    assert await bed.cluster.create(migration(bed, suspend=True)) == first


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        pytest.param({"databaseRef": None}, "databaseRef", id="a required field is missing"),
        pytest.param({"onFailure": "Explode"}, "onFailure", id="a value is not in the enumeration"),
        pytest.param({"interval": "soon"}, "interval", id="a text does not match its pattern"),
        pytest.param({"runHistoryLimit": 0}, "runHistoryLimit", id="a number is below its bound"),
        pytest.param({"suspend": "yes"}, "suspend", id="a value has another type"),
    ],
)
async def test_what_the_schema_forbids_is_refused_by_name(bed: Bed, spec: Manifest, word: str):
    manifest = migration(bed)
    manifest["spec"] = {k: v for k, v in {**manifest["spec"], **spec}.items() if v is not None}

    with pytest.raises(RefusedError, match=word):
        await bed.cluster.create(manifest)
    assert await bed.cluster.get(KIND, bed.namespace, "orders") is None


async def test_create_in_a_namespace_that_is_not_there(bed: Bed):
    await bed.from_outside()
    manifest = migration(bed)
    manifest["metadata"]["namespace"] = f"{bed.namespace}-never"

    with pytest.raises(GoneError):
        await bed.cluster.create(manifest)


async def test_what_is_not_there_is_none(bed: Bed):
    assert await bed.cluster.get(KIND, bed.namespace, "orders") is None
    assert await bed.cluster.get("ConfigMap", bed.namespace, "files") is None
    assert await bed.cluster.list(KIND, bed.namespace) == []


async def test_list_is_ordered_by_name_and_complete(bed: Bed):
    made = [await bed.cluster.create(migration(bed, name)) for name in ("b", "c", "a")]
    await bed.cluster.create(database(bed))

    listed = await bed.cluster.list(KIND, bed.namespace)
    assert [m["metadata"]["name"] for m in listed] == ["a", "b", "c"]
    assert listed == [made[2], made[0], made[1]]


async def test_a_config_map_with_texts_and_bytes(bed: Bed):
    manifest = config_map(bed, "files", data={"a.sql": "SELECT 1;\n"}, binaryData={"b.tar.gz": "AAEC"})
    await bed.cluster.create({**manifest, "immutable": True})

    found = await bed.cluster.get("ConfigMap", bed.namespace, "files")
    assert found is not None
    assert (found["kind"], found["apiVersion"], found["immutable"]) == ("ConfigMap", "v1", True)
    assert (found["data"], found["binaryData"]) == ({"a.sql": "SELECT 1;\n"}, {"b.tar.gz": "AAEC"})


async def test_the_namespace_itself_can_be_read(bed: Bed):
    found = await bed.cluster.get("Namespace", "", bed.namespace)

    assert found is not None
    assert found["metadata"]["name"] == bed.namespace
    assert "deletionTimestamp" not in found["metadata"]


async def test_a_change_of_spec_makes_a_new_generation_and_other_changes_do_not(bed: Bed):
    made = await bed.cluster.create(migration(bed))

    marked = await bed.edit(KIND, "orders", lambda m: m["metadata"].update(annotations={"a": "b"}))
    assert marked["metadata"]["generation"] == 1
    assert marked["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    edited = await bed.edit(KIND, "orders", lambda m: m["spec"].update(suspend=True))
    assert edited["metadata"]["generation"] == 2
    assert await bed.cluster.get(KIND, bed.namespace, "orders") == edited


async def test_a_status_is_written_and_seen_at_once(bed: Bed):
    made = await bed.cluster.create(migration(bed))

    written = await bed.cluster.apply_status(made, {"observedGeneration": 1, "phase": "Ok"}, STATUS_MANAGER)
    assert written["status"] == {"observedGeneration": 1, "phase": "Ok"}
    assert written["metadata"]["generation"] == 1
    assert written["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    assert await bed.cluster.get(KIND, bed.namespace, "orders") == written


async def test_the_same_status_again_changes_nothing(bed: Bed):
    made = await bed.cluster.create(migration(bed))
    first = await bed.cluster.apply_status(made, {"observedGeneration": 1}, STATUS_MANAGER)

    again = await bed.cluster.apply_status(first, {"observedGeneration": 1}, STATUS_MANAGER)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_a_status_written_on_a_stale_read_is_a_conflict(bed: Bed):
    stale = await bed.cluster.create(migration(bed))
    now = await bed.cluster.apply_status(stale, {"observedGeneration": 1, "phase": "New"}, STATUS_MANAGER)

    with pytest.raises(ConflictError):
        await bed.cluster.apply_status(stale, {"observedGeneration": 1, "phase": "Old"}, STATUS_MANAGER)
    assert await bed.cluster.get(KIND, bed.namespace, "orders") == now


async def test_an_edit_in_between_is_a_conflict_too(bed: Bed):
    stale = await bed.cluster.create(migration(bed))
    await bed.edit(KIND, "orders", lambda m: m["spec"].update(suspend=True))

    with pytest.raises(ConflictError):
        await bed.cluster.apply_status(stale, {"observedGeneration": 1}, STATUS_MANAGER)


async def test_a_status_of_what_is_gone(bed: Bed):
    made = await bed.cluster.create(migration(bed))
    await bed.remove(KIND, "orders")

    with pytest.raises(GoneError):
        await bed.cluster.apply_status(made, {"observedGeneration": 1}, STATUS_MANAGER)


async def test_a_status_meant_for_a_former_namesake(bed: Bed):
    former = await bed.cluster.create(migration(bed))
    await bed.remove(KIND, "orders")
    now = await bed.cluster.create(migration(bed))

    with pytest.raises(ConflictError):
        await bed.cluster.apply_status(former, {"observedGeneration": 1}, STATUS_MANAGER)
    assert await bed.cluster.get(KIND, bed.namespace, "orders") == now


async def test_a_status_that_the_schema_forbids_is_refused(bed: Bed):
    made = await bed.cluster.create(migration(bed))

    with pytest.raises(RefusedError, match="pending"):
        await bed.cluster.apply_status(made, {"observedGeneration": 1, "pending": "many"}, STATUS_MANAGER)


async def test_each_manager_owns_its_fields_of_the_status(bed: Bed):
    made = await bed.cluster.create(database(bed))
    status = {"observedGeneration": 1, "phase": "Ok", "serverVersion": "17.2"}

    first = await bed.cluster.apply_status(made, status, STATUS_MANAGER)
    held = await bed.cluster.apply_status(first, {"activeOperation": OPERATION}, OPERATION_MANAGER)
    assert held["status"] == {**status, "activeOperation": OPERATION}, "the other manager's fields stay"

    less = await bed.cluster.apply_status(held, {"observedGeneration": 1, "phase": "Ok"}, STATUS_MANAGER)
    assert less["status"] == {"observedGeneration": 1, "phase": "Ok", "activeOperation": OPERATION}, (
        "a field that its manager leaves out is removed, another manager's is not"
    )
    released = await bed.cluster.apply_status(less, {}, OPERATION_MANAGER)
    assert released["status"] == {"observedGeneration": 1, "phase": "Ok"}


async def test_conditions_are_known_by_their_type(bed: Bed):
    made = await bed.cluster.create(migration(bed))
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "UpToDate",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    busy = {**ready, "type": "Reconciling", "reason": "Planning"}

    two = await bed.cluster.apply_status(
        made, {"observedGeneration": 1, "conditions": [busy, ready]}, STATUS_MANAGER
    )
    one = await bed.cluster.apply_status(
        two, {"observedGeneration": 1, "conditions": [{**ready, "status": "False"}]}, STATUS_MANAGER
    )
    assert [(c["type"], c["status"]) for c in one["status"]["conditions"]] == [("Ready", "False")]


async def test_a_finalizer_holds_the_object_until_it_is_taken_off(bed: Bed):
    uid = (await bed.cluster.create(migration(bed)))["metadata"]["uid"]
    for _ in range(2):
        await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=True)

    await bed.cluster.delete(KIND, bed.namespace, "orders", uid)
    held = await bed.cluster.get(KIND, bed.namespace, "orders")
    assert held is not None
    assert held["metadata"]["finalizers"] == [FINALIZER]
    assert held["metadata"]["deletionTimestamp"]

    for _ in range(2):
        await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=False)
    assert await bed.cluster.get(KIND, bed.namespace, "orders") is None


async def test_a_status_can_be_written_while_the_object_is_being_deleted(bed: Bed):
    uid = (await bed.cluster.create(migration(bed)))["metadata"]["uid"]
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=True)
    await bed.remove(KIND, "orders")

    held = await bed.cluster.get(KIND, bed.namespace, "orders")
    assert held is not None
    written = await bed.cluster.apply_status(
        held, {"observedGeneration": 1, "phase": "Deleting"}, STATUS_MANAGER
    )
    assert written["status"]["phase"] == "Deleting"
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=False)


async def test_other_peoples_finalizers_stay(bed: Bed):
    uid = (await bed.cluster.create(migration(bed)))["metadata"]["uid"]
    await bed.edit(KIND, "orders", lambda m: m["metadata"].update(finalizers=["example.com/theirs"]))

    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=True)
    both = await bed.cluster.get(KIND, bed.namespace, "orders")
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=False)
    theirs = await bed.cluster.get(KIND, bed.namespace, "orders")
    assert both is not None
    assert theirs is not None
    assert both["metadata"]["finalizers"] == ["example.com/theirs", FINALIZER]
    assert theirs["metadata"]["finalizers"] == ["example.com/theirs"]
    await bed.edit(KIND, "orders", lambda m: m["metadata"].update(finalizers=[]))


async def test_no_finalizer_is_added_to_what_goes_or_is_gone_or_is_another(bed: Bed):
    async def add(uid: str) -> None:
        await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=True)

    with pytest.raises(GoneError):
        await add(NOBODY)
    uid = (await bed.cluster.create(migration(bed)))["metadata"]["uid"]
    with pytest.raises(GoneError):
        await add(NOBODY)
    await bed.edit(KIND, "orders", lambda m: m["metadata"].update(finalizers=["example.com/theirs"]))
    await bed.remove(KIND, "orders")
    with pytest.raises(GoneError):
        await add(uid)
    await bed.edit(KIND, "orders", lambda m: m["metadata"].update(finalizers=[]))
    assert await bed.cluster.get(KIND, bed.namespace, "orders") is None


async def test_taking_a_finalizer_off_what_is_gone_or_another_is_done(bed: Bed):
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", NOBODY, present=False)
    uid = (await bed.cluster.create(migration(bed)))["metadata"]["uid"]
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=True)
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", NOBODY, present=False)

    found = await bed.cluster.get(KIND, bed.namespace, "orders")
    assert found is not None
    assert found["metadata"]["finalizers"] == [FINALIZER]
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=False)


async def test_delete_takes_only_the_object_with_that_uid(bed: Bed):
    await bed.cluster.delete(KIND, bed.namespace, "orders", NOBODY)
    uid = (await bed.cluster.create(migration(bed)))["metadata"]["uid"]

    await bed.cluster.delete(KIND, bed.namespace, "orders", NOBODY)
    assert await bed.cluster.get(KIND, bed.namespace, "orders") is not None
    await bed.cluster.delete(KIND, bed.namespace, "orders", uid)
    assert await bed.cluster.get(KIND, bed.namespace, "orders") is None


async def test_what_an_object_owns_goes_with_it_and_nothing_else_does(bed: Bed):
    owner = await bed.cluster.create(migration(bed))
    owned, free = config_map(bed, "owned"), config_map(bed, "free")
    owned["metadata"]["ownerReferences"] = [owner_reference(owner)]
    made = await bed.cluster.create(owned)
    await bed.cluster.create(free)
    assert made["metadata"]["ownerReferences"] == [owner_reference(owner)]

    await bed.remove(KIND, "orders")
    await eventually(
        lambda: bed.cluster.get("ConfigMap", bed.namespace, "owned"), lambda found: found is None
    )
    assert await bed.cluster.get("ConfigMap", bed.namespace, "free") is not None


async def test_a_namespace_that_ends_takes_no_new_objects_and_lets_finalizers_go(bed: Bed):
    await bed.from_outside()
    uid = (await bed.cluster.create(migration(bed)))["metadata"]["uid"]
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=True)

    await bed.end_namespace()
    ending = await bed.cluster.get("Namespace", "", bed.namespace)
    assert ending is not None
    assert ending["metadata"]["deletionTimestamp"]
    with pytest.raises(GoneError):
        await bed.cluster.create(config_map(bed, "late"))
    held = await eventually(
        lambda: bed.cluster.get(KIND, bed.namespace, "orders"),
        lambda m: m is not None and "deletionTimestamp" in m["metadata"],
    )
    assert held is not None
    await bed.cluster.set_finalizer(KIND, bed.namespace, "orders", uid, present=False)
    await eventually(lambda: bed.cluster.get("Namespace", "", bed.namespace), lambda found: found is None)


async def test_the_same_event_is_recorded_once(bed: Bed):
    made = await bed.cluster.create(migration(bed))
    about = ObjectRef(kind=KIND, namespace=bed.namespace, name="orders", uid=made["metadata"]["uid"])
    for _ in range(2):
        await bed.cluster.event(about, "Normal", "Planning", "The source is being compared.")
    await bed.cluster.event(about, "Warning", "MigrationFailed", "Line 3.")

    recorded = await bed.events("orders")
    assert sorted(recorded) == [
        ("Normal", "Planning", "The source is being compared."),
        ("Warning", "MigrationFailed", "Line 3."),
    ]


async def test_an_event_that_cannot_be_recorded_is_no_error(bed: Bed):
    about = ObjectRef(kind=KIND, namespace=f"{bed.namespace}-never", name="orders", uid=NOBODY)

    await bed.cluster.event(about, "Normal", "Planning", "x")
    assert await bed.events("orders") == []
