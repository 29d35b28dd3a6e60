"""A run that takes long: how far it is stands in its status, by way of its step's log."""

from datetime import UTC, datetime

import pytest
from scenarios.stage import Play, Stage, eventually

from godwit.cli.status import Exit, report

FILES = {
    "20260101000000_tables": ("CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;"),
    "20260102000000_slow": ("SELECT pg_sleep(12);", "SELECT 1;"),
}


@pytest.mark.slow
async def test_how_far_a_long_run_is_stands_in_its_status_while_it_runs(stage: Stage, play: Play) -> None:
    await play.source("files", FILES)
    await play.database()
    await play.migration()

    told = await eventually(
        lambda: stage.get("MigrationRun", "shop-1"), lambda run: run and "progress" in run.get("status", {})
    )

    progress = told["status"]["progress"]
    assert (progress["migration"], progress["number"], progress["total"]) == ("20260102000000_slow", 2, 2)
    migration = await stage.get("DatabaseMigration", "shop")
    assert migration is not None
    assert told is not None
    text, verdict = report([migration], datetime.now(UTC), {migration["status"]["activeRun"]: told})
    assert verdict is Exit.NOT_READY
    assert text.endswith(" ago: migration 2 of 2 (20260102000000_slow)")
    await play.up_to_date()
    over = await stage.get("MigrationRun", "shop-1")
    assert over is not None
    assert over["status"]["outcome"] == "Succeeded"
    assert "progress" not in over["status"]
