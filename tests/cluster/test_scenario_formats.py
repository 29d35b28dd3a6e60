"""A team with another tool's folder: packed, applied with a backup before, continued, and taken back."""

from pathlib import Path

from layouts import GOLANG_MIGRATE, GOOSE
from scenarios.stage import Play, Stage, eventually

from godwit.cli.pack import manifests


async def give(stage: Stage, folder: Path) -> None:
    for manifest in manifests(folder, "files", stage.namespace):
        await stage.apply(manifest)


async def test_a_golang_migrate_folder_is_recognised_applied_and_taken_back(
    stage: Stage, play: Play, tmp_path: Path
) -> None:
    GOLANG_MIGRATE.write(tmp_path, 1, "CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;")
    GOLANG_MIGRATE.write(tmp_path, 2, "CREATE TABLE b (id int PRIMARY KEY);", "DROP TABLE b;")
    await give(stage, tmp_path)
    await play.database()
    await play.migration(format="Auto")
    done = await play.up_to_date()
    assert (done["status"]["current"], done["status"]["applied"]) == ("2", 2)
    assert stage.store.psql("TABLE schema_migrations") == "2|f"
    run = await stage.get("MigrationRun", "shop-1")
    assert run is not None
    backup = await stage.get("DatabaseBackup", run["status"]["backup"])
    assert backup is not None
    assert backup["status"]["verified"] == "Archive"

    GOLANG_MIGRATE.write(
        tmp_path, 3, "ALTER TABLE a ADD COLUMN note text;", "ALTER TABLE a DROP COLUMN note;"
    )
    await give(stage, tmp_path)
    await eventually(play.runs, lambda names: names == ["shop-1", "shop-2"])
    await play.up_to_date()
    assert stage.store.psql("TABLE schema_migrations") == "3|f"

    await play.migration(format="Auto", targetVersion="1", allowDowngrade=True)
    await eventually(play.runs, lambda names: names == ["shop-1", "shop-2", "shop-3"])
    done = await play.up_to_date()
    assert done["status"]["current"] == "1"
    assert stage.store.psql("TABLE schema_migrations") == "1|f"


async def test_what_a_goose_folder_left_half_done_is_restored_and_a_mended_one_goes_on(
    stage: Stage, play: Play, tmp_path: Path
) -> None:
    """Goose's table has no word for half done; the journal's word ends with the restore."""
    GOOSE.write(tmp_path, 1, "CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;")
    await give(stage, tmp_path)
    await play.database(rollback={"automaticRestore": True, "acceptDataLoss": True})
    await play.migration(format="Goose")
    await play.up_to_date()
    before = stage.store.dump()

    GOOSE.write(tmp_path, 2, "CREATE TABLE b (id int);\nSELECT 1/0;", "DROP TABLE b;", transaction=False)
    await give(stage, tmp_path)
    await play.stalled("PartiallyApplied")
    assert stage.store.dump() == before
    await play.settled()

    GOOSE.write(tmp_path, 2, "CREATE TABLE b (id int);", "DROP TABLE b;")
    await give(stage, tmp_path)
    done = await play.up_to_date()
    assert done["status"]["current"] == "2"
    assert await play.runs() == ["shop-1", "shop-2", "shop-3"]
