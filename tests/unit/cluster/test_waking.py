"""Which events make the controller look at an object."""

from collections.abc import AsyncIterator

import pytest

from godwit.cluster.local import LocalCluster
from godwit.controller.loop import Controller

NAMESPACE = "shop"
MIGRATION = {
    "apiVersion": "godwit.dev/v1alpha1",
    "kind": "DatabaseMigration",
    "metadata": {"name": "shop", "namespace": NAMESPACE},
    "spec": {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": "files"}]}},
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


async def test_what_goes_after_a_deleted_object_does_not_wake_it(controller: Controller):
    controller.changed(MIGRATION)
    controller.gone("DatabaseMigration", NAMESPACE, "shop")

    controller.step_changed("DatabaseMigration", NAMESPACE, "shop")
    controller.gone("ConfigMap", NAMESPACE, "files")

    assert waiting(controller) == []
