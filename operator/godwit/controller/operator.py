"""The operator's process: log in, take the Lease, watch, serve; end when the Lease is lost."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from godwit.api.kinds import KINDS
from godwit.cluster.kubernetes import KubernetesCluster
from godwit.cluster.lease import lead
from godwit.cluster.port import UnavailableError
from godwit.controller import handlers
from godwit.controller.health import probes
from godwit.controller.loop import Controller

log = structlog.get_logger("godwit.operator")

CRD_RETRY = 2.0
"""Seconds between two looks for the CRDs."""
CRD_LOOKS = 15
"""So many looks in a row must find the same part of the CRDs: an install brings all of them at once."""
WATCH_LOOK = 1.0
"""Seconds between two looks whether all watches go on."""


@dataclass(frozen=True)
class Options:
    """How an operator runs. `namespaces` empty: the whole cluster."""

    step_image: str
    namespaces: tuple[str, ...]
    lease_namespace: str
    lease_name: str = "godwit"
    kubeconfig: str | None = None
    max_concurrent_steps: int = 10
    probe_host: str = "0.0.0.0"  # noqa: S104  the kubelet asks from outside the pod
    probe_port: int = 8080


async def run(options: Options) -> int:
    """Run until told to stop (0), or until the Lease or the watches are lost (1)."""
    configure_logging()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    cluster = await KubernetesCluster.connect(options.kubeconfig)
    try:
        return await _serve(cluster, options, stop)
    finally:
        await cluster.close()


async def _serve(cluster: KubernetesCluster, options: Options, stop: asyncio.Event) -> int:
    controller = Controller(
        cluster,
        image=options.step_image,
        max_concurrent_steps=options.max_concurrent_steps,
        now=cluster.now,
    )
    ready = asyncio.Event()
    failed: list[str] = []

    async def work() -> None:
        log.info("lease taken", lease=options.lease_name, namespace=options.lease_namespace)
        whole = await until_served(cluster.served_kinds)
        watching = handlers.watch(
            controller, kubeconfig=options.kubeconfig, namespaces=options.namespaces, stop=stop, ready=ready
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(controller.run(stop))
                group.create_task(while_watched(stop, lambda: _none_or_all(cluster), whole=whole))
                await watching
                if not stop.is_set():
                    failed.append("kopf stopped watching")
                stop.set()
                controller.queue.poke()
        except* Exception as errors:  # noqa: BLE001  whatever it was, the process ends and says it
            failed.extend(str(error) for error in errors.exceptions)
        finally:
            stop.set()

    async with probes(controller, ready, options.probe_host, options.probe_port):
        leading = asyncio.create_task(lead(cluster, options.lease_namespace, options.lease_name, work))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            failed.append("the lease was lost")
        stop.set()
        controller.queue.poke()
        await asyncio.sleep(0)
        await controller.idle(longest=10.0)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)  # it gives the Lease back
    for why in failed:
        log.error("ended early", why=why)
    return 1 if failed else 0


async def until_served(
    served_kinds: Callable[[], Awaitable[set[str]]], *, look: float = CRD_RETRY, looks: int = CRD_LOOKS
) -> bool:
    """Wait for the CRDs, which may be installed after the operator: kopf would watch nothing.

    True once all kinds are served. False where only a part of them was, the same one at *looks* looks in a
    row: CRDs that are being deleted wait for what a run holds, and only the operator gives that back.
    """
    told, before, same = "", set[str](), 0
    while True:
        found = set[str]()
        try:
            found = await served_kinds()
            why = f"not installed: the CRDs of {', '.join(sorted(set(KINDS) - found))}"
        except UnavailableError as error:
            why = str(error)
        if found == set(KINDS):
            return True
        same = same + 1 if found == before else 1
        if found and same >= looks:
            log.warning("going on with a part of the kinds", kinds=sorted(found), why=why)
            return False
        if why != told:
            log.warning("waiting", why=why)
        told, before = why, found
        await asyncio.sleep(look)


async def while_watched(
    stop: asyncio.Event,
    none_or_all: Callable[[], Awaitable[bool]],
    *,
    whole: bool = True,
    look: float = WATCH_LOOK,
) -> None:
    """End, and set *stop*, when a watch of kopf has ended: nothing would be heard of its kind any more.

    kopf ends one whose resource is not served (404), be it for the moment between CRDs that are deleted and
    their next ones, and begins none by itself. It has no hook for that, but names the tasks. The process that
    comes next waits for the CRDs. While some of the kinds are served and others are not, by *none_or_all*,
    this one goes on: a run gives back what it holds, or the CRDs would never be gone. One that began so (not
    *whole*) has no watch for the others, and ends as soon as that is over. Raises RuntimeError.
    """
    watches: set[asyncio.Task[object]] = set()
    while True:
        watches |= {task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for ")}
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), look)
        if stop.is_set():
            return
        ended = sorted(task.get_name() for task in watches if task.done())
        if (ended or not whole) and await none_or_all():
            stop.set()
            gone = f"no longer served: {', '.join(ended)}"
            raise RuntimeError(gone if ended else "not the part of the kinds is served any more that was")


async def _none_or_all(cluster: KubernetesCluster) -> bool:
    """Whether the API server knows none of our kinds, or all of them; False when it does not say."""
    try:
        found = await cluster.served_kinds()
    except UnavailableError:
        return False
    return not found or found == set(KINDS)


def configure_logging() -> None:
    """JSON lines on standard output, kopf's and the libraries' through the same door."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    logging.getLogger().handlers[0].setFormatter(formatter)
