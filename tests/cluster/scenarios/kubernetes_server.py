"""A PostgreSQL server in a pod, for the tests of one session."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from conformance.kubernetes import Node
from psycopg import pq

from godwit.cluster.port import Manifest

IMAGE = "localhost/postgres:test"
POD = "server"
_STOPPED = "/tmp/stopped"
# The pod outlives the server in it, so that stopping it keeps data and address.
_SUPERVISOR = f"""
while :; do
  while [ -e {_STOPPED} ]; do sleep 0.1; done
  entrypoint.sh -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off \
    -c max_connections=100 -c shared_buffers=64MB &
  wait $!
done
"""


class ServerPod:
    """See the module. Its superuser is `postgres`, by the pod's address, from this machine as from a pod."""

    def __init__(self, node: Node, namespace: str, address: str, password: str) -> None:
        self._node = node
        self._namespace = namespace
        self._address = address
        self._password = password

    def uri(self, database: str) -> str:
        """The libpq URI of a database."""
        return f"postgresql://postgres:{self._password}@{self._address}:5432/{database}"

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run statements, each as `psql -c` would, and return the last one's rows as lines of a|b|c."""
        with psycopg.connect(self.uri(database), autocommit=True, connect_timeout=10) as connection:
            result = connection.pgconn.exec_(sql.encode())
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                raise psycopg.DatabaseError(f"{result.error_message.decode()} in: {sql}")
            rows = (
                "|".join((result.get_value(row, column) or b"").decode() for column in range(result.nfields))
                for row in range(result.ntuples)
            )
            return "\n".join(rows)

    def run(self, program: str, *arguments: str, database: str) -> str:
        """What a client program says; the server's own, so that it is of the server's version."""
        return self._exec(program, "--host=/tmp", "--username=postgres", *arguments, f"--dbname={database}")

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self.psql(f'CREATE DATABASE "{name}" TEMPLATE template0')

    def drop_database(self, name: str) -> None:
        """Drop it, also while in use, and the ones that restores put beside it."""
        for found in self.psql(
            f"SELECT datname FROM pg_database WHERE starts_with(datname, '{name}')"
        ).split():
            self.psql(f'DROP DATABASE "{found}" WITH (FORCE)')

    def stop(self) -> None:
        """Stop the server (fast mode)."""
        self._exec("sh", "-c", f"touch {_STOPPED} && pg_ctl stop --mode=fast --wait")

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        self._exec("rm", "-f", _STOPPED)
        self.await_answer()

    def await_answer(self) -> None:
        """Wait until the server takes connections."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.psql("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _exec(self, *command: str) -> str:
        return self._node.kubectl("exec", "-n", self._namespace, POD, "--", *command)


@contextmanager
def server_pod(node: Node) -> Iterator[ServerPod]:
    """A server in a namespace of its own."""
    namespace = node.namespace("server")
    password = secrets.token_hex(8)
    try:
        node.apply(_pod(namespace, password))
        node.kubectl("wait", "--for=condition=Ready", f"pod/{POD}", "-n", namespace, "--timeout=60s")
        address = node.read("pod", POD, "-n", namespace)["status"]["podIP"]
        server = ServerPod(node, namespace, address, password)
        server.await_answer()
        yield server
    finally:
        node.remove_namespace(namespace)


def _pod(namespace: str, password: str) -> Manifest:
    folders = {"data": "/var/lib/postgresql/data", "tmp": "/tmp"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "fsGroup": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "postgres",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", _SUPERVISOR],
                    "env": [{"name": "POSTGRES_PASSWORD", "value": password}],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": n, "mountPath": path} for n, path in folders.items()],
                }
            ],
            "volumes": [{"name": n, "emptyDir": {}} for n in folders],
        },
    }
