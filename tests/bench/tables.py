"""Tables that a benchmark writes into docs/benchmarks.md."""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs/benchmarks.md"


def write_table(mark: str, title: str, rows: Sequence[Sequence[object]]) -> None:
    """Put a table into the document at its mark, with what else the machine had to do.

    Only where GODWIT_BENCH_WRITE is set. The first row is the head.
    """
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


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
