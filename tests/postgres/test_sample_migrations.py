"""The sample application's migrations do what their README says: up by psql, and back by exactly as much."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
MIGRATIONS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())

# What an application may have written once a migration is there: taking back a later one must keep every row.
ROWS = {
    "20260105090000_init": """
        INSERT INTO author (name, born) VALUES
            ('Selma Lagerlöf', '1858-11-20'), ('Italo Calvino', '1923-10-15');
        INSERT INTO book (title, author_id, price_cents) SELECT name || ', collected', id, 1990 FROM author;
        INSERT INTO customer (email, name, created_at) VALUES ('ada@example.org', 'Ada', '2026-01-06');
    """,
    "20260119101500_add_orders": """
        INSERT INTO "order" (customer_id, shipping_code, status, placed_at)
            VALUES (1, 'post', 'PAID', '2026-01-20');
        INSERT INTO order_line (order_id, book_id, price_cents) SELECT 1, id, price_cents FROM book;
    """,
    "20260202083000_add_book_details": "UPDATE book SET isbn = '9780000000002', pages = 320 WHERE id = 1",
    "20260302110000_add_reviews": "INSERT INTO review (book_id, customer_id, stars) VALUES (1, 1, 5)",
}


def script(migration: str, name: str) -> str:
    return (FOLDER / migration / name).read_text()


@pytest.mark.parametrize("last", range(len(MIGRATIONS)), ids=MIGRATIONS)
def test_down_takes_back_exactly_what_up_made(database, last):
    for migration in MIGRATIONS[:last]:
        database.psql(script(migration, "migration.sql"))
        database.psql(ROWS.get(migration, ""))
    before = database.dump()

    database.psql(script(MIGRATIONS[last], "migration.sql"))
    after = database.dump()
    assert after != before
    database.psql(script(MIGRATIONS[last], "down.sql"))
    assert database.dump() == before

    database.psql(script(MIGRATIONS[last], "migration.sql"))
    assert database.dump() == after


def test_all_the_way_down_leaves_nothing(database):
    empty = database.dump()
    for migration in MIGRATIONS:
        database.psql(script(migration, "migration.sql"))
        database.psql(ROWS.get(migration, ""))
    assert database.psql("SELECT stars, reviews FROM book_rating ORDER BY book_id") == "5.0|1\n|0"
    for migration in reversed(MIGRATIONS):
        database.psql("BEGIN;" + script(migration, "down.sql") + "COMMIT;")
    assert database.dump() == empty


def test_names_and_lock_file_are_as_prisma_writes_them():
    assert len(MIGRATIONS) == 5
    assert all(re.fullmatch(r"\d{14}_[a-z_]+", name) for name in MIGRATIONS)
    assert 'provider = "postgresql"\n' in (FOLDER / "migration_lock.toml").read_text()


def test_one_builds_its_index_concurrently_and_alone():
    scripts = {name: script(name, "migration.sql") for name in MIGRATIONS}
    concurrent = [name for name, sql in scripts.items() if "CREATE INDEX CONCURRENTLY" in sql]
    assert concurrent == ["20260216140000_index_orders_by_customer"]
    assert scripts[concurrent[0]].count(";") == 1
