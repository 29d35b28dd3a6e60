"""Operators, pods and servers that die at the worst moment: it ends where it would have ended, nothing
twice."""

from collections.abc import Awaitable, Callable

import pytest
from scenarios.stage import Play, Stage, eventually

ZERO, ONE, TWO, THREE = (f"2026010{n}000000_step_{n}" for n in range(4))
GATE = (
    "CREATE TABLE gate (id int);\nCREATE TABLE log (at timestamptz DEFAULT now(), what text);",
    "SELECT 1;",
)
FILES = {
    ONE: ("INSERT INTO log (what) VALUES ('one');\nCREATE TABLE a (id int);", "DROP TABLE a;"),
    TWO: (
        "LOCK TABLE gate;\nINSERT INTO log (what) VALUES ('two');\nCREATE TABLE b (id int);",
        "DROP TABLE b;",
    ),
    THREE: ("INSERT INTO log (what) VALUES ('three');\nCREATE TABLE c (id int);", "DROP TABLE c;"),
}
Blow = Callable[[Stage, str], Awaitable[None]]


async def kill_operator(stage: Stage, _: str) -> None:
    await stage.crash_operator()
    await stage.start_operator()


async def kill_pod(stage: Stage, job: str) -> None:
    await stage.kill_pod(job)


async def delete_job(stage: Stage, job: str) -> None:
    await stage.delete_job(job)


async def delete_job_while_away(stage: Stage, job: str) -> None:
    """Nobody is there to see it go."""
    await stage.crash_operator()
    await stage.delete_job(job)
    await stage.start_operator()


BLOWS = [kill_operator, kill_pod, delete_job, delete_job_while_away]


@pytest.fixture
async def begun(play: Play) -> None:
    """A database with the tables that the blows are timed by."""
    await play.deployed({ZERO: GATE})


async def first_applied(play: Play) -> str:
    """Bring the new migrations, wait until the first is applied (the second waits); the Job's name."""
    await play.source("files", {ZERO: GATE, **FILES})
    await eventually(play.histories, lambda names: ONE in names, what="the first is not applied")
    return await play.step_running("shop-2", "apply")


async def ended_well(play: Play) -> None:
    """All applied, each exactly once, nothing left over."""
    await eventually(play.histories, lambda names: THREE in names, what="not all is applied")
    await play.up_to_date()
    await play.settled()
    assert play.applied() == [ZERO, ONE, TWO, THREE]
    assert play.stage.store.psql("SELECT what FROM log ORDER BY at").split() == ["one", "two", "three"]


@pytest.mark.parametrize("blow", BLOWS)
async def test_during_plan(stage: Stage, play: Play, begun: None, blow: Blow) -> None:
    async with play.locked("_prisma_migrations"):
        await play.source("files", {ZERO: GATE, **FILES})
        job = await play.step_running("shop", "plan")
        await blow(stage, job)
    await ended_well(play)


@pytest.mark.parametrize("blow", BLOWS)
async def test_during_backup(stage: Stage, play: Play, begun: None, blow: Blow) -> None:
    async with play.locked("gate"):
        await play.source("files", {ZERO: GATE, **FILES})
        job = await play.backup_running("shop-2")
        await blow(stage, job)
    await ended_well(play)


@pytest.mark.parametrize("blow", BLOWS)
async def test_during_apply(stage: Stage, play: Play, begun: None, blow: Blow) -> None:
    async with play.locked("gate", "ROW EXCLUSIVE"):
        job = await first_applied(play)
        await blow(stage, job)
    await ended_well(play)


async def test_the_operator_dies_between_every_two_steps(stage: Stage, play: Play, begun: None) -> None:
    await stage.crash_operator()
    await play.source("files", {ZERO: GATE, **FILES})
    seen: set[str] = set()
    while THREE not in play.applied():
        await stage.start_operator()
        new = await eventually(
            stage.jobs,
            lambda now, had=seen: set(now) - had or THREE in play.applied(),
            60,
            "no step is started",
        )
        await stage.crash_operator()
        assert not set(new) <= seen or THREE in play.applied()
        seen = seen | set(new)
    await stage.start_operator()
    await ended_well(play)


async def test_postgresql_stops_and_starts_during_apply(stage: Stage, play: Play, begun: None) -> None:
    async with play.locked("gate", "ROW EXCLUSIVE"):
        await first_applied(play)
        await stage.stop_server()
        await stage.start_server()
    await ended_well(play)


async def test_job_and_pod_are_gone_and_the_operator_comes_back_late(
    stage: Stage, play: Play, begun: None
) -> None:
    """Everything was done; nobody saw it."""
    async with play.locked("gate", "ROW EXCLUSIVE"):
        job = await first_applied(play)
        await stage.crash_operator()
    await eventually(play.histories, lambda names: THREE in names)
    await stage.delete_job(job)
    await stage.start_operator()
    await ended_well(play)


@pytest.mark.parametrize("blow", BLOWS)
async def test_during_verify(stage: Stage, play: Play, begun: None, blow: Blow) -> None:
    """The check waits for a lock that somebody else holds, after everything is committed."""
    waits = "SELECT pg_advisory_xact_lock_shared(42) IS NOT NULL"
    check = {"name": "waits", "sql": waits, "when": "AfterCommit", "timeout": "2m"}
    async with play.locked("gate", "ROW EXCLUSIVE") as other:
        await other.execute("SELECT pg_advisory_xact_lock(42)")
        await play.migration(verify={"checks": [check]})
        await play.source("files", {ZERO: GATE, ONE: FILES[ONE], THREE: FILES[THREE]})
        await eventually(play.histories, lambda names: THREE in names, what="not all is applied")
        await blow(stage, await play.step_running("shop-2", "apply"))
    await play.up_to_date()
    await play.settled()
    assert play.applied() == [ZERO, ONE, THREE]
    assert stage.store.psql("SELECT what FROM log ORDER BY at").split() == ["one", "three"]
    assert await play.runs() == ["shop-1", "shop-2"]


@pytest.mark.parametrize("blow", BLOWS)
async def test_during_restore(stage: Stage, play: Play, begun: None, blow: Blow) -> None:
    """A half-done file whose database has consented; the restore is struck as soon as it has begun."""
    await play.database(rollback={"automaticRestore": True, "acceptDataLoss": True})
    before = stage.store.dump()
    half = "-- godwit: no-transaction\nINSERT INTO log (what) VALUES ('half');\nVACUUM log;\nSELECT 1 / 0;"
    await play.source("files", {ZERO: GATE, ONE: half})
    restore = await eventually(lambda: stage.all("DatabaseRestore"), lambda found: found, what="no restore")
    await blow(stage, await play.step_running(restore[0]["metadata"]["name"], "restore"))

    await play.stalled("PartiallyApplied")
    await play.settled()
    run = await stage.get("MigrationRun", "shop-2")
    assert run is not None
    assert run["status"]["outcome"] == "Restored"
    assert stage.store.dump() == before


async def test_an_attempt_that_wakes_up_after_its_run_has_ended_changes_nothing(
    stage: Stage, play: Play, begun: None
) -> None:
    """What it failed on is mended by then: it would succeed."""
    needs = {ONE: ("INSERT INTO log (what) VALUES ('one');\nINSERT INTO later VALUES (1);", "SELECT 1;")}
    await play.source("files", {ZERO: GATE, **needs})
    wake = await stage.lose_next_apply()
    await play.stalled("MigrationFailed", says="later")
    await play.settled()
    stage.store.psql("CREATE TABLE later (id int)")
    before = stage.store.dump()

    await wake()

    assert stage.store.dump() == before
    assert play.applied() == [ZERO]


async def test_an_attempt_that_goes_on_without_its_job_is_not_repeated(
    stage: Stage, play: Play, begun: None
) -> None:
    """Its Job is gone, its process is not: the next attempt waits for the lock, and finds everything done."""
    async with play.locked("gate", "ROW EXCLUSIVE"):
        job = await first_applied(play)
        await stage.orphan_job(job)
        await play.step_running("shop-2", "apply")
    await ended_well(play)


async def copies(stage: Stage) -> list[str]:
    """Names of the pinned copies of the source."""
    return [m["metadata"]["name"] for m in await stage.all("ConfigMap") if m.get("immutable")]


async def test_a_pinned_copy_that_is_deleted_during_a_run_is_made_again(
    stage: Stage, play: Play, begun: None
) -> None:
    async with play.locked("gate"):
        await play.source("files", {ZERO: GATE, **FILES})
        await play.backup_running("shop-2")
        for name in await copies(stage):
            await stage.delete("ConfigMap", name)
    await ended_well(play)
    assert await play.runs() == ["shop-1", "shop-2"]


async def test_a_run_whose_source_nobody_has_any_more_ends_and_is_planned_anew(
    stage: Stage, play: Play, begun: None
) -> None:
    async with play.locked("gate"):
        await play.source("files", {ZERO: GATE, **FILES})
        await play.backup_running("shop-2")
        for name in [*await copies(stage), "files"]:
            await stage.delete("ConfigMap", name)
    await play.waiting("SourceMissing", says="files")
    run = await play.until("MigrationRun", "shop-2", "SourceChanged", ready="False", says="was deleted")
    assert run["status"]["outcome"] == "Failed"
    assert play.applied() == [ZERO]

    await play.source("files", {ZERO: GATE, **FILES})
    await ended_well(play)
    assert await play.runs() == ["shop-1", "shop-2", "shop-3"]
