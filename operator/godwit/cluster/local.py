"""The cluster in memory, with steps as child processes: the port without an API server.

The same controller and the same runner work on it, which makes it the default on one machine and what most
tests of the flow run on. Besides the port it has what people do to a cluster (`apply`, `annotate`, ...),
what machines do to it (`kill`, `lose`, ...), and `watch`.
"""

import asyncio
import base64
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from godwit.api.common import FINALIZER
from godwit.cluster.local_objects import Change, LocalObjects
from godwit.cluster.local_steps import Delay, LocalSteps, Start, start_process
from godwit.cluster.port import GoneError, Manifest
from godwit.contract.environment import PG_BIN_VAR
from godwit.contract.progress import RunProgress, last_progress
from godwit.contract.request import ObjectRef
from godwit.planner.decision import StepSeen, StepSpec

RUNNER = (sys.executable, "-P", "-m", "godwit.runner")
"""The step's program, found where this one was found, not in the folder that it runs in."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalEvent:
    """An event about an object, recorded once."""

    about: ObjectRef
    type: str
    reason: str
    message: str
    at: datetime


def _nothing(_: StepSpec) -> Mapping[str, str]:
    return {}


class LocalCluster:
    """Implements the port `Cluster`. To be closed with `aclose()`, or used as a context."""

    def __init__(
        self,
        *,
        namespaces: Sequence[str] = ("default",),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        command: Sequence[str] = RUNNER,
        start: Start = start_process,
        pg_bin: Path | None = None,
        environment: Callable[[StepSpec], Mapping[str, str]] = _nothing,
    ) -> None:
        """`clock` gives the times of objects; `environment` more variables for a step (tests: its faults).

        `start` starts the steps' processes (tests: without importing everything anew).
        """
        self._clock = clock
        self._watchers: list[Callable[[Change], None]] = []
        programs = {} if pg_bin is None else {PG_BIN_VAR: str(pg_bin)}
        self._objects = LocalObjects(
            clock, changed=self._changed, gone=self._owner_gone, ending=self._namespace_ending
        )
        self._steps = LocalSteps(
            command=command,
            start=start,
            environment=lambda spec: {**programs, **environment(spec)},
            config_map=lambda namespace, name: self._objects.get("ConfigMap", namespace, name),
            changed=self._changed,
        )
        self.events: list[LocalEvent] = []
        self._recorded: set[tuple[ObjectRef, str, str, str]] = set()
        for name in namespaces:
            self.add_namespace(name)

    # The port. Each call gives others a turn first, as a request over the network would.

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """The object, or None."""
        await asyncio.sleep(0)
        return self._objects.get(kind, namespace, name)

    async def list(self, kind: str, namespace: str) -> list[Manifest]:
        """All objects of that kind in a namespace (all namespaces where it is empty), ordered by name."""
        await asyncio.sleep(0)
        return self._objects.list(kind, namespace)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object, or return the one of that name. Raises RefusedError, GoneError."""
        await asyncio.sleep(0)
        return self._objects.create(manifest)

    async def apply_status(self, observed: Manifest, status: Manifest, manager: str) -> Manifest:
        """Apply a manager's fields of the status. Raises ConflictError, GoneError, RefusedError."""
        await asyncio.sleep(0)
        return self._objects.apply_status(observed, status, manager)

    async def set_finalizer(self, kind: str, namespace: str, name: str, uid: str, *, present: bool) -> None:
        """Add or remove our finalizer. Raises GoneError when adding to what is gone or being deleted."""
        await asyncio.sleep(0)
        self._objects.set_finalizer((kind, namespace, name), uid, FINALIZER, present=present)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the object with this uid; gone or another uid is done."""
        await asyncio.sleep(0)
        self._objects.delete(kind, namespace, name, uid)

    async def start_step(self, spec: StepSpec) -> None:
        """Start the step unless one of that name exists. Raises GoneError in a namespace that ends."""
        await asyncio.sleep(0)
        if not self._objects.open(spec.namespace):
            raise GoneError(f"namespace {spec.namespace} is gone or about to go")
        self._steps.start(spec)
        if not self._objects.uid_exists(spec.owner.uid):
            # Started for an owner that is no more: the garbage collector takes it at once.
            self._steps.delete(spec.namespace, spec.job)

    async def observe_step(self, job: str, namespace: str, owner_uid: str, request_hash: str) -> StepSeen:
        """How a step stands."""
        await asyncio.sleep(0)
        return self._steps.observe(namespace, job, owner_uid, request_hash)

    async def read_document(self, namespace: str, job: str) -> str | None:
        """The last `document` line of a step's log, or None."""
        await asyncio.sleep(0)
        return self._steps.document(namespace, job)

    async def read_progress(self, namespace: str, job: str) -> RunProgress | None:
        """How far the step's log says it is."""
        await asyncio.sleep(0)
        return last_progress((self._steps.log(namespace, job) or "").splitlines())

    async def delete_step(self, namespace: str, job: str) -> None:
        """Delete a step: gone at once; its process is told to end, as a pod would be."""
        await asyncio.sleep(0)
        self._steps.delete(namespace, job)

    async def event(self, about: ObjectRef, kind: str, reason: str, message: str) -> None:
        """Record an event in `events`, the same one once."""
        await asyncio.sleep(0)
        if not self._objects.open(about.namespace):
            _log.warning("event not recorded: namespace %s is gone or about to go", about.namespace)
        elif (about, kind, reason, message) not in self._recorded:
            self._recorded.add((about, kind, reason, message))
            self.events.append(LocalEvent(about, kind, reason, message, self._clock()))

    # What people do.

    def apply(self, manifest: Manifest) -> Manifest:
        """Create the object or update it, as `kubectl apply`.

        Fields of the spec that are left out go back to their defaults; labels and annotations stay. Takes
        Secrets and Namespaces too (returned as they came). Raises RefusedError, GoneError.
        """
        meta = manifest["metadata"]
        namespace, name = meta.get("namespace", "default"), meta["name"]
        if manifest["kind"] == "Namespace":
            self.add_namespace(name)
            return manifest
        if manifest["kind"] == "Secret":
            decoded = {k: base64.b64decode(v).decode() for k, v in manifest.get("data", {}).items()}
            self.add_secret(namespace, name, {**decoded, **manifest.get("stringData", {})})
            return manifest
        placed = {**manifest, "metadata": {**meta, "namespace": namespace}}
        existing = self._objects.get(manifest["kind"], namespace, name)
        if existing is None:
            return self._objects.create(placed)
        kept = existing["metadata"]
        for part in ("labels", "annotations"):
            placed["metadata"][part] = {**kept.get(part, {}), **meta.get(part, {})}
        for part in ("finalizers", "ownerReferences"):
            placed["metadata"].setdefault(part, kept.get(part, []))
        return self._objects.replace(placed)

    def replace(self, manifest: Manifest) -> Manifest:
        """Update the object as `kubectl replace`. Raises as `apply`, and ConflictError."""
        return self._objects.replace(manifest)

    def annotate(
        self, kind: str, namespace: str, name: str, annotations: Mapping[str, str | None]
    ) -> Manifest:
        """Set annotations; None removes one. Raises GoneError."""
        found = self._objects.get(kind, namespace, name)
        if found is None:
            raise GoneError(f"{kind}/{namespace}/{name} is gone")
        merged = {**found["metadata"].get("annotations", {}), **annotations}
        found["metadata"]["annotations"] = {k: v for k, v in merged.items() if v is not None}
        return self._objects.replace(found)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete the object of that name, whichever it is; for a Namespace, `namespace` is empty."""
        self._objects.delete(kind, namespace, name)

    def add_namespace(self, name: str) -> None:
        """Make a namespace, unless it is there."""
        self._objects.add_namespace(name)

    def add_secret(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        """Create or replace a Secret. Steps read it when they start; nothing else ever does."""
        self._steps.secrets[namespace, name] = dict(data)
        self._steps.look_again()

    def remove_secret(self, namespace: str, name: str) -> None:
        """Delete a Secret; gone is done."""
        self._steps.secrets.pop((namespace, name), None)

    def add_image(self, reference: str, folder: Path) -> None:
        """From now on the image of that reference can be pulled; *folder* is its content."""
        self._steps.images[reference] = folder
        self._steps.look_again()

    def add_volume(self, namespace: str, claim_name: str, folder: Path) -> None:
        """A PersistentVolumeClaim whose volume is *folder*."""
        self._steps.volumes[namespace, claim_name] = folder
        self._steps.look_again()

    def jobs(self, namespace: str) -> Sequence[str]:
        """Names of the Jobs of a namespace."""
        return self._steps.names(namespace)

    def log(self, namespace: str, job: str) -> str | None:
        """What a step has printed so far (JSON lines); None without a Job."""
        return self._steps.log(namespace, job)

    # What machines do.

    def kill(self, namespace: str, job: str) -> None:
        """End a step's process at once; it gets no chance to write an outcome."""
        self._steps.kill(namespace, job)

    def lose(self, namespace: str, job: str) -> None:
        """The step's Job is gone, its process goes on (a node that lost the API server)."""
        self._steps.lose(namespace, job)

    def refuse_pods(self, namespace: str, message: str) -> None:
        """From now on no step of *namespace* gets a pod (a quota); *message* says why."""
        self._steps.refuse(namespace, message)

    def allow_pods(self, namespace: str) -> None:
        """Take `refuse_pods` back; what waited starts."""
        self._steps.refuse(namespace, None)

    def delay_steps(self, matches: Callable[[StepSpec], bool]) -> Delay:
        """Hold back steps started from now on that match, until `release()` of what is returned."""
        return self._steps.delay(matches)

    # Watching and closing.

    def watch(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call *callback* at every change of an object or a step; returns what ends that."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    async def aclose(self) -> None:
        """End the processes that this cluster started, and only those, and remove their folders."""
        self._watchers.clear()
        await self._steps.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _changed(self, change: Change) -> None:
        if change.kind == "ConfigMap":
            self._steps.look_again()
        for callback in list(self._watchers):
            callback(change)

    def _owner_gone(self, uid: str) -> None:
        self._steps.delete_where(lambda spec: spec.owner.uid == uid)

    def _namespace_ending(self, name: str) -> None:
        self._steps.delete_where(lambda spec: spec.namespace == name)
        for place in [place for place in self._steps.secrets if place[0] == name]:
            del self._steps.secrets[place]
