"""What a statement is said to lock, and whether it needs to be alone, against what a real server does."""

from collections.abc import Iterator

import psycopg
import pytest

from godwit.contract.policy import Environment
from godwit.engine.blockers import locks_of
from godwit.engine.formats.prisma_folder import checksum
from godwit.engine.locks import strongest
from godwit.engine.model import ParsedScript, Script
from godwit.engine.statements import parse

SETUP = """
CREATE TABLE a (id int PRIMARY KEY, b int, c text);
CREATE TABLE "User" (id int PRIMARY KEY, a_id int REFERENCES a (id));
CREATE TABLE part (id int) PARTITION BY LIST (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE loose (id int);
CREATE INDEX a_b ON a (b);
CREATE VIEW v AS SELECT 1 AS x;
CREATE MATERIALIZED VIEW m AS SELECT 1 AS x;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION touch();
CREATE POLICY everybody ON a;
ALTER TABLE a ADD CONSTRAINT positive CHECK (b > 0) NOT VALID;
CREATE TYPE colour AS ENUM ('red');
CREATE TYPE pair AS (x int, y int);
CREATE SCHEMA other;
"""

STATEMENTS = [
    "ALTER TABLE a ADD COLUMN d int",
    "ALTER TABLE a DROP COLUMN b",
    "ALTER TABLE a ALTER COLUMN c TYPE varchar(9)",
    "ALTER TABLE a ALTER COLUMN b SET NOT NULL",
    "ALTER TABLE a ALTER COLUMN b SET DEFAULT 1",
    "ALTER TABLE a ADD CONSTRAINT small CHECK (b < 9)",
    "ALTER TABLE a ADD CONSTRAINT small CHECK (b < 9) NOT VALID",
    "ALTER TABLE a VALIDATE CONSTRAINT positive",
    "ALTER TABLE a ALTER COLUMN b SET STATISTICS 5",
    "ALTER TABLE a SET (fillfactor = 80)",
    "ALTER TABLE a CLUSTER ON a_b",
    "ALTER VIEW v SET (security_barrier)",
    "ALTER TABLE a DISABLE TRIGGER touched",
    "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE a RENAME COLUMN b TO z",
    "ALTER TABLE a RENAME TO z",
    "ALTER TABLE a SET SCHEMA other",
    "ALTER TABLE a OWNER TO current_user",
    "ALTER TABLE loose ADD COLUMN a_id int REFERENCES a (id)",
    "ALTER TABLE loose ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES a (id) NOT VALID",
    "ALTER TABLE part ATTACH PARTITION loose FOR VALUES IN (2)",
    "ALTER TABLE part DETACH PARTITION part_1",
    'CREATE TABLE new (id int PRIMARY KEY, a_id int REFERENCES a (id), FOREIGN KEY (id) REFERENCES "User")',
    "CREATE TABLE part_3 PARTITION OF part FOR VALUES IN (3)",
    "CREATE INDEX a_c ON a (c)",
    "DROP INDEX a_b",
    "REINDEX TABLE a",
    "DROP TABLE loose",
    "DROP VIEW v",
    "CREATE OR REPLACE VIEW v AS SELECT 2 AS x",
    "DROP TRIGGER touched ON a",
    "DROP POLICY everybody ON a",
    "CREATE POLICY nobody ON a",
    "ALTER POLICY everybody ON a USING (true)",
    "CREATE TRIGGER again BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION touch()",
    "CREATE RULE r AS ON INSERT TO loose DO INSTEAD NOTHING",
    "TRUNCATE a CASCADE",
    "TRUNCATE loose, part_1",
    "LOCK TABLE a",
    "LOCK TABLE a IN ROW EXCLUSIVE MODE",
    "LOCK TABLE a IN SHARE MODE",
    "CLUSTER a USING a_b",
    "REFRESH MATERIALIZED VIEW m",
    "COMMENT ON TABLE a IS 'x'",
    "ANALYZE a",
    "CREATE STATISTICS s ON b, c FROM a",
    "GRANT SELECT ON a TO PUBLIC",
    "INSERT INTO a VALUES (1, 1, 'x')",
    "UPDATE a SET b = 1",
    "DELETE FROM a",
    "ALTER TYPE colour ADD VALUE 'green'",
    "ALTER TYPE pair ADD ATTRIBUTE z int",
    "CREATE EXTENSION IF NOT EXISTS plpgsql",
]

# Reached by CASCADE or by an existing foreign key: known to the catalog alone, not to the parser.
UNSEEN = {
    "TRUNCATE a CASCADE": {'"User"'},
}

# Said to be stronger than it is on the table itself, for the sake of its indexes, which readers use as well.
STRONGER = {
    "REINDEX TABLE a": {"a": "AccessExclusiveLock"},
}

ALONE = [
    "CREATE INDEX CONCURRENTLY i ON a (c)",
    "DROP INDEX CONCURRENTLY a_b",
    "REINDEX INDEX CONCURRENTLY a_b",
    "REINDEX TABLE CONCURRENTLY a",
    "REINDEX SCHEMA public",
    "VACUUM a",
    "VACUUM (FULL) a",
    "CLUSTER",
    "ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY",
]

# Locks that keep readers or writers of rows out, on tables and views that were there before.
_LOCKED = """
SELECT relation, array_agg(mode) FROM pg_locks
 WHERE pid = pg_backend_pid() AND granted AND relation = ANY (%s)
   AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
 GROUP BY relation"""


def parsed(sql: str) -> ParsedScript:
    return parse(Script("f", sql.encode(), checksum(sql.encode())), Environment.DEVELOPMENT)


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection]:
    database.psql(SETUP)
    with psycopg.connect(database.uri, autocommit=True) as opened:
        yield opened


def test_every_statement_locks_what_it_is_said_to_lock(conn):
    there = [
        oid
        for (oid,) in conn.execute(
            "SELECT oid FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'I', 'c')"
        )
    ]
    wrong = {}
    for sql in STATEMENTS:
        with conn.transaction(force_rollback=True):
            names = dict(
                conn.execute("SELECT oid, oid::regclass::text FROM pg_class WHERE oid = ANY (%s)", [there])
            )
            conn.execute(sql)
            held = conn.execute(_LOCKED, [there]).fetchall()
        real = {names[oid]: strongest(modes) for oid, modes in held if names[oid] not in UNSEEN.get(sql, ())}
        said = locks_of(parsed(sql).statements)
        if sql == "DROP INDEX a_b":
            assert list(said) == ["a_b"], "the parser knows the index, the catalog its table"
            continue
        real |= STRONGER.get(sql, {})
        if said != real:
            wrong[sql] = (said, real)
    assert wrong == {}


@pytest.mark.parametrize("sql", ALONE)
def test_what_is_said_to_need_no_transaction_is_refused_in_one_by_the_server(conn, sql):
    assert not parsed(sql).statements[0].transactional
    with pytest.raises(psycopg.errors.ActiveSqlTransaction), conn.transaction():
        conn.execute(sql)


def test_what_is_said_to_run_in_a_transaction_does(conn):
    for sql in STATEMENTS:
        assert parsed(sql).statements[0].transactional, sql
