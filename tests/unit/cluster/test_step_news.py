"""Which events of a step's Job and pod wake its owner: a sentence per case."""
# ruff: noqa: E501  a table: one case a row

from typing import Any

import pytest

from godwit.controller.handlers import News


def job(*conditions: str, **status: Any) -> dict[str, Any]:
    told = [{"type": c, "status": "True", "message": "said why"} for c in conditions]
    return {"kind": "Job", "metadata": {"uid": "u"}, "status": {**status, "conditions": told}}


def pod(phase: str = "Pending", *, scheduled: str = "", **state: Any) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": scheduled, "message": "no node"}] if scheduled else []
    statuses = [{"name": "step", "state": state}] if state else []
    status = {"phase": phase, "conditions": conditions, "containerStatuses": statuses}
    return {"kind": "Pod", "metadata": {"uid": "u"}, "status": status}


MAKING = {"reason": "ContainerCreating"}
DONE = {"exitCode": 0, "message": "{}"}
CASES = [
    ("a pod gets its node", pod(), pod(scheduled="True"), False),
    ("no node takes a pod", pod(), pod(scheduled="False"), True),
    ("a container is being made", pod(scheduled="True"), pod(waiting=MAKING), False),
    ("an image cannot be had", pod(waiting=MAKING), pod(waiting={"reason": "ErrImagePull", "message": "no"}), True),
    ("a container runs", pod(waiting=MAKING), pod("Running", running={}), True),
    ("a container has terminated", pod("Running", running={}), pod("Running", terminated=DONE), True),
    ("a terminated container's pod ends", pod("Running", terminated=DONE), pod("Succeeded", terminated=DONE), False),
    ("a pod is evicted before its container ran", pod(waiting=MAKING), pod("Failed", waiting=MAKING), True),
    ("a Job counts its pods", job(active=1), job(active=1, ready=1), False),
    ("a Job has failed", job(active=1), job("Failed"), True),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "heard"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_only_what_changes_the_step_wakes_its_owner(
    before: dict[str, Any], after: dict[str, Any], heard: bool
) -> None:
    news = News()
    assert news.heard("ADDED", before)
    assert news.heard("MODIFIED", after) is heard
    assert not news.heard("MODIFIED", after)


def test_the_end_of_a_job_or_pod_is_always_heard() -> None:
    news = News()
    news.heard("ADDED", job())
    assert news.heard("DELETED", job())
    assert news.heard("ADDED", job())
