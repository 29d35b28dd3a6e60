"""The server of these benchmarks, and the tables that they write into docs/benchmarks.md."""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from godwit.cli.embedded import EmbeddedPostgres

DOCS = Path(__file__).parents[3] / "docs/benchmarks.md"


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
        if not os.environ.get("GODWIT_BENCH_WRITE"):
            return
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {datetime.now(UTC):%Y-%m-%d}"
        cells = [[f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
        lines = [f"**{title}** ({load})", "", _line(cells[0]), "|---" * len(cells[0]) + "|"]
        lines += [_line(row) for row in cells[1:]]
        begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
        text = DOCS.read_text(encoding="utf-8")
        assert begin in text, f"{DOCS.name} has no mark {begin.strip()}"
        pattern = re.escape(begin) + r".*?" + re.escape(end)
        filled = begin + "\n".join(lines) + "\n" + end
        DOCS.write_text(re.sub(pattern, lambda _: filled, text, flags=re.DOTALL), encoding="utf-8")

    return table


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
