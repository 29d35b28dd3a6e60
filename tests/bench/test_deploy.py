"""From `kubectl apply` to Ready on the real cluster, beside a bare Job there at the same time."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from conformance.kubernetes import Node
from meter import Meter
from scenarios.kubernetes import KubernetesStage
from scenarios.kubernetes_server import ServerPod
from scenarios.stage import LOCK, SAMPLE, Play, Store
from timeline import Timeline, watched

from godwit.cluster.port import Manifest

RUNS = 5


def sample() -> dict[str, str]:
    """The sample migrations as a ConfigMap's data."""
    data = {"migration_lock.toml": LOCK}
    for folder in (path for path in SAMPLE.iterdir() if path.is_dir()):
        data[f"{folder.name}.sql"] = (folder / "migration.sql").read_text()
        data[f"{folder.name}.down.sql"] = (folder / "down.sql").read_text()
    return data


def deployment(play: Play, name: str, uri: str) -> list[Manifest]:
    """All that a person applies for a first deploy; the environment is Production, the default."""
    metadata = {"name": name, "namespace": play.stage.namespace}
    database = play.database_manifest(name)
    migration = play.migration_manifest(name, files=name, databaseRef={"name": name})
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"uri": uri}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": sample()},
        database,
        migration,
    ]


def bare_job(namespace: str, name: str, image: str) -> Manifest:
    """A restricted Job of the same image that does nothing."""
    container = {
        "name": "step",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["true"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
        "containers": [container],
    }
    metadata = {"name": name, "namespace": namespace}
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def anything(_: tuple[str, ...]) -> bool:
    """Any sight of an object."""
    return True


async def apply(node: Node, folder: Path, *manifests: Manifest) -> float:
    """`kubectl apply -f FILE`; when it was started."""
    file = folder / "manifests.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
    began = time.monotonic()
    await asyncio.to_thread(node.kubectl, "apply", "-f", str(file))
    return began


def seconds(began: str, ended: str) -> float:
    """Between two times of an outcome."""
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


async def outcomes(stage: KubernetesStage, name: str) -> dict[str, Manifest]:
    """Step -> its record, of all objects of a first deploy."""
    found = {}
    run = await stage.get("MigrationRun", f"{name}-1")
    assert run is not None
    backup = run["status"]["backup"]
    owners = [("DatabaseMigration", name), ("DatabaseBackup", backup), ("MigrationRun", f"{name}-1")]
    for kind, owner in owners:
        made = await stage.get(kind, owner)
        assert made is not None
        found |= {record["name"]: record for record in made["status"]["steps"]}
    return found


def stages(timeline: Timeline, began: float, records: dict[str, Manifest]) -> dict[str, float]:
    """Where the time of one deploy went: for each step its Job's wait, its container's way, its work."""
    found = {}
    before, told = began, "created"
    for step in ("plan", "backup", "apply"):
        job, outcome = records[step]["job"], records[step]["outcome"]
        made = timeline.first("jobs", job, anything)
        ended = timeline.first("pods", job, lambda words: "terminated" in words[1])
        assert made is not None
        assert ended is not None
        work = seconds(outcome["startedAt"], outcome["endedAt"])
        found[f"{told} -> Job {step}"] = made.at - before
        found[f"{step}: pod, container, Python, exit"] = ended.at - made.at - work
        found[f"{step}: its work"] = work
        before, told = ended.at, f"{step} ended"
    return found


async def test_from_apply_to_ready(  # noqa: PLR0917  fixtures
    node: Node,
    server_on_node: ServerPod,
    database_on: Callable[..., Store],
    stage: KubernetesStage,
    tmp_path: Path,
    show: Any,
    spread: Callable[[Sequence[float]], Any],
) -> None:
    play = Play(stage)
    typed: list[float] = []
    deploys: list[float] = []
    jobs: list[float] = []
    parts: list[dict[str, float]] = []
    meter = Meter(node, stage.operator.namespace)
    before = await meter.fresh()
    async with watched(node, stage.namespace) as timeline:
        for number in range(RUNS + 1):
            name = f"bare-{number}"
            began = await apply(node, tmp_path, bare_job(stage.namespace, name, node.image))
            ended = await timeline.until("jobs", name, lambda words: words[1] == "True")
            made = await timeline.until("jobs", name, anything)
            jobs.append(ended.at - made.at)
            await stage.delete_job(name)

            name = f"shop-{number}"
            began = await apply(node, tmp_path, *deployment(play, name, database_on(server_on_node).uri))
            ready = await timeline.until(
                "databasemigrations.godwit.dev", name, lambda words: words == ("True", "UpToDate")
            )
            created = await timeline.until("databasemigrations.godwit.dev", name, anything)
            told = stages(timeline, created.at, await outcomes(stage, name))
            typed.append(ready.at - began)
            deploys.append(ready.at - created.at)
            parts.append({**told, "apply ended -> Ready": deploys[-1] - sum(told.values())})
            await play.settled()
    after = await meter.fresh()
    # The first of each warms up: what is loaded from disk once is no part of a deploy.
    typed, deploys, jobs, parts = typed[1:], deploys[1:], jobs[1:], parts[1:]
    ratios = [deploy / job for deploy, job in zip(deploys, jobs, strict=True)]
    show(
        f"First deploy of the sample migrations, backup included, seconds, {RUNS} times",
        [
            ("", "min", "median", "max"),
            ("kubectl apply started -> Ready", *spread(typed)),
            ("DatabaseMigration created -> Ready", *spread(deploys)),
            ("Bare Job created -> Complete", *spread(jobs)),
            ("Ratio of the last two", *spread(ratios)),
        ],
    )
    show(
        "Where the time goes, seconds",
        [("", "min", "median", "max"), *((what, *spread([p[what] for p in parts])) for what in parts[0])],
    )
    show(
        "The operator for one deploy, its end and the removal of its Jobs included",
        [
            ("passes", (after.passes - before.passes) / (RUNS + 1)),
            ("CPU seconds", (after.cpu_seconds - before.cpu_seconds) / (RUNS + 1)),
        ],
    )
