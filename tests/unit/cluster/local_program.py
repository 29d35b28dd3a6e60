"""A small program in the runner's place, steps that run it, and ways to wait for them."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from godwit.api.common import API_VERSION, SecretKey
from godwit.api.database import ConnectionSpec
from godwit.cluster.local import LocalCluster
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
    print(json.dumps({"event": "progress", "progress": {"number": 3, "at": "2026-01-01T00:00:00Z"}}))
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
