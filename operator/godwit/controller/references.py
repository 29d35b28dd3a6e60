"""Who must be looked at when something changes: kept from the events, so that no change costs a list."""

from collections import defaultdict
from typing import Any

from godwit.controller.queue import Key

DATABASE, MIGRATION, RUN = "PostgresDatabase", "DatabaseMigration", "MigrationRun"
BACKUP, RESTORE, CONFIG_MAP = "DatabaseBackup", "DatabaseRestore", "ConfigMap"


def subjects(manifest: dict[str, Any]) -> tuple[set[Key], set[Key]]:
    """(what the object depends on, what is told of its changes), by its spec."""
    kind, meta, spec = manifest["kind"], manifest["metadata"], manifest.get("spec", {})
    space = meta["namespace"]

    def key(kind: str, name: str) -> Key:
        return Key(kind, space, name)

    database = spec.get("databaseRef", {}).get("name", "")
    order = spec.get("order", {}).get("run", {}).get("name", "")
    match kind:
        case "DatabaseMigration":
            maps = {key(CONFIG_MAP, ref["name"]) for ref in spec.get("source", {}).get("configMaps", [])}
            return {key(DATABASE, database), *maps}, set()
        case "MigrationRun":
            if manifest.get("status", {}).get("released"):
                return set(), {key(MIGRATION, spec["migrationRef"]["name"])}
            told = {key(MIGRATION, spec["migrationRef"]["name"]), key(DATABASE, database)}
            return {key(DATABASE, database), key(MIGRATION, spec["migrationRef"]["name"])}, told
        case "DatabaseBackup":
            told = {key(DATABASE, database), *({key(RUN, order)} if order else ())}
            done = bool(manifest.get("status", {}).get("verified"))
            return set() if done else {key(DATABASE, database)}, told
        case "DatabaseRestore":
            told = {key(DATABASE, database), *({key(RUN, order)} if order else ())}
            done = bool(manifest.get("status", {}).get("released"))
            backup = spec.get("backupRef", {}).get("name", "")
            return set() if done else {key(DATABASE, database), key(BACKUP, backup)}, told
        case _:
            return set(), set()


class References:
    """The objects that were seen, and who depends on whom."""

    def __init__(self) -> None:
        self._depends: dict[Key, set[Key]] = {}
        self._dependents: dict[Key, set[Key]] = defaultdict(set)
        self._told: dict[Key, set[Key]] = {}
        self._database: dict[Key, tuple[str, str]] = {}

    def note(self, manifest: dict[str, Any]) -> None:
        """Take notice of an object as it is now."""
        meta = manifest["metadata"]
        key = Key(manifest["kind"], meta["namespace"], meta["name"])
        depends, told = subjects(manifest)
        for old in self._depends.get(key, set()) - depends:
            self._dependents[old].discard(key)
        for new in depends:
            self._dependents[new].add(key)
        self._depends[key], self._told[key] = depends, told
        name = manifest.get("spec", {}).get("databaseRef", {}).get("name", meta["name"])
        self._database[key] = (meta["namespace"], name)

    def forget(self, key: Key) -> None:
        """The object is gone; who depends on it stays, it may come back."""
        for old in self._depends.pop(key, set()):
            self._dependents[old].discard(key)
            if not self._dependents[old]:
                del self._dependents[old]
        self._told.pop(key, None)
        self._database.pop(key, None)

    def knows(self, key: Key) -> bool:
        """Whether the object was seen, and has not gone since."""
        return key in self._depends

    def concerned(self, key: Key) -> set[Key]:
        """Whoever must be looked at when the object changes or goes, other than itself."""
        return set(self._dependents.get(key, set())) | self._told.get(key, set())

    def group(self, key: Key) -> tuple[str, str]:
        """(namespace, name) of the database that a key belongs to; its own name where that is not known."""
        return self._database.get(key, (key.namespace, key.name))
