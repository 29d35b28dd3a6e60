"""`godwit demo`: the main job told as a story, everything in it looked at rather than claimed."""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

from godwit.cli import demo_manifests as shop
from godwit.cli.demo_show import Show
from godwit.cli.demo_stage import (
    Stage,
    digest,
    new_folder,
    password_file,
    remove,
    stage_cluster,
    stage_server,
)
from godwit.cli.demo_steps import KINDS, DemoError, Follower
from godwit.cli.embedded import EmbeddedPostgres
from godwit.cli.embedded_programs import EmbeddedPostgresError
from godwit.cli.plan import document_of, findings, number, summary
from godwit.cli.samples import checkout, sample_migrations
from godwit.cli.table import condition, table
from godwit.controller.loop import utc_now
from godwit.runner.pack import StepFailed, pack

Manifest = dict[str, Any]


def run_demo(folder: Path | None, *, keep: bool = False, show: Show | None = None) -> int:
    """Run it in a new folder (see `new_folder`) and return the exit status: 0, 1, or 130 when interrupted.

    The folder is removed after a success, unless *keep*; after a failure it stays, with its logs.
    """
    show = show or Show()
    try:
        place = new_folder(folder)
    except OSError as error:
        show.say(f"The demo cannot make its folder: {error}", "bold red")
        return 1
    try:
        with stage_server(place, keep=keep) as server:
            asyncio.run(_story(place, server, show))
    except (DemoError, EmbeddedPostgresError, StepFailed) as error:
        show.say(f"\nNot so: {error}", "bold red")
        show.say(f"The operator's log and the server's are in {place}.")
        return 1
    except KeyboardInterrupt:
        remove(place)
        show.say("\nInterrupted; everything was stopped and removed.")
        return 130
    _farewell(show, place, server, keep=keep)
    if not keep:
        remove(place)
    return 0


async def _story(place: Path, server: EmbeddedPostgres, show: Show) -> None:
    version = server.psql("SHOW server_version")
    show.say(f"PostgreSQL {version} runs in {place}; the cluster is in memory, its steps are processes here.")
    async with stage_cluster(place, server) as stage:
        follower = Follower(stage, show, lambda found, document: _tell_plan(show, found, document))
        await _first_deployment(stage, show, follower)
        await _failure(stage, show, follower)
        await _one_step_back(stage, show, follower)
        show.title(4, "The objects now, as kubectl prints them")
        await _tables(stage, show)


async def _first_deployment(stage: Stage, show: Show, follower: Follower) -> None:
    names = [p.name for p in sorted(sample_migrations().iterdir()) if p.is_dir()]
    show.title(1, f"A first deployment: {len(names)} migrations to an empty database")
    content = pack(sample_migrations())[0]
    manifests = [shop.secret(stage.uri), shop.config_map(content), shop.database(), shop.migration()]
    show.manifests([shop.for_print(manifest) for manifest in manifests])
    show.say()
    for manifest in manifests:
        stage.cluster.apply(manifest)
    found, took = await follower.until(_ready, steps=4)
    _so(found["status"]["current"] == names[-1], f"the status says {found['status']['current']}")
    _so(stage.history() == names, f"Prisma's history has {stage.history()}")
    show.good(f"Ready {took:.1f} s after apply, backup included; Prisma's own history has {len(names)} rows")
    await _tables(stage, show)


async def _failure(stage: Stage, show: Show, follower: Follower) -> None:
    show.title(2, "A migration that fails")
    await asyncio.to_thread(stage.psql, shop.ROWS)
    show.say(f"Meanwhile the application has written: {_count(stage.rows())}.")
    show.say(f"Now comes {shop.FAILING}:")
    show.sql(shop.FAILING_UP)
    show.say()
    before = await asyncio.to_thread(stage.dump)
    content = pack(sample_migrations())[0]["data"]
    broken = {f"{shop.FAILING}.sql": shop.FAILING_UP, f"{shop.FAILING}.down.sql": shop.FAILING_DOWN}
    stage.cluster.apply(shop.config_map({"data": {**content, **broken}}))
    found, took = await follower.until(_stalled, steps=4)
    _so(await _failed_as_expected(stage), condition(found, "Ready")["message"])
    show.say(f"Stalled after {took:.1f} s: {condition(found, 'Ready')['message']}", "yellow")
    after = await asyncio.to_thread(stage.dump)
    _so(after == before, "pg_dump says that the failed migration has changed the database")
    show.good(
        f"pg_dump before and after: {len(after.splitlines())} equal lines (sha256 {digest(before)}... and "
        f"{digest(after)}...), Godwit's own journal and sequence values left out"
    )
    show.say("\nThe mistake is taken out of the source, and that is all there is to do:")
    stage.cluster.apply(shop.config_map({"data": content}))
    found, took = await follower.until(_ready, steps=1)
    show.good(f"Ready again after {took:.1f} s, without a run")


async def _failed_as_expected(stage: Stage) -> bool:
    run = (await stage.all("MigrationRun"))[-1]
    failure = run["status"].get("failure") or {}
    place = (failure.get("migration"), failure.get("line"), failure.get("sqlstate"))
    rolled_back = any(r["rung"] == "Transaction" and r.get("taken") for r in run["status"].get("rungs", []))
    return rolled_back and place == (shop.FAILING, shop.FAILING_LINE, shop.FAILING_SQLSTATE)


async def _one_step_back(stage: Stage, show: Show, follower: Follower) -> None:
    history, rows = stage.history(), stage.rows()
    target = history[-2]
    show.title(3, "One step back: a lower targetVersion runs the newest migration's down.sql")
    manifest = shop.migration(targetVersion=target, allowDowngrade=True)
    show.manifests([manifest])
    show.say()
    stage.cluster.apply(manifest)
    found, took = await follower.until(_ready, steps=3)
    _so(found["status"]["current"] == target, f"the status says {found['status']['current']}")
    _so(stage.history() == history[:-1], f"Prisma's history has {stage.history()}")
    _so(stage.psql("SELECT to_regclass('review') IS NULL") == "t", "the table review is still there")
    _so(stage.rows() == rows, f"the rows are {stage.rows()} and were {rows}")
    show.good(f"Ready {took:.1f} s after apply: {history[-1]} is gone from schema and history")
    show.good(f"Everything else is where it was: {_count(stage.rows())}")


async def _tables(stage: Stage, show: Show) -> None:
    for kind in KINDS:
        text = table(await stage.all(kind), utc_now(), with_kind=True)
        if text:
            show.say(f"\n{text}")


def _tell_plan(show: Show, found: Manifest, config_map: Manifest | None) -> None:
    """The plan: migrations, statements, findings; as `godwit plan` prints it, without the SQL."""
    document = document_of(config_map)
    _so(document is not None, "the plan's document is missing")
    assert document is not None  # noqa: S101  as the line above says
    show.say()
    for line in summary(found):
        show.say(f"    {line}")
    for step in document["migrations"]:
        show.say(f"      {step['name']:<45} {number(len(step['statements']), 'statement')}, {step['mode']}")
    for line in findings(document["findings"]):
        show.say(f"    {line}")
    show.say()


def _farewell(show: Show, place: Path, server: EmbeddedPostgres, *, keep: bool) -> None:
    godwit = _command()
    show.say("\nAll of it was so. Three commands to try next:", "bold")
    show.say(f"  {godwit} pack {sample_migrations()} --name bookshop-migrations")
    show.say("      prints that ConfigMap for kubectl; docs/quickstart.md of the project goes on from there")
    if keep:
        login = f"PGPASSFILE={password_file(place, server)} {server.bin_dir / 'psql'}"
        show.say(f"  {login} {_without_password(server)}")
        show.say("      opens the database: its history is in _prisma_migrations, Godwit's in godwit.journal")
        show.say(f"  kill -INT {server.pid} && tail --pid={server.pid} -f /dev/null && rm -r {place}")
        show.say("      stops that PostgreSQL and removes all that the demo made")
        return
    show.say(f"  {godwit} demo --keep")
    show.say("      the same again, and its PostgreSQL goes on running for you to look into")
    if checkout() is None:
        show.say(f"  {godwit} status --help")
        show.say("      how the migrations in a cluster stand, as a table and as an exit status")
    else:
        show.say("  make test-fast")
        show.say("      the tests that need no Kubernetes")


def _command() -> str:
    """How this program is called from here: by its name where the shell would find it, else by its path."""
    found = shutil.which("godwit")
    own = Path(sys.executable).parent / "godwit"
    if found is not None and Path(found).resolve() == own.resolve():
        return "godwit"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def _without_password(server: EmbeddedPostgres) -> str:
    return server.uri(shop.NAME).replace(f":{server.password}@", "@")


def _ready(migration: Manifest) -> bool:
    return condition(migration, "Ready").get("status") == "True"


def _stalled(migration: Manifest) -> bool:
    return condition(migration, "Stalled").get("status") == "True"


def _count(rows: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}s" for name, count in rows.items())


def _so(holds: bool, otherwise: str) -> None:
    """Raise DemoError unless it holds."""
    if not holds:
        raise DemoError(otherwise)
