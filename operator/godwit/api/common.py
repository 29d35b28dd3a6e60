"""What every custom resource shares: metadata, conditions, references, durations, records of steps."""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from godwit.contract.outcome import StepOutcome
from godwit.contract.request import ObjectRef

GROUP = "godwit.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

FINALIZER = f"{GROUP}/running"
"""Held by a running run on itself, its migration and its database, and by a backup whose file must go with
it."""
REQUESTED_AT = f"{GROUP}/requested-at"
"""Annotation: any new value asks for a fresh look (the convention of Flux's `requestedAt`)."""
CANCEL = f"{GROUP}/cancel"
"""Annotation on a MigrationRun: stop it before its first write, take it back after."""
LIST_MAP_BY_NAME: dict[str, JsonValue] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
}
"""Schema of a list whose entries the API server merges, and keeps unique, by their name."""
SPEC_HASH = f"{GROUP}/spec-hash"
"""Annotation on generated objects: with our owner uid it tells ours from a namesake."""


class ApiModel(BaseModel):
    """Frozen, camelCase in YAML; unknown fields are ignored (the server has pruned them, or is newer)."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data with camelCase keys; fields that are None are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
Duration = Annotated[str, Field(pattern=_DURATION, max_length=32)]
"""Go's duration text as Kubernetes APIs write it: `500ms`, `90s`, `1h30m`."""


def seconds(duration: str) -> float:
    """Seconds of a duration text. Raises ValueError where it is none."""
    if not re.match(_DURATION, duration):
        raise ValueError(f"{duration!r} is not a duration such as 500ms, 90s or 1h30m")
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(n) * unit[u] for n, u in re.findall(r"([0-9.]+)(ms|s|m|h)", duration))


class LocalRef(ApiModel):
    """An object in the same namespace, by name."""

    name: Annotated[str, Field(min_length=1, max_length=253)]


class UidRef(LocalRef):
    """An object in the same namespace, by name and uid (a namesake made later is another object)."""

    uid: str = ""


class SecretKey(ApiModel):
    """One key of a Secret in the same namespace. Only the step's pod reads it."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    key: Annotated[str, Field(min_length=1, max_length=253)]


class Condition(ApiModel):
    """A condition as in metav1.Condition."""

    type: str
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$")]
    reason: str
    message: Annotated[str, Field(max_length=32768)] = ""
    last_transition_time: datetime
    observed_generation: int = 0


class OwnerReference(ApiModel):
    """metav1.OwnerReference, the part that is used."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = True
    block_owner_deletion: bool = False


class Metadata(ApiModel):
    """metav1.ObjectMeta, the part that is used."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def deleting(self) -> bool:
        """Whether the object waits for its finalizers."""
        return self.deletion_timestamp is not None

    def requested(self, before: str) -> str:
        """The value of REQUESTED_AT, or the one that was seen *before* where there is none (any more).

        To take the annotation away again, as Flux does with what kubectl has written, asks for nothing.
        """
        return self.annotations.get(REQUESTED_AT) or before


class StepRecord(ApiModel):
    """One step of an object: which attempt it is at, and its outcome once it has one.

    Jobs are deleted when this holds their outcome, so nothing is decided from a Job that may be gone.
    """

    name: str
    """plan, check, backup, apply, revert, restore, delete."""
    attempt: int = 1
    job: str
    request_hash: str = ""
    started_at: datetime
    """When this attempt was first asked for."""
    ended_at: datetime | None = None
    state: str = ""
    """Last seen state: NoPod, Pending, Running, Finished, Crashed, Gone."""
    message: str = ""
    retry_at: datetime | None = None
    """When the next attempt is due, after one that may be repeated."""
    crashes: int = 0
    """Attempts in a row that left no outcome."""
    outcome: StepOutcome | None = None
    """The outcome of this attempt, or, until a repeated attempt has its own, of the one before."""


class Status(ApiModel):
    """What every status holds, after kstatus: Ready, Reconciling, Stalled and observedGeneration."""

    observed_generation: int = -1
    """Generation that the conditions speak of; -1 before the first pass."""
    phase: str = ""
    """For people; never read back."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    steps: Annotated[tuple[StepRecord, ...], Field(json_schema_extra=LIST_MAP_BY_NAME)] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, or None."""
        return next((c for c in self.conditions if c.type == kind), None)

    def step(self, name: str) -> StepRecord | None:
        """The record of that step, or None."""
        return next((s for s in self.steps if s.name == name), None)

    @property
    def ready(self) -> bool:
        """Whether Ready is True."""
        found = self.condition("Ready")
        return found is not None and found.status == "True"


class Resource(ApiModel):
    """A custom resource. Subclasses give `spec` and `status` their models."""

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    SHORT: ClassVar[str]
    api_version: str = API_VERSION
    metadata: Metadata
    status: Status = Status()

    @property
    def ref(self) -> ObjectRef:
        """The object as the contract names it."""
        return ObjectRef(
            kind=self.KIND, namespace=self.metadata.namespace, name=self.metadata.name, uid=self.metadata.uid
        )

    def manifest(self) -> dict[str, Any]:
        """The object as the API server takes it (without status)."""
        data = self.to_json()
        data.pop("status", None)
        return {"apiVersion": API_VERSION, "kind": self.KIND, **data}
