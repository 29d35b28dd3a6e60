"""What a cluster in memory shows: observations as the controller's observer makes them."""

from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from godwit.api.backup import DatabaseBackup
from godwit.api.common import Resource
from godwit.api.database import PostgresDatabase
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun
from godwit.contract.base import digest
from godwit.contract.reasons import Reason
from godwit.planner import backup, database, migration, restore, run
from godwit.planner.decision import (
    GONE,
    SourceSeen,
    StepSeen,
    StepSpec,
    StepState,
)
from godwit.planner.runs import number
from godwit.planner.source import Pin

from .builders import IMAGE

Key = tuple[str, str]
Seen = Any
K = TypeVar("K", bound=Resource)


@dataclass
class Job:
    """A step's Job and its process."""

    spec: StepSpec
    hash: str
    state: StepState = StepState.NO_POD
    seen: StepSeen | None = None

    @property
    def ended(self) -> bool:
        return self.state in (StepState.FINISHED, StepState.CRASHED)


@dataclass
class Sight:
    """Reads of everything there is."""

    objects: dict[Key, Resource] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)
    """Source ConfigMaps by name, as ledger.py reads them."""
    copies: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Generated ConfigMaps: name to (uid, owner's uid, source text)."""
    jobs: dict[str, Job] = field(default_factory=dict)
    blocked: bool = False
    """Whether a quota refuses every pod."""
    terminating: bool = False

    def observe(self, resource: Resource) -> Seen:
        """As the controller's observer: fresh reads of what hangs on the object."""
        steps = {r.name: self._step(resource, r.job, r.request_hash) for r in resource.status.steps}  # type: ignore[attr-defined]
        match resource:
            case PostgresDatabase():
                return database.DatabaseSeen(
                    database=resource,
                    image=IMAGE,
                    check=steps.get("check", GONE),
                    backups=self._of(DatabaseBackup, resource.metadata.name),
                    restores=self._of(DatabaseRestore, resource.metadata.name),
                    holder_exists=self._holder_exists(resource),
                )
            case DatabaseMigration():
                return self._observe_migration(resource, steps)
            case MigrationRun():
                base = self._get(PostgresDatabase, resource.spec.database_ref.name)
                parent = self._get(DatabaseMigration, resource.spec.migration_ref.name)
                if parent is not None and parent.metadata.uid != resource.spec.migration_ref.uid:
                    parent = None
                return run.RunSeen(
                    run=resource,
                    database=base,
                    migration=parent,
                    backup=self._get(DatabaseBackup, resource.status.backup),
                    restore=self._get(DatabaseRestore, resource.status.restore),
                    steps=steps,
                    holder_exists=self._holder_exists(base),
                    namespace_terminating=self.terminating,
                )
            case DatabaseBackup():
                base = self._get(PostgresDatabase, resource.spec.database_ref.name)
                return backup.BackupSeen(
                    backup=resource,
                    image=IMAGE,
                    database=base,
                    steps=steps,
                    restores=self._of(DatabaseRestore, resource.spec.database_ref.name),
                    holder_exists=self._holder_exists(base),
                    namespace_terminating=self.terminating,
                )
            case DatabaseRestore():
                base = self._get(PostgresDatabase, resource.spec.database_ref.name)
                return restore.RestoreSeen(
                    restore=resource,
                    image=IMAGE,
                    database=base,
                    backup=self._get(DatabaseBackup, resource.spec.backup_ref.name),
                    steps=steps,
                    restores=self._of(DatabaseRestore, resource.spec.database_ref.name),
                    holder_exists=self._holder_exists(base),
                    namespace_terminating=self.terminating,
                )
        raise AssertionError(resource)

    def _observe_migration(self, resource: DatabaseMigration, steps: dict[str, StepSeen]) -> Seen:
        meta, spec = resource.metadata, resource.spec
        names = [ref.name for ref in spec.source.config_maps or ()]
        missing = next((name for name in names if name not in self.maps), "")
        files = tuple(({"list.txt": self.maps[name]}, {}) for name in names if name in self.maps)
        source = SourceSeen(missing=missing) if missing else SourceSeen(digest([f[0] for f in files]), files)
        runs = self.all(MigrationRun)
        mine = tuple(sorted((r for r in runs if r.spec.migration_ref.uid == meta.uid), key=number))
        spare = migration.spare_copies(resource, mine)
        return migration.MigrationSeen(
            migration=resource,
            image=IMAGE,
            database=self._get(PostgresDatabase, spec.database_ref.name),
            source=source,
            spare=tuple(
                Pin(n, self.copies[n][0]) for n in spare if n in self.copies and self.copies[n][1] == meta.uid
            ),
            plan=steps.get("plan", GONE),
            runs=mine,
            restores=self._of(DatabaseRestore, spec.database_ref.name),
        )

    def all(self, kind: type[K]) -> tuple[K, ...]:
        return tuple(o for o in self.objects.values() if isinstance(o, kind))

    def _of(self, kind: type[K], name: str) -> tuple[K, ...]:
        return tuple(o for o in self.all(kind) if o.spec.database_ref.name == name)  # type: ignore[attr-defined]

    def _get(self, kind: type[K], name: str) -> K | None:
        return cast("K | None", self.objects.get((kind.KIND, name)))

    def _holder_exists(self, base: PostgresDatabase | None) -> bool:
        active = base.status.active_operation if base is not None else None
        if active is None:
            return True
        found = self.objects.get((active.kind, active.name))
        return found is not None and found.metadata.uid == active.uid

    def _step(self, resource: Resource, name: str, request_hash: str) -> StepSeen:
        job = self.jobs.get(name)
        if job is None:
            return GONE
        if job.spec.owner.uid != resource.metadata.uid or job.hash != request_hash:
            return StepSeen(StepState.GONE, Reason.NAME_TAKEN, foreign=True)
        if job.seen is not None:
            return job.seen
        if job.state is StepState.NO_POD and self.blocked:
            return StepSeen(StepState.NO_POD, Reason.POD_REFUSED, "exceeded quota")
        if job.state is StepState.PENDING and self._source_text(job.spec) is None:
            return StepSeen(StepState.PENDING, Reason.SOURCE_MISSING, "configmap not found")
        return StepSeen(job.state)

    def _source_text(self, spec: StepSpec) -> str | None:
        """What the step's pod mounts; None where a ConfigMap is missing."""
        if spec.source is None:
            return ""
        texts = [self.copies.get(name, ("", "", None))[2] for name in spec.source.config_maps]
        return None if None in texts else " ".join(cast("list[str]", texts))
