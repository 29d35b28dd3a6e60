"""Steps of the local cluster as processes, with a small program in the runner's place."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from godwit.api.common import API_VERSION, SecretKey
from godwit.api.database import ConnectionParts, ConnectionSpec, VolumeDestination
from godwit.api.migration import ImageSource, PinnedSource
from godwit.cluster.local import LocalCluster
from godwit.cluster.local_objects import Change
from godwit.cluster.port import GoneError, Manifest
from godwit.contract.base import digest
from godwit.contract.environment import OUTCOME_LIMIT
from godwit.contract.reasons import Reason
from godwit.contract.request import CheckInput, ObjectRef, StepRequest
from godwit.planner.decision import StepSeen, StepSpec, StepState

URI = ConnectionSpec(uri_from=SecretKey(name="shop", key="uri"))
SECRET_URI = "postgresql://app:hunter2@db/shop"

# Reports what it was given in its log, then does what its test asks for in the variable DO.
PROGRAM = r"""
import datetime, hashlib, json, os, pathlib, signal, subprocess, sys, time
env = os.environ
request = json.loads(pathlib.Path(env["GODWIT_REQUEST_FILE"]).read_text())
plain = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
source = pathlib.Path(env["GODWIT_SOURCE_DIR"])
files = {str(p.relative_to(source)): p.read_text() for p in sorted(source.rglob("*")) if p.is_file()}
print(json.dumps({"event": "given", "environ": dict(env), "files": files, "pid": os.getpid()}), flush=True)
do, _, rest = env.get("DO", "").partition(":")
if do == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_DFL if rest != "on" else signal.SIG_IGN)
    print(json.dumps({"event": "hanging"}), flush=True)
    time.sleep(600)
if do == "child":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(json.dumps({"event": "child", "pid": child.pid}), flush=True)
if do == "exit":
    sys.exit(int(rest))
if do == "document":
    print(json.dumps({"event": "document", "document": {"n": 1}}))
    print("not JSON")
    print(json.dumps({"event": "document", "document": {"n": 2}}))
    print(json.dumps({"event": "last"}), flush=True)
pathlib.Path(env["GODWIT_STORE_DIR"], "left-by-the-step").touch()
now = datetime.datetime.now(datetime.UTC).isoformat()
outcome = {"requestHash": hashlib.sha256(plain).hexdigest(), "startedAt": now, "endedAt": now}
if do == "garbage":
    pathlib.Path(env["GODWIT_OUTCOME_FILE"]).write_text("{")
elif do == "long":
    pathlib.Path(env["GODWIT_OUTCOME_FILE"]).write_text(json.dumps({**outcome, "new": "x" * int(rest)}))
elif do != "nothing":
    pathlib.Path(env["GODWIT_OUTCOME_FILE"]).write_text(json.dumps(outcome))
"""
COMMAND = (sys.executable, "-I", "-c", PROGRAM)


def cluster_that(do: str = "", **more: Any) -> LocalCluster:
    return LocalCluster(command=COMMAND, environment=lambda _: {"DO": do}, **more)


def step(cluster: LocalCluster, job: str = "shop-check-1", **more: Any) -> StepSpec:
    """A step, not started, of a PostgresDatabase that is there."""
    owner = cluster.apply(
        {
            "apiVersion": API_VERSION,
            "kind": "PostgresDatabase",
            "metadata": {"name": "shop", "namespace": "default"},
            "spec": {
                "connection": {"uriFrom": {"name": "shop", "key": "uri"}},
                "environment": "Development",
                "backup": {"required": False},
            },
        }
    )
    ref = ObjectRef(kind="PostgresDatabase", namespace="default", name="shop", uid=owner["metadata"]["uid"])
    request = StepRequest(object=ref, step="check", verbs=(CheckInput(),))
    return StepSpec(job=job, namespace="default", owner=ref, request=request, image="local", **more)


async def seen(cluster: LocalCluster, spec: StepSpec) -> StepSeen:
    return await cluster.observe_step(spec.job, spec.namespace, spec.owner.uid, spec.request.hash)


async def eventually(probe: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await probe():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


async def until(cluster: LocalCluster, spec: StepSpec, *states: StepState) -> StepSeen:
    async def reached() -> bool:
        return (await seen(cluster, spec)).state in states

    await eventually(reached)
    return await seen(cluster, spec)


async def given(cluster: LocalCluster, spec: StepSpec) -> dict[str, Any]:
    """What the program reported of its surroundings."""

    async def reported() -> bool:
        return bool(logged(cluster, spec, "given"))

    await eventually(reported)
    return logged(cluster, spec, "given")[0]


def logged(cluster: LocalCluster, spec: StepSpec, event: str) -> list[dict[str, Any]]:
    lines = (cluster.log(spec.namespace, spec.job) or "").splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie, which only waits for its parent to look, does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_the_outcome_is_of_the_very_request():
    async with cluster_that() as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        finished = await until(cluster, spec, StepState.FINISHED, StepState.CRASHED)
        assert finished.outcome is not None
        assert finished.outcome.request_hash == spec.request.hash == digest(spec.request)


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
        assert [(s.state, s.reason) for s in (first, second)] == [(StepState.PENDING, Reason.POD_PENDING)] * 2
        assert '"backups"' in first.message
        assert '"late"' in second.message
        assert (tmp_path / "shop" / "left-by-the-step").exists(), "a backup volume outlives the step"


@pytest.mark.parametrize(
    ("do", "says"),
    [
        pytest.param("exit:3", "exit status 3", id="an exit status other than 0"),
        pytest.param("nothing", "no outcome that can be read", id="no outcome"),
        pytest.param("garbage", "no outcome that can be read", id="an outcome that is none"),
        pytest.param(
            f"long:{OUTCOME_LIMIT}", "no outcome that can be read", id="one that a kubelet would cut"
        ),
    ],
)
async def test_without_an_outcome_it_crashed(do: str, says: str):
    async with cluster_that(do) as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        crashed = await until(cluster, spec, StepState.FINISHED, StepState.CRASHED)
        assert (crashed.state, crashed.reason) == (StepState.CRASHED, Reason.STEP_CRASHED)
        assert says in crashed.message


async def test_a_command_that_cannot_be_started_crashed():
    async with LocalCluster(command=("/nowhere/python",)) as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        crashed = await until(cluster, spec, StepState.FINISHED, StepState.CRASHED)
        assert "could not be started: No such file or directory" in crashed.message


async def test_a_secret_that_no_process_can_be_given_crashed_without_being_shown():
    async with cluster_that() as cluster:
        cluster.add_secret("default", "shop", {"uri": SECRET_URI + "\0"})
        spec = step(cluster, connection=URI)
        await cluster.start_step(spec)
        crashed = await until(cluster, spec, StepState.FINISHED, StepState.CRASHED)
        assert crashed.state is StepState.CRASHED
        assert crashed.message.endswith("could not be started: embedded null byte.")


async def test_a_killed_step_crashed_by_its_signal():
    async with cluster_that("hang:on") as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        await given(cluster, spec)
        cluster.kill("default", spec.job)
        assert "SIGKILL" in (await until(cluster, spec, StepState.CRASHED)).message


async def test_a_step_past_its_deadline_is_told_to_end():
    async with cluster_that("hang") as cluster:
        spec = step(cluster, deadline_seconds=1)
        await cluster.start_step(spec)
        assert "SIGTERM" in (await until(cluster, spec, StepState.CRASHED)).message


async def test_what_a_step_leaves_running_ends_with_it():
    async with cluster_that("child") as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        await until(cluster, spec, StepState.FINISHED)
        (child,) = logged(cluster, spec, "child")

        async def ended() -> bool:
            return not alive(child["pid"])

        await eventually(ended)


async def test_the_last_document_of_the_log_is_read_until_the_step_is_deleted():
    async with cluster_that("document") as cluster:
        spec = step(cluster)
        assert await cluster.read_document("default", spec.job) is None
        await cluster.start_step(spec)
        await until(cluster, spec, StepState.FINISHED)
        found = await cluster.read_document("default", spec.job)
        assert found is not None
        assert json.loads(found)["document"] == {"n": 2}
        await cluster.delete_step("default", spec.job)
        assert await cluster.read_document("default", spec.job) is None


async def test_a_deleted_step_is_gone_at_once_its_process_soon_and_nothing_of_it_stays():
    async with cluster_that("hang") as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        folder = Path((await given(cluster, spec))["environ"]["GODWIT_REQUEST_FILE"]).parent
        await cluster.delete_step("default", spec.job)
        assert (await seen(cluster, spec)).state is StepState.GONE

        async def removed() -> bool:
            return not folder.exists()

        await eventually(removed)


async def test_a_deleted_name_can_be_used_again():
    async with cluster_that() as cluster:
        spec = step(cluster)
        for _ in range(2):
            await cluster.start_step(spec)
            await until(cluster, spec, StepState.FINISHED)
            await cluster.delete_step("default", spec.job)
        assert (await seen(cluster, spec)).state is StepState.GONE


async def test_pods_are_refused_until_they_are_allowed_again():
    async with cluster_that() as cluster:
        cluster.refuse_pods("default", "exceeded quota")
        spec = step(cluster)
        await cluster.start_step(spec)
        assert await seen(cluster, spec) == StepSeen(StepState.NO_POD, Reason.POD_REFUSED, "exceeded quota")
        cluster.allow_pods("default")
        await until(cluster, spec, StepState.FINISHED)


async def test_a_lost_step_is_gone_and_works_on():
    async with cluster_that("hang:on") as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        pid = (await given(cluster, spec))["pid"]
        cluster.lose("default", spec.job)
        assert (await seen(cluster, spec)).state is StepState.GONE
        assert alive(pid)
    assert not alive(pid), "closing the cluster ends what it started, lost or not"


async def test_an_old_attempt_that_was_held_back_wakes_up_after_its_job_is_gone(tmp_path: Path):
    async with cluster_that() as cluster:
        cluster.add_volume("default", "backups", tmp_path)
        delay = cluster.delay_steps(lambda spec: spec.job.endswith("-1"))
        old = step(cluster, volume=VolumeDestination(claim_name="backups"))
        new = replace(old, job="shop-check-2", volume=None)
        await cluster.start_step(old)
        assert (await seen(cluster, old)).state is StepState.PENDING
        cluster.lose("default", old.job)
        await cluster.start_step(new)
        await until(cluster, new, StepState.FINISHED)
        assert not (tmp_path / "left-by-the-step").exists()

        delay.release()

        async def woke() -> bool:
            return (tmp_path / "left-by-the-step").exists()

        await eventually(woke)
        assert (await seen(cluster, old)).state is StepState.GONE


async def test_a_step_that_was_deleted_while_it_was_held_back_never_starts(tmp_path: Path):
    async with cluster_that() as cluster:
        cluster.add_volume("default", "backups", tmp_path)
        delay = cluster.delay_steps(lambda spec: spec.job.endswith("-1"))
        old = step(cluster, volume=VolumeDestination(claim_name="backups"))
        await cluster.start_step(old)
        await cluster.delete_step("default", old.job)
        delay.release()
        new = replace(old, job="shop-check-2", volume=None)
        await cluster.start_step(new)
        await until(cluster, new, StepState.FINISHED)
        assert not (tmp_path / "left-by-the-step").exists()


async def test_a_watcher_hears_of_a_step_by_its_owner():
    async with cluster_that() as cluster:
        spec = step(cluster)
        heard: list[Change] = []
        cluster.watch(heard.append)
        await cluster.start_step(spec)
        await until(cluster, spec, StepState.FINISHED)
        await cluster.delete_step("default", spec.job)
        assert heard == [Change("Job", "default", spec.job, spec.owner)] * 3, "running, finished, deleted"


async def test_no_step_starts_for_an_owner_that_is_gone_or_in_a_namespace_that_ends():
    async with cluster_that() as cluster:
        spec = step(cluster)
        orphan = replace(spec, owner=spec.owner.model_copy(update={"uid": "gone"}))
        await cluster.start_step(orphan)
        assert (await seen(cluster, orphan)).state is StepState.GONE
        cluster.remove("Namespace", "", "default")
        with pytest.raises(GoneError):
            await cluster.start_step(spec)


async def test_an_ending_namespace_takes_its_steps_and_secrets_even_where_a_finalizer_holds_an_object():
    async with cluster_that("hang") as cluster:
        cluster.add_secret("default", "shop", {"uri": SECRET_URI})
        spec = step(cluster, connection=URI)
        await cluster.start_step(spec)
        await given(cluster, spec)
        await cluster.set_finalizer("PostgresDatabase", "default", "shop", spec.owner.uid, present=True)
        cluster.remove("Namespace", "", "default")
        assert (await seen(cluster, spec)).state is StepState.GONE
        held = await cluster.get("PostgresDatabase", "default", "shop")
        assert held is not None
        assert held["metadata"]["deletionTimestamp"]


async def test_the_real_runner_is_the_default():
    async with LocalCluster() as cluster:
        spec = step(cluster, connection=ConnectionSpec(uri_from=SecretKey(name="shop", key="uri")))
        cluster.add_secret("default", "shop", {"uri": "postgresql://app@db.invalid/shop?no_such_parameter=1"})
        await cluster.start_step(spec)
        finished = await until(cluster, spec, StepState.FINISHED, StepState.CRASHED)
        assert finished.outcome is not None
        assert finished.outcome.request_hash == spec.request.hash
        assert finished.outcome.failure is not None
