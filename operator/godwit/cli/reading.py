"""What the reading commands fetch from a cluster. They write nothing."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from godwit.cluster.kubeconfig import log_in
from godwit.cluster.kubernetes import KubernetesCluster
from godwit.cluster.port import UnavailableError

Manifest = dict[str, Any]
T = TypeVar("T")

_KIND = "DatabaseMigration"


class Place(NamedTuple):
    """Which cluster and namespace a person means; None: as kubectl would choose."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None


def migrations_with_runs(place: Place, name: str | None) -> tuple[str, list[Manifest], dict[str, Manifest]]:
    """The namespace, the DatabaseMigration of that name in it, or all, and by name the runs under way.

    A run that may not be read is left out. Raises UnavailableError.
    """

    async def read(cluster: KubernetesCluster, namespace: str) -> tuple[list[Manifest], dict[str, Manifest]]:
        one = None if name is None else await cluster.get(_KIND, namespace, name)
        found = await cluster.list(_KIND, namespace) if name is None else [one] if one else []
        runs = {}
        for migration in found:
            active = migration.get("status", {}).get("activeRun")
            with contextlib.suppress(UnavailableError):
                if active and (run := await cluster.get("MigrationRun", namespace, active)):
                    runs[active] = run
        if not found:
            await _known(cluster)
        return found, runs

    namespace, (found, runs) = _read(place, read)
    return namespace, found, runs


def migration_with_plan(place: Place, name: str) -> tuple[str, Manifest | None, Manifest | None]:
    """The namespace, the DatabaseMigration, and the ConfigMap with its plan. Raises UnavailableError."""

    async def read(cluster: KubernetesCluster, namespace: str) -> tuple[Manifest | None, Manifest | None]:
        found = await cluster.get(_KIND, namespace, name)
        if found is None:
            await _known(cluster)
        plan = (found or {}).get("status", {}).get("plan") or {}
        document = plan.get("document")
        return found, await cluster.get("ConfigMap", namespace, document) if document else None

    namespace, (found, document) = _read(place, read)
    return namespace, found, document


async def _known(cluster: KubernetesCluster) -> None:
    """For when there is nothing to read. Raises UnavailableError where the cluster does not know the kind."""
    if _KIND not in await cluster.served_kinds():
        raise UnavailableError(
            "This cluster has no DatabaseMigrations: Godwit's CRDs are not installed in it."
        )


def _read(place: Place, read: Callable[[KubernetesCluster, str], Awaitable[T]]) -> tuple[str, T]:
    async def run() -> tuple[str, T]:
        login = await log_in(place.kubeconfig, place.context)
        namespace = place.namespace or login.namespace
        try:
            return namespace, await read(login.cluster, namespace)
        finally:
            await login.cluster.close()

    return asyncio.run(run())
