"""What the port on Kubernetes makes of an API server's answers that a healthy cluster does not give."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from godwit.cluster.kubernetes import KubernetesCluster
from godwit.cluster.rest import Rest

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
