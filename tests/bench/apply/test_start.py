"""From the start of a step's process until PostgreSQL's first byte: no cluster."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection, create_server, socket
from typing import Any

import pytest
from apply.steps import Runner

from godwit.cli.embedded import EmbeddedPostgres
from godwit.contract.request import CheckInput

RUNS = 9


class Relay:
    """A port before the server that notes when the server's first byte came."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.first_byte = 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = create_connection(("127.0.0.1", self._port))
            for source, target, note in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._copy, args=(source, target, note), daemon=True).start()

    def _copy(self, source: socket, target: socket, note: bool) -> None:
        try:
            while data := source.recv(65536):
                if note and not self.first_byte:
                    self.first_byte = time.monotonic()
                target.sendall(data)
        except OSError:
            return
        finally:
            source.close()


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.fixture
def relay(default_server: EmbeddedPostgres) -> Iterator[Relay]:
    made = Relay(default_server.port)
    yield made
    made.close()


def test_start_of_a_step(  # noqa: PLR0917  fixtures
    runner: Runner,
    relay: Relay,
    default_server: EmbeddedPostgres,
    database_on: Any,
    record: Any,
    spread: Any,
) -> None:
    database = database_on(default_server)
    uri = database.uri.replace(f":{database.server.port}/", f":{relay.port}/")
    assert uri != database.uri
    runner.run(uri, CheckInput(), step="check")  # compiles
    first, whole, bare = [], [], []
    for _ in range(RUNS):
        began = time.monotonic()
        subprocess.run([sys.executable, "-P", "-c", "pass"], check=True)
        bare.append(time.monotonic() - began)
        relay.first_byte = 0.0
        _, measured = runner.run(uri, CheckInput(), step="check")
        assert relay.first_byte > measured.started
        first.append(relay.first_byte - measured.started)
        whole.append(measured.seconds)
    record(
        "start",
        f"Start of a step, seconds, {RUNS} times",
        [
            ("", "min", "median", "max"),
            ("Python alone, started and ended", *spread(bare)),
            ("Runner, until PostgreSQL's first byte", *spread(first)),
            ("Runner, a whole Check", *spread(whole)),
        ],
    )
