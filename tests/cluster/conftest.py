"""Fixtures of the tests on a cluster: the real one, and the port's two implementations.

The real one is the node that `make cluster-up` starts, for the session unless it was up before; or the
cluster of the kubeconfig that GODWIT_TEST_KUBECONFIG names, which must have the image GODWIT_TEST_IMAGE.
A person's current context is never used. Whatever is missing is an error that says so, not a skipped test.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from conformance.bed import Bed
from conformance.kubernetes import CHART, Node, kubernetes_bed
from conformance.local import local_bed
from scenarios.kubernetes import KubernetesStage
from scenarios.kubernetes import kubernetes_stage as open_kubernetes_stage
from scenarios.kubernetes_server import ServerPod, server_pod
from scenarios.local import LocalStage
from scenarios.local import local_stage as open_local_stage
from scenarios.stage import Play, Stage, Store

from godwit.api.kinds import KINDS
from godwit.cli.embedded import EmbeddedPostgres

PROGRAM = Path(__file__).parent / "node" / "cluster"
KUBECONFIG_VAR = "GODWIT_TEST_KUBECONFIG"
IMAGE_VAR = "GODWIT_TEST_IMAGE"
IMAGE = "localhost/godwit:test"


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The real cluster, our image on it, and the CRDs, installed by helm."""
    work = tmp_path_factory.mktemp("cluster")
    image = os.environ.get(IMAGE_VAR, IMAGE)
    if given := os.environ.get(KUBECONFIG_VAR):
        assert Path(given).is_file(), f"{KUBECONFIG_VAR} names {given}, which is not a file"
        yield _ready(Node(Path(given).resolve(), _program("kubectl"), _program("helm"), image, work))
        return
    was_up = _cluster("status", check=False).returncode == 0
    _cluster("image")
    kubeconfig = Path(_cluster("up").stdout.strip())
    programs = kubeconfig.parent / "bin"
    try:
        yield _ready(Node(kubeconfig, str(programs / "kubectl"), str(programs / "helm"), image, work))
    finally:
        if not was_up:
            _cluster("down")


def _ready(node: Node) -> Node:
    """With the CRDs, as they are now, by a release of the chart that watches only its own namespace."""
    node.kubectl("version")
    node.helm(
        "upgrade", "--install", "crds", str(CHART), "--namespace=godwit-crds", "--create-namespace",
        node.image_values,
    )  # fmt: skip
    crds = node.kubectl("get", "crd", "-o", "name").split()
    ours = [name for name in crds if name.endswith(".godwit.dev")]
    node.kubectl("wait", "--for=condition=Established", *ours, "--timeout=60s")
    # Established is not yet served; kubectl asks again as long as the server tells it to.
    node.kubectl("get", ",".join(kind.PLURAL for kind in KINDS.values()), "--all-namespaces")
    return node


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{KUBECONFIG_VAR} is set, but there is no {name} on the PATH"
    return found


def _cluster(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What the node's program says; fails with its own explanation of what is missing."""
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        pytest.fail(
            f"The cluster tests need a Kubernetes: `{PROGRAM.name} {' '.join(words)}` failed.\n"
            f"{done.stderr.strip()}\nOr name a cluster by {KUBECONFIG_VAR}=FILE.",
            pytrace=False,
        )
    return done


@pytest.fixture(params=["local", "kubernetes"])
def bed(request: pytest.FixtureRequest) -> Bed:
    """A bed of each implementation in turn."""
    found: Bed = request.getfixturevalue(f"{request.param}_cluster")
    return found


@pytest.fixture
async def local_cluster() -> AsyncIterator[Bed]:
    """The local cluster with an empty namespace."""
    async with local_bed() as made:
        yield made


@pytest.fixture
async def kubernetes_cluster(node: Node) -> AsyncIterator[Bed]:
    """The real cluster with an empty namespace, and the chart's service account as the operator's login."""
    async with kubernetes_bed(node) as made:
        yield made


@pytest.fixture(params=["local", "kubernetes"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """A stage of each kind in turn: a cluster with the operator at work, and a database."""
    found: Stage = request.getfixturevalue(f"{request.param}_stage")
    return found


@pytest.fixture
def play(stage: Stage) -> Play:
    """The words that scenarios are told in."""
    return Play(stage)


@pytest.fixture
async def local_stage(
    postgres_server: EmbeddedPostgres, database: Store, tmp_path: Path
) -> AsyncIterator[LocalStage]:
    """The operator on the local cluster, and a fresh database of the embedded server."""
    async with open_local_stage(postgres_server, database, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def server_on_node(node: Node) -> Iterator[ServerPod]:
    """PostgreSQL in a pod of the real cluster."""
    with server_pod(node) as server:
        yield server


@pytest.fixture
async def kubernetes_stage(
    node: Node,
    server_on_node: ServerPod,
    database_on: Callable[..., Store],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[KubernetesStage]:
    """The operator on the real cluster, and a fresh database of the server in its pod."""
    cluster_wide = request.node.get_closest_marker("cluster_wide") is not None
    store = database_on(server_on_node)
    async with open_kubernetes_stage(
        node, server_on_node, store, tmp_path, cluster_wide=cluster_wide
    ) as made:
        yield made
