"""Probes and metrics over HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from godwit.controller.loop import Controller

STUCK_AFTER = 120.0
"""Seconds without any movement while a key is due: then the process is stuck, and better restarted."""
LAG_LIMIT = 10.0
"""Seconds for which the event loop may have been blocked."""


class Health:
    """What the probes say. Ready: the watches have begun. Live: due keys are served and the loop turns."""

    def __init__(self, controller: Controller, ready: asyncio.Event) -> None:
        self._controller = controller
        self._ready = ready
        self._turned = time.monotonic()

    async def turn(self) -> None:
        """Show once a second that the event loop turns; for a task of its own."""
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(1.0)

    def why_not_live(self) -> str:
        """Empty when all is well."""
        lag = time.monotonic() - self._turned
        if lag > LAG_LIMIT:
            return f"the event loop has not turned for {lag:.0f} s"
        still = self._controller.queue.standstill()
        if still > STUCK_AFTER:
            return f"due objects have been waiting for {still:.0f} s in which nothing moved"
        return ""

    async def healthz(self, _: web.Request) -> web.Response:
        """200 when live, else 503 and why."""
        why = self.why_not_live()
        return web.Response(status=503 if why else 200, text=why or "ok")

    async def readyz(self, _: web.Request) -> web.Response:
        """200 once the watches have begun, else 503."""
        if not self._ready.is_set():
            return web.Response(status=503, text="the watches have not begun")
        return web.Response(text="ok")

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        body = generate_latest(self._controller.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


@asynccontextmanager
async def probes(controller: Controller, ready: asyncio.Event, host: str, port: int) -> AsyncIterator[Health]:
    """Serve /healthz, /readyz and /metrics for the length of the context."""
    health = Health(controller, ready)
    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", health.healthz),
            web.get("/readyz", health.readyz),
            web.get("/metrics", health.metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    turning = asyncio.create_task(health.turn())
    try:
        await web.TCPSite(runner, host, port).start()
        yield health
    finally:
        turning.cancel()
        await runner.cleanup()
