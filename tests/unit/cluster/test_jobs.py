"""What a step's Job says, field by field: the pod is the only place that holds database credentials."""

from typing import Any

import pytest

from godwit.api.common import LocalRef, SecretKey
from godwit.api.database import (
    ConnectionParts,
    ConnectionSpec,
    PodTemplate,
    Resources,
    Toleration,
    VolumeDestination,
)
from godwit.api.migration import ImageSource, PinnedSource
from godwit.cluster.jobs import RESOURCES, STEP_LABELS, STEP_SELECTOR, build_job
from godwit.contract.base import digest
from godwit.contract.request import CheckInput, ObjectRef, StepRequest
from godwit.planner.decision import StepSpec

OWNER = ObjectRef(kind="MigrationRun", namespace="shop", name="orders-1", uid="u-1")
REQUEST = StepRequest(object=OWNER, step="apply", spec_hash="$(HOME)", verbs=(CheckInput(),))
URI = ConnectionSpec(uri_from=SecretKey(name="db", key="uri"))


def job(**more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "job": "orders-1-apply-0-1",
        "namespace": "shop",
        "owner": OWNER,
        "request": REQUEST,
        "image": "registry.example/godwit@sha256:0",
        "connection": URI,
    }
    return build_job(StepSpec(**{**spec, **more}))


def pod(**more: Any) -> dict[str, Any]:
    made: dict[str, Any] = job(**more)["spec"]["template"]["spec"]
    return made


def container(**more: Any) -> dict[str, Any]:
    (only,) = pod(**more)["containers"]
    return only


def mounts(**more: Any) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """mountPath -> (volume, mount)."""
    made = pod(**more)
    volumes = {v["name"]: v for v in made["volumes"]}
    assert len(volumes) == len(made["volumes"]), "names of volumes are unique"
    return {m["mountPath"]: (volumes[m["name"]], m) for m in made["containers"][0]["volumeMounts"]}


def test_the_same_spec_gives_the_same_manifest():
    assert job() == job()


def test_a_job_is_known_by_its_owner_and_its_request():
    meta = job()["metadata"]

    assert (meta["name"], meta["namespace"]) == ("orders-1-apply-0-1", "shop")
    assert meta["annotations"]["godwit.dev/step-request-hash"] == REQUEST.hash
    assert meta["annotations"]["godwit.dev/owner"] == "MigrationRun/orders-1"
    (owner,) = meta["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"], owner["name"], owner["uid"]) == (
        "godwit.dev/v1alpha1",
        "MigrationRun",
        "orders-1",
        "u-1",
    )
    assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, False)


def test_job_and_pod_carry_our_labels_for_the_watch_and_nothing_of_the_owner():
    made = job()

    assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"] == STEP_LABELS
    assert STEP_SELECTOR == "app.kubernetes.io/managed-by=godwit,app.kubernetes.io/component=step"


def test_events_about_the_pod_lead_to_the_owner():
    annotations = job()["spec"]["template"]["metadata"]["annotations"]

    assert annotations["godwit.dev/owner"] == "MigrationRun/orders-1"
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_the_job_tries_once_in_bounded_time_and_stays_until_it_is_deleted():
    spec = job(deadline_seconds=77)["spec"]

    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    assert spec["activeDeadlineSeconds"] == 77
    assert spec["podReplacementPolicy"] == "Failed"
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_pod_keeps_to_the_restricted_standard_and_has_no_token():
    made = pod()

    assert made["automountServiceAccountToken"] is False
    assert made["enableServiceLinks"] is False
    assert made["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & made.keys()


def test_the_container_runs_the_runner_of_the_given_image():
    made = container()

    assert made["name"] == "step"
    assert made["image"] == "registry.example/godwit@sha256:0"
    assert made["imagePullPolicy"] == "IfNotPresent"
    assert made["command"][1:] == ["-m", "godwit.runner"]
    assert "args" not in made
    assert made["terminationMessagePath"] == "/dev/termination-log"
    assert made["terminationMessagePolicy"] == "File"


def test_the_request_comes_as_a_file_where_nothing_expands_it():
    annotations = job()["spec"]["template"]["metadata"]["annotations"]
    volume, mount = mounts()["/etc/godwit/step"]

    assert digest(annotations["godwit.dev/step-request"].encode()) == REQUEST.hash
    assert volume["downwardAPI"]["items"] == [
        {
            "path": "request.json",
            "fieldRef": {"fieldPath": "metadata.annotations['godwit.dev/step-request']"},
        }
    ]
    assert mount["readOnly"] is True
    assert "$(HOME)" not in str(container())


def test_a_uri_is_named_by_its_secret_key():
    assert container()["env"] == [
        {"name": "GODWIT_DATABASE_URI", "valueFrom": {"secretKeyRef": {"name": "db", "key": "uri"}}}
    ]


def test_of_a_connection_in_parts_only_user_and_password_are_secret():
    parts = ConnectionParts(
        host="db",
        database="shop",
        user_from=SecretKey(name="u", key="user"),
        password_from=SecretKey(name="p", key="pw"),
    )

    assert container(connection=ConnectionSpec(parts=parts))["env"] == [
        {"name": "GODWIT_DATABASE_USER", "valueFrom": {"secretKeyRef": {"name": "u", "key": "user"}}},
        {"name": "GODWIT_DATABASE_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "p", "key": "pw"}}},
    ]


def test_a_step_without_a_database_gets_no_credentials():
    assert container(connection=None)["env"] == []


def test_pinned_config_maps_are_mounted_in_order_and_read_only():
    found = mounts(source=PinnedSource(config_maps=("first", "second")))

    for number, name in enumerate(("first", "second")):
        volume, mount = found[f"/source/{number}"]
        assert volume["configMap"] == {"name": name}
        assert mount["readOnly"] is True
    assert "GODWIT_SOURCE_DIR" not in str(container(source=PinnedSource(config_maps=("first",))))


def test_an_image_source_is_mounted_whole_and_its_folder_named():
    source = PinnedSource(image=ImageSource(reference="r/m@sha256:1", path="prisma/migrations"))
    volume, mount = mounts(source=source)["/source"]

    assert volume["image"] == {"reference": "r/m@sha256:1", "pullPolicy": "IfNotPresent"}
    assert mount == {"name": "source", "mountPath": "/source", "readOnly": True}
    assert {"name": "GODWIT_SOURCE_DIR", "value": "/source/prisma/migrations"} in container(source=source)[
        "env"
    ]


def test_the_root_of_an_image_is_the_default_place():
    source = PinnedSource(image=ImageSource(reference="r/m@sha256:1"))

    assert "/source" in mounts(source=source)
    assert [e["name"] for e in container(source=source)["env"]] == ["GODWIT_DATABASE_URI"]


def test_of_a_backup_volume_the_step_sees_its_folder_and_may_write_there():
    destination = VolumeDestination(claim_name="backups", path="team/shop")
    volume, mount = mounts(volume=destination)["/backups"]

    assert volume["persistentVolumeClaim"] == {"claimName": "backups"}
    assert mount["subPath"] == "team/shop"
    assert "readOnly" not in mount
    security = pod(volume=destination)["securityContext"]
    assert (security["fsGroup"], security["fsGroupChangePolicy"]) == (65532, "OnRootMismatch")


def test_the_root_of_a_backup_volume():
    _, mount = mounts(volume=VolumeDestination(claim_name="backups"))["/backups"]

    assert "subPath" not in mount


def test_scratch_space_is_bounded():
    volume, _ = mounts()["/tmp"]

    assert volume["emptyDir"]["sizeLimit"]


def test_resources_are_always_set():
    assert container()["resources"] == RESOURCES
    assert RESOURCES["requests"].keys() == {"cpu", "memory"}
    assert RESOURCES["limits"].keys() == {"memory"}


def test_the_pod_template_is_applied():
    template = PodTemplate(
        resources=Resources(limits={"memory": "2Gi"}),
        node_selector={"disk": "fast"},
        tolerations=(Toleration(key="jobs", operator="Exists"),),
        image_pull_secrets=(LocalRef(name="pull"),),
        labels={"team": "shop", "app.kubernetes.io/managed-by": "somebody"},
        service_account_name="steps",
        priority_class_name="high",
    )
    made = pod(pod=template)

    assert made["containers"][0]["resources"] == {"limits": {"memory": "2Gi"}}
    assert made["nodeSelector"] == {"disk": "fast"}
    assert made["tolerations"] == [{"key": "jobs", "operator": "Exists"}]
    assert made["imagePullSecrets"] == [{"name": "pull"}]
    assert (made["serviceAccountName"], made["priorityClassName"]) == ("steps", "high")
    assert made["automountServiceAccountToken"] is False
    labels = job(pod=template)["spec"]["template"]["metadata"]["labels"]
    assert labels == {"team": "shop", **STEP_LABELS}, "our own labels cannot be taken over"
    assert job(pod=template)["metadata"]["labels"] == STEP_LABELS


@pytest.mark.parametrize("key", ["nodeSelector", "tolerations", "imagePullSecrets", "priorityClassName"])
def test_what_the_template_leaves_out_is_left_out(key: str):
    assert key not in pod()
