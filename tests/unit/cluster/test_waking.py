"""Which events make the controller look at an object."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from godwit.cluster.local import LocalCluster
from godwit.controller.loop import Controller
from godwit.controller.queue import Key

NAMESPACE = "shop"
MIGRATION = {
    "apiVersion": "godwit.dev/v1alpha1",
    "kind": "DatabaseMigration",
    "metadata": {"name": "shop", "namespace": NAMESPACE},
    "spec": {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": "files"}]}},
}
DATABASE = {
    "apiVersion": "godwit.dev/v1alpha1",
    "kind": "PostgresDatabase",
    "metadata": {"name": "shop", "namespace": NAMESPACE},
    "spec": {},
}
RUN = {
    "apiVersion": "godwit.dev/v1alpha1",
    "kind": "MigrationRun",
    "metadata": {"name": "shop-1", "namespace": NAMESPACE},
    "spec": {"databaseRef": {"name": "shop"}, "migrationRef": {"name": "shop"}},
}
BACKUP = {
    "apiVersion": "godwit.dev/v1alpha1",
    "kind": "DatabaseBackup",
    "metadata": {"name": "shop-1-backup", "namespace": NAMESPACE},
    "spec": {"databaseRef": {"name": "shop"}, "order": {"run": {"name": "shop-1"}}},
}
MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files", "namespace": NAMESPACE}}


@pytest.fixture
async def controller() -> AsyncIterator[Controller]:
    """It serves nothing: its queue shows what it would look at."""
    async with LocalCluster(namespaces=(NAMESPACE,)) as cluster:
        yield Controller(cluster, image="local")


def waiting(controller: Controller) -> list[str]:
    found = []
    while (key := controller.queue.take()) is not None:
        found.append(f"{key.kind}/{key.name}")
        controller.queue.done(key, after=None)
    return found


async def test_a_change_of_its_own_of_its_step_and_of_its_source_wakes_an_object(controller: Controller):
    controller.changed(MIGRATION)
    assert waiting(controller) == ["DatabaseMigration/shop"]

    controller.step_changed("DatabaseMigration", NAMESPACE, "shop")
    assert waiting(controller) == ["DatabaseMigration/shop"]

    controller.changed(MAP)
    assert waiting(controller) == ["DatabaseMigration/shop"]


async def test_its_own_report_wakes_nobody_at_once(controller: Controller):
    controller.changed(MIGRATION)
    waiting(controller)

    reported = {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True", "reason": "X"}]}
    controller.changed({**MIGRATION, "status": reported})

    assert waiting(controller) == []
    assert len(controller.queue) == 1  # looked at a little later, should it have been somebody else's


async def test_whoever_waits_for_a_backup_is_woken_by_its_end_and_not_by_its_steps(controller: Controller):
    controller.changed(RUN)
    controller.changed(BACKUP)
    waiting(controller)

    controller.changed({**BACKUP, "status": {"steps": [{"name": "backup", "state": "Running"}]}})
    assert waiting(controller) == []

    done = [{"type": "Ready", "status": "True", "reason": "BackedUp", "message": ""}]
    controller.changed({**BACKUP, "status": {"verified": "Archive", "conditions": done}})
    assert waiting(controller) == ["MigrationRun/shop-1"]


async def test_who_holds_a_database_wakes_those_who_wait_for_it(controller: Controller):
    controller.changed(DATABASE)
    controller.changed(RUN)
    waiting(controller)

    controller.changed({**DATABASE, "status": {"activeOperation": {"kind": "MigrationRun", "name": "crm-1"}}})
    assert waiting(controller) == ["MigrationRun/shop-1"]  # the database itself comes by its echo


async def test_a_migration_is_told_of_the_end_of_its_run_at_once(controller: Controller):
    controller.changed(MIGRATION)
    controller.changed(RUN)
    waiting(controller)

    controller.changed({**RUN, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    assert waiting(controller) == []

    controller.changed({**RUN, "status": {"outcome": "Succeeded"}})
    assert waiting(controller) == ["DatabaseMigration/shop"]


async def test_a_database_is_told_when_whoever_held_it_is_gone(controller: Controller):
    controller.changed(DATABASE)
    controller.changed(RUN)
    waiting(controller)

    controller.gone("MigrationRun", NAMESPACE, "shop-1")
    assert waiting(controller) == ["PostgresDatabase/shop"]


async def test_the_migrations_of_a_database_are_told_of_its_restores(controller: Controller):
    restore = {**BACKUP, "kind": "DatabaseRestore", "spec": {"databaseRef": {"name": "shop"}}}
    controller.changed(MIGRATION)
    controller.changed(RUN)
    controller.changed(restore)
    waiting(controller)

    controller.changed({**restore, "status": {"endedAt": "2026-01-01T00:00:00Z"}})
    assert Key("DatabaseMigration", NAMESPACE, "shop") in controller.queue._due
    assert Key("MigrationRun", NAMESPACE, "shop-1") not in controller.queue._due


async def test_the_end_of_a_step_is_looked_at_at_once_and_the_rest_a_little_later(controller: Controller):
    controller.changed(MIGRATION)
    waiting(controller)

    controller.step_changed("DatabaseMigration", NAMESPACE, "shop", ended=False)
    assert (waiting(controller), len(controller.queue)) == ([], 1)

    controller.step_changed("DatabaseMigration", NAMESPACE, "shop", ended=True)
    assert waiting(controller) == ["DatabaseMigration/shop"]


async def test_what_goes_after_a_deleted_object_does_not_wake_it(controller: Controller):
    controller.changed(MIGRATION)
    controller.gone("DatabaseMigration", NAMESPACE, "shop")

    controller.step_changed("DatabaseMigration", NAMESPACE, "shop")
    controller.gone("ConfigMap", NAMESPACE, "files")

    assert waiting(controller) == []


def made(kind: dict[str, Any], uid: str) -> dict[str, Any]:
    return {**kind, "metadata": {**kind["metadata"], "uid": uid}}


async def test_an_object_made_anew_is_looked_at_though_its_predecessors_end_is_told_after_it(
    controller: Controller,
):
    # kopf handles the events of each uid in order, and those of two uids side by side.
    for uid in ("old", "new", "old"):
        controller.changed(made(MIGRATION, uid))
    controller.gone("DatabaseMigration", NAMESPACE, "shop", "old")
    assert waiting(controller) == ["DatabaseMigration/shop"]

    controller.changed(MAP)
    assert waiting(controller) == ["DatabaseMigration/shop"]

    controller.gone("DatabaseMigration", NAMESPACE, "shop", "new")
    controller.changed(MAP)
    assert waiting(controller) == []


async def test_the_end_of_a_holder_is_told_also_where_a_namesake_is_there(controller: Controller):
    controller.changed(DATABASE)
    controller.changed(made(RUN, "old"))
    controller.changed(made(RUN, "new"))
    waiting(controller)

    controller.gone("MigrationRun", NAMESPACE, "shop-1", "old")
    assert waiting(controller) == ["PostgresDatabase/shop"]
