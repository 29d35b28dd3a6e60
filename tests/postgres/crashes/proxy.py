"""A proxy between a step and PostgreSQL that counts the step's requests and strikes at a chosen one.

It knows of the protocol what it must (manual, chapter 55.7): where a message ends, which messages end a
request (Query and Sync: the client then waits for an answer) and which one ends an answer (ReadyForQuery).
"""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_HELD_BACK = b"PBDEC"  # Parse, Bind, Describe, Execute, Close: libpq sends them on with what ends the request
# A query that only looks: in a Query message, or in Parse after the statement's (empty) name.
_READS = re.compile(rb"^(Q....|P....\0)\s*(SELECT|WITH|SHOW)\b", re.DOTALL)
_QUERY, _SYNC, _READY = ord("Q"), ord("S"), ord("Z")


class When(StrEnum):
    """How far the request gets at which the proxy strikes."""

    BEFORE = "the server never sees it"
    UNSYNCED = "the server sees all of it but its end"
    SENT = "the server sees it, and works on it still"
    ANSWERED = "the server has answered, and nobody hears it"


@dataclass(frozen=True)
class Cut:
    """Strike at the nth request (from 0) of the nth connection (from 0, in the order of connecting)."""

    connection: int
    request: int
    when: When


class Proxy:
    """Listens on a loopback port and forwards to *port* of the same host. Use as a context manager.

    `requests` has a list for each connection: of each of its requests so far, whether it may write. Where
    *cut* meets, `strike` is called once, in the
    thread of that connection, and then every connection is closed (or, where `alone` is set, that one).
    """

    def __init__(
        self,
        port: int,
        cut: Cut | None = None,
        strike: Callable[[], None] = lambda: None,
        *,
        alone: bool = False,
    ) -> None:
        self.requests: list[list[bool]] = []
        self.struck = threading.Event()
        self._target = ("127.0.0.1", port)
        self._cut, self._strike, self._alone = cut, strike, alone
        self._guard = threading.Lock()
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        # Closing alone would not wake the thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._close_all()
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._greet, client)

    def _greet(self, client: socket.socket) -> None:
        """Up to the startup message; TLS is refused, a request to cancel passed on."""
        try:
            while True:
                head = _exactly(client, 8)
                length, code = struct.unpack("!II", head)
                if code not in (_SSL, _GSS):
                    break
                client.sendall(b"N")
            body = head + _exactly(client, length - 8)
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if code == _CANCEL:
            with contextlib.suppress(OSError):
                server.sendall(body)
                _drain(server)
            server.close()
            client.close()
            return
        with self._guard:
            number = len(self.requests)
            self.requests.append([])
            self._open.append((client, server))
        link = _Link(client, server)
        self._start(link.answers)
        with contextlib.suppress(OSError):
            server.sendall(body)
            self._requests(number, link)
        link.close()

    def _requests(self, number: int, link: "_Link") -> None:
        cut = self._cut if self._cut and self._cut.connection == number else None
        held = b""
        for kind, message in _messages(link.client):
            if kind in _HELD_BACK:
                held += message
                continue
            if kind in (_QUERY, _SYNC):
                meets = cut is not None and cut.request == len(self.requests[number])
                if meets and cut is not None:
                    self._strike_at(cut, link, held, message)
                    return
                self.requests[number].append(_READS.search(held + message) is None)
                link.asked += 1
            link.server.sendall(held + message)
            held = b""

    def _strike_at(self, cut: Cut, link: "_Link", held: bytes, message: bytes) -> None:
        match cut.when:
            case When.BEFORE:
                pass
            case When.UNSYNCED:
                # A simple query has no end of its own: it is the request.
                link.server.sendall(held)
            case When.SENT:
                link.server.sendall(held + message)
            case When.ANSWERED:
                link.asked += 1
                link.deaf = True
                link.server.sendall(held + message)
                link.answered.wait(timeout=30)
        self._strike()
        self.struck.set()
        link.close()
        if not self._alone:
            self._close_all()

    def _close_all(self) -> None:
        with self._guard:
            ends = list(self._open)
        for client, server in ends:
            _shut(client)
            _shut(server)


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.asked = 0
        self.deaf = False
        self.answered = threading.Event()

    def answers(self) -> None:
        """Pass on what the server says, until the client is to hear no more."""
        ready = -1  # the first ReadyForQuery answers the startup
        try:
            for kind, message in _messages(self.server):
                ready += kind == _READY
                if self.deaf and ready >= self.asked:
                    self.answered.set()
                if not self.deaf:
                    self.client.sendall(message)
        except OSError:
            pass
        finally:
            self.answered.set()  # it ended the session: that is an answer too
            if not self.deaf:
                _shut(self.client)

    def close(self) -> None:
        """End both sides; the other thread notices."""
        for end in (self.client, self.server):
            _shut(end)
            with contextlib.suppress(OSError):
                end.close()


def _messages(end: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Whole messages, each with the byte that says what it is, until the other end closes."""
    buffer = b""
    while data := end.recv(65536):
        buffer += data
        while len(buffer) >= 5:
            size = 1 + int(struct.unpack_from("!I", buffer, 1)[0])
            if len(buffer) < size:
                break
            yield buffer[0], buffer[:size]
            buffer = buffer[size:]


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = end.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def _drain(end: socket.socket) -> None:
    while end.recv(4096):
        pass


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
