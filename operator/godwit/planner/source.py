"""Pinned sources: what was planned is what runs, whatever happens to the ConfigMaps meanwhile. Pure."""

from dataclasses import dataclass
from typing import Any

from godwit.api.common import API_VERSION, SPEC_HASH, ApiModel, Resource
from godwit.api.migration import DatabaseMigration, PinnedSource
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun
from godwit.contract.base import digest
from godwit.planner.decision import SourceSeen

MANAGED_BY = {"app.kubernetes.io/managed-by": "godwit"}
"""The label of every generated object, and the only one: labels of parents are never copied (GitOps tools
prune)."""

_LONGEST = 200
_ALWAYS_HASHED = {"method", "acceptDataLoss", "acceptReplicationLoss"}
"""Fields of a restore that have defaults and are as old as its hash: what was done by it stays known."""


@dataclass(frozen=True)
class Pin:
    """A ConfigMap that belongs to a migration: a copy of its source, or a plan's document."""

    name: str
    uid: str


def stem(name: str) -> str:
    """What generated names begin with, at most 200 characters; two long names alike at first stay apart."""
    return (
        name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9].rstrip('-.')}-{digest(name.encode())[:8]}"
    )


def spec_hash(spec: ApiModel) -> str:
    """Digest of what a spec says beside defaults: a field that a newer version adds changes nothing."""
    said = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return digest(said | {key: value for key, value in spec.to_json().items() if key in _ALWAYS_HASHED})


def spec_hash_of(resource: MigrationRun | DatabaseRestore) -> str:
    """The hash by which the journal in the database knows what was done for an object.

    What a run or its restore was made with, by whichever version: their specs never change. A restore made
    by a person has none, and when it is applied again it must be known as the one that was done.
    """
    meta = resource.metadata
    made_with = meta.annotations.get(SPEC_HASH, "") if meta.owner_references else ""
    return made_with or spec_hash(resource.spec)


def generated_metadata(owner: Resource, name: str, spec_hash: str) -> dict[str, Any]:
    """Metadata of an object that *owner* makes: owned by it, and known as ours by the hash."""
    meta = owner.metadata
    return {
        "name": name,
        "namespace": meta.namespace,
        "labels": MANAGED_BY,
        "annotations": {SPEC_HASH: spec_hash},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": owner.KIND,
                "name": meta.name,
                "uid": meta.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def pinned_source(migration: DatabaseMigration, seen: SourceSeen) -> PinnedSource:
    """The source as steps mount it: immutable copies named by content, or the image."""
    if migration.spec.source.image is not None:
        return PinnedSource(image=migration.spec.source.image)
    begin = stem(migration.metadata.name)
    names = tuple(f"{begin}-source-{seen.content[:10]}-{i}" for i in range(len(seen.files)))
    return PinnedSource(config_maps=names, content=seen.content)


def pin_manifests(migration: DatabaseMigration, seen: SourceSeen) -> list[dict[str, Any]]:
    """The immutable ConfigMaps (Kubernetes: `immutable: true`) that `pinned_source` names."""
    pinned = pinned_source(migration, seen)
    made = []
    for name, (data, binary) in zip(pinned.config_maps, seen.files, strict=True):
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": generated_metadata(migration, name, seen.content),
            "immutable": True,
            "data": data,
            "binaryData": binary,
        }
        made.append({key: value for key, value in manifest.items() if value != {}})
    return made
