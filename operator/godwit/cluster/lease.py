"""One operator at a time: a Lease (coordination.k8s.io/v1), by the client library's leader election.

The Lease keeps two controllers from writing the same statuses. What keeps two migrators from one database
is the
lock in the database itself, so a Lease that is late to notice a loss costs order, never data.
"""

import socket
from collections.abc import Awaitable, Callable

from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from godwit.cluster.kubernetes import KubernetesCluster

DURATION = 15
"""Seconds after which a Lease that was not renewed may be taken by another; kube-controller-manager's
default."""
RENEW_DEADLINE = 10
RETRY = 2


async def lead(
    cluster: KubernetesCluster, namespace: str, name: str, work: Callable[[], Awaitable[None]]
) -> None:
    """Wait for the Lease, then do *work* while it is held. Returns when it is lost; the work is cancelled.

    The identity is the host name, in a cluster the pod's: a container that restarts takes its own Lease
    at once.
    """

    async def started() -> None:
        await work()

    async def stopped() -> None:
        return

    lock = LeaseLock(name, namespace, socket.gethostname(), cluster.api_client)
    await LeaderElection(Config(lock, DURATION, RENEW_DEADLINE, RETRY, started, stopped)).run()
