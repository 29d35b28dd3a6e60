"""What the operator costs while nothing happens: alone, and with a thousand objects that are settled.

The objects are copies of what one real deploy leaves (database, migration, run, backup), with the status that
it left, written by an administrator while the operator is away. It looks at each when it comes back, finds
nothing to do, and starts no step.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from conformance.kubernetes import Node, create
from meter import Meter, Reading
from scenarios.kubernetes import KubernetesStage
from scenarios.stage import Play, condition

from godwit.api.kinds import parse
from godwit.cluster.port import Manifest
from godwit.cluster.rest import Rest, path_of
from godwit.controller.observe import content_digest
from godwit.planner.decision import SourceSeen
from godwit.planner.migration import MigrationSeen, plan_key

COPIES = 250
KINDS = ("PostgresDatabase", "DatabaseMigration", "MigrationRun", "DatabaseBackup")
MIGRATION = "20260101000000_make_a"
SECONDS = 60


async def idle(meter: Meter) -> tuple[Reading, Reading]:
    """Two readings a minute or a little more apart."""
    first = await meter.fresh()
    await asyncio.sleep(SECONDS - 5)  # what is measured is that time
    second = await meter.fresh()
    while (second.at - first.at).total_seconds() < SECONDS:
        second = await meter.fresh()
    return first, second


def row(title: str, readings: tuple[Reading, Reading]) -> tuple[object, ...]:
    first, second = readings
    minutes = (second.at - first.at).total_seconds() / 60
    cpu = (second.cpu_seconds - first.cpu_seconds) / minutes
    passes = (second.passes - first.passes) / minutes
    return (title, second.working_set / 2**20, second.resident / 2**20, cpu, passes)


class Copier:
    """Makes the copies, with an administrator's login."""

    def __init__(self, rest: Rest, originals: Mapping[str, Manifest], source: Manifest) -> None:
        self._rest = rest
        self._originals = originals
        files = ((source["data"], source.get("binaryData") or {}),)
        self._source = SourceSeen(content=content_digest(files), files=files)

    async def copy(self, number: int) -> None:
        """One of each kind, as if a deploy of their own had left them."""
        name = f"copy-{number}"
        database = await self._put("PostgresDatabase", name, {}, {})
        refs: dict[str, Any] = {"databaseRef": {"name": name}}
        migration = await self._put("DatabaseMigration", name, refs, None)
        seen = MigrationSeen(parse(migration), "", parse(database), self._source)  # type: ignore[arg-type]
        key = plan_key(seen)
        told = self._originals["DatabaseMigration"]["status"] | {"planKey": key, "copies": []}
        told["lastRun"] = told["lastRun"] | {"name": f"{name}-1"}
        migration = await self._status(migration, told)
        uids = {"migrationRef": {"name": name, "uid": migration["metadata"]["uid"]}}
        reference = {"databaseRef": {"name": name, "uid": database["metadata"]["uid"]}}
        await self._put("MigrationRun", f"{name}-1", uids | reference, {})
        await self._put("DatabaseBackup", f"{name}-1-backup", refs, {})

    async def _put(
        self, kind: str, name: str, spec: Mapping[str, Any], status: Mapping[str, Any] | None
    ) -> Manifest:
        original = self._originals[kind]
        manifest = {
            "apiVersion": original["apiVersion"],
            "kind": kind,
            "metadata": {"name": name, "namespace": original["metadata"]["namespace"]},
            "spec": original["spec"] | spec,
        }
        made = await create(self._rest, manifest)
        return made if status is None else await self._status(made, original["status"] | status)

    async def _status(self, made: Manifest, status: Mapping[str, Any]) -> Manifest:
        path = path_of(made["kind"], made["metadata"]["namespace"], made["metadata"]["name"], "status")
        return await self._rest.call("PUT", path, made | {"status": dict(status)})


async def test_what_the_idle_operator_costs(node: Node, stage: KubernetesStage, show: Any) -> None:
    meter = Meter(node, stage.operator.namespace)
    play = Play(stage)
    await meter.settled()
    rows = [row("no objects", await idle(meter))]

    await play.source("files", {MIGRATION: "CREATE TABLE a (id int PRIMARY KEY);"})
    await play.database()
    await play.migration()
    await play.up_to_date()
    await play.settled()
    (backup,) = await stage.all("DatabaseBackup")
    names = {"MigrationRun": "shop-1", "DatabaseBackup": backup["metadata"]["name"]}
    left = {kind: await stage.get(kind, names.get(kind, "shop")) for kind in KINDS}
    originals = {kind: found for kind, found in left.items() if found is not None}
    source = await stage.get("ConfigMap", "files")
    assert source is not None
    await stage.crash_operator()
    rest = await Rest.connect(str(node.kubeconfig))
    try:
        copier = Copier(rest, originals, source)
        for first in range(1, COPIES, 10):
            await asyncio.gather(*(copier.copy(number) for number in range(first, min(first + 10, COPIES))))
    finally:
        await rest.close()
    await stage.start_operator()
    caught_up = await meter.settled()
    total = 0
    for kind in KINDS:
        found = await stage.all(kind)
        total += len(found)
        assert all(condition(made, "Ready").get("status") == "True" for made in found), kind
    rows.append(row(f"{total} settled objects", await idle(meter)))
    assert await stage.jobs() == []
    show(
        f"The idle operator, over {SECONDS} s",
        [("", "working set, MiB", "resident, MiB", "CPU s per 60 s", "passes per 60 s"), *rows],
    )
    show("After a start with them", [("seconds until the last of them was looked at", caught_up)])
