"""What the reading commands fetch from a cluster. They write nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from godwit.cluster.kubeconfig import log_in
from godwit.cluster.kubernetes import KubernetesCluster

Manifest = dict[str, Any]
T = TypeVar("T")

_KIND = "DatabaseMigration"


class Place(NamedTuple):
    """Which cluster and namespace a person means; None: as kubectl would choose."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None


def migrations(place: Place, name: str | None) -> tuple[str, list[Manifest]]:
    """The namespace, and the DatabaseMigration of that name in it, or all. Raises UnavailableError."""

    async def read(cluster: KubernetesCluster, namespace: str) -> list[Manifest]:
        if name is None:
            return await cluster.list(_KIND, namespace)
        found = await cluster.get(_KIND, namespace, name)
        return [] if found is None else [found]

    return _read(place, read)


def migration_with_plan(place: Place, name: str) -> tuple[str, Manifest | None, Manifest | None]:
    """The namespace, the DatabaseMigration, and the ConfigMap with its plan. Raises UnavailableError."""

    async def read(cluster: KubernetesCluster, namespace: str) -> tuple[Manifest | None, Manifest | None]:
        found = await cluster.get(_KIND, namespace, name)
        plan = (found or {}).get("status", {}).get("plan") or {}
        document = plan.get("document")
        return found, await cluster.get("ConfigMap", namespace, document) if document else None

    namespace, (found, document) = _read(place, read)
    return namespace, found, document


def _read(place: Place, read: Callable[[KubernetesCluster, str], Awaitable[T]]) -> tuple[str, T]:
    async def run() -> tuple[str, T]:
        login = await log_in(place.kubeconfig, place.context)
        namespace = place.namespace or login.namespace
        try:
            return namespace, await read(login.cluster, namespace)
        finally:
            await login.cluster.close()

    return asyncio.run(run())
