"""A run that takes long: how far it is stands in its status, by way of its step's log."""

import pytest
from scenarios.stage import Play, Stage, eventually

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
    await play.up_to_date()
    over = await stage.get("MigrationRun", "shop-1")
    assert over is not None
    assert over["status"]["outcome"] == "Succeeded"
    assert "progress" not in over["status"]
