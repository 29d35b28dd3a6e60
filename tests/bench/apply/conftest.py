"""The server of these benchmarks, and the tables that they write into docs/benchmarks.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tables import write_table

from godwit.cli.embedded import EmbeddedPostgres


@pytest.fixture(scope="session")
def default_server(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server with PostgreSQL's own settings, so with fsync, synchronous_commit and autovacuum on."""
    with EmbeddedPostgres(server_folder / "default") as server:
        yield server


@pytest.fixture
def record(show: Any) -> Any:
    """Print a table and, where GODWIT_BENCH_WRITE is set, put it into the document at its mark."""

    def table(mark: str, title: str, rows: Sequence[Sequence[object]]) -> None:
        show(title, rows)
        write_table(mark, title, rows)

    return table
