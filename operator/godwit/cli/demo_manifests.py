"""What the demo applies, and the SQL of its story. Values only."""

from collections.abc import Mapping
from typing import Any

from godwit.api.common import API_VERSION

Manifest = dict[str, Any]

NAMESPACE = "bookshop"
NAME = "bookshop"
"""The name of the database and of every object but the ConfigMap and the Secret."""
SECRET, CONFIG_MAP, CLAIM = "bookshop-database", "bookshop-migrations", "bookshop-backups"

ROWS = """
INSERT INTO author (name, born)
SELECT 'Author ' || n, DATE '1900-01-01' + n * 37 FROM generate_series(1, 200) n;
INSERT INTO book (title, author_id, price_cents)
SELECT 'Book ' || n, 1 + n % 200, 500 + n % 3000 FROM generate_series(1, 2000) n;
INSERT INTO customer (email, name)
SELECT 'reader' || n || '@example.org', 'Reader ' || n % 4000 FROM generate_series(1, 5000) n;
INSERT INTO "order" (customer_id, shipping_code)
SELECT 1 + n % 5000, 'post' FROM generate_series(1, 20000) n;
"""
"""What the shop's application writes. A fifth of the customers share their name with another one."""
COUNTS = """
SELECT 'author', count(*) FROM author
UNION ALL SELECT 'book', count(*) FROM book
UNION ALL SELECT 'customer', count(*) FROM customer
UNION ALL SELECT 'order', count(*) FROM "order"
"""

FAILING = "20260316093000_add_points"
FAILING_UP = """\
-- Points for every customer, and (here is the mistake) one customer for each name.
ALTER TABLE "customer" ADD COLUMN "points" INTEGER NOT NULL DEFAULT 0;
UPDATE "customer" SET "points" = 100 WHERE "id" <= 1000;
CREATE UNIQUE INDEX "customer_name_key" ON "customer"("name");
"""
FAILING_DOWN = """\
DROP INDEX "customer_name_key";
ALTER TABLE "customer" DROP COLUMN "points";
"""
FAILING_LINE, FAILING_SQLSTATE = 4, "23505"
"""Where it must fail, and how: unique_violation (PostgreSQL's manual, appendix A)."""


def secret(uri: str) -> Manifest:
    """The Secret with the connection; only steps read it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {"uri": uri},
    }


def config_map(content: Mapping[str, Any]) -> Manifest:
    """The ConfigMap with the migrations, *content* as `godwit pack` makes it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE},
        **content,
    }


def database() -> Manifest:
    """The PostgresDatabase: Production, as everything is that says nothing else."""
    return {
        "apiVersion": API_VERSION,
        "kind": "PostgresDatabase",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "connection": {"uriFrom": {"name": SECRET, "key": "uri"}},
            "environment": "Production",
            "backup": {"volume": {"claimName": CLAIM}},
        },
    }


def migration(**more: Any) -> Manifest:
    """The DatabaseMigration; *more* are further fields of its spec."""
    check = {"name": "three ways to ship", "sql": "SELECT count(*) = 3 FROM shipping_method"}
    return {
        "apiVersion": API_VERSION,
        "kind": "DatabaseMigration",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "databaseRef": {"name": NAME},
            "source": {"configMaps": [{"name": CONFIG_MAP}]},
            "verify": {"checks": [check]},
            **more,
        },
    }


def for_print(manifest: Manifest) -> Manifest:
    """The manifest as it may be shown: no password, and how long each script is instead of its text."""
    shown = dict(manifest)
    if "stringData" in shown:
        shown["stringData"] = dict.fromkeys(shown["stringData"], "postgresql://***")
    if "data" in shown:
        shown["data"] = {key: f"... {len(text.splitlines())} lines" for key, text in shown["data"].items()}
    return shown
