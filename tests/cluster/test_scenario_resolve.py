"""A history that a person puts right: resolve and baseline in the manifest, carried out by a run."""

from scenarios.stage import Play, Stage, eventually

ONE, TWO, THREE = "20260101000000_make_a", "20260102000000_make_b", "20260103000000_note"
FILES = {
    ONE: "CREATE TABLE a (id int PRIMARY KEY);",
    TWO: "CREATE TABLE b (id int PRIMARY KEY);",
    THREE: "ALTER TABLE a ADD COLUMN note text;",
}


async def test_a_migration_that_failed_elsewhere_is_resolved_and_run_again(stage: Stage, play: Play) -> None:
    await play.source("files", {ONE: FILES[ONE]})
    await play.database()
    await play.migration()
    await play.up_to_date()
    # As Prisma's command line leaves it when a migration fails.
    stage.store.psql(
        "INSERT INTO _prisma_migrations (id, checksum, migration_name, logs) "
        f"VALUES ('0b0e8f3e-6a0f-4a51-9f56-1d5f6f0e4b11', repeat('0', 64), '{TWO}', 'failed')"
    )
    await play.source("files", {ONE: FILES[ONE], TWO: FILES[TWO]})
    await play.stalled("FailedEarlier")
    assert await play.runs() == ["shop-1"]

    await play.migration(resolve=[{"migration": TWO, "as": "RolledBack"}])

    done = await play.up_to_date()
    assert (done["status"]["applied"], done["status"]["pending"]) == (2, 0)
    assert play.applied() == [ONE, TWO]
    assert await play.runs() == ["shop-1", "shop-2"]

    # The entry stays in the manifest, and the next migration comes: nothing is resolved any more.
    await play.source("files", FILES)
    await eventually(play.histories, lambda names: names == [ONE, TWO, THREE])
    await play.up_to_date()
    rows = stage.store.psql(f"SELECT count(*) FROM _prisma_migrations WHERE migration_name = '{TWO}'")
    assert rows.strip() == "2"


async def test_a_database_with_tables_is_baselined_without_running_anything(stage: Stage, play: Play) -> None:
    stage.store.psql(FILES[ONE] + FILES[TWO])
    await play.source("files", {ONE: FILES[ONE], TWO: FILES[TWO]})
    await play.database()
    await play.migration()
    await play.stalled("HistoryMissing")

    await play.migration(baseline=TWO)

    done = await play.up_to_date()
    assert (done["status"]["applied"], done["status"]["pending"], done["status"]["current"]) == (2, 0, TWO)
    assert play.applied() == [ONE, TWO]
    assert await play.runs() == ["shop-1"]
    await play.source("files", FILES)
    await eventually(play.histories, lambda names: names == [ONE, TWO, THREE])
    await play.up_to_date()
