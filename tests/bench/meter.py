"""What the operator costs: its container's memory and CPU by the kubelet, its passes by its own metrics."""

import asyncio
import json
import re
import time
import urllib.request
from dataclasses import dataclass
from datetime import datetime

from conformance.kubernetes import Node

from godwit.cluster.port import Manifest

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PASSES = re.compile(r'^godwit_passes_total\{kind="(\w+)",.*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Reading:
    """Of one moment, which the kubelet chooses: it looks every ten seconds or so."""

    at: datetime
    cpu_seconds: float
    """Used since the container started."""
    working_set: int
    """Bytes that cannot be given back, as the kubelet evicts by."""
    resident: int
    """Bytes of anonymous memory."""
    passes: float


class Meter:
    """The operator's pod in a namespace of its own."""

    def __init__(self, node: Node, namespace: str) -> None:
        self._node = node
        self._namespace = namespace

    async def passes(self) -> dict[str, float]:
        """Kind -> passes since the operator started."""
        text = await asyncio.to_thread(self._metrics)
        found: dict[str, float] = {}
        for kind, number in _PASSES.findall(text):
            found[kind] = found.get(kind, 0.0) + float(number)
        return found

    async def fresh(self, seconds: float = 60) -> Reading:
        """The first reading of a moment after now. Raises TimeoutError."""
        asked = datetime.now().astimezone()
        async with asyncio.timeout(seconds):
            while True:
                told = await asyncio.to_thread(self._told)
                if told is not None and datetime.fromisoformat(told["cpu"]["time"]) > asked:
                    return Reading(
                        at=datetime.fromisoformat(told["cpu"]["time"]),
                        cpu_seconds=told["cpu"]["usageCoreNanoSeconds"] / 1e9,
                        working_set=told["memory"]["workingSetBytes"],
                        resident=told["memory"]["rssBytes"],
                        passes=sum((await self.passes()).values()),
                    )
                await asyncio.sleep(1)

    async def settled(self, seconds: float = 900) -> float:
        """Until no pass was made for five seconds; how long that took, without them."""
        began = changed = time.monotonic()
        last = -1.0
        async with asyncio.timeout(seconds):
            while time.monotonic() - changed < 5:
                now = sum((await self.passes()).values())
                if now != last:
                    last, changed = now, time.monotonic()
                await asyncio.sleep(0.25)
        return changed - began

    def _pod(self) -> Manifest:
        pods: list[Manifest] = self._node.read("pods", f"--namespace={self._namespace}")["items"]
        return next(pod for pod in pods if pod["status"].get("phase") == "Running")

    def _metrics(self) -> str:
        address = self._pod()["status"]["podIP"]
        with _NO_PROXY.open(f"http://{address}:8080/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def _told(self) -> Manifest | None:
        pod = self._pod()
        path = f"/api/v1/nodes/{pod['spec']['nodeName']}/proxy/stats/summary"
        summary = json.loads(self._node.kubectl("get", "--raw", path))
        for found in summary["pods"]:
            if found["podRef"]["uid"] == pod["metadata"]["uid"] and found.get("containers"):
                container: Manifest = found["containers"][0]
                if "usageCoreNanoSeconds" in container.get("cpu", {}):
                    return container
        return None
