"""First deploys, new migrations, up and down, suspend: scenarios that go well."""

import asyncio

from scenarios.stage import SAMPLE, Play, Stage, condition, eventually, without_history

from godwit.cluster.port import Manifest

MAKE_A = ("CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;")
MAKE_B = ("CREATE TABLE b (id int PRIMARY KEY);", "DROP TABLE b;")
MAKE_C = ("ALTER TABLE a ADD COLUMN note text;", "ALTER TABLE a DROP COLUMN note;")
ONE, TWO, THREE = "20260101000000_make_a", "20260102000000_make_b", "20260103000000_note"
FILES = {ONE: MAKE_A, TWO: MAKE_B, THREE: MAKE_C}


def sample() -> dict[str, tuple[str, str]]:
    """The sample application's migrations."""
    found = {}
    for folder in sorted(p for p in SAMPLE.iterdir() if p.is_dir()):
        found[folder.name] = ((folder / "migration.sql").read_text(), (folder / "down.sql").read_text())
    return found


async def test_first_deploy_of_the_sample_migrations(stage: Stage, play: Play) -> None:
    files = sample()
    await play.source("files", files)
    await play.database()
    await play.migration()

    done = await play.up_to_date()

    assert play.applied() == sorted(files)
    assert done["status"]["current"] == max(files)
    assert done["status"]["pending"] == 0
    assert condition(done, "Reconciling") == {}
    assert await play.runs() == ["shop-1"]
    run = await stage.get("MigrationRun", "shop-1")
    assert run is not None
    assert run["status"]["outcome"] == "Succeeded"
    assert run["status"]["applied"] == len(files)
    backup = await stage.get("DatabaseBackup", run["status"]["backup"])
    assert backup is not None
    assert backup["status"]["verified"] == "Archive"
    assert backup["status"]["location"] in await stage.backup_files()
    told = await stage.events("MigrationRun", "shop-1")
    assert "Succeeded" in [reason for _, reason, _ in told]
    assert [event for event in told if event[0] != "Normal"] == []
    await play.settled()
    await eventually(
        lambda: stage.get("MigrationRun", "shop-1"), lambda m: m and not m["metadata"].get("finalizers")
    )


async def test_first_deploy_from_an_image_by_digest(stage: Stage, play: Play) -> None:
    reference = await stage.image("shop", FILES)
    await play.database()
    await play.migration(source={"image": {"reference": reference}})

    await play.up_to_date()

    assert play.applied() == sorted(FILES)


async def test_a_new_migration_makes_one_more_run_and_no_change_makes_none(stage: Stage, play: Play) -> None:
    await play.source("files", {ONE: MAKE_A})
    await play.database()
    await play.migration()
    await play.up_to_date()

    await play.source("files", {ONE: MAKE_A, TWO: MAKE_B})
    await eventually(play.runs, lambda names: names == ["shop-1", "shop-2"])
    await play.up_to_date()
    await play.settled()
    assert play.applied() == [ONE, TWO]

    # The same files once more, and a label: looked at, and nothing done.
    await play.source("files", {ONE: MAKE_A, TWO: MAKE_B})
    before = await stage.get("DatabaseMigration", "shop")
    await stage.annotate("DatabaseMigration", "shop", requested_at="again")
    await eventually(
        lambda: stage.get("DatabaseMigration", "shop"),
        lambda now: (
            now["status"]["plannedAt"] != before["status"]["plannedAt"]
            and condition(now, "Ready")["status"] == "True"
        ),
    )
    await play.settled()
    assert await play.runs() == ["shop-1", "shop-2"]


async def test_down_and_up_again_without_the_older_source(stage: Stage, play: Play) -> None:
    await play.source("files", FILES)
    await play.database(environment="Staging")
    await play.migration()
    await play.up_to_date()
    top = stage.store.dump()

    await play.source("newer", FILES)
    await stage.delete("ConfigMap", "files")
    await play.migration(files="newer", targetVersion=ONE)
    done = await play.up_to_date()
    assert play.applied() == [ONE]
    assert done["status"]["current"] == ONE
    assert stage.store.psql("SELECT to_regclass('b') IS NULL") == "t"

    await play.migration(files="newer", targetVersion=THREE)
    await play.up_to_date()
    assert sorted(play.applied()) == sorted(FILES)
    again = stage.store.dump()
    assert without_history(again) == without_history(top)
    assert await play.runs() == ["shop-1", "shop-2", "shop-3"]


async def test_suspended_the_plan_is_in_the_status_and_nothing_runs(stage: Stage, play: Play) -> None:
    await play.source("files", FILES)
    await play.database()
    await play.migration(suspend=True)

    found = await play.until("DatabaseMigration", "shop", "Suspended", ready="False")

    assert found["status"]["pending"] == 3
    assert found["status"]["plan"]["pendingNames"] == sorted(FILES)
    document = found["status"]["plan"]["document"]
    kept = await eventually(lambda: stage.get("ConfigMap", document), lambda m: m is not None)
    assert kept is not None
    assert "ALTER TABLE a ADD COLUMN note" in kept["data"]["plan.json"]
    assert await play.runs() == []
    assert play.applied() == []

    await play.migration(suspend=False)
    await play.up_to_date()
    assert await play.runs() == ["shop-1"]


def planned(manifest: Manifest | None) -> str:
    """When it was planned last."""
    return str((manifest or {}).get("status", {}).get("plannedAt", ""))


async def test_two_migrations_of_one_database_never_run_at_once(stage: Stage, play: Play) -> None:
    await play.source("files", FILES)
    await play.database()
    await asyncio.gather(play.migration("one"), play.migration("two"))

    await play.up_to_date("one")
    await play.up_to_date("two")

    assert play.applied() == sorted(FILES)
    ended = [m["status"] for m in await stage.all("MigrationRun")]
    assert sorted(s["outcome"] for s in ended if s["applied"]) == ["Succeeded"]
