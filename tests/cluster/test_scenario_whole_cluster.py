"""What only a whole cluster has: Pod Security, tokens, releases, CRDs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from conformance.kubernetes import CHART, Node
from scenarios.kubernetes import KubernetesStage
from scenarios.operator import processes
from scenarios.stage import Play, eventually

from godwit.api.kinds import KINDS

ONE, TWO = "20260101000000_one", "20260102000000_two"
FILES = {ONE: ("CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;")}
MORE = {**FILES, TWO: ("LOCK TABLE a;\nCREATE TABLE b (id int PRIMARY KEY);", "DROP TABLE b;")}
UNHELD = ["crd/databasebackups.godwit.dev", "crd/databaserestores.godwit.dev"]
"""No run holds an object of these kinds: their CRDs go at once."""
CRDS = [f"{kind.PLURAL}.godwit.dev" for kind in KINDS.values()]


@pytest.fixture
def stage(kubernetes_stage: KubernetesStage) -> KubernetesStage:
    """The real cluster alone."""
    return kubernetes_stage


async def test_steps_have_no_token_and_pass_the_restricted_standard(
    stage: KubernetesStage, play: Play, node: Node
) -> None:
    labels = node.read("namespace", stage.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    await play.source("files", FILES)
    await play.database()
    await play.migration()
    await play.up_to_date()

    async with play.locked("a", "ROW EXCLUSIVE"):
        await play.source("files", MORE)
        job = await play.step_running("shop-2", "apply")
        (pod,) = await eventually(lambda: stage.pods_of(job), lambda found: len(found) == 1)
        running = await eventually(
            lambda: asyncio.to_thread(processes, pod["metadata"]["uid"]), bool, 30, "no process"
        )

        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not [v for v in spec["volumes"] if "projected" in v or "secret" in v]
        assert not has_token(running[0])
        status = status_of(running[0])
        assert {int(status[name], 16) for name in status if name.startswith("Cap")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"] != "0"
    await play.up_to_date()


def has_token(pid: int) -> bool:
    """Whether a process sees anything where Kubernetes puts service account tokens."""
    return os.path.lexists(Path("/proc", str(pid), "root", "var/run/secrets/kubernetes.io"))


def status_of(pid: int) -> dict[str, str]:
    """The kernel's status of a process, the first value of each field (proc_pid_status(5))."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].removesuffix(":"): words[1] for words in lines if len(words) > 1}


@pytest.mark.own_operator
async def test_uninstalled_and_installed_again_it_goes_on_where_it_was(
    stage: KubernetesStage, play: Play
) -> None:
    await play.source("files", FILES)
    await play.database()
    await play.migration()
    done = await play.up_to_date()
    await play.settled()
    before = stage.store.dump()

    await stage.operator.uninstall()
    assert (await stage.get("DatabaseMigration", "shop") or {})["status"] == done["status"]
    await stage.operator.install(stage.namespace)
    await stage.operator.working()
    await stage.annotate("DatabaseMigration", "shop", requested_at="again")
    await eventually(
        lambda: stage.get("DatabaseMigration", "shop"),
        lambda now: now and now["status"]["plannedAt"] != done["status"]["plannedAt"],
    )

    await play.up_to_date()
    await play.settled()
    assert await play.runs() == ["shop-1"]
    assert stage.store.dump() == before


@asynccontextmanager
async def without_crds(node: Node) -> AsyncIterator[None]:
    """The CRDs deleted with all objects, once the body is through; and then installed again."""
    await asyncio.to_thread(node.kubectl, "delete", "crd", *CRDS, "--wait=false")
    try:
        yield
        gone = [f"crd/{name}" for name in CRDS]
        await asyncio.to_thread(node.kubectl, "wait", "--for=delete", *gone, "--timeout=90s")
    finally:
        words = ["upgrade", "--install", "crds", str(CHART), "--namespace=godwit-crds", node.image_values]
        await asyncio.to_thread(node.helm, *words)
        await asyncio.to_thread(
            node.kubectl, "wait", "--for=condition=Established", "--timeout=60s",
            *(f"crd/{name}" for name in CRDS),
        )  # fmt: skip


@pytest.mark.alone
@pytest.mark.own_operator
async def test_deleting_the_crds_hangs_nowhere_and_touches_no_data(
    stage: KubernetesStage, play: Play, node: Node
) -> None:
    """The operator is at work all the while, and goes on when they are there again."""
    await play.deployed(FILES)
    before, files = stage.store.dump(), await stage.backup_files()

    async with without_crds(node):
        pass
    assert stage.store.dump() == before
    assert await stage.backup_files() == files

    await play.database()
    await play.migration()
    await play.up_to_date()
    assert await play.runs() == []
    assert stage.store.dump() == before


@pytest.mark.alone
@pytest.mark.own_operator
async def test_deleting_the_crds_during_a_run_lets_it_end_and_loses_nothing(
    stage: KubernetesStage, play: Play, node: Node
) -> None:
    """What a run holds goes when the run has ended; the objects are then known by the database alone."""
    await play.deployed(FILES)
    first = await stage.backup_files()
    async with AsyncExitStack() as lock:
        await lock.enter_async_context(play.locked("a", "ROW EXCLUSIVE"))
        await play.source("files", MORE)
        await play.step_running("shop-2", "apply")
        async with without_crds(node):
            await lock.aclose()
    assert play.applied() == [ONE, TWO]
    files = await stage.backup_files()
    assert set(first) < set(files)
    before = stage.store.dump()

    await play.database()
    await play.migration()
    await play.up_to_date()
    assert await play.runs() == []
    assert stage.store.dump() == before
    assert await stage.backup_files() == files


@pytest.mark.alone
@pytest.mark.own_operator
async def test_an_operator_that_starts_while_some_crds_are_gone_gives_back_what_the_others_wait_for(
    stage: KubernetesStage, play: Play, node: Node
) -> None:
    """Its run ended while there was no operator; it waits for half a minute whether the rest is coming."""
    await play.deployed(FILES)
    async with AsyncExitStack() as lock:
        await lock.enter_async_context(play.locked("a", "ROW EXCLUSIVE"))
        await play.source("files", MORE)
        await play.step_running("shop-2", "apply")
        await stage.crash_operator()
        async with without_crds(node):
            await lock.aclose()
            await asyncio.to_thread(node.kubectl, "wait", "--for=delete", *UNHELD, "--timeout=60s")
            await stage.start_operator()
    assert play.applied() == [ONE, TWO]

    await play.database()
    await play.migration()
    await play.up_to_date()
    assert await play.runs() == []
