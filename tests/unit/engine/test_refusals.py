"""Statements that no migration may run, each beside a like one that it may."""

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.model import Script
from godwit.engine.statements import parse

TABLES = ("_prisma_migrations",)


def parsed(sql):
    return parse(Script("1/migration.sql", sql.encode(), ""), Environment.PRODUCTION, tables=TABLES)


REFUSED = [
    ("CREATE DATABASE d", "CREATE DATABASE"),
    ("DROP DATABASE d", "DROP DATABASE"),
    ("ALTER DATABASE d RENAME TO e", "known by its name"),
    ("ALTER DATABASE d SET TABLESPACE t", "moved"),
    ("ALTER DATABASE d WITH ALLOW_CONNECTIONS false", "close a database"),
    ("ALTER DATABASE d CONNECTION LIMIT 0", "close a database"),
    ("ALTER SYSTEM RESET ALL", "whole server"),
    ("COPY a FROM PROGRAM 'curl x'", "runs a program"),
    ("COPY a TO PROGRAM 'cat'", "runs a program"),
    ("COPY a FROM STDIN", "needs psql"),
    ("DISCARD ALL", "migration lock"),
    ("SELECT pg_advisory_unlock_all()", "pg_advisory_unlock_all could let go"),
    ("SELECT pg_catalog.pg_advisory_unlock(1)", "pg_advisory_unlock could let go"),
    ('SELECT U&"pg_advisory\\005funlock"(1)', "pg_advisory_unlock could let go"),
    ("CREATE TABLE a AS SELECT pg_advisory_unlock(1)", "pg_advisory_unlock could let go"),
    ("DO $$ BEGIN PERFORM pg_advisory_unlock(72707369); END $$", "could let go"),
    ("SELECT pg_terminate_backend(pg_backend_pid())", "ends sessions"),
    ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity", "ends sessions"),
    ("DO $$ BEGIN PERFORM PG_CANCEL_BACKEND(1); END $$", "ends sessions"),
    ("DROP SCHEMA godwit CASCADE", "journal"),
    ("DROP SCHEMA a, godwit", "journal"),
    ("ALTER SCHEMA godwit RENAME TO g", "journal"),
    ("DELETE FROM godwit.journal", "journal"),
    ("DROP TABLE godwit.settings", "journal"),
    ("WITH d AS (DELETE FROM godwit.journal RETURNING 1) SELECT 1", "journal"),
    ("DELETE FROM _prisma_migrations", "spec.resolve"),
    ("UPDATE public._prisma_migrations SET finished_at = now()", "spec.resolve"),
    ('INSERT INTO "_prisma_migrations" VALUES (1)', "spec.resolve"),
    ("MERGE INTO _prisma_migrations m USING a ON true WHEN MATCHED THEN DELETE", "spec.resolve"),
    ("TRUNCATE a, _prisma_migrations", "spec.resolve"),
    ("DROP TABLE a, public._prisma_migrations", "spec.resolve"),
    ("ALTER TABLE _prisma_migrations ADD x int", "spec.resolve"),
    ("ALTER TABLE _prisma_migrations RENAME TO p", "spec.resolve"),
    ("ALTER TABLE _prisma_migrations SET SCHEMA p", "spec.resolve"),
    ("CREATE RULE r AS ON INSERT TO _prisma_migrations DO INSTEAD NOTHING", "spec.resolve"),
    ("CREATE TRIGGER t BEFORE INSERT ON _prisma_migrations EXECUTE FUNCTION f()", "spec.resolve"),
    ("COPY _prisma_migrations FROM '/x'", "spec.resolve"),
]

FINE = [
    "ALTER DATABASE d SET work_mem = '8MB'",
    "ALTER DATABASE d OWNER TO o",
    "COPY a FROM '/x'",
    "DISCARD TEMP",
    "SELECT pg_advisory_xact_lock(1)",
    "-- pg_advisory_unlock is not called\nSELECT 'pg_terminate_backend'",
    "CREATE FUNCTION release() RETURNS bool LANGUAGE sql AS 'SELECT pg_advisory_unlock(1)'",
    "COMMENT ON TABLE a IS 'see pg_cancel_backend'",
    "SELECT * FROM _prisma_migrations",
    "CREATE VIEW v AS SELECT * FROM godwit.journal",
    "ALTER TABLE _prisma_migrations ENABLE ROW LEVEL SECURITY",
    "GRANT SELECT ON _prisma_migrations TO PUBLIC",
    "DROP SCHEMA s CASCADE",
    "DELETE FROM prisma_migrations",
    "DROP FUNCTION f(int)",
    "DROP TRIGGER t ON a",
    "ALTER TYPE t RENAME TO u",
]


@pytest.mark.parametrize(("sql", "says"), REFUSED)
def test_what_no_migration_may_run_is_refused_with_the_reason(sql, says):
    with pytest.raises(StepFailed) as raised:
        parsed(f"SELECT 1;\n{sql};")
    failure = raised.value.failure
    assert failure.reason is Reason.STATEMENT_REFUSED
    assert failure.line == 2
    assert says in failure.message


@pytest.mark.parametrize("sql", FINE)
def test_what_only_looks_like_it_may_run(sql):
    assert len(parsed(sql).statements) == 1
