"""A bed: one implementation of the port, a namespace of its own, and what people and machines do around it.

Both implementations give one (`local.py`, `kubernetes.py` beside this file); the suite knows only this.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from godwit.api.common import API_VERSION
from godwit.api.database import ConnectionSpec, SecretKey
from godwit.cluster.port import Cluster, Manifest
from godwit.contract.request import CheckInput, ObjectRef, StepRequest, VerbInput
from godwit.planner.decision import StepSeen, StepSpec

T = TypeVar("T")
SECRET = "database"
"""Name of the Secret that steps of the suite take their connection URI from, key `uri`."""


class Bed(Protocol):
    """What the suite does other than through the port."""

    cluster: Cluster
    namespace: str
    """Fresh and empty; on Kubernetes with the restricted Pod Security Standard enforced."""
    image: str
    """Image of steps."""

    async def edit(self, kind: str, name: str, change: Callable[[Manifest], None]) -> Manifest:
        """Change the object as a person would (`kubectl edit`): everything but status, again on a conflict.

        Raises RefusedError where the API refuses the change.
        """
        ...

    async def remove(self, kind: str, name: str) -> None:
        """Delete it as a person would, without waiting."""
        ...

    async def secret(self, name: str, **values: str) -> None:
        """Create or replace a Secret."""
        ...

    async def refuse_pods(self) -> None:
        """From now on no step of this namespace gets a pod (a quota)."""
        ...

    async def silent_server(self) -> tuple[str, int]:
        """Host and port, as steps reach them, of a server that accepts connections and never says a word."""
        ...

    async def kill(self, job: str) -> None:
        """End a step's process at once; it gets no chance to write an outcome."""
        ...

    async def end_namespace(self) -> None:
        """Start to delete the namespace."""
        ...

    async def from_outside(self) -> None:
        """From now on the port has a login whose rights do not end where, or when, the namespace does."""
        ...

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        """(type, reason, message) of every event recorded about the object of that name."""
        ...


async def eventually(probe: Callable[[], Awaitable[T]], wanted: Callable[[T], Any], seconds: float = 60) -> T:
    """What *probe* answers as soon as *wanted* says yes to it; fails with the last answer at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await probe()
        if wanted(answer):
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s; the last answer was {answer!r}"
        await asyncio.sleep(0.1)


def migration(bed: Bed, name: str = "orders", **spec: Any) -> Manifest:
    """A DatabaseMigration with as little in it as the API allows."""
    return {
        "apiVersion": API_VERSION,
        "kind": "DatabaseMigration",
        "metadata": {"name": name, "namespace": bed.namespace},
        "spec": {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": "files"}]}, **spec},
    }


def database(bed: Bed, name: str = "shop") -> Manifest:
    """A PostgresDatabase with as little in it as the API allows."""
    return {
        "apiVersion": API_VERSION,
        "kind": "PostgresDatabase",
        "metadata": {"name": name, "namespace": bed.namespace},
        "spec": {
            "connection": {"uriFrom": {"name": SECRET, "key": "uri"}},
            "environment": "Development",
            "backup": {"required": False},
        },
    }


def config_map(bed: Bed, name: str, **more: Any) -> Manifest:
    """A ConfigMap; *more* goes beside its metadata."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": bed.namespace},
        **more,
    }


def owner_reference(owner: Manifest) -> Manifest:
    """The reference that children of *owner* carry."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }


def check_step(owner: Manifest, bed: Bed, job: str = "shop-check-1", *more: VerbInput) -> StepSpec:
    """A step that connects to what the Secret says, and writes nothing."""
    ref = ObjectRef(
        kind=owner["kind"],
        namespace=bed.namespace,
        name=owner["metadata"]["name"],
        uid=owner["metadata"]["uid"],
    )
    return StepSpec(
        job=job,
        namespace=bed.namespace,
        owner=ref,
        request=StepRequest(object=ref, step="check", verbs=(CheckInput(), *more)),
        image=bed.image,
        connection=ConnectionSpec(uri_from=SecretKey(name=SECRET, key="uri")),
    )


async def observe(bed: Bed, spec: StepSpec) -> StepSeen:
    """How the step stands, asked by its own owner and request."""
    return await bed.cluster.observe_step(spec.job, spec.namespace, spec.owner.uid, spec.request.hash)
