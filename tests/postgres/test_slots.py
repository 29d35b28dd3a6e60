"""How many steps run at once, also where what they were for has gone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from godwit.cli.table import condition
from godwit.cluster.local import LocalCluster
from godwit.controller.local import serving
from godwit.controller.loop import Controller

NAMESPACE = "shop"
Manifest = dict[str, Any]


def objects(kind: str, name: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "godwit.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def migration(name: str) -> Manifest:
    source = {"configMaps": [{"name": "files"}]}
    return objects("DatabaseMigration", name, {"databaseRef": {"name": "shop"}, "source": source})


async def until(probe: Callable[[], Awaitable[Any]], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    while not await probe():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.05)


@pytest.fixture
async def cluster(postgres_server, database, launcher):
    data = {"migration_lock.toml": 'provider = "postgresql"\n', "1_a.sql": "CREATE TABLE a (id int);"}
    spec = {
        "connection": {"uriFrom": {"name": "shop", "key": "uri"}},
        "environment": "Development",
        "backup": {"required": False},
    }
    async with LocalCluster(
        namespaces=(NAMESPACE,), start=launcher.start_local, pg_bin=postgres_server.bin_dir
    ) as made:
        made.add_secret(NAMESPACE, "shop", {"uri": database.uri})
        metadata = {"name": "files", "namespace": NAMESPACE}
        made.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
        made.apply(objects("PostgresDatabase", "shop", spec))
        yield made


async def test_a_migration_that_is_deleted_while_it_is_planned_leaves_its_slot(cluster, database):
    database.psql("CREATE TABLE _prisma_migrations (migration_name text)")

    async def plans() -> bool:
        return any("-plan-" in name for name in cluster.jobs(NAMESPACE))

    async def is_planned() -> bool:
        found = await cluster.get("DatabaseMigration", NAMESPACE, "second")
        return bool(condition(found, "Ready").get("reason") not in (None, "Planning", "Reconciling"))

    async with serving(cluster, Controller(cluster, image="local", max_concurrent_steps=1)) as controller:
        async with await psycopg.AsyncConnection.connect(database.uri) as other:
            await other.execute("LOCK TABLE _prisma_migrations")
            cluster.apply(migration("first"))
            await until(plans, "the first is not planned")
            assert len(controller.slots) == 1
            cluster.remove("DatabaseMigration", NAMESPACE, "first")
        cluster.apply(migration("second"))

        await until(is_planned, "the second is never planned")


async def test_a_step_that_cannot_start_leaves_its_slot_to_others(cluster):
    found = await cluster.get("PostgresDatabase", NAMESPACE, "shop")
    cluster.remove("PostgresDatabase", NAMESPACE, "shop")
    nowhere = {**found["spec"], "connection": {"uriFrom": {"name": "missing", "key": "uri"}}}

    async def stands(name: str, reason: str) -> bool:
        found = await cluster.get("PostgresDatabase", NAMESPACE, name)
        return bool(condition(found, "Ready").get("reason") == reason)

    async with serving(cluster, Controller(cluster, image="local", max_concurrent_steps=1)):
        cluster.apply(objects("PostgresDatabase", "first", nowhere))
        await until(lambda: stands("first", "SecretMissing"), "nobody misses the Secret")
        cluster.apply(objects("PostgresDatabase", "second", found["spec"]))

        await until(lambda: stands("second", "Checked"), "the second is never looked at")
        assert await stands("first", "SecretMissing")
