"""The history rows that Godwit writes are those that Prisma's command line writes, column by column."""

from collections.abc import Callable
from dataclasses import replace

import pytest

MIGRATIONS = (
    ("1_init", "CREATE TABLE book (id int PRIMARY KEY);\n"),
    ("2_empty", ""),
    ("3_index", "CREATE INDEX CONCURRENTLY book_id ON book (id);\n"),
)

# Ids and times differ; their shapes do not: a random UUID as text, milliseconds of the client's clock.
_ROWS = """
SELECT migration_name, checksum, coalesce(logs, 'NULL'), applied_steps_count,
       finished_at IS NOT NULL, finished_at >= started_at, rolled_back_at IS NOT NULL,
       id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$',
       date_trunc('milliseconds', started_at) = started_at
  FROM _prisma_migrations ORDER BY started_at, finished_at"""

_TABLE = """
SELECT column_name, ordinal_position, data_type, character_maximum_length, is_nullable, column_default
  FROM information_schema.columns WHERE table_name = '_prisma_migrations' ORDER BY ordinal_position;
SELECT indexdef FROM pg_indexes WHERE tablename = '_prisma_migrations'"""


@pytest.fixture
def other(project, database_on: Callable, postgres_server):
    """The same folder with a database of its own, for the command line."""
    database = database_on(postgres_server)
    return replace(project, database=database, uri=database.uri)


def test_table_and_rows_are_the_same(prisma, project, other):
    for migration in MIGRATIONS:
        project.write(*migration)
    project.deploy()
    assert prisma.on(other.database).deploy().status == 0
    ours, theirs = (p.database.psql(_ROWS) for p in (project, other))
    assert ours == theirs
    assert len(ours.splitlines()) == 3
    assert project.database.psql(_TABLE) == other.database.psql(_TABLE)
