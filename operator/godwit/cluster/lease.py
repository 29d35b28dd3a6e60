"""One operator at a time: a Lease (coordination.k8s.io/v1), held as kube-controller-manager holds its own.

The Lease keeps two controllers from writing the same statuses. What keeps two migrators from one database is
the lock in the database itself, so a Lease that is late to notice a loss costs order, never data.

The client library's own leader election (37.0.2) cannot create a Lease: it hands its own validated method a
value of the wrong type.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from godwit.cluster.kubernetes import KubernetesCluster
from godwit.cluster.port import UnavailableError
from godwit.cluster.rest import AnswerError, Rest, path_of, type_of

DURATION = 15
"""Seconds after which a Lease that was not renewed may be taken by others; kube-controller-manager's."""
RENEW_DEADLINE = 10.0
"""Seconds without a renewal after which the holder counts it as lost: well before others may take it."""
RETRY = 2.0
"""Seconds between two tries to take or renew it."""
_log = structlog.get_logger(__name__)


async def lead(
    cluster: KubernetesCluster, namespace: str, name: str, work: Callable[[], Awaitable[None]]
) -> None:
    """Wait for the Lease, then do *work* while it is held, then give it back. Raises what *work* raises.

    Returns when *work* has ended, or has been cancelled because the Lease was lost. The identity is the host
    name, in a cluster the pod's: a container that restarts takes its own Lease at once.
    """
    lease = _Lease(cluster.rest, namespace, name, socket.gethostname())
    while not await lease.hold():  # noqa: ASYNC110  nothing but the API server could set an event
        await asyncio.sleep(RETRY)
    doing = asyncio.ensure_future(work())
    keeping = asyncio.create_task(lease.keep())
    try:
        await asyncio.wait({doing, keeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        keeping.cancel()
        doing.cancel()
        await asyncio.gather(doing, keeping, return_exceptions=True)
        await lease.give_back()
    if not doing.cancelled():
        doing.result()


class _Lease:
    def __init__(self, rest: Rest, namespace: str, name: str, identity: str) -> None:
        self._rest = rest
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._held: dict[str, Any] | None = None
        """The Lease as we wrote it last, while it is ours."""
        self._seen = ("", 0.0)
        """Version of somebody else's Lease, and since when (by our own clock alone) it has not changed."""

    async def keep(self) -> None:
        """Renew until it cannot be done any more."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < RENEW_DEADLINE:
            await asyncio.sleep(RETRY)
            held = False
            with contextlib.suppress(TimeoutError):
                # As kube-controller-manager's: one request that hangs leaves time for another.
                left = renewed + RENEW_DEADLINE - time.monotonic()
                async with asyncio.timeout(min(left, RENEW_DEADLINE / 2)):
                    held = await self.hold()
            if held:
                renewed = time.monotonic()
            elif self._seen[0]:
                return  # somebody else has it

    async def hold(self) -> bool:
        """Take or renew it; whether it is ours now."""
        try:
            if self._held is None:
                return await self._take()
            await self._write(self._held, self._identity)
        except AnswerError as error:
            self._held = None  # not as we left it: look again
            if error.status not in {404, 409}:
                _log.warning("lease.refused", lease=self._name, error=str(error))
            return False
        except UnavailableError as error:
            _log.warning("lease.unreachable", lease=self._name, error=str(error))
            return False
        return True

    async def give_back(self) -> None:
        """Let the next one have it at once."""
        if self._held is None:
            return
        try:
            try:
                await self._write(self._held, "")
            except AnswerError as error:
                if error.status != 409:
                    raise
                await self._give_back_as_found()
        except (AnswerError, UnavailableError) as error:
            _log.warning("lease.kept", lease=self._name, error=str(error))

    async def _give_back_as_found(self) -> None:
        """A renewal that was cut short may have been written all the same."""
        found = await self._read()
        if found.get("spec", {}).get("holderIdentity") == self._identity:
            await self._write(found, "")

    async def _read(self) -> dict[str, Any]:
        return await self._rest.call("GET", path_of("Lease", self._namespace, self._name))

    async def _take(self) -> bool:
        try:
            found = await self._read()
        except AnswerError as error:
            if error.status != 404:
                raise
            metadata = {"name": self._name, "namespace": self._namespace}
            found = {**type_of("Lease"), "metadata": metadata}
        if not self._free(found):
            return False
        await self._write(found, self._identity)
        self._seen = ("", 0.0)
        return True

    def _free(self, found: dict[str, Any]) -> bool:
        """Whether nobody holds it, or we do, or its holder has not renewed it for its duration."""
        spec = found.get("spec", {})
        if spec.get("holderIdentity", "") in {"", self._identity}:
            return True
        version = found["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        return time.monotonic() - self._seen[1] > float(spec.get("leaseDurationSeconds", DURATION))

    async def _write(self, found: dict[str, Any], holder: str) -> None:
        """Write it over the version that was read, or create it. Raises AnswerError, UnavailableError."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = found.get("spec", {})
        same = before.get("holderIdentity", "") == holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": DURATION,
            "acquireTime": before.get("acquireTime", now) if same else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (not same and bool(holder)),
        }
        new = "resourceVersion" not in found["metadata"]
        written = await self._rest.call(
            "POST" if new else "PUT",
            path_of("Lease", self._namespace, "" if new else self._name),
            {**found, "spec": spec},
        )
        self._held = written if holder else None
