"""A real PgBouncer before a server."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from debian import environment, unpacked

from godwit.cli.embedded import EmbeddedPostgres

_PATIENCE_S = 20.0
_LIBRARIES = r"lib(c-?ares|event)"


@contextlib.contextmanager
def pgbouncer(
    server: EmbeddedPostgres, folder: Path, *, mode: str, ignore_options: bool = False
) -> Iterator[int]:
    """Run PgBouncer in pool mode *mode* (`session`, `transaction`) before *server*; give its port.

    *ignore_options*: it takes a client's startup options and drops them, instead of refusing the client.
    """
    program = unpacked("pgbouncer", libraries=_LIBRARIES)
    folder.mkdir()
    port = _free_port()
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
        "[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\n"
        f"listen_port = {port}\npool_mode = {mode}\n"
        f"auth_type = trust\nauth_file = {folder / 'users.txt'}\n"
        f"ignore_startup_parameters = extra_float_digits{',options' if ignore_options else ''}\n"
    )
    # It refuses to run as root, like PostgreSQL, but turns into another user by itself.
    user = ["--user", server.run_as.pw_name] if server.run_as is not None else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program / "usr/sbin/pgbouncer"), *user, str(folder / "pgbouncer.ini")],
            env=environment(program),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _await_port(port, process, folder / "log")
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        process.wait(_PATIENCE_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"PgBouncer did not start. Its log: {log.read_text()[-2000:]}")
