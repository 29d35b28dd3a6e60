"""Files that run: without end, without measure, into errors of every kind."""

from godwit.contract.reasons import Reason

from .case import Case, End, at_apply
from .deeds import hidden

TIME = at_apply(
    Reason.MIGRATION_FAILED,
    ("pg_sleep", "SELECT pg_sleep(100000);", "57014"),
    ("pg_sleep in a DO", "DO $$ BEGIN PERFORM pg_sleep(100000); END $$;", "57014"),
    ("pg_sleep a million times", "SELECT pg_sleep(0.01) FROM generate_series(1, 1000000);", "57014"),
    ("the catalog locked and slept on", "LOCK TABLE pg_class; SELECT pg_sleep(100000);", "57014"),
    ("a loop without end", "DO $$ BEGIN LOOP NULL; END LOOP; END $$;", "57014"),
    ("a loop that catches all errors",
     "DO $$ BEGIN LOOP BEGIN PERFORM 1/0; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;", "57014"),
    ("a recursive query without end", "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) TABLE r;", ""),
    ("a billion rows counted", "SELECT count(*) FROM generate_series(1, 1000000000000);", "57014"),
    ("a product of tables", "SELECT count(*) FROM pg_class, pg_class a, pg_class b, pg_class c;", "57014"),
    ("a function that calls itself",
     "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN f(); END'; SELECT f();", "54001"),
    ("two functions that call each other",
     "CREATE FUNCTION g() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN f(); END';"
     "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN g(); END'; SELECT f();", "54001"),
    ("a trigger that fires itself",
     "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE own SET id = 1; RETURN NEW; END';"
     "CREATE TABLE own (id int); CREATE TRIGGER t AFTER UPDATE ON own EXECUTE FUNCTION f(); UPDATE own SET id = 2;", "54001"),
    ("a view that reads itself", "CREATE VIEW v AS SELECT 1; CREATE OR REPLACE VIEW v AS SELECT * FROM v; TABLE v;", "42P17"),
)  # fmt: skip

TIME += at_apply(
    Reason.LOCK_HOLD_EXCEEDED,
    ("a table locked and slept on", "LOCK TABLE users; SELECT pg_sleep(100000);", "maxLockHold"),
    ("a table altered and slept on", "ALTER TABLE users ADD x int; SELECT pg_sleep(100000);", "maxLockHold"),
    ("hidden lock", hidden("LOCK TABLE users") + "SELECT pg_sleep(100000);", "maxLockHold"),
    ("a lock kept by a handler that swallows the cancel",
     "LOCK TABLE users; DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(1000);"
     " EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;", "maxLockHold"),
)  # fmt: skip

TIME += at_apply(
    Reason.LOCK_BUDGET_EXCEEDED,
    ("a busy lock, feigned", "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '55P03'; END $$;", "lock budget"),
    ("a deadlock, feigned", "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$;", "lock budget"),
)  # fmt: skip

TIME += [
    Case(
        "timeouts lifted, then pg_sleep",
        b"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SELECT pg_sleep(100000);",
        End.APPLY,
        Reason.DEADLINE_EXCEEDED,
        unbounded=True,
    ),
    Case(
        "a handler that swallows every cancel",
        b"SET LOCAL statement_timeout = 0; DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(1000);"
        b" EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;",
        End.APPLY,
        Reason.DEADLINE_EXCEEDED,
        unbounded=True,
    ),
]

ERRORS = at_apply(
    Reason.MIGRATION_FAILED,
    ("RAISE", "DROP TABLE users; DO $$ BEGIN RAISE EXCEPTION 'evil'; END $$;", "evil"),
    ("a lost connection, feigned", "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57P01'; END $$;", "57P01"),
    ("a broken connection, feigned", "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '08006'; END $$;", "08006"),
    ("a refused password, feigned", "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '28P01'; END $$;", "28P01"),
    ("a full server, feigned", "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53300'; END $$;", "53300"),
    ("a cancel, feigned", "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57014'; END $$;", "57014"),
    ("a message of 2 MB", "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 2000000); END $$;", "xxx"),
    ("a string of a gigabyte", "SELECT repeat('x', 1073741824);", ""),
    ("a number too large", "SELECT " + "9" * 200_000 + ";", "22003"),
    ("division by zero", "UPDATE users SET name = 'x'; SELECT 1/0;", "22012"),
    ("rows of others' keys", "INSERT INTO users VALUES (1, 'x');", "23505"),
    ("typographic quotes", "SELECT ‘x’;", "42703"),
    ("a zero-width space for a name", "SELECT \u200b;", "42703"),
    ("a table's name with a homoglyph", "DROP TABLE usеrs;", "42P01"),
    ("a schema's name in other case", 'DROP SCHEMA "GODWIT" CASCADE;', "3F000"),
    ("1,601 columns", f"CREATE TABLE evil ({', '.join(f'c{n} int' for n in range(1_601))});", "54011"),
    ("101 arguments", f"CREATE FUNCTION f({', '.join(['int'] * 101)}) RETURNS int LANGUAGE sql AS '1';", "54023"),
    ("a language that is not there", "DO LANGUAGE plpython3u 'import os';", "42704"),
    ("an extension that is not there", "CREATE EXTENSION evil;", "evil"),
    ("a library of its own", "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/tmp/evil.so';", "58P01"),
    ("a file of the server that is not there", "COPY users FROM '/no/such/file';", "58P01"),
    ("a foreign server that is not there", "IMPORT FOREIGN SCHEMA x FROM SERVER evil INTO public;", "42704"),
    ("an enum's new value, used at once",
     "CREATE TYPE c AS ENUM ('a');\nCOMMENT ON TYPE c IS 'x';\nALTER TABLE nobody ADD c c;", "42P01"),
    ("an event trigger that forbids all",
     "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no DDL'; END $$;"
     "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f(); DROP TABLE users;", "no DDL"),
    ("a rule that makes every SELECT fail",
     "CREATE OR REPLACE VIEW v AS SELECT 1/0 AS x; SELECT * FROM v;", "22012"),
    ("a subscription to nowhere, in company",
     "CREATE PUBLICATION p FOR TABLE users; ALTER PUBLICATION p ADD TABLE nobody;", "42P01"),
    ("a check that today's rows break", "ALTER TABLE users ADD CHECK (id > 100);", "23514"),
)  # fmt: skip
ERRORS += at_apply(
    Reason.PERMISSION_DENIED,
    ("a system table dropped", "DROP TABLE pg_class CASCADE;", "42501"),
)

RUNS = [*TIME, *ERRORS]
