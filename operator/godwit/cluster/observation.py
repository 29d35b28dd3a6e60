"""From a Job, its pod and their events to the state of a step. Pure.

The outcome counts as soon as the container has terminated. The Job says Complete about two seconds later,
and says nothing that a decision needs.
"""

import contextlib
import json
import re
from dataclasses import replace
from datetime import datetime
from typing import Any

from godwit.cluster.jobs import CONTAINER
from godwit.contract.environment import REQUEST_HASH_ANNOTATION
from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason
from godwit.planner.decision import StepSeen, StepState, Unreachable

Manifest = dict[str, Any]

_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
"""Reasons that the kubelet gives to a container whose image, or image volume, it cannot have
(k8s.io/kubernetes pkg/kubelet/images/types.go)."""
HARMLESS = frozenset({"MissingClusterDNS", "DNSConfigForming"})
"""Reasons of the kubelet's warnings that hold no pod back (k8s.io/kubernetes pkg/kubelet/network/dns)."""
_SECRET = re.compile(r"\bsecrets? \S+ not found|\bin Secret\b|couldn't find key", re.IGNORECASE)
_CONFIG_MAP = re.compile(r"\bconfigmaps? \S+ not found|references non-existent config key", re.IGNORECASE)
_OVER = ("Failed", "Succeeded")
"""Phases of a pod whose containers have all ended."""
_UNKNOWN = "ContainerStatusUnknown"
"""Reason that the kubelet gives, with exit status 137, to a container that it cannot find, or never made
(k8s.io/kubernetes pkg/kubelet/status, TerminatePod)."""
_MESSAGE_LIMIT = 500


def is_ours(job: Manifest, owner_uid: str, request_hash: str) -> bool:
    """Whether that owner made this Job for that request; a name alone proves nothing."""
    meta = job["metadata"]
    owners = {ref.get("uid") for ref in meta.get("ownerReferences", ())}
    return owner_uid in owners and meta.get("annotations", {}).get(REQUEST_HASH_ANNOTATION) == request_hash


def foreign(job: Manifest) -> StepSeen:
    """What is seen where a Job of that name is somebody else's."""
    message = f"A Job named {job['metadata']['name']} exists and is not this step's."
    return StepSeen(StepState.GONE, Reason.NAME_TAKEN, message, foreign=True)


def newest(pods: list[Manifest]) -> Manifest | None:
    """The Job's pod. It makes one; should there ever be more, the one that has ended, then the newest."""

    def order(pod: Manifest) -> tuple[bool, str]:
        return (_terminated(pod) is not None, pod["metadata"].get("creationTimestamp", ""))

    return max(pods, key=order, default=None)


def subject(job: Manifest, pod: Manifest | None) -> str | None:
    """The uid of the object whose last warning tells more, or None where the state itself says everything."""
    if pod is None:
        return None if _ended(job) else str(job["metadata"]["uid"])
    waits = _terminated(pod) is None and not _running(pod) and not _waiting(pod).message
    return str(pod["metadata"]["uid"]) if waits and pod.get("status", {}).get("phase") == "Pending" else None


def past(pod: Manifest | None) -> frozenset[str]:
    """Reasons of warnings that say nothing of what holds the pod back now."""
    conditions = (pod or {}).get("status", {}).get("conditions", ())
    scheduled = any(c["type"] == "PodScheduled" and c["status"] == "True" for c in conditions)
    return HARMLESS | {"FailedScheduling"} if scheduled else HARMLESS


def step_seen(job: Manifest, pod: Manifest | None, warning: str, request_hash: str) -> StepSeen:
    """The state of a step.

    *warning* is the message of the last Warning event about the `subject`, empty where there is none.
    """
    if pod is None:
        return _without_pod(job, warning)
    if (terminated := _terminated(pod)) is not None:
        return _ended_container(terminated, request_hash)
    status = pod.get("status", {})
    if status.get("phase") in _OVER:
        # Evicted or lost with its node before the kubelet could tell how the container ended.
        return _crashed(f"its pod ended: {status.get('reason', '')} {status.get('message', '')}")
    lost = _unreachable(job, pod)
    if _running(pod):
        return StepSeen(StepState.RUNNING, unreachable=lost)
    waiting = replace(_waiting(pod), unreachable=lost)
    if waiting.message or not warning:
        return waiting
    reason = Reason.SOURCE_MISSING if _CONFIG_MAP.search(warning) else Reason.POD_PENDING
    return StepSeen(StepState.PENDING, reason, _text(warning), unreachable=lost)


def step_ended(manifest: Manifest) -> bool:
    """Whether a Job or a pod of a step, as an event shows it, tells how the step ended.

    That its Job is complete tells nothing: it comes two seconds after the pod told all.
    """
    if "containers" in manifest.get("spec", {}):
        return _terminated(manifest) is not None or manifest.get("status", {}).get("phase") in _OVER
    ended = _ended(manifest)
    return ended is not None and ended["type"] in ("Failed", "FailureTarget")


def last_document(log: str) -> str | None:
    """The last `document` event among the JSON lines of a step's log, as it stands there."""
    for line in reversed(log.splitlines()):
        if '"document"' in line:
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and found.get("event") == "document":
                    return line
    return None


def _without_pod(job: Manifest, warning: str) -> StepSeen:
    if (ended := _ended(job)) is not None:
        return _crashed(f"its pod is gone, and its outcome with it: {ended.get('message', '')}")
    if warning:
        return StepSeen(StepState.NO_POD, Reason.POD_REFUSED, _text(warning))
    return StepSeen(StepState.NO_POD)


def _ended(job: Manifest) -> Manifest | None:
    """The condition with which the Job ended, or is about to (it waits for its pods to be gone)."""
    kinds = ("Failed", "Complete", "FailureTarget", "SuccessCriteriaMet")
    conditions: list[Manifest] = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] in kinds and c["status"] == "True"), None)


def _ended_container(terminated: Manifest, request_hash: str) -> StepSeen:
    """Finished where the termination message is this request's outcome, whatever the exit status.

    It is written last; a part of it is no JSON.
    """
    try:
        outcome = StepOutcome.decode(terminated.get("message", ""))
    except ValueError:
        outcome = None
    if outcome is not None and outcome.request_hash == request_hash:
        return StepSeen(StepState.FINISHED, outcome=outcome)
    why = terminated.get("reason", "")
    exited = why != _UNKNOWN
    if outcome is not None:
        why = "it left the outcome of another request"
    return _crashed(f"exit status {terminated.get('exitCode')}, {why}", exited=exited)


def _crashed(how: str, *, exited: bool = False) -> StepSeen:
    message = f"The step ended without an outcome: {' '.join(how.split()).rstrip(' :,.')}."
    return StepSeen(StepState.CRASHED, Reason.STEP_CRASHED, _text(message), exited=exited)


def _waiting(pod: Manifest) -> StepSeen:
    """Why the container has not started, as far as the pod's own status tells."""
    state = _container(pod).get("waiting") or {}
    reason, message = state.get("reason", ""), state.get("message", "")
    if reason in _IMAGE:
        return StepSeen(StepState.PENDING, Reason.IMAGE_UNAVAILABLE, _text(message or reason))
    if reason == "CreateContainerConfigError" and _SECRET.search(message):
        return StepSeen(StepState.PENDING, Reason.SECRET_MISSING, _text(message))
    if message:
        return StepSeen(StepState.PENDING, Reason.POD_PENDING, _text(message))
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return StepSeen(StepState.PENDING, Reason.POD_PENDING, _text(condition.get("message", "")))
    return StepSeen(StepState.PENDING, Reason.POD_PENDING)


def _unreachable(job: Manifest, pod: Manifest) -> Unreachable | None:
    """Since when the pod should have been gone, or nothing was heard of it; None where all is well.

    Its deletion is due when its grace is over (metav1.ObjectMeta, deletionTimestamp), and only its kubelet
    can carry it out. Of a node that is silent the node lifecycle controller sets Ready to False and leaves
    the rest (k8s.io/kubernetes pkg/controller/util/node, MarkPodsNotReady); a kubelet always gives a reason.
    """
    name, node = pod["metadata"]["name"], pod.get("spec", {}).get("nodeName") or "(none)"
    due, silent = pod["metadata"].get("deletionTimestamp"), _silent_since(pod) if _running(pod) else None
    if silent and not (due and due < silent):
        since, what = silent, f"has not been heard of since {_when(silent)}"
    elif due:
        since, what = due, f"was to be gone at {_when(due)} and is not"
    else:
        return None
    text = f"Pod {name} on node {node} {what}; whether its process still works is not known. Its Job is "
    return Unreachable(datetime.fromisoformat(since), f"{text}{job['metadata']['name']}.")


def _silent_since(pod: Manifest) -> str | None:
    conditions: list[Manifest] = pod.get("status", {}).get("conditions", [])
    ready = next((c for c in conditions if c["type"] == "Ready"), {})
    silent = ready.get("status") == "False" and not ready.get("reason")
    return ready.get("lastTransitionTime") if silent else None


def _when(time: str) -> str:
    return f"{datetime.fromisoformat(time):%F %T} UTC"


def _container(pod: Manifest) -> Manifest:
    """State of the container `step`; empty before the kubelet reported any."""
    statuses: list[Manifest] = pod.get("status", {}).get("containerStatuses", [])
    found = next((s for s in statuses if s["name"] == CONTAINER), {})
    state: Manifest = found.get("state", {})
    return state


def _terminated(pod: Manifest) -> Manifest | None:
    return _container(pod).get("terminated")


def _running(pod: Manifest) -> bool:
    return "running" in _container(pod)


def _text(message: str) -> str:
    """*message* on one line, bounded: it goes into a status."""
    line = " ".join(message.split())
    return line if len(line) <= _MESSAGE_LIMIT else line[: _MESSAGE_LIMIT - 1] + "…"
