"""Objects in memory, kept as an API server keeps them: versions, finalizers, owners, field managers."""

import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from godwit.api.kinds import KINDS
from godwit.cluster.local_schema import admit, plain_copy
from godwit.cluster.port import ConflictError, GoneError, Manifest, RefusedError
from godwit.contract.request import ObjectRef

Key = tuple[str, str, str]
"""Kind, namespace, name."""


@dataclass(frozen=True)
class Change:
    """Something happened to an object, or to a step (kind Job); look again to see what."""

    kind: str
    namespace: str
    name: str
    owner: ObjectRef | None
    """The controller that owns it."""


@dataclass
class _Stored:
    manifest: Manifest
    managers: dict[str, set[str]] = field(default_factory=dict)
    """Field manager -> the top-level fields of the status that it owns."""


class LocalObjects:
    """The five kinds, ConfigMaps and Namespaces. Not a coroutine among its methods: each happens at once.

    `changed` is told of every change, `gone` the uid of every object that is no more (a garbage collector
    would find it out a moment later), `ending` the name of a namespace whose content has to go.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        changed: Callable[[Change], None],
        gone: Callable[[str], None],
        ending: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._gone = gone
        self._ending = ending
        self._version = 0
        self._objects: dict[tuple[str, str], dict[str, _Stored]] = defaultdict(dict)
        self._uids: dict[str, Key] = {}
        self._owned: dict[str, set[Key]] = defaultdict(set)

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """A copy of the object, or None."""
        found = self._objects[kind, namespace].get(name)
        return None if found is None else self._copy(found)

    def list(self, kind: str, namespace: str) -> list[Manifest]:
        """Copies of all objects of a kind, by name; of all namespaces when *namespace* is empty."""
        places = [p for p in sorted(self._objects) if p[0] == kind and namespace in {"", p[1]}]
        return [self._copy(self._objects[p][name]) for p in places for name in sorted(self._objects[p])]

    def uid_exists(self, uid: str) -> bool:
        """Whether an object has this uid."""
        return uid in self._uids

    def open(self, namespace: str) -> bool:
        """Whether new objects may be made in *namespace*."""
        found = self._objects["Namespace", ""].get(namespace)
        return found is not None and "deletionTimestamp" not in found.manifest["metadata"]

    def add_namespace(self, name: str) -> None:
        """Make a namespace, unless it is there."""
        if name not in self._objects["Namespace", ""]:
            bare = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self._insert({**bare, "status": {"phase": "Active"}})

    def create(self, manifest: Manifest) -> Manifest:
        """As the port's `create`."""
        kind, namespace, name = _key(manifest)
        existing = self.get(kind, namespace, name)
        if existing is not None:
            return existing
        if not self.open(namespace):
            raise GoneError(f"namespace {namespace} is gone or about to go")
        given = {**manifest, "metadata": _given(manifest)}
        given.pop("status", None)
        made = admit(given)
        self._insert(made)
        stored = self._objects[kind, namespace][name]
        answer = self._copy(stored)
        owners = made["metadata"].get("ownerReferences", [])
        if owners and not any(self.uid_exists(owner["uid"]) for owner in owners):
            # Made for an owner that is no more: the garbage collector takes it at once.
            self.delete(kind, namespace, name)
        return answer

    def replace(self, manifest: Manifest) -> Manifest:
        """A person's update (PUT): everything but status, and what the server alone sets.

        Raises GoneError; ConflictError where the manifest names another uid or resourceVersion; RefusedError.
        """
        kind, namespace, name = _key(manifest)
        stored = self._stored(kind, namespace, name)
        before, wanted = stored.manifest["metadata"], manifest.get("metadata", {})
        for part in ("uid", "resourceVersion"):
            if wanted.get(part, before[part]) != before[part]:
                raise ConflictError(f"{kind}/{namespace}/{name} changed since it was read")
        fixed = {k: v for k, v in before.items() if k not in _GIVEN}
        new = {**manifest, "metadata": {**fixed, **_given(manifest)}}
        if "deletionTimestamp" in before and set(wanted.get("finalizers", [])) - set(
            before.get("finalizers", [])
        ):
            raise RefusedError(
                "metadata.finalizers: Forbidden: none can be added while the object is deleted"
            )
        new.pop("status", None)
        if "status" in stored.manifest:
            new["status"] = stored.manifest["status"]
        return self._update(stored, admit(new, stored.manifest))

    def apply_status(self, observed: Manifest, status: Manifest, manager: str) -> Manifest:
        """As the port's `apply_status`, with fields owned at the top level of the status."""
        kind, namespace, name = _key(observed)
        stored = self._stored(kind, namespace, name)
        if kind not in KINDS:
            raise RefusedError(f"{kind} has no status to be applied")
        for part in ("uid", "resourceVersion"):
            if observed["metadata"].get(part) != stored.manifest["metadata"][part]:
                raise ConflictError(f"{kind}/{namespace}/{name} changed since it was observed")
        now = stored.manifest.get("status", {})
        others = {m: owned for m, owned in stored.managers.items() if m != manager}
        kept = set(status).union(*others.values())
        left_out = stored.managers.get(manager, set()) - kept
        merged = {**{k: v for k, v in now.items() if k not in left_out}, **status}
        admitted = admit({**stored.manifest, "status": merged}, stored.manifest)
        # Applied by force: whoever says something else owns it from now on.
        taken = {k for k, v in status.items() if now.get(k) != v}
        stored.managers = {m: owned - taken for m, owned in others.items()} | {manager: set(status)}
        return self._update(stored, admitted)

    def set_finalizer(self, key: Key, uid: str, finalizer: str, *, present: bool) -> None:
        """As the port's `set_finalizer`."""
        stored = self._objects[key[:2]].get(key[2])
        if stored is None or stored.manifest["metadata"]["uid"] != uid:
            if present:
                raise GoneError(f"{'/'.join(key)} is gone")
            return
        held = stored.manifest["metadata"].get("finalizers", [])
        if (finalizer in held) is present:
            return
        if present and "deletionTimestamp" in stored.manifest["metadata"]:
            raise GoneError(f"{'/'.join(key)} is being deleted")
        new = self._copy(stored)
        new["metadata"]["finalizers"] = [*held, finalizer] if present else [f for f in held if f != finalizer]
        if not new["metadata"]["finalizers"]:
            del new["metadata"]["finalizers"]
        self._update(stored, new)

    def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete the object (with that uid); one with finalizers is only marked. Gone is done."""
        stored = self._objects[kind, namespace].get(name)
        if stored is None or (uid is not None and stored.manifest["metadata"]["uid"] != uid):
            return
        meta = stored.manifest["metadata"]
        if kind == "Namespace":
            self._end_namespace(stored)
        elif not meta.get("finalizers"):
            self._remove(stored)
        elif "deletionTimestamp" not in meta:
            # A marked object gets a new generation, as if its spec had changed (registry/rest BeforeDelete).
            marked = {**meta, "deletionTimestamp": self._time(), "deletionGracePeriodSeconds": 0}
            if "generation" in meta:
                marked["generation"] = meta["generation"] + 1
            self._write(stored, {**stored.manifest, "metadata": marked})

    def _end_namespace(self, stored: _Stored) -> None:
        name = stored.manifest["metadata"]["name"]
        if "deletionTimestamp" not in stored.manifest["metadata"]:
            meta = {**stored.manifest["metadata"], "deletionTimestamp": self._time()}
            self._write(stored, {**stored.manifest, "metadata": meta, "status": {"phase": "Terminating"}})
            self._ending(name)
            for place in [p for p in self._objects if p[1] == name]:
                for inner in list(self._objects[place]):
                    self.delete(*place, inner)
        self._finish_namespace(name)

    def _finish_namespace(self, name: str) -> None:
        stored = self._objects["Namespace", ""].get(name)
        if stored is None or "deletionTimestamp" not in stored.manifest["metadata"]:
            return
        if not any(self._objects[place] for place in list(self._objects) if place[1] == name):
            self._remove(stored)

    def _insert(self, manifest: Manifest) -> None:
        kind, namespace, name = _key(manifest)
        meta = {**manifest["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": self._time()}
        if kind in KINDS:
            meta["generation"] = 1
        stored = _Stored({**manifest, "metadata": meta})
        self._objects[kind, namespace][name] = stored
        self._uids[meta["uid"]] = (kind, namespace, name)
        for owner in meta.get("ownerReferences", []):
            self._owned[owner["uid"]].add((kind, namespace, name))
        self._write(stored, stored.manifest)

    def _update(self, stored: _Stored, new: Manifest) -> Manifest:
        """Keep *new* in the place of the stored manifest, unless that says the same already."""
        old = stored.manifest
        if new != old:
            meta = dict(new["metadata"])
            if "generation" in meta and _body(new) != _body(old):
                meta["generation"] += 1
            for owner in meta.get("ownerReferences", []):
                self._owned[owner["uid"]].add(_key(new))
            self._write(stored, {**new, "metadata": meta})
            if "deletionTimestamp" in meta and not meta.get("finalizers"):
                self._remove(stored)
        return self._copy(stored)

    def _write(self, stored: _Stored, manifest: Manifest) -> None:
        self._version += 1
        meta = {**manifest["metadata"], "resourceVersion": str(self._version)}
        stored.manifest = {**manifest, "metadata": meta}
        self._tell(stored)

    def _remove(self, stored: _Stored) -> None:
        kind, namespace, name = _key(stored.manifest)
        uid = stored.manifest["metadata"]["uid"]
        del self._objects[kind, namespace][name]
        del self._uids[uid]
        self._tell(stored)
        self._gone(uid)
        for dependent in sorted(self._owned.pop(uid, ())):
            child = self._objects[dependent[:2]].get(dependent[2])
            owners = [] if child is None else child.manifest["metadata"].get("ownerReferences", [])
            mine = any(owner["uid"] == uid for owner in owners)
            if mine and not any(self.uid_exists(owner["uid"]) for owner in owners):
                self.delete(*dependent)
        self._finish_namespace(namespace)

    def _tell(self, stored: _Stored) -> None:
        kind, namespace, name = _key(stored.manifest)
        owners = stored.manifest["metadata"].get("ownerReferences", [])
        refs = [
            ObjectRef(kind=owner["kind"], namespace=namespace, name=owner["name"], uid=owner["uid"])
            for owner in owners
            if owner.get("controller")
        ]
        self._changed(Change(kind, namespace, name, refs[0] if refs else None))

    def _stored(self, kind: str, namespace: str, name: str) -> _Stored:
        found = self._objects[kind, namespace].get(name)
        if found is None:
            raise GoneError(f"{kind}/{namespace}/{name} is gone")
        return found

    def _time(self) -> str:
        # metav1.Time has whole seconds.
        return self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @staticmethod
    def _copy(stored: _Stored) -> Manifest:
        copied: Manifest = plain_copy(stored.manifest)
        return copied


_GIVEN = frozenset({"name", "namespace", "labels", "annotations", "finalizers", "ownerReferences"})
"""The part of metadata that a person or a controller gives; the server sets the rest."""


def _given(manifest: Manifest) -> Manifest:
    meta = manifest.get("metadata", {})
    return {k: plain_copy(v) for k, v in meta.items() if k in _GIVEN and v not in ({}, [], None)}


def _body(manifest: Manifest) -> Manifest:
    """What counts for the generation: all but metadata and status."""
    return {key: value for key, value in manifest.items() if key not in {"metadata", "status"}}


def _key(manifest: Manifest) -> Key:
    meta = manifest.get("metadata", {})
    return manifest.get("kind", ""), meta.get("namespace", ""), meta.get("name", "")
