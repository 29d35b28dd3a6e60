"""Who must be looked at when something changes: kept from the events, so that no change costs a list."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from godwit.api.backup import DatabaseBackup
from godwit.api.common import Resource
from godwit.api.database import PostgresDatabase
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun
from godwit.controller.queue import Key

CONFIG_MAP = "ConfigMap"


def subjects(manifest: dict[str, Any]) -> tuple[set[Key], set[Key]]:
    """(what the object depends on, what is told of its changes), by its spec."""
    kind, meta, spec = manifest["kind"], manifest["metadata"], manifest.get("spec", {})
    space = meta["namespace"]

    def key(kind: type[Resource], name: str) -> Key:
        return Key(kind.KIND, space, name)

    database = key(PostgresDatabase, spec.get("databaseRef", {}).get("name", ""))
    order = spec.get("order", {}).get("run", {}).get("name", "")
    told = {database, *({key(MigrationRun, order)} if order else ())}
    match kind:
        case DatabaseMigration.KIND:
            refs = spec.get("source", {}).get("configMaps", [])
            return {database, *(Key(CONFIG_MAP, space, ref["name"]) for ref in refs)}, set()
        case MigrationRun.KIND:
            migration = key(DatabaseMigration, spec["migrationRef"]["name"])
            released = bool(manifest.get("status", {}).get("released"))
            return set() if released else {database, migration}, {migration}
        case DatabaseBackup.KIND:
            done = bool(manifest.get("status", {}).get("verified"))
            return set() if done else {database}, told
        case DatabaseRestore.KIND:
            done = bool(manifest.get("status", {}).get("released"))
            backup = key(DatabaseBackup, spec.get("backupRef", {}).get("name", ""))
            return set() if done else {database, backup}, told
        case _:
            return set(), set()


def seen_by_others(manifest: dict[str, Any]) -> str:
    """All that decisions about other objects read of an object; equal texts mean nothing new for them."""
    status = {**manifest.get("status", {})}
    for own in ("steps", "progress", "phase", "observedGeneration"):
        status.pop(own, None)
    conditions = status.pop("conditions", ())
    if manifest["kind"] == DatabaseMigration.KIND:
        status = {}  # a run looks whether its migration is there, and keeps it there
    if manifest["kind"] not in {PostgresDatabase.KIND, DatabaseMigration.KIND}:
        status["told"] = [[c.get(k) for k in ("type", "status", "reason", "message")] for c in conditions]
    return json.dumps([_identity(manifest), status], sort_keys=True)


def asked_of_itself(manifest: dict[str, Any]) -> str:
    """All that people ask of an object: the rest of it is Godwit's own report.

    Who holds it, and its finalizers, are written by the pass of a run or restore: two passes over what it
    took, the database and the migration, would come before that of the backup for which it was taken.
    """
    meta = manifest["metadata"]
    asked = ("uid", "generation", "deletionTimestamp", "annotations")
    return json.dumps([meta.get(key) for key in asked], sort_keys=True)


def _identity(manifest: dict[str, Any]) -> list[Any]:
    meta = manifest["metadata"]
    return [meta.get(key) for key in ("uid", "generation", "finalizers", "deletionTimestamp")]


@dataclass(frozen=True)
class News:
    """What the sight of an object says that the sight before did not."""

    for_itself: bool
    for_others: bool


class References:
    """The objects that were seen, and who depends on whom."""

    def __init__(self) -> None:
        self._depends: dict[Key, set[Key]] = {}
        self._dependents: dict[Key, set[Key]] = defaultdict(set)
        self._told: dict[Key, set[Key]] = {}
        self._sight: dict[Key, tuple[str, str]] = {}
        self._database: dict[Key, tuple[str, str]] = {}
        self._uids: dict[Key, list[str]] = defaultdict(list)
        """Of the objects of that name that were seen and have not gone, the newest last."""

    def note(self, manifest: dict[str, Any]) -> News:
        """Take notice of an object as it is now.

        kopf orders the events of one object, not those of namesakes: one that was made anew may be told of
        before the last that is told of its predecessor.
        """
        meta = manifest["metadata"]
        key, uid = Key(manifest["kind"], meta["namespace"], meta["name"]), meta.get("uid", "")
        if uid in self._uids[key][:-1]:
            return News(for_itself=False, for_others=False)
        if uid not in self._uids[key]:
            self._uids[key].append(uid)
        depends, told = subjects(manifest)
        for old in self._depends.get(key, set()) - depends:
            self._dependents[old].discard(key)
        for new in depends:
            self._dependents[new].add(key)
        self._depends[key], self._told[key] = depends, told
        name = manifest.get("spec", {}).get("databaseRef", {}).get("name", meta["name"])
        self._database[key] = (meta["namespace"], name)
        before = self._sight.get(key, ("", ""))
        self._sight[key] = now = (asked_of_itself(manifest), seen_by_others(manifest))
        return News(for_itself=before[0] != now[0], for_others=before[1] != now[1])

    def forget(self, key: Key, uid: str | None) -> bool:
        """The object with this uid (None: whichever it was) is gone; who depends on it stays.

        Whether no namesake is there, made later.
        """
        left = [] if uid is None else [other for other in self._uids[key] if other != uid]
        if left:
            self._uids[key] = left
            return False
        self._uids.pop(key, None)
        for old in self._depends.pop(key, set()):
            self._dependents[old].discard(key)
            if not self._dependents[old]:
                del self._dependents[old]
        self._told.pop(key, None)
        self._sight.pop(key, None)
        self._database.pop(key, None)
        return True

    def knows(self, key: Key) -> bool:
        """Whether the object was seen, and has not gone since."""
        return key in self._depends

    def newest(self, key: Key) -> str | None:
        """The uid of the newest object of that name that was seen and has not gone; None where none is."""
        return next(reversed(self._uids.get(key, [])), None)

    def concerned(self, key: Key) -> set[Key]:
        """Whoever must be looked at when the object changes, other than itself."""
        found = self._dependents.get(key, set()) | self._told.get(key, set())
        database = self._database.get(key)
        if key.kind == DatabaseRestore.KIND and database is not None:
            # It may have taken away what these say is applied.
            others = self._dependents.get(Key(PostgresDatabase.KIND, *database), set())
            found |= {other for other in others if other.kind == DatabaseMigration.KIND}
        return found

    def bereaved(self, key: Key) -> set[Key]:
        """Whoever must be looked at when the object goes: also its database, which it may have held."""
        database = self._database.get(key)
        return self.concerned(key) | (set() if database is None else {Key(PostgresDatabase.KIND, *database)})

    def group(self, key: Key) -> tuple[str, str]:
        """(namespace, name) of the database that a key belongs to; its own name where that is not known."""
        return self._database.get(key, (key.namespace, key.name))
