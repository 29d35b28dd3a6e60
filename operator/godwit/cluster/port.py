"""The port `Cluster`: all that the controller needs of a cluster. Two implementations, one conformance suite.

Objects go in and out as plain manifests (JSON-ready dicts with camelCase keys), as an API server has them:
defaults filled in, unknown fields pruned, `metadata.resourceVersion` changed by every write.
"""

from typing import Any, Protocol

from godwit.contract.progress import RunProgress
from godwit.contract.request import ObjectRef
from godwit.planner.decision import StepSeen, StepSpec

Manifest = dict[str, Any]

STATUS_MANAGER = "godwit-status"
"""Field manager of every status, except of `activeOperation`."""
OPERATION_MANAGER = "godwit-operation"
"""Field manager of `status.activeOperation` of a PostgresDatabase."""


class ConflictError(Exception):
    """The object changed since it was observed (or was made again): observe again."""


class GoneError(Exception):
    """The object is not there any more."""


class RefusedError(Exception):
    """The API server refused an object (invalid, forbidden, quota). The message is fit for a status."""


class UnavailableError(Exception):
    """The cluster does not answer; try again later."""


class Cluster(Protocol):
    """Reads are fresh (never from a cache): what was written before is seen.

    `kind` is one of the five kinds, ConfigMap or Namespace. Every method may raise UnavailableError.
    """

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """The object, or None. For a Namespace, `namespace` is empty."""
        ...

    async def list(self, kind: str, namespace: str) -> list[Manifest]:
        """All objects of that kind in a namespace, ordered by name."""
        ...

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object and return it; where one of that name exists, return that one unchanged.

        Raises RefusedError; GoneError when its namespace is gone or terminating.
        """
        ...

    async def apply_status(self, observed: Manifest, status: Manifest, manager: str) -> Manifest:
        """Server-side apply of *manager*'s fields of the status, with *observed*'s uid and resourceVersion.

        Fields that the manager set earlier and leaves out now are removed; other managers' fields
        stay. Returns the
        object as it is then. Raises ConflictError when the object changed since, GoneError, RefusedError.
        """
        ...

    async def set_finalizer(self, kind: str, namespace: str, name: str, uid: str, *, present: bool) -> None:
        """Add or remove our finalizer; other finalizers stay. Gone (or another uid) is done when removing.

        Raises GoneError when adding to an object that is gone or being deleted.
        """
        ...

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid; gone or another uid is done."""
        ...

    async def start_step(self, spec: StepSpec) -> None:
        """Create the step's Job unless one of that name exists (whoever owns it: observe_step tells)."""
        ...

    async def observe_step(self, job: str, namespace: str, owner_uid: str, request_hash: str) -> StepSeen:
        """How a step stands; `foreign` when that Job has another owner or another request."""
        ...

    async def read_document(self, namespace: str, job: str) -> str | None:
        """The last `document` event in a step's log, one line of JSON; None where there is none any more."""
        ...

    async def read_progress(self, namespace: str, job: str) -> RunProgress | None:
        """How far a step says it is, from the end of its log; None where it says nothing."""
        ...

    async def delete_step(self, namespace: str, job: str) -> None:
        """Delete a step's Job and its pod (a local process is killed); gone is done."""
        ...

    async def event(self, about: ObjectRef, kind: str, reason: str, message: str) -> None:
        """Record an event (kind Normal or Warning); failing to do so is logged, never raised."""
        ...
