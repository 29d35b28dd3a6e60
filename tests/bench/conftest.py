"""What benchmarks share: the cluster tests' fixtures, and tables for people.

A time is measured and printed, never judged: it says something about the machine too. A benchmark fails only
where what it measures did not happen.
"""

import os
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conformance.kubernetes import Node
from scenarios.kubernetes import KubernetesStage, kubernetes_stage
from scenarios.kubernetes_server import ServerPod
from scenarios.stage import Store

# `tests/cluster` is on the path: these are its conftest's.
from conftest import node, server_on_node, together

__all__ = ["node", "server_on_node", "together"]

Row = Sequence[object]
Show = Callable[[str, Sequence[Row]], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """As for the other tests, but on a disk: what it takes to write there is a part of what is measured."""
    folder = Path(tempfile.mkdtemp(prefix="godwit-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Iterator[Show]:
    """Print a table: title, then rows, the first of which is the head. Numbers are aligned to the right."""

    def table(title: str, rows: Sequence[Row]) -> None:
        texts = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
        with capsys.disabled():
            print(f"\n{title} ({load()})")
            for cells in texts:
                first, *rest = (
                    cell.ljust(width) if column == 0 else cell.rjust(width)
                    for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
                )
                print("  " + "  ".join([first, *rest]).rstrip())

    return table


def load() -> str:
    """What else the machine has to do."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"


@pytest.fixture
def spread() -> Callable[[Sequence[float]], Row]:
    """Minimum, median and maximum of some seconds."""
    return lambda seconds: (min(seconds), statistics.median(seconds), max(seconds))


@pytest.fixture
async def stage(
    node: Node, server_on_node: ServerPod, database_on: Callable[..., Store], tmp_path: Path
) -> AsyncIterator[KubernetesStage]:
    """The operator from its image, installed by the chart; the limits are the chart's."""
    async with kubernetes_stage(node, server_on_node, database_on(server_on_node), tmp_path) as made:
        yield made
