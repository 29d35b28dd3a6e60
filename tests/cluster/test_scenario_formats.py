"""A team with another tool's folder: packed, applied with a backup before, continued, and taken back."""

from pathlib import Path

from layouts import GOLANG_MIGRATE
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
