"""What the port on Kubernetes makes of an API server's answers that a healthy cluster does not give."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from godwit.cluster import lease
from godwit.cluster.kubernetes import KubernetesCluster
from godwit.cluster.port import RefusedError, UnavailableError
from godwit.cluster.rest import Rest
from godwit.contract.environment import REQUEST_HASH_ANNOTATION
from godwit.planner.decision import StepState

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[KubernetesCluster]:
    """The port on a server that answers every request by *handler*."""
    server = web.ServerRunner(web.Server(handler))
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    cluster = KubernetesCluster(Rest(ApiClient(Configuration(host=site.name))))
    try:
        yield cluster
    finally:
        await cluster.close()
        await server.cleanup()


async def test_a_log_that_the_kubelet_does_not_give_is_no_log():
    # The API server answers 500 where it cannot reach the kubelet: its certificate, a firewall, a lost node.
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/log"):
            return web.json_response({"message": "dial tcp 10.0.0.9:10250: i/o timeout"}, status=500)
        pod = {"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}}
        return web.json_response({"items": [pod]})

    async with answering(handler) as cluster:
        assert await cluster.read_progress("shop", "job") is None
        assert await cluster.read_document("shop", "job") is None


async def test_a_lease_whose_renewal_hangs_is_lost_before_others_may_take_it(monkeypatch: pytest.MonkeyPatch):
    # One dead connection, or one server of several that does not answer: the rest of the requests may work.
    monkeypatch.setattr(lease, "RETRY", 0.05)
    monkeypatch.setattr(lease, "RENEW_DEADLINE", 0.5)
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            await ended.wait()
        if request.method == "GET":
            return web.json_response({"reason": "NotFound"}, status=404)
        made = await request.json()
        return web.json_response({**made, "metadata": {**made["metadata"], "resourceVersion": "1"}})

    async def work() -> None:
        try:
            await asyncio.sleep(lease.DURATION)
        finally:
            ended.set()

    async with answering(handler) as cluster:
        since = time.monotonic()
        await lease.lead(cluster, "godwit", "godwit", work)
        assert time.monotonic() - since < lease.DURATION / 2


@pytest.mark.parametrize(
    ("scheduled", "message"),
    [pytest.param("True", "", id="one has"), pytest.param("False", "no node", id="it waits for one")],
)
async def test_that_no_node_took_the_pod_is_told_until_one_has(scheduled: str, message: str):
    # The usual way of a cluster that scales up: the warning stays there while the image is pulled.
    condition = {"type": "PodScheduled", "status": scheduled, "message": message}
    container = {"name": "step", "state": {"waiting": {"reason": "ContainerCreating"}}}
    status = {"phase": "Pending", "conditions": [condition], "containerStatuses": [container]}
    pod = {"metadata": {"name": "p", "uid": "p"}, "status": status}
    warning = {"reason": "FailedScheduling", "message": "no node", "lastTimestamp": "2026-01-01T00:00:00Z"}
    owned = {"ownerReferences": [{"uid": "o"}], "annotations": {REQUEST_HASH_ANNOTATION: "h"}}

    async def handler(request: web.Request) -> web.StreamResponse:
        kind = request.path.split("/")[-1]
        items = {"pods": [pod], "events": [warning]}.get(kind, [])
        return web.json_response({"metadata": {"name": "j", "uid": "j", **owned}, "items": items})

    async with answering(handler) as cluster:
        seen = await cluster.observe_step("j", "shop", "o", "h")
    assert (seen.state, seen.message) == (StepState.PENDING, message)


async def test_an_admission_webhook_that_does_not_answer_refuses():
    # Reads and other writes go on, so nothing is away; whose object it is must be told, or he waits for ever.
    said = 'Internal error occurred: failed calling webhook "policy.example.com": connection refused'

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"reason": "InternalError", "message": said}, status=500)

    metadata = {"name": "files", "namespace": "shop"}
    async with answering(handler) as cluster:
        with pytest.raises(RefusedError, match="failed calling webhook"):
            await cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param(timedelta(hours=-3), timedelta(hours=-3), id="our clock is ahead"),
        pytest.param(timedelta(minutes=2), timedelta(minutes=2), id="our clock is behind"),
        pytest.param(timedelta(seconds=-1), timedelta(0), id="as exact as whole seconds tell"),
        pytest.param(None, timedelta(0), id="what answers does not say"),
    ],
)
async def test_times_are_the_api_servers(said: timedelta | None, expected: timedelta):
    # A status may have been written by another operator, on another machine.
    async def handler(_: web.Request) -> web.StreamResponse:
        date = "soon" if said is None else format_datetime(datetime.now(UTC) + said, usegmt=True)
        return web.json_response({"metadata": {}}, status=404, headers={"Date": date})

    async with answering(handler) as cluster:
        await cluster.get("ConfigMap", "shop", "files")
        assert abs(cluster.now() - datetime.now(UTC) - expected) < timedelta(seconds=5)


META = {"name": "shop", "namespace": "shop", "uid": "u", "resourceVersion": "1"}
INVALID = {
    "message": 'PostgresDatabase.godwit.dev "shop" is invalid: spec.backup: Required value',
    "reason": "Invalid",
    "details": {"causes": [{"reason": "FieldValueRequired", "field": "spec.backup"}]},
}
MOVED = {"message": "the server rejected our request due to an error in our request", "reason": "Invalid"}
"""What it says of a JSON patch that does not fit (k8s.io/apiserver, handlers/patch.go): no cause."""


@pytest.mark.parametrize(
    ("answer", "error"), [(INVALID, RefusedError), (MOVED, UnavailableError)], ids=["invalid", "moved"]
)
async def test_a_finalizer_that_is_refused_says_why(answer: dict[str, object], error: type[Exception]):
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "PATCH":
            return web.json_response(answer, status=422)
        return web.json_response({"kind": "PostgresDatabase", "metadata": META})

    async with answering(handler) as cluster:
        with pytest.raises(error, match="Required value" if answer is INVALID else "too often"):
            await cluster.set_finalizer("PostgresDatabase", "shop", "shop", "u", present=True)
