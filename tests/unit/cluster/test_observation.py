"""How a step stands, from what the API server shows of its Job and pod: a sentence per case."""
# ruff: noqa: E501  a table: one case a row

from datetime import UTC, datetime
from typing import Any

import pytest

from godwit.cluster.observation import foreign, is_ours, last_document, newest, step_ended, step_seen, subject
from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason
from godwit.planner.decision import StepState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OUTCOME = StepOutcome(request_hash="h", started_at=NOW, ended_at=NOW)
DONE = {"exitCode": 0, "reason": "Completed", "message": OUTCOME.encode().decode()}


def job(*conditions: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "j",
            "uid": "job-uid",
            "ownerReferences": [{"uid": "o"}],
            "annotations": {"godwit.dev/step-request-hash": "h"},
        },
        "status": {"conditions": [{"type": c, "status": "True", "message": "said why"} for c in conditions]},
    }


def pod(phase: str = "Pending", conditions: tuple[Any, ...] = (), **state: Any) -> dict[str, Any]:
    statuses = [{"name": "proxy", "state": {}}, {"name": "step", "state": state}] if state else []
    return {
        "metadata": {"name": "p", "uid": "pod-uid", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": []},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": statuses},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(waiting={"reason": reason, "message": message})


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": 'persistentvolumeclaim "backups" not found',
}
NO_KEY = "couldn't find key uri in Secret shop/db"

CASES = [
    ("the Job has not made its pod yet", job(), None, "", StepState.NO_POD, None),
    ("a quota keeps the Job from making its pod", job(), None, "exceeded quota: q", StepState.NO_POD, Reason.POD_REFUSED),
    ("the pod is gone and the Job failed", job("Failed"), None, "", StepState.CRASHED, Reason.STEP_CRASHED),
    ("the pod is gone and the Job is about to fail", job("FailureTarget"), None, "", StepState.CRASHED, Reason.STEP_CRASHED),
    ("the pod is gone and the Job succeeded: its outcome is lost", job("Complete"), None, "", StepState.CRASHED, Reason.STEP_CRASHED),
    ("the pod is new", job(), pod(), "", StepState.PENDING, Reason.POD_PENDING),
    ("no node takes the pod", job(), pod(conditions=(UNSCHEDULABLE,)), "", StepState.PENDING, Reason.POD_PENDING),
    ("the container is being made", job(), waiting("ContainerCreating"), "", StepState.PENDING, Reason.POD_PENDING),
    ("a pinned ConfigMap was deleted", job(), waiting("ContainerCreating"), 'MountVolume.SetUp failed: configmap "x" not found', StepState.PENDING, Reason.SOURCE_MISSING),
    ("the Secret is missing", job(), waiting("CreateContainerConfigError", 'secret "db" not found'), "", StepState.PENDING, Reason.SECRET_MISSING),
    ("the Secret lacks the key", job(), waiting("CreateContainerConfigError", NO_KEY), "", StepState.PENDING, Reason.SECRET_MISSING),
    ("the container cannot be configured otherwise", job(), waiting("CreateContainerConfigError", "image will run as root"), "", StepState.PENDING, Reason.POD_PENDING),
    ("the image cannot be pulled", job(), waiting("ErrImagePull", "not found"), "", StepState.PENDING, Reason.IMAGE_UNAVAILABLE),
    ("the pull is tried again later", job(), waiting("ImagePullBackOff"), "", StepState.PENDING, Reason.IMAGE_UNAVAILABLE),
    ("the image has no valid name", job(), waiting("InvalidImageName", "x"), "", StepState.PENDING, Reason.IMAGE_UNAVAILABLE),
    ("the container runs", job(), pod("Running", running={}), "", StepState.RUNNING, None),
    ("the container ended and the pod does not say so yet", job(), pod("Running", terminated=DONE), "", StepState.FINISHED, None),
    ("the container ended and all say so", job("Complete"), pod("Succeeded", terminated=DONE), "", StepState.FINISHED, None),
    ("an outcome counts whatever the exit status", job(), pod("Failed", terminated={**DONE, "exitCode": 137}), "", StepState.FINISHED, None),
    ("the container ended without a message", job(), pod("Failed", terminated={"exitCode": 1}), "", StepState.CRASHED, Reason.STEP_CRASHED),
    ("the container was killed for its memory", job(), pod("Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), "", StepState.CRASHED, Reason.STEP_CRASHED),
    ("the message is half an outcome", job(), pod("Failed", terminated={**DONE, "message": DONE["message"][:50]}), "", StepState.CRASHED, Reason.STEP_CRASHED),
    ("the message is another request's outcome", job(), pod("Succeeded", terminated={**DONE, "message": DONE["message"].replace('"h"', '"g"')}), "", StepState.CRASHED, Reason.STEP_CRASHED),
    ("the pod was evicted before its container ended", job(), pod("Failed"), "", StepState.CRASHED, Reason.STEP_CRASHED),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_state(case: tuple[str, dict[str, Any], dict[str, Any] | None, str, StepState, Reason | None]):
    _, its_job, its_pod, warning, state, reason = case

    seen = step_seen(its_job, its_pod, warning, "h")
    assert (seen.state, seen.reason) == (state, reason)
    assert (seen.outcome == OUTCOME) == (state is StepState.FINISHED)
    assert not seen.foreign
    if reason not in (None, Reason.POD_PENDING):
        assert seen.message


@pytest.mark.parametrize(
    ("its_pod", "words"),
    [
        (pod("Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), "exit status 137, OOMKilled."),
        (None, "its pod is gone, and its outcome with it: said why."),
        (pod("Failed") | {"status": {"phase": "Failed", "reason": "Evicted", "message": "low on disk."}},
         "its pod ended: Evicted low on disk."),
    ],
    ids=["memory", "no pod", "evicted"],
)  # fmt: skip
def test_a_crash_says_how(its_pod: dict[str, Any] | None, words: str):
    assert step_seen(job("Failed"), its_pod, "", "h").message.endswith(words)


@pytest.mark.parametrize(
    ("its_pod", "exited"),
    [
        pytest.param(pod("Failed", terminated={"exitCode": 1}), True, id="the container ended by itself"),
        pytest.param(pod("Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), True, id="killed"),
        pytest.param(
            pod("Failed", terminated={"exitCode": 137, "reason": "ContainerStatusUnknown"}),
            False,
            id="what the kubelet says of a container that it never made, or lost",
        ),
        pytest.param(pod("Failed"), False, id="evicted before the container was made"),
        pytest.param(None, False, id="the pod is gone"),
    ],
)
def test_a_crash_says_whether_the_container_is_known_to_have_run(
    its_pod: dict[str, Any] | None, exited: bool
):
    assert step_seen(job("Failed"), its_pod, "", "h").exited is exited


def test_messages_fit_into_a_status():
    seen = step_seen(job(), waiting("ErrImagePull", "no\n such image " * 200), "", "h")

    assert len(seen.message) == 500
    assert "\n" not in seen.message


def test_warnings_are_asked_for_only_where_the_state_does_not_say_everything():
    assert subject(job(), None) == "job-uid"
    assert subject(job("Failed"), None) is None
    assert subject(job(), waiting("ContainerCreating")) == "pod-uid"
    assert subject(job(), waiting("ErrImagePull", "not found")) is None
    assert subject(job(), pod("Running", running={})) is None
    assert subject(job(), pod("Succeeded", terminated=DONE)) is None


def test_a_job_is_ours_by_owner_and_request_together():
    assert is_ours(job(), "o", "h")
    assert not is_ours(job(), "another", "h")
    assert not is_ours(job(), "o", "another")
    assert not is_ours({"metadata": {"name": "j"}}, "o", "h")


def test_a_foreign_job_is_not_our_step():
    seen = foreign(job())

    assert seen.foreign
    assert seen.outcome is None
    assert seen.reason is Reason.NAME_TAKEN


def test_of_two_pods_the_one_that_ended_counts():
    ended, late = pod("Failed", terminated={"exitCode": 1}), pod()
    late["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"

    assert newest([ended, late]) is ended
    assert newest([pod(), late]) is late
    assert newest([]) is None


def test_the_last_document_of_a_log():
    first, last = '{"event": "document", "n": 1}', '{"event": "document", "n": 2}'
    lines = [first, last, '{"event": "x", "message": "\\"document\\""}', "no json"]

    assert last_document("\n".join(lines)) == last
    assert last_document('{"event": "x"}\n"document"\n{"document":') is None
    assert last_document("") is None


@pytest.mark.parametrize(
    ("manifest", "ended"),
    [
        pytest.param(pod(terminated=DONE), True, id="its container has terminated"),
        pytest.param(pod("Failed"), True, id="its pod was evicted before the kubelet could tell"),
        pytest.param(pod(running={}), False, id="its container runs"),
        pytest.param(waiting("ImagePullBackOff"), False, id="its container waits"),
        pytest.param(job("Failed"), True, id="its Job has failed, with a pod or without"),
        pytest.param(job("Complete"), False, id="its Job is complete, two seconds after its container"),
        pytest.param(job(), False, id="its Job was made"),
    ],
)
def test_an_event_tells_of_a_steps_end_where(manifest: dict[str, Any], ended: bool):
    assert step_ended(manifest) is ended


READY = {"type": "Ready", "status": "True"}
SILENT = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:05:00Z"}
"""What the node lifecycle controller leaves of Ready when a node does not report: no reason, other than a kubelet."""
GONE_BY = {"deletionTimestamp": "2026-01-01T00:06:00Z"}


@pytest.mark.parametrize(
    ("its_pod", "metadata", "since"),
    [
        pytest.param(pod("Running", (READY,), running={}), {}, None, id="it runs"),
        pytest.param(pod("Running", (READY,), running={}), GONE_BY, 6, id="it was to be gone"),
        pytest.param(pod("Running", (SILENT,), running={}), {}, 5, id="its node does not report"),
        pytest.param(pod("Running", (SILENT,), running={}), GONE_BY, 5, id="both: the earlier time"),
        pytest.param(pod("Running", ({**SILENT, "reason": "ContainersNotReady"},), running={}), {}, None,
                     id="a container beside it is not ready, says its kubelet"),
        pytest.param(waiting("ContainerCreating"), GONE_BY, 6, id="it was to be gone before it began"),
        pytest.param(pod(conditions=(SILENT,)), {}, None, id="it has not begun, and is not ready"),
    ],
)  # fmt: skip
def test_a_pod_whose_node_may_be_lost_says_since_when(
    its_pod: dict[str, Any], metadata: dict[str, str], since: int | None
):
    its_pod["metadata"] |= metadata
    its_pod["spec"]["nodeName"] = "node-3"
    lost = step_seen(job(), its_pod, "", "h").unreachable
    assert (lost.since if lost else None) == (NOW.replace(minute=since) if since else None)
    if lost is not None:
        assert all(
            name in lost.message for name in ("Pod p ", "node node-3", f"00:0{since}:00 UTC", "Job is j.")
        )


def test_a_pod_that_ended_is_reached_whatever_becomes_of_its_node():
    its_pod = pod("Running", (SILENT,), terminated=DONE)
    its_pod["metadata"] |= GONE_BY
    assert step_seen(job(), its_pod, "", "h").unreachable is None
