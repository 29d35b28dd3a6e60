"""From a StepSpec to the manifest of its Job. Pure: the same spec gives the same manifest.

The pod holds database credentials and SQL of the team, so it gets nothing else: no service account token, the
restricted Pod Security Standard ("Pod Security Standards" in the Kubernetes documentation), and a read-only
root file system. Credentials are named here by Secret and key; their values never pass through.
"""

from typing import Any

from godwit.api.common import API_VERSION, GROUP, SecretKey
from godwit.api.database import ConnectionSpec, VolumeDestination
from godwit.api.migration import PinnedSource
from godwit.contract.base import canonical_json
from godwit.contract.environment import (
    DATABASE_PASSWORD_VAR,
    DATABASE_URI_VAR,
    DATABASE_USER_VAR,
    OUTCOME_FILE,
    REQUEST_ANNOTATION,
    REQUEST_FILE,
    REQUEST_HASH_ANNOTATION,
    SCRATCH_DIR,
    SOURCE_DIR,
    SOURCE_DIR_VAR,
    STORE_DIR,
)
from godwit.planner.decision import StepSpec

Manifest = dict[str, Any]

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
COMPONENT_LABEL = "app.kubernetes.io/component"
STEP_LABELS = {MANAGED_BY_LABEL: "godwit", COMPONENT_LABEL: "step"}
"""On every Job of a step and its pod; never the owner's: a GitOps tool would take the Job for its own."""
STEP_SELECTOR = ",".join(f"{key}={value}" for key, value in STEP_LABELS.items())
OWNER_ANNOTATION = f"{GROUP}/owner"
"""`Kind/name` of the owner, on Job and pod: an event about either leads to the object without a look-up."""
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
"""The cluster autoscaler leaves a node alone while a pod on it says "false"."""

CONTAINER = "step"
COMMAND = ["python3", "-m", "godwit.runner"]
STORE_GROUP = 65532
"""Group of a backup volume, and of the image's own user. Only with it may any user id write to a volume that
its driver made for root. Given to pods with a volume only: a platform that assigns groups refuses it."""
GRACE_SECONDS = 60
"""From SIGTERM to SIGKILL: enough for the runner to cancel its query, roll back and write its outcome."""
SCRATCH_LIMIT = "1Gi"
"""Of an unpacked source, which comes out of at most 64 ConfigMaps of 1 MiB; dumps never pass through it."""
RESOURCES: Manifest = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    # No limit on CPU: a throttled step would hold its locks for longer.
    "limits": {"memory": "1Gi"},
}
"""Where the pod template says nothing; what it says replaces all of this, as halves could contradict."""


def build_job(spec: StepSpec) -> Manifest:
    """The Job that runs the step once.

    One attempt only (`backoffLimit: 0`): further ones are the planner's, who looks into the database
    first. No `ttlSecondsAfterFinished`: the controller deletes the Job when its outcome is in a status.
    """
    marks = {
        OWNER_ANNOTATION: f"{spec.owner.kind}/{spec.owner.name}",
        REQUEST_HASH_ANNOTATION: spec.request.hash,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": spec.job,
            "namespace": spec.namespace,
            "labels": STEP_LABELS,
            "annotations": marks,
            "ownerReferences": [_owner(spec)],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": spec.deadline_seconds,
            # A pod that is being deleted still runs: nothing takes its place before it has ended.
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": {**spec.pod.labels, **STEP_LABELS},
                    "annotations": {
                        **marks,
                        REQUEST_ANNOTATION: canonical_json(spec.request).decode(),
                        SAFE_TO_EVICT: "false",
                    },
                },
                "spec": _pod(spec),
            },
        },
    }


def _owner(spec: StepSpec) -> Manifest:
    """The Job goes with its owner; to block the owner's deletion would need a right on its finalizers."""
    return {
        "apiVersion": API_VERSION,
        "kind": spec.owner.kind,
        "name": spec.owner.name,
        "uid": spec.owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _pod(spec: StepSpec) -> Manifest:
    template = spec.pod
    security: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if spec.volume is not None:
        # OnRootMismatch: walking through all backups at every step would take long.
        security |= {"fsGroup": STORE_GROUP, "fsGroupChangePolicy": "OnRootMismatch"}
    mounts = [
        _scratch(),
        _request(),
        *_source(spec.source),
        *_store(spec.volume),
    ]
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": security,
        "containers": [
            {
                "name": CONTAINER,
                "image": spec.image,
                "imagePullPolicy": "IfNotPresent",
                "command": COMMAND,
                "env": [*_credentials(spec.connection), *_source_dir(spec.source)],
                "resources": dict(template.resources) or RESOURCES,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                # The file alone: the end of a log must never be taken for an outcome.
                "terminationMessagePath": OUTCOME_FILE,
                "terminationMessagePolicy": "File",
                "volumeMounts": [{"name": volume["name"], **mount} for volume, mount in mounts],
            }
        ],
        "volumes": [volume for volume, _ in mounts],
    }
    if template.node_selector:
        pod["nodeSelector"] = dict(template.node_selector)
    if template.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in template.tolerations]
    if template.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in template.image_pull_secrets]
    if template.service_account_name:
        pod["serviceAccountName"] = template.service_account_name
    if template.priority_class_name:
        pod["priorityClassName"] = template.priority_class_name
    return pod


def _credentials(connection: ConnectionSpec | None) -> list[Manifest]:
    """Environment variables that the kubelet fills from Secret keys; a missing key holds the pod back."""
    if connection is None:
        return []
    keys: dict[str, SecretKey | None] = {DATABASE_URI_VAR: connection.uri_from}
    if connection.parts is not None:
        keys |= {
            DATABASE_USER_VAR: connection.parts.user_from,
            DATABASE_PASSWORD_VAR: connection.parts.password_from,
        }
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}}}
        for name, key in keys.items()
        if key is not None
    ]


def _source_dir(source: PinnedSource | None) -> list[Manifest]:
    """The folder within an image, told to the runner.

    `subPath` of an image volume would need a container runtime that knows it; this needs none.
    """
    if source is None or source.image is None or not source.image.path:
        return []
    return [{"name": SOURCE_DIR_VAR, "value": f"{SOURCE_DIR}/{source.image.path}"}]


Mounted = tuple[Manifest, Manifest]
"""A volume, and how the container mounts it."""


def _scratch() -> Mounted:
    return {"name": "scratch", "emptyDir": {"sizeLimit": SCRATCH_LIMIT}}, {"mountPath": SCRATCH_DIR}


def _request() -> Mounted:
    """The request as a file, byte for byte: in `env` and `args` the kubelet would expand `$(VAR)`."""
    folder, _, name = REQUEST_FILE.rpartition("/")
    field = {"fieldPath": f"metadata.annotations['{REQUEST_ANNOTATION}']"}
    volume = {"name": "request", "downwardAPI": {"items": [{"path": name, "fieldRef": field}]}}
    return volume, {"mountPath": folder, "readOnly": True}


def _source(source: PinnedSource | None) -> list[Mounted]:
    """ConfigMaps as SOURCE_DIR/0, /1, ... in order, or the image as SOURCE_DIR; read-only."""
    if source is None:
        return []
    if source.image is not None:
        image = {"reference": source.image.reference, "pullPolicy": "IfNotPresent"}
        return [({"name": "source", "image": image}, {"mountPath": SOURCE_DIR, "readOnly": True})]
    return [
        (
            {"name": f"source-{number}", "configMap": {"name": name}},
            {"mountPath": f"{SOURCE_DIR}/{number}", "readOnly": True},
        )
        for number, name in enumerate(source.config_maps)
    ]


def _store(volume: VolumeDestination | None) -> list[Mounted]:
    """The backup volume, or one folder of it: what else the volume holds is out of the step's reach."""
    if volume is None:
        return []
    mount = {"mountPath": STORE_DIR}
    if volume.path:
        mount["subPath"] = volume.path
    return [({"name": "store", "persistentVolumeClaim": {"claimName": volume.claim_name}}, mount)]
