"""An application's traffic, as a process of its own, told what to do by a JSON object on standard input.

Clients with one connection each send a query at fixed times, however long the one before took, so that a
stall is counted by everybody who would have met it. A query that takes longer than `patience` seconds fails.
When standard input ends they stop, and what they saw is printed as JSON: `queries`, a list of [when it was
due, seconds until its answer], and `failed`, the errors.
"""

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

READS = (
    "SELECT id, customer, amount, status FROM orders WHERE id = %(id)s",
    "SELECT count(*), sum(amount) FROM orders WHERE id BETWEEN %(id)s AND %(id)s + 50",
    "SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer WHERE o.id = %(id)s",
)
WRITES = (
    "UPDATE orders SET amount = amount + 1, status = 'changed' WHERE id = %(id)s",
    "INSERT INTO orders (customer, amount, status) VALUES (%(id)s %% 100 + 1, 7, 'new')",
    "UPDATE customers SET seen = seen + 1 WHERE id = %(id)s %% 100 + 1",
)


class Load:
    def __init__(self, wanted: dict[str, Any]) -> None:
        self.uri, self.rows, self.period = wanted["uri"], wanted["rows"], wanted["period"]
        self.patience = wanted["patience"]
        self.texts = READS * 2 + (WRITES if wanted["writes"] else ())
        self.queries: list[tuple[float, float]] = []
        self.failed: list[str] = []
        self.stop = threading.Event()

    def connect(self) -> psycopg.Connection:
        limit = f"-c statement_timeout={self.patience}s"
        return psycopg.connect(self.uri, autocommit=True, application_name="shop", options=limit)

    def client(self, ready: threading.Barrier) -> None:
        conn = self.connect()
        ready.wait()
        due = time.time() + random.random() * self.period
        while not self.stop.wait(max(0.0, due - time.time())):
            try:
                conn.execute(random.choice(self.texts), {"id": random.randint(1, self.rows)})
            except psycopg.Error as error:
                self.failed.append(f"{error.sqlstate}: {str(error).splitlines()[0]}")
                if conn.closed:
                    conn = self.connect()
            self.queries.append((due, time.time() - due))
            due += self.period
        conn.close()

    def report(self, ready: threading.Barrier, seconds: float, every: float) -> None:
        """Somebody who reads the table in a transaction for long, again and again, from the beginning on."""
        begun: Callable[[], object] = ready.wait
        with psycopg.connect(self.uri, autocommit=True, application_name="report") as conn:
            while True:
                with conn.transaction():
                    conn.execute("SELECT count(*) FROM orders WHERE id < 1000")
                    begun()
                    begun = int  # the others wait for the first time only
                    if self.stop.wait(seconds):
                        return
                if self.stop.wait(every - seconds):
                    return


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    load = Load(wanted)
    ready = threading.Barrier(wanted["clients"] + bool(wanted["report"]) + 1)
    threads = [threading.Thread(target=load.client, args=(ready,)) for _ in range(wanted["clients"])]
    if wanted["report"]:
        threads.append(threading.Thread(target=load.report, args=(ready, *wanted["report"])))
    for thread in threads:
        thread.start()
    ready.wait()
    print("ready", flush=True)
    sys.stdin.read()
    load.stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"queries": load.queries, "failed": load.failed}))


if __name__ == "__main__":
    main()
