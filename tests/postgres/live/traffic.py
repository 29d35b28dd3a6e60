"""Live traffic on a primary and its standby while migrations run, and what the application noticed."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = """
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
  seen int NOT NULL DEFAULT 0);
INSERT INTO customers (name) SELECT 'customer ' || g FROM generate_series(1, 100) g;
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer bigint NOT NULL REFERENCES customers, amount int NOT NULL, status text DEFAULT 'new',
  legacy int NOT NULL DEFAULT 0, made timestamptz NOT NULL DEFAULT now());
INSERT INTO orders (customer, amount) SELECT g % 100 + 1, g % 1000 FROM generate_series(1, {rows}) g;
ANALYZE;
"""

SCENARIOS: dict[str, list[str]] = {
    "add a table": [
        "CREATE TABLE notes (id bigserial PRIMARY KEY, order_id bigint REFERENCES orders, body text);"
    ],
    "add a column with a default": ["ALTER TABLE orders ADD COLUMN currency text NOT NULL DEFAULT 'EUR';"],
    "add NOT NULL safely": [
        "ALTER TABLE orders ADD CONSTRAINT status_there CHECK (status IS NOT NULL) NOT VALID;",
        "ALTER TABLE orders VALIDATE CONSTRAINT status_there;",
        "ALTER TABLE orders ALTER COLUMN status SET NOT NULL, DROP CONSTRAINT status_there;",
    ],
    "add an index concurrently": ["CREATE INDEX CONCURRENTLY orders_made ON orders (made, amount);"],
    "remove a column in two phases": [
        "ALTER TABLE orders ALTER COLUMN legacy DROP NOT NULL;",
        "ALTER TABLE orders DROP COLUMN legacy;",
    ],
    "rename a table behind a view": [
        "ALTER TABLE orders RENAME TO purchases;\nCREATE VIEW orders AS SELECT * FROM purchases;"
    ],
    "fill a column in batches": [
        "ALTER TABLE orders ADD COLUMN cents bigint;",
        "-- godwit: batched by id size 2000\nUPDATE orders SET cents = amount * 100::bigint;",
    ],
}


def prepare(project: Any, scenario: str, rows: int, **changes: Any) -> None:
    """A shop with that many orders, and the scenario's files as migrations that are pending."""
    project.write("000_shop", SEED.format(rows=rows))
    project.deploy("shop", **changes)
    for number, sql in enumerate(SCENARIOS[scenario], 1):
        project.write(f"{number:03d}_step", sql)


@dataclass
class Seen:
    """What the application noticed at one server."""

    queries: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def seconds(self, since: float = 0.0) -> list[float]:
        """How long each query took, from when it was due; in order; those that ended after *since*."""
        return sorted(took for due, took in self.queries if due + took >= since)

    def longest(self, since: float = 0.0) -> float:
        return self.seconds(since)[-1]

    def p99(self, since: float = 0.0) -> float:
        found = self.seconds(since)
        return found[min(len(found) - 1, len(found) * 99 // 100)]


@contextlib.contextmanager
def traffic(
    uri: str,
    *,
    rows: int,
    clients: int,
    period: float,
    writes: bool,
    patience: int,
    report: tuple[float, float] | None = None,
) -> Iterator[Seen]:
    """Traffic during the block; complete when the block has ended.

    *period*: seconds between two queries of a client. *patience*: seconds after which one fails. *report*:
    seconds that a report reads in a transaction, and seconds from the beginning of one to that of the next.
    """
    seen = Seen()
    wanted = {
        "uri": uri,
        "rows": rows,
        "clients": clients,
        "period": period,
        "writes": writes,
        "patience": patience,
        "report": report,
    }
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "load.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(wanted) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        yield seen
        told = json.loads(process.communicate()[0])
    seen.queries, seen.failed = [tuple(q) for q in told["queries"]], told["failed"]
    assert seen.queries
