"""A stage: a cluster with the operator at work, a database, and what people and misfortunes do to both.

`local.py` and `kubernetes.py` beside this file give one each; the scenarios know only this.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg

from godwit.api.common import API_VERSION
from godwit.cluster.port import Manifest

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "migrations"
LOCK = 'provider = "postgresql"\n'
DEADLINE = 150
"""Seconds within which whatever is waited for has happened, also on a machine that has much else to do."""
Files = Mapping[str, str | tuple[str, str]]
"""Migration name -> its SQL, or (SQL, down SQL)."""


class Store(Protocol):
    """The scenario's database, seen by its administrator."""

    name: str
    uri: str
    """As steps reach it."""

    def psql(self, sql: str) -> str:
        """Run SQL as superuser and return its rows as lines of a|b|c."""
        ...

    def dump(self) -> str:
        """The database as text by pg_dump, equal for equal content; without Godwit's journal and
        sequence values."""
        ...


class Stage(Protocol):
    """See the module. Every call about objects is within `namespace`."""

    namespace: str
    store: Store

    async def apply(self, *manifests: Manifest) -> None:
        """`kubectl apply`. Raises RefusedError where the API server refuses."""
        ...

    async def get(self, kind: str, name: str) -> Manifest | None:
        """The object, or None."""
        ...

    async def all(self, kind: str) -> list[Manifest]:
        """All objects of that kind, by name."""
        ...

    async def delete(self, kind: str, name: str) -> None:
        """`kubectl delete --wait=false`."""
        ...

    async def annotate(self, kind: str, name: str, **annotations: str) -> None:
        """Set annotations of our domain: annotate(..., requested_at="1") sets godwit.dev/requested-at."""
        ...

    async def secret(self, name: str, **values: str) -> None:
        """Create or replace a Secret."""
        ...

    async def image(self, name: str, files: Files) -> str:
        """Push an image with that migration folder; its reference by digest."""
        ...

    async def jobs(self) -> list[str]:
        """Names of the Jobs that exist now."""
        ...

    async def kill_pod(self, job: str) -> None:
        """Delete a Job's pod at once; its process gets no chance to write an outcome."""
        ...

    async def delete_job(self, job: str) -> None:
        """Delete a Job and its pod."""
        ...

    async def orphan_job(self, job: str) -> None:
        """Delete a Job and leave its pod running."""
        ...

    async def lose_next_apply(self) -> Callable[[], Awaitable[None]]:
        """Let the next Apply lose its Job before it has done anything, its process kept asleep.

        To be awaited when that Apply is about to be started. Returns what wakes the process and
        waits for its end.
        """
        ...

    async def crash_operator(self) -> None:
        """SIGKILL for the operator; it stays down."""
        ...

    async def start_operator(self) -> None:
        """Start it again, with nothing left in its memory."""
        ...

    async def refuse_pods(self) -> None:
        """From now on a quota refuses pods."""
        ...

    async def allow_pods(self) -> None:
        """Take that back."""
        ...

    async def stop_server(self) -> None:
        """Stop PostgreSQL (fast mode)."""
        ...

    async def start_server(self) -> None:
        """Start it again."""
        ...

    async def events(self, kind: str, name: str) -> list[tuple[str, str, str]]:
        """(type, reason, message) of the events about an object."""
        ...

    async def backup_files(self) -> list[str]:
        """Paths of the files in the backup volume, manifests included."""
        ...


async def eventually(
    probe: Callable[[], Awaitable[T]], wanted: Callable[[T], Any], seconds: float = DEADLINE, what: str = ""
) -> T:
    """What *probe* answers as soon as *wanted* says yes; fails with the last answer at the deadline."""
    deadline = time.monotonic() + seconds
    pause = 0.05
    while True:
        answer = await probe()
        if wanted(answer):
            return answer
        assert time.monotonic() < deadline, f"{what or 'nothing'} within {seconds} s; last: {brief(answer)}"
        await asyncio.sleep(pause)
        pause = min(0.2, pause * 1.2)  # what takes long is not asked for so often that it takes longer


def write_folder(folder: Path, files: Files) -> None:
    """Write a migration folder in Prisma's layout."""
    for migration, scripts in files.items():
        up, down = (scripts, None) if isinstance(scripts, str) else scripts
        place = folder / migration
        place.mkdir(parents=True)
        (place / "migration.sql").write_text(up)
        if down is not None:
            (place / "down.sql").write_text(down)
    (folder / "migration_lock.toml").write_text(LOCK)


def without_history(dump: str) -> str:
    """A dump without the rows of the history: ids and times differ, and a failed row may stand there."""
    head, _, rest = dump.partition("COPY public._prisma_migrations ")
    return head + rest.partition("\\.")[2]


def brief(answer: Any) -> str:
    """An answer as a failing test shows it: of an object, its status without the steps' outcomes."""
    if isinstance(answer, dict) and "status" in answer:
        return str({k: v for k, v in answer["status"].items() if k != "steps"})
    return repr(answer)


def condition(manifest: Manifest | None, kind: str) -> Manifest:
    """A condition of an object, empty where it has none."""
    found = (manifest or {}).get("status", {}).get("conditions", ())
    return next((c for c in found if c["type"] == kind), {})


def current(manifest: Manifest | None) -> bool:
    """Whether the conditions speak of this generation."""
    if manifest is None:
        return False
    return bool(manifest["status"].get("observedGeneration") == manifest["metadata"]["generation"])


class Play:
    """The words that scenarios are told in."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def database(self, name: str = "shop", **spec: Any) -> None:
        """A PostgresDatabase whose URI is in the Secret of its name."""
        await self.stage.secret(name, uri=self.stage.store.uri)
        await self.stage.apply(self.database_manifest(name, **spec))

    def database_manifest(self, name: str = "shop", **spec: Any) -> Manifest:
        """The same, not applied; the Secret is not made."""
        wanted = {
            "connection": {"uriFrom": {"name": name, "key": "uri"}},
            "backup": {"volume": {"claimName": "backups"}},
            **spec,
        }
        return self._manifest("PostgresDatabase", name, wanted)

    async def source(self, name: str, files: Files) -> None:
        """A ConfigMap of migrations in the packed form NAME.sql and NAME.down.sql."""
        data = {"migration_lock.toml": LOCK}
        for migration, scripts in files.items():
            up, down = (scripts, None) if isinstance(scripts, str) else scripts
            data[f"{migration}.sql"] = up
            if down is not None:
                data[f"{migration}.down.sql"] = down
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "data": data}
        await self.stage.apply({**manifest, "metadata": {"name": name, "namespace": self.stage.namespace}})

    async def migration(self, name: str = "shop", *, files: str = "files", **spec: Any) -> None:
        """A DatabaseMigration of the database of its name."""
        await self.stage.apply(self.migration_manifest(name, files=files, **spec))

    def migration_manifest(self, name: str = "shop", *, files: str = "files", **spec: Any) -> Manifest:
        """The same, not applied."""
        wanted = {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": files}]}, **spec}
        return self._manifest("DatabaseMigration", name, wanted)

    async def deployed(self, files: Files, **database: Any) -> None:
        """All of that made, the files applied, and nothing under way any more."""
        await self.source("files", files)
        await self.database(**database)
        await self.migration()
        await self.up_to_date()
        await self.settled()

    async def until(
        self,
        kind: str,
        name: str,
        reason: str,
        *,
        ready: str | None = None,
        seconds: float = DEADLINE,
        says: str = "",
    ) -> Manifest:
        """The object once its Ready condition has that reason (and status), for its present generation."""

        def there(found: Manifest | None) -> bool:
            told = condition(found, "Ready")
            right = told.get("reason") == reason and ready in (None, told.get("status"))
            return right and current(found) and says in told.get("message", "")

        found = await eventually(
            lambda: self.stage.get(kind, name), there, seconds, f"{kind} {name} not {reason} {says}"
        )
        assert found is not None
        return found

    async def up_to_date(self, name: str = "shop", *, seconds: float = DEADLINE) -> Manifest:
        """The migration once it is Ready."""
        return await self.until("DatabaseMigration", name, "UpToDate", ready="True", seconds=seconds)

    async def stalled(
        self, reason: str, name: str = "shop", *, seconds: float = DEADLINE, says: str = ""
    ) -> Manifest:
        """The migration once it is Stalled for that reason."""
        found = await self.until("DatabaseMigration", name, reason, ready="False", seconds=seconds, says=says)
        assert condition(found, "Stalled").get("status") == "True", condition(found, "Ready")
        return found

    async def waiting(
        self, reason: str, name: str = "shop", *, seconds: float = DEADLINE, says: str = ""
    ) -> Manifest:
        """The migration once it waits for that reason."""
        found = await self.until("DatabaseMigration", name, reason, ready="False", seconds=seconds, says=says)
        assert not condition(found, "Stalled"), condition(found, "Ready")
        return found

    async def step_running(self, object_name: str, step: str, seconds: float = DEADLINE) -> str:
        """Name of the Job of an object's step, once there is one."""
        found = await eventually(
            self.stage.jobs,
            lambda names: [n for n in names if n.startswith(f"{object_name}-{step}-")],
            seconds,
            f"no Job {object_name}-{step}",
        )
        return next(n for n in found if n.startswith(f"{object_name}-{step}-"))

    async def backup_running(self, run: str, seconds: float = DEADLINE) -> str:
        """Name of the Job of a run's backup, once there is one."""
        found = await eventually(
            lambda: self.stage.get("MigrationRun", run),
            lambda m: (m or {}).get("status", {}).get("backup"),
            seconds,
            f"{run} has ordered no backup",
        )
        assert found is not None
        return await self.step_running(found["status"]["backup"], "backup", seconds)

    async def settled(self, seconds: float = DEADLINE) -> None:
        """Until no Job is left and nobody holds the database."""
        await eventually(self.stage.jobs, lambda names: not names, seconds, "Jobs are left")
        await eventually(
            lambda: self.stage.all("PostgresDatabase"),
            lambda all_: not any("activeOperation" in m["status"] for m in all_),
            seconds,
            "the database is still held",
        )

    async def runs(self) -> list[str]:
        """Names of the runs that exist, by name."""
        return [m["metadata"]["name"] for m in await self.stage.all("MigrationRun")]

    @asynccontextmanager
    async def locked(
        self, table: str, mode: str = "ACCESS EXCLUSIVE"
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Somebody else's transaction that holds a lock for the length of the context.

        ACCESS EXCLUSIVE keeps everybody out, pg_dump too; ROW EXCLUSIVE only those who lock the table.
        """
        async with await psycopg.AsyncConnection.connect(self.stage.store.uri) as connection:
            await connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
            yield connection
            with contextlib.suppress(psycopg.OperationalError):  # the server may have gone meanwhile
                await connection.rollback()

    async def histories(self) -> list[str]:
        """`applied`, for `eventually`."""
        return await asyncio.to_thread(self.applied)

    def applied(self) -> list[str]:
        """What the history says is applied, in order of application."""
        present = self.stage.store.psql("SELECT to_regclass('_prisma_migrations') IS NOT NULL")
        if present.strip() != "t":
            return []
        return self.stage.store.psql(
            "SELECT migration_name FROM _prisma_migrations "
            "WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL ORDER BY started_at, migration_name"
        ).split()

    def _manifest(self, kind: str, name: str, spec: Mapping[str, Any]) -> Manifest:
        metadata = {"name": name, "namespace": self.stage.namespace}
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": dict(spec)}
