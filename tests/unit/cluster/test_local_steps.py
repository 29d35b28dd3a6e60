"""Steps of the local cluster as processes, with a small program in the runner's place."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from godwit.api.common import SecretKey
from godwit.api.database import ConnectionSpec, VolumeDestination
from godwit.cluster.local import LocalCluster
from godwit.cluster.local_objects import Change
from godwit.cluster.port import GoneError
from godwit.contract.base import digest
from godwit.contract.environment import OUTCOME_LIMIT
from godwit.contract.reasons import Reason
from godwit.planner.decision import StepSeen, StepState

from .local_program import SECRET_URI, URI, alive, cluster_that, eventually, given, logged, seen, step, until


async def test_the_outcome_is_of_the_very_request():
    async with cluster_that() as cluster:
        spec = step(cluster)
        await cluster.start_step(spec)
        finished = await until(cluster, spec, StepState.FINISHED, StepState.CRASHED)
        assert finished.outcome is not None
        assert finished.outcome.request_hash == spec.request.hash == digest(spec.request)


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


async def test_the_last_document_and_progress_of_the_log_are_read_until_the_step_is_deleted():
    async with cluster_that("document") as cluster:
        spec = step(cluster)
        assert await cluster.read_document("default", spec.job) is None
        assert await cluster.read_progress("default", spec.job) is None
        await cluster.start_step(spec)
        await until(cluster, spec, StepState.FINISHED)
        found = await cluster.read_document("default", spec.job)
        assert found is not None
        assert json.loads(found)["document"] == {"n": 2}
        progress = await cluster.read_progress("default", spec.job)
        assert progress is not None
        assert progress.number == 3
        await cluster.delete_step("default", spec.job)
        assert await cluster.read_document("default", spec.job) is None
        assert await cluster.read_progress("default", spec.job) is None


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
