"""The operator on the real cluster: from its image, installed by helm with the chart's own rights."""

import asyncio
import os
import signal
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from conformance.kubernetes import CHART, Node, create, fresh_name, namespace_manifest, remove_namespace

from godwit.cluster.port import Manifest
from godwit.cluster.rest import AnswerError, Rest, path_of
from scenarios.stage import eventually

RELEASE = "godwit"
MERGE_PATCH = "application/merge-patch+json"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/databasemigrations.godwit.dev"
SCENARIOS = 10
"""How many scenarios share one installation, each in a namespace of its own that the operator looks after."""
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Operator:
    """The chart's Deployment in a namespace of its own, and what can befall it."""

    def __init__(self, node: Node, rest: Rest, namespace: str) -> None:
        self.namespace = namespace
        self.is_down = False
        self._node = node
        self._rest = rest
        self._deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/{RELEASE}"

    async def install(self, *watched: str) -> None:
        """`helm install`, looking after some namespaces, or after all."""
        whom = f"watchNamespaces={{{','.join(watched)}}}" if watched else "clusterWide=true"
        await asyncio.to_thread(
            self._node.helm,
            "install", RELEASE, str(CHART), f"--namespace={self.namespace}", "--set=crds.install=false",
            f"--set={whom}", self._node.image_values,
        )  # fmt: skip

    async def uninstall(self) -> None:
        """`helm uninstall`: also what belongs to no namespace."""
        await asyncio.to_thread(
            self._node.helm, "uninstall", RELEASE, f"--namespace={self.namespace}", "--wait"
        )

    async def working(self) -> None:
        """Until the operator says that it watches."""
        await eventually(self._answers, bool, what="the operator is not ready")

    async def crash(self) -> None:
        """SIGKILL, and no other pod takes its place.

        The kill comes first: nobody has told the process anything when it dies.
        """
        self.is_down = True
        pods = await self._pods()
        for pod in pods:
            for pid in processes(pod["metadata"]["uid"]):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await self._scale(0)
        for pod in pods:
            with suppress(AnswerError):
                path = path_of("Pod", self.namespace, pod["metadata"]["name"])
                await self._rest.call("DELETE", path, {"gracePeriodSeconds": 0})
        for pod in pods:
            await eventually(
                lambda uid=pod["metadata"]["uid"]: asyncio.to_thread(processes, uid),
                lambda left: not left,
                30,
                "the operator's process is still there",
            )

    async def start(self) -> None:
        """One replica again, at work.

        The Lease of the dead one is deleted, as a person does who knows that its holder is dead; that it
        runs out by itself is tested with the Lease.
        """
        with suppress(AnswerError):
            await self._rest.call("DELETE", path_of("Lease", self.namespace, RELEASE))
        await self._scale(1)
        await self.working()
        self.is_down = False

    async def told(self) -> str:
        """The end of the operator's log."""
        logs = []
        for pod in await self._pods():
            path = path_of("Pod", self.namespace, pod["metadata"]["name"], "log")
            with suppress(AnswerError):
                logs.append(await self._rest.text(path, {"tailLines": "60"}))
        return "".join(logs)

    async def _scale(self, replicas: int) -> None:
        patch = {"spec": {"replicas": replicas}}
        await self._rest.call("PATCH", self._deployment, patch, content_type=MERGE_PATCH)

    async def _pods(self) -> list[Manifest]:
        found = await self._rest.call("GET", path_of("Pod", self.namespace))
        pods: list[Manifest] = found["items"]
        return pods

    async def _answers(self) -> bool:
        addresses = [pod["status"].get("podIP") for pod in await self._pods()]
        return any([address and await asyncio.to_thread(_ready, address) for address in addresses])


def _ready(address: str) -> bool:
    try:
        with _NO_PROXY.open(f"http://{address}:8080/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def processes(pod_uid: str) -> list[int]:
    """Our processes of a pod on this machine, by its control group: not its sandbox's."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError):
                ours = pod_uid in (place / "cgroup").read_text()
                if ours and b"godwit" in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
    return found


class SharedOperator:
    """One operator for the scenarios of a test process, which are played one after the other.

    A scenario may kill it. Who wants it in another release, with other settings or gone installs one alone.
    A scenario's namespace stays, emptied, as long as the operator looks after it: its Role is in there.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._namespace = ""
        self._crd = ""
        self._free: list[str] = []
        self._used: list[str] = []

    async def take(self, rest: Rest) -> tuple[Operator, str]:
        """The operator at work, and a fresh namespace that it looks after."""
        # An operator that has lost its CRDs takes minutes until it watches the new ones.
        crd = await rest.call("GET", CRD)
        if not self._free or crd["metadata"]["uid"] != self._crd:
            await self.discard(rest)
            self._crd = crd["metadata"]["uid"]
            self._namespace = fresh_name("operator")
            self._free = [fresh_name("scenario") for _ in range(SCENARIOS)]
            for name in (self._namespace, *self._free):
                await create(rest, namespace_manifest(name))
            await Operator(self._node, rest, self._namespace).install(*self._free)
        operator = Operator(self._node, rest, self._namespace)
        self._used.append(self._free.pop(0))
        await operator.working()
        return operator, self._used[-1]

    async def discard(self, rest: Rest) -> None:
        """Leave it; the next scenario gets another one."""
        for name in self._names():
            await remove_namespace(rest, name)
        self._namespace, self._free, self._used = "", [], []

    def end(self) -> None:
        """After the last scenario, when no event loop is left."""
        for name in self._names():
            self._node.remove_namespace(name)

    def _names(self) -> list[str]:
        """Whoever acts goes first."""
        return [self._namespace, *self._used, *self._free] if self._namespace else []
