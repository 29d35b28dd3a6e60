"""What planners are given and what they answer: observations, effects, decisions. Values only."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from godwit.api.common import Resource, Status
from godwit.api.database import ActiveOperation, ConnectionSpec, PodTemplate, VolumeDestination
from godwit.api.migration import PinnedSource
from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import ObjectRef, StepRequest


class StepState(StrEnum):
    """How a step stands. Every planner answers all six."""

    NO_POD = "NoPod"
    """The Job is there, its pod is not; the message has the Job's last event (quota, admission)."""
    PENDING = "Pending"
    """The pod is there and its container has not started (scheduling, image, Secret, volume)."""
    RUNNING = "Running"
    FINISHED = "Finished"
    """The container has terminated and left an outcome."""
    CRASHED = "Crashed"
    """The container has terminated without an outcome."""
    GONE = "Gone"
    """There is no such Job. A question, not a failure."""


@dataclass(frozen=True)
class Unreachable:
    """A pod of which its node tells nothing any more, by what the pod itself shows."""

    since: datetime
    """When it was to be gone (in the future while it may end) or was found silent, by the cluster's clock."""
    message: str


@dataclass(frozen=True)
class StepSeen:
    """A step as the cluster shows it now."""

    state: StepState
    reason: Reason | None = None
    """Why it does not run: SecretMissing, ImageUnavailable, PodRefused, PodPending, StepCrashed."""
    message: str = ""
    outcome: StepOutcome | None = None
    unreachable: Unreachable | None = None
    """Of a step that is pending or running: its pod may be lost with its node."""
    exited: bool = False
    """Whether a crashed step's container is known to have run: it left an exit status."""
    foreign: bool = False
    """Something of that name exists that is not ours (another owner, or another request)."""


GONE = StepSeen(StepState.GONE)


@dataclass(frozen=True)
class StepSpec:
    """A step to be started: the request, and all that its pod needs. Deterministic for an attempt."""

    job: str
    """Name of the Job; derived from object uid, step and attempt."""
    namespace: str
    owner: ObjectRef
    request: StepRequest
    image: str
    connection: ConnectionSpec | None = None
    """None for steps that need no database."""
    source: PinnedSource | None = None
    volume: VolumeDestination | None = None
    pod: PodTemplate = field(default_factory=PodTemplate)
    deadline_seconds: int = 3_900
    """The Job's own deadline; longer than the request's budget."""


@dataclass(frozen=True)
class StartStep:
    """Create the Job unless it exists; an existing one counts only when it is ours."""

    spec: StepSpec


@dataclass(frozen=True)
class DeleteStep:
    """Delete a Job and its pod; gone is done."""

    namespace: str
    job: str


@dataclass(frozen=True)
class Create:
    """Create an object once. An existing one counts only with the same owner uid and spec hash."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class Delete:
    """Delete an object with this uid; gone is done."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class SetFinalizer:
    """Add or remove our finalizer on an object with this uid; gone is done."""

    kind: str
    namespace: str
    name: str
    uid: str
    present: bool


@dataclass(frozen=True)
class Hold:
    """Set, or with None release, `status.activeOperation` of a database as it was observed."""

    namespace: str
    database: str
    resource_version: str
    operation: ActiveOperation | None


@dataclass(frozen=True)
class SaveDocument:
    """Keep the document in a step's log (the whole plan, for people) as a ConfigMap of the deciding object.

    Nothing depends on it: where the log is gone, or the API server refuses, there is no ConfigMap.
    """

    namespace: str
    job: str
    name: str


@dataclass(frozen=True)
class Emit:
    """A Kubernetes event about the object under decision; the same one is sent once."""

    type: str
    """Normal or Warning."""
    reason: Reason
    message: str


Effect = StartStep | DeleteStep | Create | Delete | SetFinalizer | Hold | SaveDocument | Emit


@dataclass(frozen=True)
class Decision:
    """What to report and then to do. The status is written first; the effects follow in order."""

    status: Status
    effects: tuple[Effect, ...] = ()
    again_in: float | None = None
    """Seconds until the object must be looked at again even if nothing happens; None: only when
    something does."""


@dataclass(frozen=True)
class SourceSeen:
    """The source of a migration as the cluster shows it now."""

    content: str = ""
    """Digest of the ConfigMaps' data, in order; empty where something is missing, or for an image."""
    files: tuple[tuple[dict[str, str], dict[str, str]], ...] = ()
    """(data, binaryData) of each ConfigMap."""
    missing: str = ""
    """Name of the first ConfigMap that does not exist."""


@dataclass(frozen=True)
class LostCopy:
    """A pinned copy of a run's source that is gone, and what it would be made of now."""

    name: str
    source: SourceSeen


def owned_by(child: Resource, owner: Resource) -> bool:
    """Whether *owner* (that very object, by uid) owns *child*."""
    return any(ref.uid == owner.metadata.uid for ref in child.metadata.owner_references)
