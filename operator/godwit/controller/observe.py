"""Everything that a decision needs, read fresh from the cluster. No decision is made here."""

import asyncio
import base64
from typing import cast

from godwit.api.backup import DatabaseBackup
from godwit.api.common import Resource, StepRecord
from godwit.api.database import PostgresDatabase
from godwit.api.kinds import parse
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun
from godwit.cluster.port import Cluster, Manifest
from godwit.contract.progress import RunProgress
from godwit.contract.reasons import Reason
from godwit.contract.source import source_content
from godwit.planner.backup import BackupSeen
from godwit.planner.database import DatabaseSeen
from godwit.planner.decision import GONE, LostCopy, SourceSeen, StepSeen, StepState
from godwit.planner.migration import MigrationSeen, spare_copies
from godwit.planner.restore import RestoreSeen
from godwit.planner.run import RunSeen
from godwit.planner.runs import number
from godwit.planner.source import Pin

Seen = DatabaseSeen | MigrationSeen | RunSeen | BackupSeen | RestoreSeen


class Observer:
    """Reads what a pass needs. `image` is that of new steps."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self._cluster = cluster
        self._image = image

    async def observe(self, manifest: Manifest) -> Seen:
        """The object with everything that hangs on it. Raises ValueError where it does not fit its model."""
        resource = parse(manifest)
        match resource:
            case PostgresDatabase():
                return await self._database(resource)
            case DatabaseMigration():
                return await self._migration(resource)
            case MigrationRun():
                return await self._run(resource)
            case DatabaseBackup():
                return await self._backup(resource)
            case DatabaseRestore():
                return await self._restore(resource)
            case _:
                raise TypeError(f"no observation for {resource.KIND}")

    async def _database(self, database: PostgresDatabase) -> DatabaseSeen:
        meta = database.metadata
        steps, backups, restores = await asyncio.gather(
            self._steps(database),
            self._of_database(DatabaseBackup, meta.namespace, meta.name),
            self._restores_of(meta.namespace, meta.name),
        )
        return DatabaseSeen(
            database=database,
            image=self._image,
            check=steps.get("check", GONE),
            backups=tuple(cast("DatabaseBackup", b) for b in backups),
            restores=restores,
            holder_exists=await self._holder_exists(database, ""),
        )

    async def _migration(self, migration: DatabaseMigration) -> MigrationSeen:
        meta, spec = migration.metadata, migration.spec
        database, source, steps, runs, restores = await asyncio.gather(
            self._get(PostgresDatabase, meta.namespace, spec.database_ref.name),
            self._source(migration),
            self._steps(migration),
            self._runs(migration),
            self._restores_of(meta.namespace, spec.database_ref.name),
        )
        return MigrationSeen(
            migration=migration,
            image=self._image,
            database=cast("PostgresDatabase | None", database),
            source=source,
            spare=await self._spare(migration, runs),
            plan=steps.get("plan", GONE),
            runs=runs,
            restores=restores,
        )

    async def _run(self, run: MigrationRun) -> RunSeen:
        meta, spec, status = run.metadata, run.spec, run.status
        space = meta.namespace
        database, migration, backup, restore, steps, terminating = await asyncio.gather(
            self._get(PostgresDatabase, space, spec.database_ref.name),
            self._get(DatabaseMigration, space, spec.migration_ref.name),
            self._get(DatabaseBackup, space, status.backup),
            self._get(DatabaseRestore, space, status.restore),
            self._steps(run),
            self._terminating(space),
        )
        base = cast("PostgresDatabase | None", database)
        if migration is not None and migration.metadata.uid != spec.migration_ref.uid:
            migration = None  # a namesake, made later
        parent = cast("DatabaseMigration | None", migration)
        misses = any(found.reason is Reason.SOURCE_MISSING for found in steps.values())
        return RunSeen(
            run=run,
            database=base,
            migration=parent,
            lost=await self._lost_copy(run, parent) if misses else None,
            backup=cast("DatabaseBackup | None", backup),
            restore=cast("DatabaseRestore | None", restore),
            steps=steps,
            holder_exists=await self._holder_exists(base, meta.uid),
            namespace_terminating=terminating,
            progress=await self._progress(run, steps),
        )

    async def _lost_copy(self, run: MigrationRun, migration: DatabaseMigration | None) -> LostCopy | None:
        names, space = run.spec.source.config_maps, run.metadata.namespace
        found = await asyncio.gather(*(self._cluster.get("ConfigMap", space, name) for name in names))
        name = next((name for name, copy in zip(names, found, strict=True) if copy is None), None)
        if name is None:
            return None
        return LostCopy(name, SourceSeen() if migration is None else await self._source(migration))

    async def _progress(self, run: MigrationRun, steps: dict[str, StepSeen]) -> RunProgress | None:
        """How far the step is that was running when last looked at, too: a short one is never asked."""
        for record in run.status.steps:
            found = steps.get(record.name, GONE)
            # The log of a node that does not answer is waited for in vain, half a minute each time.
            running = found.state is StepState.RUNNING and found.unreachable is None
            if running and record.state == StepState.RUNNING:
                return await self._cluster.read_progress(run.metadata.namespace, record.job)
        return None

    async def _backup(self, backup: DatabaseBackup) -> BackupSeen:
        meta, order = backup.metadata, backup.spec.order
        database, steps, restores = await asyncio.gather(
            self._get(PostgresDatabase, meta.namespace, backup.spec.database_ref.name),
            self._steps(backup),
            self._restores_behind(order, meta.namespace, backup.spec.database_ref.name),
        )
        base = cast("PostgresDatabase | None", database)
        return BackupSeen(
            backup=backup,
            image=self._image,
            database=base,
            steps=steps,
            restores=restores,
            holder_exists=await self._holder_exists(base, order.run.uid if order else meta.uid),
            namespace_terminating=meta.deleting and await self._terminating(meta.namespace),
        )

    async def _restore(self, restore: DatabaseRestore) -> RestoreSeen:
        meta, spec = restore.metadata, restore.spec
        database, backup, steps, restores = await asyncio.gather(
            self._get(PostgresDatabase, meta.namespace, spec.database_ref.name),
            self._get(DatabaseBackup, meta.namespace, spec.backup_ref.name),
            self._steps(restore),
            self._restores_behind(spec.order, meta.namespace, spec.database_ref.name),
        )
        base = cast("PostgresDatabase | None", database)
        return RestoreSeen(
            restore=restore,
            image=self._image,
            database=base,
            backup=cast("DatabaseBackup | None", backup),
            steps=steps,
            restores=restores,
            holder_exists=await self._holder_exists(base, meta.uid),
            namespace_terminating=await self._terminating(meta.namespace),
        )

    async def _get(self, kind: type[Resource], namespace: str, name: str) -> Resource | None:
        if not name:
            return None
        found = await self._cluster.get(kind.KIND, namespace, name)
        return None if found is None else parse(found)

    async def _of_database(self, kind: type[Resource], namespace: str, database: str) -> list[Resource]:
        found = await self._cluster.list(kind.KIND, namespace)
        return [parse(m) for m in found if m["spec"]["databaseRef"]["name"] == database]

    async def _restores_of(self, namespace: str, database: str) -> tuple[DatabaseRestore, ...]:
        found = await self._of_database(DatabaseRestore, namespace, database)
        return tuple(cast("DatabaseRestore", restore) for restore in found)

    async def _restores_behind(
        self, order: object | None, namespace: str, database: str
    ) -> tuple[DatabaseRestore, ...]:
        """What tells which database is meant: an order of a run names it, and nobody asks the API server."""
        return () if order is not None else await self._restores_of(namespace, database)

    async def _runs(self, migration: DatabaseMigration) -> tuple[MigrationRun, ...]:
        found = await self._cluster.list(MigrationRun.KIND, migration.metadata.namespace)
        uid = migration.metadata.uid
        mine = [cast("MigrationRun", parse(m)) for m in found if m["spec"]["migrationRef"].get("uid") == uid]
        return tuple(sorted(mine, key=number))

    async def _steps(self, resource: Resource) -> dict[str, StepSeen]:
        """How the steps that the status records stand."""
        records: tuple[StepRecord, ...] = resource.status.steps
        meta = resource.metadata
        seen = await asyncio.gather(
            *(self._cluster.observe_step(r.job, meta.namespace, meta.uid, r.request_hash) for r in records)
        )
        return {record.name: found for record, found in zip(records, seen, strict=True)}

    async def _source(self, migration: DatabaseMigration) -> SourceSeen:
        refs = migration.spec.source.config_maps or ()
        namespace = migration.metadata.namespace
        found = await asyncio.gather(*(self._cluster.get("ConfigMap", namespace, ref.name) for ref in refs))
        missing = next((ref.name for ref, m in zip(refs, found, strict=True) if m is None), "")
        if missing:
            return SourceSeen(missing=missing)
        files = tuple((m.get("data") or {}, m.get("binaryData") or {}) for m in found if m is not None)
        return SourceSeen(content=content_digest(files) if files else "", files=files)

    async def _spare(self, migration: DatabaseMigration, runs: tuple[MigrationRun, ...]) -> tuple[Pin, ...]:
        namespace = migration.metadata.namespace
        names = spare_copies(migration, runs)
        found = await asyncio.gather(*(self._cluster.get("ConfigMap", namespace, name) for name in names))
        return tuple(
            Pin(m["metadata"]["name"], m["metadata"]["uid"])
            for m in found
            if m is not None and _owned(m, migration.metadata.uid)
        )

    async def _holder_exists(self, database: PostgresDatabase | None, own_uid: str) -> bool:
        """Whether whoever holds the database still exists; a namesake made later is somebody else."""
        active = database.status.active_operation if database else None
        if database is None or active is None or active.uid == own_uid:
            return True
        found = await self._cluster.get(active.kind, database.metadata.namespace, active.name)
        return found is not None and found["metadata"]["uid"] == active.uid

    async def _terminating(self, namespace: str) -> bool:
        found = await self._cluster.get("Namespace", "", namespace)
        return found is not None and bool(found["metadata"].get("deletionTimestamp"))


def content_digest(files: tuple[tuple[dict[str, str], dict[str, str]], ...]) -> str:
    """Digest of the (data, binaryData) of ConfigMaps, in order, as the step computes it from its mounts."""
    return source_content(
        [
            {
                **{key: text.encode() for key, text in data.items()},
                **{key: base64.b64decode(value) for key, value in binary.items()},
            }
            for data, binary in files
        ]
    )


def _owned(manifest: Manifest, uid: str) -> bool:
    return any(ref.get("uid") == uid for ref in manifest["metadata"].get("ownerReferences", ()))
