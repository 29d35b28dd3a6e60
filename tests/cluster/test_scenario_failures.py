"""Migrations and checks that fail: what stays, what is taken back, and what the status says of it."""

from scenarios.stage import Play, Stage, condition, eventually, without_history

ONE, TWO, THREE, FOUR, FIVE = (f"2026010{n}000000_step_{n}" for n in range(1, 6))
GOOD = {
    ONE: ("CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;"),
    TWO: ("CREATE TABLE b (id int PRIMARY KEY);", "DROP TABLE b;"),
    FOUR: ("CREATE TABLE d (id int PRIMARY KEY);", "DROP TABLE d;"),
    FIVE: ("CREATE TABLE e (id int PRIMARY KEY);", "DROP TABLE e;"),
}
FAILS = ("CREATE TABLE c (id int);\nINSERT INTO c VALUES (1);\nSELECT 1 / (id - 1) FROM c;", "DROP TABLE c;")
MENDED = ("CREATE TABLE c (id int);", "DROP TABLE c;")
INDEX = ("CREATE UNIQUE INDEX CONCURRENTLY people_name ON people (name);", "DROP INDEX people_name;")
PEOPLE = ("CREATE TABLE people (id int PRIMARY KEY, name text);", "DROP TABLE people;")
HALF_DONE = """-- godwit: no-transaction
INSERT INTO people VALUES (10, 'x');
VACUUM people;
INSERT INTO people SELECT 11, (1 / 0)::text;
"""


async def test_a_failed_transaction_leaves_everything_as_it_was_and_a_mended_source_goes_on(
    stage: Stage, play: Play
) -> None:
    await play.source("files", {ONE: GOOD[ONE], TWO: GOOD[TWO]})
    await play.database()
    await play.migration()
    await play.up_to_date()
    stage.store.psql("INSERT INTO a SELECT generate_series(1, 100)")
    before = stage.store.dump()

    await play.source("files", {ONE: GOOD[ONE], TWO: GOOD[TWO], THREE: FAILS})
    found = await play.stalled("MigrationFailed")

    assert stage.store.dump() == before
    told = condition(found, "Stalled")["message"]
    assert THREE in told
    assert "line 3" in told
    assert "22012" in told
    assert "as it was" in told
    assert found["status"]["lastRun"]["outcome"] == "Failed"

    await play.source("files", {ONE: GOOD[ONE], TWO: GOOD[TWO], THREE: MENDED})
    await play.up_to_date()
    assert play.applied() == [ONE, TWO, THREE]


async def test_third_of_five_fails_under_stop_the_first_two_stay(stage: Stage, play: Play) -> None:
    await play.source("files", {**GOOD, THREE: FAILS})
    await play.database()
    await play.migration(onFailure="Stop")

    found = await play.stalled("MigrationFailed")

    assert play.applied() == [ONE, TWO]
    assert found["status"]["current"] == TWO
    assert "2 applied of 5" in condition(found, "Stalled")["message"]
    await play.settled()
    await play.source("files", {**GOOD, THREE: MENDED})
    await play.up_to_date()
    assert play.applied() == [ONE, TWO, THREE, FOUR, FIVE]


async def test_third_of_five_fails_under_roll_back_two_are_taken_back(stage: Stage, play: Play) -> None:
    before = stage.store.dump()
    await play.source("files", {**GOOD, THREE: FAILS})
    await play.database()
    await play.migration(onFailure="RollBack")

    await play.stalled("MigrationFailed")

    run = await stage.get("MigrationRun", "shop-1")
    assert run is not None
    assert run["status"]["outcome"] == "TakenBack"
    assert {r["rung"] for r in run["status"]["rungs"] if r["taken"]} >= {"Down"}
    assert play.applied() == []
    stage.store.psql("DROP TABLE _prisma_migrations")
    assert stage.store.dump() == before


async def test_third_of_five_fails_under_batch_and_nothing_of_any_stays(stage: Stage, play: Play) -> None:
    before = stage.store.dump()
    await play.source("files", {**GOOD, THREE: FAILS})
    await play.database()
    await play.migration(strategy={"transaction": "Batch"}, onFailure="Stop")

    found = await play.stalled("MigrationFailed")

    assert stage.store.dump() == before
    assert play.applied() == []
    told = condition(found, "Stalled")["message"]
    assert THREE in told
    assert "line 3" in told
    run = await stage.get("MigrationRun", "shop-1")
    assert run is not None
    assert (run["status"]["outcome"], run["status"]["applied"], run["status"]["total"]) == ("Failed", 0, 5)
    assert {r["rung"] for r in run["status"]["rungs"] if r["taken"]} == {"Transaction"}
    await play.settled()
    await play.source("files", {**GOOD, THREE: MENDED})
    await play.up_to_date()
    assert play.applied() == [ONE, TWO, THREE, FOUR, FIVE]


async def test_roll_back_stops_where_the_application_has_written(stage: Stage, play: Play) -> None:
    gate = {"20260100000000_gate": ("CREATE TABLE gate (id int);", "DROP TABLE gate;")}
    await play.source("files", gate)
    await play.database()
    await play.migration(onFailure="RollBack")
    await play.up_to_date()

    async with play.locked("gate", "ROW EXCLUSIVE"):
        waits = ("LOCK TABLE gate;\nSELECT 1 / 0;", "SELECT 1;")
        await play.source("files", {**gate, ONE: GOOD[ONE], TWO: GOOD[TWO], THREE: waits})
        await eventually(play.histories, lambda names: TWO in names, what="the second is not applied")
        stage.store.psql("INSERT INTO a VALUES (1)")
    found = await play.stalled("MigrationFailed")

    assert ONE in play.applied()
    assert stage.store.psql("SELECT count(*) FROM a") == "1"
    assert "DataWouldBeLost" in condition(found, "Stalled")["message"]


async def test_a_failed_concurrent_index_is_undone_exactly(stage: Stage, play: Play) -> None:
    await play.source("files", {ONE: PEOPLE})
    await play.database()
    await play.migration()
    await play.up_to_date()
    stage.store.psql("INSERT INTO people VALUES (1, 'same'), (2, 'same')")
    before = without_history(stage.store.dump())

    await play.source("files", {ONE: PEOPLE, TWO: INDEX})
    await play.stalled("MigrationFailed")

    assert stage.store.psql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == "0"
    assert without_history(stage.store.dump()) == before
    run = await stage.get("MigrationRun", "shop-2")
    assert run is not None
    assert [r["rung"] for r in run["status"]["rungs"] if r["taken"]] == ["Undo"]

    stage.store.psql("DELETE FROM people WHERE id = 2")
    await stage.annotate("DatabaseMigration", "shop", requested_at="mended")
    await play.up_to_date()


async def test_a_half_done_file_without_consent_stops_and_says_where(stage: Stage, play: Play) -> None:
    await play.source("files", {ONE: PEOPLE})
    await play.database()
    await play.migration()
    await play.up_to_date()

    await play.source("files", {ONE: PEOPLE, TWO: HALF_DONE})
    found = await play.stalled("PartiallyApplied")

    told = condition(found, "Stalled")["message"]
    assert TWO in told
    assert "half done" in told
    assert (
        stage.store.psql("SELECT datallowconn FROM pg_database WHERE datname = current_database()").strip()
        == "t"
    )
    run = await stage.get("MigrationRun", "shop-2")
    assert run is not None
    restore = next(r for r in run["status"]["rungs"] if r["rung"] == "Restore")
    assert not restore["taken"]
    assert "automaticRestore" in restore["why"]


async def test_a_half_done_file_with_consent_is_restored(stage: Stage, play: Play) -> None:
    await play.source("files", {ONE: PEOPLE})
    await play.database(rollback={"automaticRestore": True, "acceptDataLoss": True})
    await play.migration()
    await play.up_to_date()
    stage.store.psql("INSERT INTO people VALUES (1, 'ada'), (2, 'grace')")
    before = stage.store.dump()

    await play.source("files", {ONE: PEOPLE, TWO: HALF_DONE})
    await play.stalled("PartiallyApplied")

    run = await stage.get("MigrationRun", "shop-2")
    assert run is not None
    assert run["status"]["outcome"] == "Restored"
    assert stage.store.dump() == before
    assert [r["rung"] for r in run["status"]["rungs"] if r["taken"]] == ["Restore"]
    (restore,) = await stage.all("DatabaseRestore")
    assert restore["status"]["oldDatabase"] in stage.store.psql("SELECT datname FROM pg_database")
    # What the restore took away is held until somebody changes something.
    await play.settled()
    assert await play.runs() == ["shop-1", "shop-2"]


async def test_a_check_that_fails_before_commit_commits_nothing(stage: Stage, play: Play) -> None:
    before = stage.store.dump()
    await play.source("files", {ONE: PEOPLE})
    await play.database()
    check = {"name": "somebody is there", "sql": "SELECT count(*) > 0 FROM people"}
    await play.migration(verify={"checks": [check]})

    found = await play.stalled("CheckFailed")

    assert stage.store.dump() == before
    assert "somebody is there" in condition(found, "Stalled")["message"]


async def test_a_check_that_fails_after_commit_touches_nothing_else(stage: Stage, play: Play) -> None:
    await play.source("files", {ONE: PEOPLE})
    await play.database()
    check = {"name": "somebody is there", "sql": "SELECT count(*) > 0 FROM people", "when": "AfterCommit"}
    await play.migration(verify={"checks": [check]}, onFailure="RollBack")

    found = await play.stalled("VerifyFailed")

    assert play.applied() == [ONE]
    assert "somebody is there" in condition(found, "Stalled")["message"]
    run = await stage.get("MigrationRun", "shop-1")
    assert run is not None
    assert run["status"]["outcome"] == "VerifyFailed"
    assert not any(r["taken"] and r["rung"] in ("Down", "Restore") for r in run["status"]["rungs"])
