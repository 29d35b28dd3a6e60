"""Deleting objects, and starting over on a database that Godwit has been at: no data touched, nothing run
twice."""

import pytest
from scenarios.stage import Play, Stage, eventually

ONE, TWO = "20260101000000_one", "20260102000000_two"
FILES = {ONE: ("CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;")}
MORE = {**FILES, TWO: ("CREATE TABLE b (id int PRIMARY KEY);", "DROP TABLE b;")}


async def test_deleting_the_migration_keeps_data_and_backups(stage: Stage, play: Play) -> None:
    await play.deployed(FILES)
    before, files = stage.store.dump(), await stage.backup_files()

    await stage.delete("DatabaseMigration", "shop")

    await eventually(lambda: stage.get("DatabaseMigration", "shop"), lambda m: m is None)
    await eventually(lambda: stage.all("MigrationRun"), lambda found: not found)
    assert [b["spec"]["order"]["run"]["name"] for b in await stage.all("DatabaseBackup")] == ["shop-1"]
    assert stage.store.dump() == before
    assert await stage.backup_files() == files


async def test_deleting_the_migration_during_its_run_lets_the_run_finish(stage: Stage, play: Play) -> None:
    await play.deployed(FILES)
    async with play.locked("a"):
        waits = ("LOCK TABLE a;\nCREATE TABLE b (id int);", "DROP TABLE b;")
        await play.source("files", {**FILES, TWO: waits})
        await play.backup_running("shop-2")
        await stage.delete("DatabaseMigration", "shop")
    await eventually(lambda: stage.get("DatabaseMigration", "shop"), lambda m: m is None)

    await play.settled()
    # Before its first write a deleted run is cancelled, after it the run finishes: either way nothing
    # is half done.
    assert play.applied() in ([ONE], [ONE, TWO])


async def test_a_backup_under_delete_takes_its_file_along_and_under_retain_it_does_not(
    stage: Stage, play: Play
) -> None:
    await play.deployed(FILES)
    kept = await stage.backup_files()
    (made,) = await stage.all("DatabaseBackup")
    ours = play._manifest(
        "DatabaseBackup", "mine", {"databaseRef": {"name": "shop"}, "deletionPolicy": "Delete"}
    )
    await stage.apply(ours)
    await play.until("DatabaseBackup", "mine", "BackedUp", ready="True")
    assert len(await stage.backup_files()) > len(kept)

    await stage.delete("DatabaseBackup", "mine")
    await stage.delete("DatabaseBackup", made["metadata"]["name"])

    await eventually(lambda: stage.all("DatabaseBackup"), lambda found: not found)
    assert await stage.backup_files() == kept


@pytest.mark.cluster_wide  # the rights of a Role end with its namespace
@pytest.mark.alone  # that operator would act in the others' namespaces
async def test_deleting_the_namespace_hangs_nowhere(stage: Stage, play: Play) -> None:
    await play.deployed(FILES)
    async with play.locked("a"):
        await play.source("files", MORE)
        await play.backup_running("shop-2")
        await stage.delete("Namespace", stage.namespace)
        await eventually(lambda: stage.all("DatabaseMigration"), lambda found: not found)
        await eventually(lambda: stage.all("PostgresDatabase"), lambda found: not found)

    assert stage.store.psql("SELECT to_regclass('a') IS NOT NULL") == "t"


async def test_the_same_objects_made_again_are_ready_without_a_new_run(stage: Stage, play: Play) -> None:
    """As after an uninstall, or in a new cluster on the same database."""
    await play.deployed(FILES)
    before = stage.store.dump()
    await stage.crash_operator()
    await stage.start_operator()
    await stage.delete("DatabaseMigration", "shop")
    await stage.delete("PostgresDatabase", "shop")
    await eventually(lambda: stage.all("DatabaseMigration"), lambda found: not found)
    await eventually(lambda: stage.all("PostgresDatabase"), lambda found: not found)

    await play.database()
    await play.migration()

    await play.up_to_date()
    assert await play.runs() == []
    assert stage.store.dump() == before
