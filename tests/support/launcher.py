"""Starts steps' processes from one that has imported the runner already: each saves 0.3 s of a processor.

What is started is `python -m godwit.runner` in everything but its imports, which happened before (see
zygote.py): a process with its own id, environment, folder, files and, where asked for, session, which can be
killed and whose exit status is its own. That users' way to start it works is what tests/unit/test_runner.py,
the demo's and the image's tests are about: they start a new Python.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from godwit.cluster.local import RUNNER

_ZYGOTE = Path(__file__).with_name("zygote.py")
_PATIENCE_S = 60
_LONGEST_ANSWER = 64
_GONE = "the process that starts the steps is gone"


class Step:
    """A step's process. As subprocess.Popen: `pid`, `returncode`, `poll`, `wait`, `send_signal`, `kill`.

    One thread may wait while another one sends a signal.
    """

    def __init__(self, pid: int, answers: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._answers = answers

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, *timeout* seconds at most. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._answers.settimeout(timeout)
            try:
                said = self._answers.recv(_LONGEST_ANSWER)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(RUNNER, timeout or 0) from None
            self.returncode = _status(said)
            self._answers.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone; nothing happens after its end."""
        if self.returncode is None:
            # Until its end was heard no other process has its id.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class AwaitedStep:
    """The same as asyncio.subprocess.Process: it has ended when somebody who awaits `wait` was told so."""

    def __init__(self, pid: int, answers: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._answers = answers
        answers.setblocking(False)

    async def wait(self) -> int:
        """Wait for its end; one may, at a time."""
        if self.returncode is None:
            said = await asyncio.get_running_loop().sock_recv(self._answers, _LONGEST_ANSWER)
            self.returncode = _status(said)
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone. Raises ProcessLookupError."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)


class Launcher:
    """The process that forks the steps. Use as a context manager."""

    def __enter__(self) -> Self:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", _ZYGOTE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.close()
        self._process.wait(_PATIENCE_S)

    def start(
        self,
        environ: Mapping[str, str],
        *,
        stdout: int | IO[bytes] = 1,
        stderr: int | IO[bytes] = 2,
        folder: Path | None = None,
    ) -> Step:
        """Start a step in this process's session, in *folder* or this process's."""
        return Step(*self._start(environ, stdout, stderr, folder or Path.cwd(), session=False))

    async def start_local(
        self, command: Sequence[str], environ: Mapping[str, str], folder: Path, log: IO[bytes]
    ) -> AwaitedStep:
        """What `LocalCluster` starts its steps by: each in a session of its own."""
        assert tuple(command) == RUNNER
        return AwaitedStep(*self._start(environ, log, log, folder, session=True))

    def _start(
        self,
        environ: Mapping[str, str],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        folder: Path,
        *,
        session: bool,
    ) -> tuple[int, socket.socket]:
        """The process id, once the process is ready, and where its end will be told. Raises as Popen."""
        if any("\0" in value for value in environ.values()):
            raise ValueError("embedded null byte")
        order = {"environ": dict(environ), "folder": str(folder), "session": session}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, Path(os.devnull).open("rb") as nothing:
            files = [f if isinstance(f, int) else f.fileno() for f in (nothing, stdout, stderr, theirs)]
            socket.send_fds(self._orders, [json.dumps(order).encode()], files)
        said = ours.recv(_LONGEST_ANSWER).decode()
        assert said.startswith("pid "), said or _GONE
        return int(said.removeprefix("pid ")), ours


def _status(said: bytes) -> int:
    """The exit status in what was said last."""
    assert said.startswith(b"status "), _GONE
    return int(said.removeprefix(b"status "))
