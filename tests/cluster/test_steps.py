"""Steps as Jobs on the real cluster, beyond the suite of both clusters: volumes, images, rights."""

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conformance.bed import SECRET, check_step, config_map, database, eventually, observe
from conformance.kubernetes import KubernetesBed, create

from godwit.api.database import PodTemplate, VolumeDestination
from godwit.api.migration import ImageSource, PinnedSource
from godwit.cluster.rest import path_of
from godwit.contract.outcome import BackupOutcome, PlanOutcome, StepOutcome, VerifyBackupOutcome
from godwit.contract.policy import Environment, Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupInput, PlanInput, VerbInput, VerifyBackupInput
from godwit.planner.decision import StepSpec, StepState

NODE_PROGRAM = Path(__file__).parent / "node" / "cluster"
UNREADABLE = "postgresql://app@db.invalid/shop?no_such_parameter=1"
PLAN = PlanInput(policy=Policy(environment=Environment.DEVELOPMENT, backup_required=False))


@pytest.fixture
def bed(kubernetes_cluster: KubernetesBed) -> KubernetesBed:
    return kubernetes_cluster


@pytest.fixture
async def server(bed: KubernetesBed) -> str:
    """A PostgreSQL server in a pod; its URI is in the Secret that steps take theirs from."""
    await create(bed.admin, postgres_pod(bed.namespace))
    path = path_of("Pod", bed.namespace, "postgres")
    running = await eventually(
        lambda: bed.admin.call("GET", path),
        lambda p: any(c["ready"] for c in p["status"].get("containerStatuses", [])),
    )
    uri = f"postgresql://postgres:secret-word@{running['status']['podIP']}:5432/postgres"
    await bed.secret(SECRET, uri=uri)
    return uri


def postgres_pod(namespace: str) -> dict[str, Any]:
    ready = {"exec": {"command": ["pg_isready", "-h", "127.0.0.1"]}, "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "postgres", "namespace": namespace},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "postgres",
                    "image": "localhost/postgres:test",
                    "imagePullPolicy": "IfNotPresent",
                    "env": [{"name": "POSTGRES_PASSWORD", "value": "secret-word"}],
                    "readinessProbe": ready,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


async def step(bed: KubernetesBed, *verbs: VerbInput, **more: Any) -> StepSpec:
    spec = check_step(await bed.cluster.create(database(bed)), bed)
    return replace(
        spec, request=spec.request.model_copy(update={"verbs": verbs or spec.request.verbs}), **more
    )


async def outcome(bed: KubernetesBed, spec: StepSpec) -> StepOutcome:
    await bed.cluster.start_step(spec)
    seen = await eventually(
        lambda: observe(bed, spec), lambda s: s.state in (StepState.FINISHED, StepState.CRASHED)
    )
    assert seen.outcome is not None, seen
    return seen.outcome


async def pods(bed: KubernetesBed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await bed.admin.call("GET", path_of("Pod", bed.namespace)))["items"]
    return found


async def test_a_plan_of_pinned_config_maps_and_its_document(bed: KubernetesBed, server: str):
    for number, name in enumerate(("20260101000000_first", "20260102000000_second")):
        data = {
            f"{name}.sql": f"CREATE TABLE t{number} (id int);\n",
            f"{name}.down.sql": f"DROP TABLE t{number};\n",
        }
        await bed.cluster.create(config_map(bed, f"pinned-{number}", data=data, immutable=True))
    spec = await step(bed, PLAN, source=PinnedSource(config_maps=("pinned-0", "pinned-1")))

    planned = (await outcome(bed, spec)).get(PlanOutcome)
    assert planned is not None
    assert planned.pending_names == ("20260101000000_first", "20260102000000_second")
    document = await bed.cluster.read_document(bed.namespace, spec.job)
    assert document is not None
    assert json.loads(document)["event"] == "document"
    assert "CREATE TABLE t1" in document
    assert "secret-word" not in document


async def test_a_plan_of_a_folder_in_an_image(bed: KubernetesBed, server: str, tmp_path: Path):
    folder = tmp_path / "app" / "prisma" / "20260101000000_first"
    folder.mkdir(parents=True)
    (folder / "migration.sql").write_text("CREATE TABLE t (id int);\n")
    pushed = await asyncio.to_thread(
        subprocess.run, [NODE_PROGRAM, "push-migrations", tmp_path, "steps/migrations"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    image = ImageSource(reference=pushed.stdout.strip(), path="app/prisma")
    spec = await step(bed, PLAN, source=PinnedSource(image=image))

    planned = (await outcome(bed, spec)).get(PlanOutcome)
    assert planned is not None
    assert planned.pending_names == ("20260101000000_first",)


async def test_a_backup_in_a_folder_of_a_volume(bed: KubernetesBed, server: str):
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "backups", "namespace": bed.namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await create(bed.admin, claim)
    verbs = (BackupInput(location="shop.dump"), VerifyBackupInput(location="shop.dump"))
    spec = await step(bed, *verbs, volume=VolumeDestination(claim_name="backups", path="team/shop"))

    try:
        made = await outcome(bed, spec)
        assert made.failure is None
        backup = made.get(BackupOutcome)
        assert backup is not None
        assert backup.size_bytes > 0
        assert made.get(VerifyBackupOutcome) is not None
    finally:
        await reclaim(bed)


async def reclaim(bed: KubernetesBed) -> None:
    """Give the test's volume back: a released local one is not used again by itself."""
    path = f"/api/v1/namespaces/{bed.namespace}/persistentvolumeclaims/backups"
    claim = await bed.admin.call("GET", path)
    if volume := claim["spec"].get("volumeName"):
        for pod in await pods(bed):
            await bed.admin.call(
                "DELETE", path_of("Pod", bed.namespace, pod["metadata"]["name"]), {"gracePeriodSeconds": 0}
            )
        await bed.admin.call("DELETE", path)
        volume_path = f"/api/v1/persistentvolumes/{volume}"
        await eventually(
            lambda: bed.admin.call("GET", volume_path), lambda v: v["status"]["phase"] == "Released"
        )
        await bed.admin.call(
            "PATCH", volume_path, {"spec": {"claimRef": None}}, content_type="application/merge-patch+json"
        )


async def test_a_step_has_no_token_and_its_job_no_secret(bed: KubernetesBed):
    await bed.secret(SECRET, uri=UNREADABLE)
    spec = await step(bed)
    await outcome(bed, spec)

    (pod,) = await pods(bed)
    assert "serviceaccount" not in json.dumps(pod["spec"]["volumes"])
    job = await bed.admin.call("GET", path_of("Job", bed.namespace, spec.job))
    assert "db.invalid" not in json.dumps([job, pod])


@pytest.mark.parametrize("source", [False, True], ids=["the step's own", "the source"])
async def test_pending_an_image_that_is_not_to_be_had(bed: KubernetesBed, source: bool):
    await bed.secret(SECRET, uri=UNREADABLE)
    missing = "localhost/no-such-image@sha256:" + "0" * 64
    spec = await step(bed)
    if source:
        spec = replace(spec, source=PinnedSource(image=ImageSource(reference=missing)))
    else:
        spec = replace(spec, image=missing)
    await bed.cluster.start_step(spec)

    seen = await eventually(lambda: observe(bed, spec), lambda s: s.reason is Reason.IMAGE_UNAVAILABLE)
    assert seen.state is StepState.PENDING
    assert "no-such-image" in seen.message


async def test_pending_a_claim_that_does_not_exist(bed: KubernetesBed):
    await bed.secret(SECRET, uri=UNREADABLE)
    spec = await step(bed, volume=VolumeDestination(claim_name="nowhere"))
    await bed.cluster.start_step(spec)

    seen = await eventually(lambda: observe(bed, spec), lambda s: "nowhere" in s.message)
    assert (seen.state, seen.reason) == (StepState.PENDING, Reason.POD_PENDING)


async def test_pending_a_pinned_copy_that_was_deleted(bed: KubernetesBed):
    await bed.secret(SECRET, uri=UNREADABLE)
    spec = await step(bed, source=PinnedSource(config_maps=("deleted",)))
    await bed.cluster.start_step(spec)

    seen = await eventually(lambda: observe(bed, spec), lambda s: s.reason is Reason.SOURCE_MISSING)
    assert "deleted" in seen.message


async def test_no_pod_where_the_service_account_does_not_exist(bed: KubernetesBed):
    await bed.secret(SECRET, uri=UNREADABLE)
    spec = await step(bed, pod=PodTemplate(service_account_name="nobody"))
    await bed.cluster.start_step(spec)

    seen = await eventually(lambda: observe(bed, spec), lambda s: s.reason is Reason.POD_REFUSED)
    assert seen.state is StepState.NO_POD
    assert "nobody" in seen.message


async def test_deleting_a_step_takes_an_orphaned_pod_too(bed: KubernetesBed):
    host, port = await bed.silent_server()
    await bed.secret(SECRET, uri=f"postgresql://app:x@{host}:{port}/shop")
    spec = await step(bed)
    await bed.cluster.start_step(spec)
    await eventually(lambda: observe(bed, spec), lambda s: s.state is StepState.RUNNING)
    await bed.admin.call("DELETE", path_of("Job", bed.namespace, spec.job), {"propagationPolicy": "Orphan"})
    await eventually(lambda: observe(bed, spec), lambda s: s.state is StepState.GONE)

    await bed.cluster.delete_step(spec.namespace, spec.job)
    left = await pods(bed)
    assert [p["metadata"]["name"] for p in left if "deletionTimestamp" not in p["metadata"]] == ["silent"]


async def test_deleting_a_step_spares_a_strangers_job_of_that_name(bed: KubernetesBed):
    spec = await step(bed)
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": bed.image}]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": spec.job, "namespace": bed.namespace},
    }
    await create(bed.admin, {**job, "spec": {"template": {"spec": pod}}})

    await bed.cluster.start_step(spec)
    assert (await observe(bed, spec)).foreign
    await bed.cluster.delete_step(spec.namespace, spec.job)
    assert (
        "deletionTimestamp" not in (await bed.cluster.get("Job", bed.namespace, spec.job) or {})["metadata"]
    )
