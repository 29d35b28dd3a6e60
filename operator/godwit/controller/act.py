"""Carries out effects. Each is idempotent: after a crash the same decision comes again."""

import base64
import contextlib
import gzip
from collections.abc import Callable
from typing import Any, assert_never

from godwit.api.common import SPEC_HASH, Resource
from godwit.api.database import PostgresDatabase
from godwit.api.kinds import KINDS
from godwit.cluster.port import OPERATION_MANAGER, Cluster, GoneError, Manifest, RefusedError
from godwit.contract.outcome import Failure
from godwit.contract.reasons import Reason
from godwit.controller.queue import Key
from godwit.controller.slots import Slots
from godwit.planner.decision import (
    Create,
    Delete,
    DeleteStep,
    Effect,
    Emit,
    Hold,
    SaveDocument,
    SetFinalizer,
    StartStep,
)
from godwit.planner.source import generated_metadata

PLAIN_LIMIT = 900_000
"""Bytes of a document up to which its ConfigMap holds plain text; the API server's limit is 1 MiB."""


class NotDoneError(Exception):
    """An effect could not be carried out; `failure` says why, fit for a status."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Actor:
    """Carries out effects on a cluster."""

    def __init__(self, cluster: Cluster, slots: Slots, made: Callable[[Manifest], None]) -> None:
        """*made* is told of each object of the five kinds that was created."""
        self._cluster = cluster
        self._slots = slots
        self._made = made

    async def act(self, about: Resource, effect: Effect) -> None:
        """Carry out one effect of a decision about an object.

        Raises NotDoneError where a name is taken or the API server refuses; the port's errors otherwise:
        GoneError also where what has the name is about to go.
        """
        try:
            await self._act(about, effect)
        except RefusedError as error:
            if isinstance(effect, StartStep):
                self._slots.leave(effect.spec.namespace, effect.spec.job)
            text = f"The API server refused {_what(effect)}: {error}"
            raise NotDoneError(Failure(reason=Reason.POD_REFUSED, message=text)) from error

    async def _act(self, about: Resource, effect: Effect) -> None:
        cluster = self._cluster
        match effect:
            case StartStep(spec):
                self._slots.enter(Key(spec.owner.kind, spec.namespace, spec.owner.name), spec.job)
                await cluster.start_step(spec)
            case DeleteStep(namespace, job):
                await cluster.delete_step(namespace, job)
                self._slots.leave(namespace, job)
            case Create(manifest):
                await self._create(manifest)
            case Delete(kind, namespace, name, uid):
                await cluster.delete(kind, namespace, name, uid)
            case SetFinalizer(kind, namespace, name, uid, present):
                await cluster.set_finalizer(kind, namespace, name, uid, present=present)
            case Hold():
                await self._hold(effect)
            case SaveDocument(namespace, job, name):
                await self._save_document(about, namespace, job, name)
            case Emit(kind, reason, message):
                await cluster.event(about.ref, kind, reason, message)
            case _:
                assert_never(effect)

    async def _create(self, manifest: Manifest) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        found = await self._cluster.create(manifest)
        if not _ours(found, manifest):
            if _passing(found, manifest):
                raise GoneError(f"{kind} {name} exists and is about to go, with what owned it.")
            text = f"{kind} {name} exists and is not Godwit's."
            raise NotDoneError(Failure(reason=Reason.NAME_TAKEN, message=text))
        if kind in KINDS:
            self._made(found)

    async def _hold(self, hold: Hold) -> None:
        observed = await self._cluster.get(PostgresDatabase.KIND, hold.namespace, hold.database)
        if observed is None:
            return
        observed["metadata"]["resourceVersion"] = hold.resource_version
        status = {} if hold.operation is None else {"activeOperation": hold.operation.to_json()}
        await self._cluster.apply_status(observed, status, OPERATION_MANAGER)

    async def _save_document(self, about: Resource, namespace: str, job: str, name: str) -> None:
        text = await self._cluster.read_document(namespace, job)
        if text is None:
            return
        content: dict[str, Any] = {"data": {"plan.json": text}}
        if len(text.encode()) > PLAIN_LIMIT:
            packed = gzip.compress(text.encode(), mtime=0)
            if len(packed) > PLAIN_LIMIT * 3 // 4:
                return  # larger than an object may be; the step's source has the same SQL
            content = {"binaryData": {"plan.json.gz": base64.b64encode(packed).decode()}}
        metadata = generated_metadata(about, name, name)
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **content}
        with contextlib.suppress(RefusedError):  # what makes room for it, perhaps, comes after it
            await self._cluster.create(made)


def _what(effect: Effect) -> str:
    """What the API server was asked for."""
    match effect:
        case StartStep(spec):
            return f"the Job {spec.job}"
        case DeleteStep(_, job):
            return f"to delete the Job {job}"
        case Create(manifest):
            return f"{manifest['kind']} {manifest['metadata']['name']}"
        case Delete(kind, _, name, _):
            return f"to delete {kind} {name}"
        case SetFinalizer(kind, _, name, _, _):
            return f"a change of the finalizers of {kind} {name}"
        case Hold(_, database, _, _):
            return f"a change of the status of {PostgresDatabase.KIND} {database}"
        case SaveDocument(_, _, name):
            return f"ConfigMap {name}"
        case Emit():
            return "an event"


def _ours(found: Manifest, wanted: Manifest) -> bool:
    """Whether what exists is what we wanted to create: the same spec hash and, if any, the same owner."""
    have, want = found["metadata"], wanted["metadata"]
    owners = {ref["uid"] for ref in have.get("ownerReferences", ())}
    wanted_owners = {ref["uid"] for ref in want.get("ownerReferences", ())}
    same_hash = have.get("annotations", {}).get(SPEC_HASH) == want["annotations"][SPEC_HASH]
    return same_hash and wanted_owners <= owners and not have.get("deletionTimestamp")


def _passing(found: Manifest, wanted: Manifest) -> bool:
    """Whether what exists is made by Godwit and goes by itself.

    It is being deleted, or belonged to an owner of the same name that was deleted: the garbage collector is
    a moment late.
    """
    have, want = found["metadata"], wanted["metadata"]
    if SPEC_HASH not in have.get("annotations", {}):
        return False
    owners = {(ref["kind"], ref["name"]) for ref in want.get("ownerReferences", ())}
    uids = {ref["uid"] for ref in want.get("ownerReferences", ())}
    former = (ref for ref in have.get("ownerReferences", ()) if ref["uid"] not in uids)
    return bool(have.get("deletionTimestamp")) or any((ref["kind"], ref["name"]) in owners for ref in former)
