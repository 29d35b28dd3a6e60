"""What a step of the local cluster is given: secrets, sources, the backup volume."""

import os
from pathlib import Path

import pytest

from godwit.api.common import SecretKey
from godwit.api.database import ConnectionParts, ConnectionSpec, VolumeDestination
from godwit.api.migration import ImageSource, PinnedSource
from godwit.cluster.port import Manifest
from godwit.contract.reasons import Reason
from godwit.planner.decision import StepState

from .local_program import SECRET_URI, URI, cluster_that, given, seen, step, until


async def test_a_step_gets_its_secrets_and_nothing_of_our_own_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGPASSWORD", "of the operator")
    async with cluster_that(pg_bin=Path("/opt/pg/bin")) as cluster:
        cluster.add_secret("default", "shop", {"uri": SECRET_URI, "other": "never"})
        spec = step(cluster, connection=URI)
        await cluster.start_step(spec)
        environ = (await given(cluster, spec))["environ"]
        assert environ["GODWIT_DATABASE_URI"] == SECRET_URI
        assert environ["GODWIT_PG_BIN"] == "/opt/pg/bin"
        assert set(environ) - {"LC_CTYPE"} == {
            *("PATH", "LANG", "HOME", "TMPDIR", "DO", "GODWIT_PG_BIN", "GODWIT_DATABASE_URI"),
            *("GODWIT_REQUEST_FILE", "GODWIT_OUTCOME_FILE", "GODWIT_SOURCE_DIR", "GODWIT_STORE_DIR"),
            "GODWIT_SCRATCH_DIR",
        }


async def test_user_and_password_come_from_their_own_keys():
    parts = ConnectionParts(
        host="db",
        database="shop",
        user_from=SecretKey(name="shop", key="user"),
        password_from=SecretKey(name="other", key="password"),
    )
    async with cluster_that() as cluster:
        cluster.add_secret("default", "shop", {"user": "app"})
        spec = step(cluster, connection=ConnectionSpec(parts=parts))
        await cluster.start_step(spec)
        waiting = await seen(cluster, spec)
        assert (waiting.state, waiting.reason) == (StepState.PENDING, Reason.SECRET_MISSING)
        assert '"other"' in waiting.message
        cluster.add_secret("default", "other", {"password": "hunter2"})
        environ = (await given(cluster, spec))["environ"]
        assert (environ["GODWIT_DATABASE_USER"], environ["GODWIT_DATABASE_PASSWORD"]) == ("app", "hunter2")


async def test_no_secret_is_written_to_a_file_or_an_argument():
    async with cluster_that("hang") as cluster:
        cluster.add_secret("default", "shop", {"uri": SECRET_URI})
        spec = step(cluster, connection=URI)
        await cluster.start_step(spec)
        environ = (await given(cluster, spec))["environ"]
        folder = Path(environ["GODWIT_REQUEST_FILE"]).parent
        texts = [p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != "log"]
        assert texts
        assert not any("hunter2" in text for text in texts)


async def test_config_maps_are_mounted_in_order_as_a_kubelet_does():
    async with cluster_that("hang") as cluster:
        for name, data in (("one", {"a.sql": "SELECT 1;\n"}), ("two", {"b.sql": "ä"})):
            meta = {"name": name, "namespace": "default"}
            manifest: Manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
            cluster.apply({**manifest, "binaryData": {"c.bin": "YQ=="}} if name == "two" else manifest)
        spec = step(cluster, source=PinnedSource(config_maps=("two", "one")))
        await cluster.start_step(spec)
        told = await given(cluster, spec)
        visible = {k: v for k, v in told["files"].items() if "/..1/" not in k}
        assert visible == {"0/b.sql": "ä", "0/c.bin": "a", "1/a.sql": "SELECT 1;\n"}
        key = Path(told["environ"]["GODWIT_SOURCE_DIR"], "0", "b.sql")
        assert os.readlink(key) == "..data/b.sql"  # noqa: PTH115  the text of the link


async def test_an_image_is_its_folder_and_waits_until_it_can_be_pulled(tmp_path: Path):
    (tmp_path / "db" / "migrations").mkdir(parents=True)
    (tmp_path / "db" / "migrations" / "a.sql").write_text("SELECT 1;")
    image = ImageSource(reference="registry.example/app@sha256:0", path="db/migrations")
    async with cluster_that() as cluster:
        spec = step(cluster, source=PinnedSource(image=image))
        await cluster.start_step(spec)
        waiting = await seen(cluster, spec)
        assert (waiting.state, waiting.reason) == (StepState.PENDING, Reason.IMAGE_UNAVAILABLE)
        cluster.add_image(image.reference, tmp_path)
        assert (await given(cluster, spec))["files"] == {"a.sql": "SELECT 1;"}


async def test_a_config_map_and_a_volume_that_are_missing_hold_the_step_back(tmp_path: Path):
    async with cluster_that() as cluster:
        volume = VolumeDestination(claim_name="backups", path="shop")
        spec = step(cluster, source=PinnedSource(config_maps=("late",)), volume=volume)
        await cluster.start_step(spec)
        first = await seen(cluster, spec)
        cluster.add_volume("default", "backups", tmp_path)
        second = await seen(cluster, spec)
        meta = {"name": "late", "namespace": "default"}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
        await until(cluster, spec, StepState.FINISHED)
        assert {first.state, second.state} == {StepState.PENDING}
        assert (first.reason, second.reason) == (Reason.POD_PENDING, Reason.SOURCE_MISSING)
        assert '"backups"' in first.message
        assert '"late"' in second.message
        assert (tmp_path / "shop" / "left-by-the-step").exists(), "a backup volume outlives the step"
