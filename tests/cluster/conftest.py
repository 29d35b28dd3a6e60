"""Fixtures of the tests on a cluster: the real one, and the port's two implementations.

The real one is the node that `make cluster-up` starts, for the session unless it was up before; or the
cluster of the kubeconfig that GODWIT_TEST_KUBECONFIG names, which must have the image GODWIT_TEST_IMAGE.
A person's current context is never used. Whatever is missing is an error that says so, not a skipped test.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conformance.bed import Bed
from conformance.kubernetes import CHART, Node, kubernetes_bed
from conformance.local import local_bed
from launcher import Launcher
from scenarios.kubernetes import KubernetesStage, shared_stage
from scenarios.kubernetes import kubernetes_stage as open_kubernetes_stage
from scenarios.kubernetes_server import ServerPod, server_pod
from scenarios.local import LocalStage
from scenarios.local import local_stage as open_local_stage
from scenarios.operator import SharedOperator
from scenarios.stage import Play, Stage, Store

from godwit.api.kinds import KINDS
from godwit.cli.embedded import EmbeddedPostgres

PROGRAM = Path(__file__).parent / "node" / "cluster"
KUBECONFIG_VAR = "GODWIT_TEST_KUBECONFIG"
IMAGE_VAR = "GODWIT_TEST_IMAGE"
IMAGE = "localhost/godwit:test"


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the test processes of one session share (pytest-xdist gives each a folder in it)."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextmanager
def held(file: Path, how: int) -> Iterator[Path]:
    """A lock file, held as flock(2) says; the kernel lets go of it when the process dies."""
    with file.open("a+") as handle:
        fcntl.flock(handle, how)
        yield file


@pytest.fixture(scope="session")
def node(together: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The real cluster, our image on it, and the CRDs, installed by helm.

    The first test process that needs it starts it, the last one that is done stops it, unless it was up.
    """
    given = os.environ.get(KUBECONFIG_VAR)
    was_up = together / "cluster-was-up"
    with one_more(together / "cluster-users") as first:
        if first and not given and _cluster("status", check=False).returncode == 0:
            was_up.touch()
        try:
            found = _named(given) if given else _own()
            made = Node(*found, os.environ.get(IMAGE_VAR, IMAGE), tmp_path_factory.mktemp("cluster"))
            if first:
                _install_crds(made)
        except BaseException:
            if first and not given and not was_up.exists():
                _cluster("down", check=False)
            raise
    yield made
    with one_less(together / "cluster-users") as last:
        if last and not given and not was_up.exists():
            _cluster("down")


@contextmanager
def one_more(users: Path) -> Iterator[bool]:
    """Whether this is the first user; the others wait until it is done. Not counted where that fails."""
    with held(users, fcntl.LOCK_EX):
        before = users.read_text()
        yield not before
        users.write_text(f"{before}.")


@contextmanager
def one_less(users: Path) -> Iterator[bool]:
    """Whether this was the last user."""
    with held(users, fcntl.LOCK_EX):
        users.write_text(users.read_text()[1:])
        yield not users.stat().st_size


def _named(given: str) -> tuple[Path, str, str]:
    assert Path(given).is_file(), f"{KUBECONFIG_VAR} names {given}, which is not a file"
    return Path(given).resolve(), _program("kubectl"), _program("helm")


def _own() -> tuple[Path, str, str]:
    _cluster("image")
    kubeconfig = Path(_cluster("up").stdout.strip())
    programs = kubeconfig.parent / "bin"
    return kubeconfig, str(programs / "kubectl"), str(programs / "helm")


def _install_crds(node: Node) -> None:
    """As they are now, by a release of the chart that watches only its own namespace."""
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
async def local_cluster(launcher: Launcher) -> AsyncIterator[Bed]:
    """The local cluster with an empty namespace."""
    async with local_bed(launcher.start_local) as made:
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
    postgres_server: EmbeddedPostgres, database: Store, tmp_path: Path, launcher: Launcher
) -> AsyncIterator[LocalStage]:
    """The operator on the local cluster, and a fresh database of the embedded server."""
    async with open_local_stage(postgres_server, database, tmp_path, launcher.start_local) as made:
        yield made


@pytest.fixture(scope="session")
def server_on_node(node: Node) -> Iterator[ServerPod]:
    """PostgreSQL in a pod of the real cluster."""
    with server_pod(node) as server:
        yield server


@pytest.fixture(autouse=True)
def in_company(request: pytest.FixtureRequest) -> Iterator[None]:
    """On the real cluster tests run side by side, but for those marked `alone`."""
    if request.node.get_closest_marker("cluster") is None:
        yield
        return
    how = fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH
    together = request.getfixturevalue("together")
    with ExitStack() as stack:
        # One after the other to the door: else those in company would keep out for ever who must be alone.
        with held(together / "turn", fcntl.LOCK_EX):
            stack.enter_context(held(together / "company", how))
        yield


@pytest.fixture(scope="session")
def shared_operator(node: Node) -> Iterator[SharedOperator]:
    """The operator of those scenarios that need none for themselves."""
    shared = SharedOperator(node)
    yield shared
    shared.end()


@pytest.fixture
async def kubernetes_stage(
    node: Node,
    server_on_node: ServerPod,
    database_on: Callable[..., Store],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[KubernetesStage]:
    """The operator on the real cluster, and a fresh database of the server in its pod."""
    store = database_on(server_on_node)
    wide = request.node.get_closest_marker("cluster_wide") is not None
    if wide or request.node.get_closest_marker("own_operator"):
        opened = open_kubernetes_stage(node, server_on_node, store, tmp_path, cluster_wide=wide)
    else:
        shared = request.getfixturevalue("shared_operator")
        opened = shared_stage(node, shared, server_on_node, store, tmp_path)
    async with opened as made:
        yield made
