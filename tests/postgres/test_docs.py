"""The manifests of README.md and docs/quickstart.md are applied as they stand, and do what the pages say."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from godwit.cli.main import app
from godwit.cli.pack import manifests as packed
from godwit.cli.plan import document_of, render
from godwit.cli.samples import sample_migrations
from godwit.cli.table import condition
from godwit.cluster.local import LocalCluster
from godwit.controller.local import serving
from godwit.controller.loop import Controller

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/quickstart.md", "docs/runbook.md", "docs/architecture.md", "CONTRIBUTING.md")

Manifest = dict[str, Any]


def blocks(page: str) -> list[list[Manifest]]:
    """The YAML blocks of a page, each as its documents."""
    found = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [list(yaml.safe_load_all(block)) for block in found]


class Reader:
    """Somebody who does what a page says, on a local cluster."""

    def __init__(self, cluster: LocalCluster, namespace: str, uri: str, volume: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.uri = uri
        self.volume = volume

    def apply(self, block: list[Manifest]) -> None:
        for manifest in block:
            meta = manifest["metadata"]
            assert meta.get("namespace", "default") == self.namespace
            if manifest["kind"] == "PersistentVolumeClaim":
                self.cluster.add_volume(self.namespace, meta["name"], self.volume)
            elif manifest["kind"] == "Secret":
                assert set(manifest["stringData"]) == {"uri"}
                self.cluster.apply({**manifest, "stringData": {"uri": self.uri}})
            else:
                self.cluster.apply(manifest)

    async def until(self, kind: str, name: str, holds: Callable[[Manifest], bool]) -> Manifest:
        deadline = time.monotonic() + 90
        found: Manifest | None = None
        while time.monotonic() < deadline:
            found = await self.cluster.get(kind, self.namespace, name)
            assert found is not None
            seen = found["status"].get("observedGeneration") == found["metadata"]["generation"]
            if seen and holds(found):
                return found
            await asyncio.sleep(0.05)
        pytest.fail(f"{kind} {name} does not come to it: {found}")


@asynccontextmanager
async def reading(server, launcher, namespace: str, uri: str, folder: Path) -> AsyncIterator[Reader]:
    async with (
        LocalCluster(namespaces=(namespace,), start=launcher.start_local, pg_bin=server.bin_dir) as cluster,
        serving(cluster, Controller(cluster, image="local")),
    ):
        yield Reader(cluster, namespace, uri, folder)


def ready(found: Manifest) -> bool:
    return condition(found, "Ready").get("status") == "True"


def at(version: str) -> Callable[[Manifest], bool]:
    return lambda found: ready(found) and found["status"]["current"] == version


def because(reason: str) -> Callable[[Manifest], bool]:
    return lambda found: condition(found, "Ready").get("reason") == reason


async def test_the_readmes_manifests_make_a_migrated_database(
    postgres_server, launcher, database, role, tmp_path
):
    (block,) = blocks("README.md")
    uri = database.uri_as(role("bookshop", owns=True))

    async with reading(postgres_server, launcher, "default", uri, tmp_path) as reader:
        reader.apply(block)
        found = await reader.until("DatabaseMigration", "bookshop", ready)

    assert found["status"]["current"] == "20260105090000_init"
    assert database.psql("SELECT to_regclass('author') IS NOT NULL") == "t"
    assert len(list(tmp_path.rglob("*.dump"))) == 1, "Production: with a backup"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_quickstart_goes_as_it_says(postgres_server, launcher, database, role, tmp_path):
    where, what, suspended, back, by_hand = blocks("docs/quickstart.md")
    uri = database.uri_as(role("bookshop", owns=True, createdb=True))
    newest = max(p.name for p in sample_migrations().iterdir() if p.is_dir())
    (source,) = packed(sample_migrations(), "bookshop-migrations", "bookshop")

    async with reading(postgres_server, launcher, "bookshop", uri, tmp_path) as reader:
        reader.apply(where)
        await reader.until("PostgresDatabase", "bookshop", ready)
        reader.apply([source, *what])
        await reader.until("DatabaseMigration", "bookshop", at(newest))

        # Suspended: the new migration is planned, and nothing runs.
        next_one = {"20260401000000_next.sql": 'ALTER TABLE "book" ADD COLUMN "shelf" TEXT;'}
        reader.apply([{**source, "data": source["data"] | next_one}, *suspended])
        found = await reader.until("DatabaseMigration", "bookshop", because("Suspended"))
        document = await reader.cluster.get("ConfigMap", "bookshop", found["status"]["plan"]["document"])
        assert 'ALTER TABLE "book" ADD COLUMN "shelf" TEXT;' in render(found, document_of(document))
        assert len(await reader.cluster.list("MigrationRun", "bookshop")) == 1

        # A mistake, and the correction as a new content of the source: nothing else is touched.
        wrong = {"20260401000000_next.sql": 'ALTER TABLE "books" ADD COLUMN "shelf" TEXT;'}
        reader.apply([{**source, "data": source["data"] | wrong}, *what])
        stalled = await reader.until("DatabaseMigration", "bookshop", because("MigrationFailed"))
        assert condition(stalled, "Stalled")["status"] == "True"
        reader.apply([{**source, "data": source["data"] | next_one}])
        await reader.until("DatabaseMigration", "bookshop", at("20260401000000_next"))

        # It has no down.sql, so nothing goes back; once the source has none of it any more, all does.
        reader.apply(back)
        await reader.until("DatabaseMigration", "bookshop", because("DownMissing"))
        database.psql("ALTER TABLE book DROP COLUMN shelf")
        database.psql("DELETE FROM _prisma_migrations WHERE migration_name = '20260401000000_next'")
        reader.apply([source])
        await reader.until("DatabaseMigration", "bookshop", at("20260105090000_init"))
        assert database.psql("SELECT to_regclass('review') IS NULL") == "t"

        backup, restore = by_hand
        database.psql("INSERT INTO author (name) VALUES ('before')")
        reader.apply([backup])
        await reader.until("DatabaseBackup", "before-the-sale", ready)
        database.psql("INSERT INTO author (name) VALUES ('after')")
        reader.apply([restore])
        restored = await reader.until("DatabaseRestore", "undo-the-sale", ready)
        assert database.psql("SELECT name FROM author") == "before"
        old = restored["status"]["oldDatabase"]
        assert database.server.psql("SELECT name FROM author ORDER BY name", old) == "after\nbefore"


def test_the_commands_that_the_pages_name_exist():
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    named = set(
        re.findall(r"`?\bgodwit (demo|plan|status|pack|operator|version|[a-z]+)\b(?= [A-Z`\-]|`)", text)
    )
    known = {"demo", "plan", "status", "pack", "operator", "version"}

    assert {"plan", "status", "pack"} <= named
    assert named <= known
    for name in known:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_links_between_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
