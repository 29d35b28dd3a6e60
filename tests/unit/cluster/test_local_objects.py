"""Objects of the local cluster, where it goes beyond the conformance suite."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from godwit.api.common import API_VERSION
from godwit.cluster.local import LocalCluster
from godwit.cluster.local_objects import Change
from godwit.cluster.port import STATUS_MANAGER, ConflictError, GoneError, Manifest, RefusedError
from godwit.contract.request import ObjectRef

NOON = datetime(2026, 1, 1, 12, 0, 0, 999999, tzinfo=UTC)


def migration(name: str = "orders", **meta: Any) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "DatabaseMigration",
        "metadata": {"name": name, "namespace": "default", **meta},
        "spec": {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": "files"}]}},
    }


def config_map(name: str, owner: Manifest | None = None) -> Manifest:
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
    }
    if owner is not None:
        about = {k: owner["metadata"][k] for k in ("name", "uid")}
        reference = {"apiVersion": API_VERSION, "kind": owner["kind"], "controller": True, **about}
        made["metadata"]["ownerReferences"] = [reference]
    return made


async def test_times_come_from_the_clock_in_whole_seconds():
    async with LocalCluster(clock=lambda: NOON) as cluster:
        assert cluster.apply(migration())["metadata"]["creationTimestamp"] == "2026-01-01T12:00:00Z"


async def test_apply_creates_then_updates_and_keeps_what_it_does_not_name():
    async with LocalCluster() as cluster:
        made = cluster.apply(migration(annotations={"a": "1"}))
        edited = migration(annotations={"b": "2"})
        edited["spec"]["suspend"] = True
        cluster.apply(edited)
        again = cluster.apply(migration())
        assert made["metadata"]["uid"] == again["metadata"]["uid"]
        assert again["metadata"]["annotations"] == {"a": "1", "b": "2"}
        assert again["metadata"]["generation"] == 3
        assert again["spec"]["suspend"] is False, "a field that is left out goes back to its default"


async def test_apply_of_the_same_again_changes_nothing():
    async with LocalCluster() as cluster:
        assert cluster.apply(migration()) == cluster.apply(migration())


async def test_a_namespace_may_be_left_out_of_what_is_applied():
    async with LocalCluster() as cluster:
        bare = migration()
        del bare["metadata"]["namespace"]
        assert cluster.apply(bare)["metadata"]["namespace"] == "default"


async def test_annotations_are_set_and_removed_without_a_new_generation():
    async with LocalCluster() as cluster:
        cluster.apply(migration(annotations={"keep": "me"}))
        now = {"godwit.dev/requested-at": "now", "other": "x"}
        assert cluster.annotate("DatabaseMigration", "default", "orders", now)["metadata"]["annotations"] == {
            "keep": "me",
            **now,
        }
        left = cluster.annotate("DatabaseMigration", "default", "orders", dict.fromkeys(now))
        assert left["metadata"]["annotations"] == {"keep": "me"}
        assert left["metadata"]["generation"] == 1
        with pytest.raises(GoneError):
            cluster.annotate("DatabaseMigration", "default", "nobody", now)


async def test_replace_with_an_old_version_is_a_conflict():
    async with LocalCluster() as cluster:
        old = cluster.apply(migration())
        cluster.annotate("DatabaseMigration", "default", "orders", {"a": "b"})
        with pytest.raises(ConflictError):
            cluster.replace(old)


async def test_marking_for_deletion_makes_a_new_generation_and_takes_no_new_finalizers():
    async with LocalCluster() as cluster:
        cluster.apply(migration(finalizers=["example.com/theirs"]))
        cluster.remove("DatabaseMigration", "default", "orders")
        marked = await cluster.get("DatabaseMigration", "default", "orders")
        assert marked is not None
        assert marked["metadata"]["generation"] == 2
        marked["metadata"]["finalizers"].append("example.com/more")
        with pytest.raises(RefusedError, match="finalizers"):
            cluster.replace(marked)
        marked["metadata"]["finalizers"] = []
        cluster.replace(marked)
        assert await cluster.get("DatabaseMigration", "default", "orders") is None


async def test_what_is_made_for_an_owner_that_is_no_more_goes_at_once():
    async with LocalCluster() as cluster:
        owner = cluster.apply(migration())
        cluster.remove("DatabaseMigration", "default", "orders")
        await cluster.create(config_map("late", owner))
        assert await cluster.get("ConfigMap", "default", "late") is None


async def test_ownership_ends_in_a_chain_and_waits_for_finalizers():
    async with LocalCluster() as cluster:
        owner = cluster.apply(migration("a"))
        middle = config_map("b", owner)
        middle["metadata"]["finalizers"] = ["example.com/held"]
        middle = await cluster.create(middle)
        await cluster.create(config_map("c", middle))
        cluster.remove("DatabaseMigration", "default", "a")
        held = await cluster.get("ConfigMap", "default", "b")
        assert held is not None
        assert held["metadata"]["deletionTimestamp"]
        assert await cluster.get("ConfigMap", "default", "c") is not None
        held["metadata"]["finalizers"] = []
        cluster.replace(held)
        assert await cluster.list("ConfigMap", "default") == []


async def test_what_has_two_owners_stays_until_both_are_gone():
    async with LocalCluster() as cluster:
        first, second = (cluster.apply(migration(name)) for name in ("a", "b"))
        shared = config_map("shared", first)
        shared["metadata"]["ownerReferences"] += config_map("", second)["metadata"]["ownerReferences"]
        await cluster.create(shared)
        cluster.remove("DatabaseMigration", "default", "a")
        assert await cluster.get("ConfigMap", "default", "shared") is not None
        cluster.remove("DatabaseMigration", "default", "b")
        assert await cluster.get("ConfigMap", "default", "shared") is None


async def test_a_manager_that_says_something_else_owns_the_field_from_then_on():
    async with LocalCluster() as cluster:
        made = cluster.apply(migration())
        first = await cluster.apply_status(made, {"phase": "One", "current": "a"}, "first")
        second = await cluster.apply_status(first, {"phase": "Two", "current": "a"}, "second")
        third = await cluster.apply_status(second, {}, "second")
        assert third["status"] == {"observedGeneration": -1, "current": "a"}, (
            "phase had become the second's alone"
        )
        fourth = await cluster.apply_status(third, {}, "first")
        assert fourth["status"] == {"observedGeneration": -1}


async def test_a_watcher_hears_of_every_change_and_of_whose_it_is_until_it_leaves():
    async with LocalCluster() as cluster:
        heard: list[Change] = []
        leave = cluster.watch(heard.append)
        owner = cluster.apply(migration())
        await cluster.create(config_map("copy", owner))
        await cluster.apply_status(owner, {"phase": "New"}, STATUS_MANAGER)
        cluster.remove("DatabaseMigration", "default", "orders")
        mine = ObjectRef(
            kind="DatabaseMigration", namespace="default", name="orders", uid=owner["metadata"]["uid"]
        )
        itself = Change("DatabaseMigration", "default", "orders", None)
        copy = Change("ConfigMap", "default", "copy", mine)
        assert heard == [itself, copy, itself, itself, copy]
        leave()
        cluster.apply(migration())
        assert len(heard) == 5


async def test_what_is_handed_out_is_a_copy():
    async with LocalCluster() as cluster:
        made = cluster.apply(migration())
        made["spec"]["databaseRef"]["name"] = "changed"
        found = await cluster.get("DatabaseMigration", "default", "orders")
        assert found is not None
        assert found["spec"]["databaseRef"] == {"name": "shop"}


async def test_an_empty_namespace_lists_all_namespaces():
    async with LocalCluster(namespaces=("a", "b")) as cluster:
        for namespace in ("b", "a"):
            cluster.apply(migration(namespace=namespace))
        listed = await cluster.list("DatabaseMigration", "")
        assert [m["metadata"]["namespace"] for m in listed] == ["a", "b"]


async def test_a_namespace_and_a_secret_can_be_applied_and_nobody_reads_the_secret():
    async with LocalCluster() as cluster:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": "shop"}}
        cluster.apply({**secret, "stringData": {"uri": "postgresql://"}, "data": {"b": "YQ=="}})
        assert await cluster.get("Namespace", "", "shop") is not None
        assert await cluster.get("Secret", "shop", "db") is None


async def test_a_namespace_made_again_is_empty():
    async with LocalCluster() as cluster:
        cluster.apply(migration())
        first = await cluster.get("Namespace", "", "default")
        cluster.remove("Namespace", "", "default")
        assert await cluster.get("Namespace", "", "default") is None
        cluster.add_namespace("default")
        second = await cluster.get("Namespace", "", "default")
        assert first is not None
        assert second is not None
        assert first["metadata"]["uid"] != second["metadata"]["uid"]
        assert await cluster.list("DatabaseMigration", "default") == []


async def test_a_thousand_objects_are_no_trouble():
    async with LocalCluster() as cluster:
        began = time.perf_counter()
        for number in range(1000):
            made = await cluster.create(migration(f"m-{number:04}"))
            await cluster.apply_status(made, {"observedGeneration": 1, "phase": "Ok"}, STATUS_MANAGER)
        for _ in range(10):
            assert len(await cluster.list("DatabaseMigration", "default")) == 1000
        assert time.perf_counter() - began < 10
