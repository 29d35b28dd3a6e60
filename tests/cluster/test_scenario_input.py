"""Bad input: a clear reason each, nothing changed, and recovery without restarting anything."""

import asyncio

import pytest
from scenarios.stage import LOCK, Play, Stage, condition, eventually

from godwit.cluster.port import RefusedError

ONE, TWO = "20260101000000_one", "20260102000000_two"
FILES = {ONE: ("CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;")}
MORE = {**FILES, TWO: ("CREATE TABLE b (id int PRIMARY KEY);", "DROP TABLE b;")}


@pytest.fixture
async def untouched(stage: Stage, play: Play) -> str:
    """An empty database, dumped; with the sample source applied."""
    await play.source("files", FILES)
    return stage.store.dump()


async def test_a_wrong_password_waits_until_the_secret_is_corrected(
    stage: Stage, play: Play, untouched: str
) -> None:
    scheme, _, rest = stage.store.uri.partition("://")
    _, _, address = rest.rpartition("@")
    await play.database()
    await stage.secret("shop", uri=f"{scheme}://nobody_of_that_name:wrong-password@{address}")
    await play.migration()

    found = await play.waiting("AuthenticationFailed")
    assert "wrong-password" not in str(found["status"])

    await stage.secret("shop", uri=stage.store.uri)
    await play.up_to_date()
    assert play.applied() == [ONE]


async def test_a_missing_secret_waits_until_it_is_created(stage: Stage, play: Play, untouched: str) -> None:
    await stage.apply(play.database_manifest())
    await play.migration()

    await play.waiting("SecretMissing", says="shop")
    assert stage.store.dump() == untouched

    await stage.secret("shop", uri=stage.store.uri)
    await play.up_to_date()


async def test_an_unreachable_database_waits_until_it_is_back(
    stage: Stage, play: Play, untouched: str
) -> None:
    await stage.stop_server()
    try:
        await play.database()
        await play.migration()
        await play.waiting("DatabaseUnreachable")
    finally:
        await stage.start_server()
    await play.up_to_date()


async def test_a_quota_that_refuses_pods_waits_until_there_is_room(
    stage: Stage, play: Play, untouched: str
) -> None:
    await stage.refuse_pods()
    await play.database()
    await play.migration()

    await play.waiting("PodRefused", says="quota")

    await stage.allow_pods()
    await play.up_to_date()


async def test_a_missing_config_map_waits_until_it_is_created(stage: Stage, play: Play) -> None:
    await play.database()
    await play.migration(files="later")

    await play.waiting("SourceMissing", says="later")

    await play.source("later", FILES)
    await play.up_to_date()


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        ({"README": "hello"}, "SourceInvalid", ""),
        ({"migration_lock.toml": LOCK, f"{ONE}.sql": "CREATE TABEL a ();"}, "SqlInvalid", ONE),
        (
            {"migration_lock.toml": 'provider = "mysql"\n', f"{ONE}.sql": "SELECT 1;"},
            "ProviderMismatch",
            "mysql",
        ),
    ],
    ids=["not a migration folder", "SQL that does not parse", "another provider"],
)
async def test_a_source_that_cannot_be_used_stalls_until_it_is_changed(
    stage: Stage, play: Play, data: dict[str, str], reason: str, says: str
) -> None:
    before = stage.store.dump()
    metadata = {"name": "files", "namespace": stage.namespace}
    await stage.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    await play.database()
    await play.migration()

    await play.stalled(reason, says=says)
    assert stage.store.dump() == before

    await stage.delete("ConfigMap", "files")
    await play.source("files", FILES)
    await play.up_to_date()


async def test_invalid_utf8_stalls(stage: Stage, play: Play) -> None:
    metadata = {"name": "files", "namespace": stage.namespace}
    binary = {f"{ONE}.sql": "U0VMRUNUICf//ic7"}  # SELECT '\xff\xfe';
    await stage.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": binary})
    await play.database()
    await play.migration()

    await play.stalled("EncodingInvalid", says=ONE)


async def test_an_unknown_target_stalls_until_it_is_corrected(
    stage: Stage, play: Play, untouched: str
) -> None:
    await play.database()
    await play.migration(targetVersion="20990101000000_never")
    await play.stalled("TargetNotFound", says="20990101000000_never")

    await play.migration(targetVersion=ONE)
    await play.up_to_date()


async def test_a_deleted_database_object_is_waited_for(stage: Stage, play: Play, untouched: str) -> None:
    await play.database()
    await play.migration()
    await play.up_to_date()
    await play.settled()

    await stage.delete("PostgresDatabase", "shop")
    await play.waiting("DatabaseNotFound")

    await play.database()
    await play.up_to_date()
    assert await play.runs() == ["shop-1"]


async def test_a_database_in_another_namespace_is_not_looked_for(
    stage: Stage, play: Play, untouched: str
) -> None:
    """The field does not exist, so it is pruned: the name is looked up here, and only here."""
    await play.migration(databaseRef={"name": "elsewhere", "namespace": "kube-system"})

    found = await play.waiting("DatabaseNotFound", says="elsewhere")

    assert found["spec"]["databaseRef"] == {"name": "elsewhere"}


async def test_an_edited_applied_migration_stalls(stage: Stage, play: Play, untouched: str) -> None:
    await play.database()
    await play.migration()
    await play.up_to_date()
    before = stage.store.dump()

    await play.source("files", {ONE: "CREATE TABLE a (id int PRIMARY KEY, surprise text);"})
    await play.stalled("EditedMigration", says=ONE)
    assert stage.store.dump() == before

    await play.source("files", MORE)
    await play.up_to_date()
    assert play.applied() == [ONE, TWO]


async def test_a_source_edited_between_plan_and_apply_runs_as_planned(stage: Stage, play: Play) -> None:
    await play.source("files", FILES)
    await play.database()
    await play.migration()
    await play.up_to_date()
    async with play.locked("_prisma_migrations"):
        pass
    await play.source("files", MORE)
    await eventually(play.runs, lambda names: "shop-2" in names)
    await play.source("files", {**MORE, TWO: "CREATE TABLE other (id int);"})

    await play.stalled("EditedMigration", says=TWO)

    assert stage.store.psql("SELECT to_regclass('b') IS NOT NULL, to_regclass('other') IS NULL") == "t|t"


async def test_a_secret_that_leads_elsewhere_between_plan_and_apply_is_refused(
    stage: Stage, play: Play
) -> None:
    await play.deployed(FILES)
    await eventually(lambda: stage.get("PostgresDatabase", "shop"), lambda m: "identity" in m["status"])

    head, _, _ = stage.store.uri.rpartition("/")
    await stage.secret("shop", uri=f"{head}/postgres")
    await play.source("files", MORE)

    await play.stalled("DatabaseChanged")
    assert play.applied() == [ONE]


async def test_a_role_that_may_not_create_the_journal_is_told_what_to_grant(stage: Stage, play: Play) -> None:
    await play.source("files", FILES)
    name = f"plain_{stage.store.name[-12:]}"
    stage.store.psql(f'CREATE ROLE "{name}" LOGIN PASSWORD \'pw\'; GRANT CREATE ON SCHEMA public TO "{name}"')
    scheme, _, rest = stage.store.uri.partition("://")
    address = rest.rpartition("@")[2]
    await play.database()
    await stage.secret("shop", uri=f"{scheme}://{name}:pw@{address}")
    await play.migration()
    try:
        await play.stalled("JournalForbidden", says="GRANT")
        stage.store.psql(f'GRANT CREATE ON DATABASE "{stage.store.name}" TO "{name}"')
        await stage.annotate("DatabaseMigration", "shop", requested_at="granted")
        await play.up_to_date()
    finally:
        stage.store.psql(f'DROP OWNED BY "{name}" CASCADE; DROP ROLE "{name}"')


async def test_five_thousand_migrations_are_planned(stage: Stage, play: Play) -> None:
    reference = await stage.image("many", {f"{n:014d}_m": f"SELECT {n};" for n in range(1, 5001)})
    await play.database()
    await play.migration(source={"image": {"reference": reference}}, suspend=True)

    found = await play.until("DatabaseMigration", "shop", "Suspended", ready="False")

    assert found["status"]["pending"] == 5000


async def test_names_with_spaces_are_applied(stage: Stage, play: Play) -> None:
    reference = await stage.image("spaces", {"20260101000000 first one": "CREATE TABLE a (id int);"})
    await play.database()
    await play.migration(source={"image": {"reference": reference}})

    found = await play.up_to_date()

    assert found["status"]["current"] == "20260101000000 first one"


async def test_what_the_api_forbids_is_refused_by_the_server(stage: Stage, play: Play) -> None:
    both = {"configMaps": [{"name": "x"}], "image": {"reference": "x@sha256:0"}}
    with pytest.raises(RefusedError, match="exactly one"):
        await stage.apply(play.migration_manifest(source=both))
    await play.database(environment="Production")
    with pytest.raises(RefusedError, match="stricter"):
        await stage.apply(play.database_manifest(environment="Development"))
    with pytest.raises(RefusedError, match="always required"):
        await stage.apply(play.database_manifest("other", backup={"required": False}))
    await play.migration()
    with pytest.raises(RefusedError, match="immutable"):
        await stage.apply(play.migration_manifest(databaseRef={"name": "another"}))
    await asyncio.sleep(0)
    assert condition(await stage.get("DatabaseMigration", "shop"), "Stalled") == {}
