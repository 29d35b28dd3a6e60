"""The process that forks the steps: it has imported the runner, and what the runner imports only when needed.

Started by launcher.py with the number of a socket. Each message on it is an order: what the step's process is
given, as JSON, and with it the files that will be its standard input, output and error, and a socket. On that
the child says its process id once it is all that a process started afresh would be, and this process says the
child's wait status when it has ended.
"""

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass

import pglast.keywords
import pglast.parser  # noqa: F401

import godwit.engine.apply
import godwit.engine.check
import godwit.engine.dump
import godwit.engine.formats.shown
import godwit.engine.plan
import godwit.engine.restore
import godwit.engine.revert
import godwit.engine.verify
import godwit.runner.main
import godwit.stores.volume  # noqa: F401

_FILES = 4
_LONGEST_ORDER = 1 << 20


@dataclass(frozen=True)
class Order:
    """What a step's process is given, its standard files, and the socket for what there is to say of it."""

    folder: str
    environ: dict[str, str]
    session: bool
    files: list[int]
    answers: int


class Zygote:
    """Forks as it is told by *orders*, and reports how the children ended."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._events = selectors.DefaultSelector()
        self._events.register(orders, selectors.EVENT_READ)

    def serve(self) -> Order | None:
        """In each child its order, and in this process None when no more will come."""
        while True:
            for key, _ in self._events.select():
                if key.data is not None:
                    key.data()
                    continue
                text, files, _, _ = socket.recv_fds(self._orders, _LONGEST_ORDER, _FILES)
                if not text:
                    return None
                order = self._fork(text, files)
                if order is not None:
                    return order

    def _fork(self, text: bytes, files: list[int]) -> Order | None:
        *standard, answers = files
        pid = os.fork()
        if pid == 0:
            # Python closes sockets that are forgotten, by numbers that will be other files then.
            self._events.close()
            self._orders.detach()
            return Order(**json.loads(text), files=standard, answers=answers)
        for file in standard:
            os.close(file)
        ended = os.pidfd_open(pid)
        self._events.register(ended, selectors.EVENT_READ, lambda: self._tell(pid, ended, answers))
        return None

    def _tell(self, pid: int, ended: int, answers: int) -> None:
        """Say how the child ended. Until that was heard no other process may have its id, so it is kept."""
        how = os.waitid(os.P_PIDFD, ended, os.WEXITED | os.WNOWAIT)
        assert how is not None
        status = how.si_status if how.si_code == os.CLD_EXITED else -how.si_status
        self._events.unregister(ended)
        os.close(ended)
        channel = socket.socket(fileno=answers)
        with contextlib.suppress(OSError):  # whoever started it may be gone
            channel.send(f"status {status}".encode())
        self._events.register(channel, selectors.EVENT_READ, lambda: self._forget(pid, channel))

    def _forget(self, pid: int, channel: socket.socket) -> None:
        self._events.unregister(channel)
        channel.close()
        os.waitpid(pid, 0)


def become(order: Order) -> None:
    """Make this process what one is that was started as *order* says, and tell its process id."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order.session:
        os.setsid()
    for number, file in enumerate(order.files):
        os.dup2(file, number)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environ)
    time.tzset()
    with socket.socket(fileno=order.answers) as channel:
        channel.send(f"pid {os.getpid()}".encode())
    # Nothing of the other steps: not what they write to, nor what their end is told by.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


if __name__ == "__main__":
    # Whoever started this process ends it; Ctrl-C is for the tests, and for the steps in their session.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    mine = Zygote(socket.socket(fileno=int(sys.argv[1]))).serve()
    if mine is not None:
        become(mine)
        runpy.run_module("godwit.runner", run_name="__main__", alter_sys=True)
