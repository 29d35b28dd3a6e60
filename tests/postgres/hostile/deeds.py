"""Files of good SQL with bad intent: the server, other databases, the history, the migrator's own session."""

from godwit.contract.reasons import Reason

from .case import Case, End, at_apply, at_plan


def hidden(sql: str) -> str:
    """The statement where no parser sees it."""
    return f"DO $do$ BEGIN EXECUTE convert_from(decode('{sql.encode().hex()}', 'hex'), 'UTF8'); END $do$;"


SERVER = at_plan(
    Reason.STATEMENT_REFUSED,
    ("CREATE DATABASE", "CREATE DATABASE evil;", "another database"),
    ("DROP DATABASE of the own one", "DROP DATABASE IF EXISTS postgres WITH (FORCE);", "drops a database"),
    ("DROP DATABASE behind a comment", "/* /* x */ */ DROP /* y */ DATABASE postgres;", "drops a database"),
    ("ALTER DATABASE, nobody may connect", "ALTER DATABASE postgres ALLOW_CONNECTIONS false;", "close"),
    ("ALTER DATABASE, no connection is allowed", "ALTER DATABASE postgres CONNECTION LIMIT 0;", "close"),
    ("ALTER DATABASE ... RENAME", "ALTER DATABASE postgres RENAME TO evil;", "known by its name"),
    ("ALTER DATABASE ... SET TABLESPACE", "ALTER DATABASE postgres SET TABLESPACE x;", "moved"),
    ("ALTER SYSTEM", "ALTER SYSTEM SET fsync = off;", "whole server"),
    ("ALTER SYSTEM RESET", "ALTER SYSTEM RESET ALL;", "whole server"),
    ("CREATE TABLESPACE", "CREATE TABLESPACE evil LOCATION '/tmp';", "whole server"),
    ("DROP TABLESPACE", "DROP TABLESPACE pg_default;", "whole server"),
    ("ALTER TABLESPACE", "ALTER TABLESPACE pg_default SET (random_page_cost = 9);", "whole server"),
    ("COPY FROM PROGRAM", "COPY users FROM PROGRAM 'touch /tmp/evil';", "runs a program"),
    ("COPY TO PROGRAM", "COPY users TO PROGRAM 'cat > /tmp/evil';", "runs a program"),
)

HISTORY = at_plan(
    Reason.STATEMENT_REFUSED,
    ("DELETE FROM the history", "DELETE FROM _prisma_migrations;", "_prisma_migrations says which"),
    ("DELETE in a CTE", "WITH d AS (DELETE FROM _prisma_migrations RETURNING 1) SELECT * FROM d;", "says which"),
    ("UPDATE of the history", "UPDATE public._prisma_migrations SET checksum = 'x';", "says which"),
    ("a forged row", "INSERT INTO _prisma_migrations (id) VALUES ('x');", "says which"),
    ("TRUNCATE of the history", "TRUNCATE users, _prisma_migrations;", "says which"),
    ("DROP TABLE of the history", "DROP TABLE _prisma_migrations CASCADE;", "says which"),
    ("the history renamed", "ALTER TABLE _prisma_migrations RENAME TO gone;", "says which"),
    ("the history moved", "ALTER TABLE _prisma_migrations SET SCHEMA pg_catalog;", "says which"),
    ("a rule that swallows its rows", "CREATE RULE r AS ON INSERT TO _prisma_migrations DO INSTEAD NOTHING;", ""),
    ("a column taken from the history", "ALTER TABLE _prisma_migrations DROP COLUMN checksum;", "says which"),
    ("DROP SCHEMA of the journal", "DROP SCHEMA godwit CASCADE;", "journal is kept"),
    ("DROP SCHEMA among others", 'DROP SCHEMA IF EXISTS other, "godwit" CASCADE;', "journal is kept"),
    ("the journal's schema renamed", "ALTER SCHEMA godwit RENAME TO other;", "journal is kept"),
    ("DELETE FROM the journal", "DELETE FROM godwit.journal;", "journal is kept"),
    ("the stamp changed", "UPDATE godwit.settings SET value = '{}';", "journal is kept"),
    ("DROP TABLE of the journal", "DROP TABLE godwit.journal;", "journal is kept"),
)  # fmt: skip

HISTORY += at_apply(
    Reason.STATEMENT_REFUSED,
    ("hidden DELETE FROM the history", hidden("DELETE FROM _prisma_migrations"), "changed public._prisma_migrations"),
    ("hidden UPDATE of the history", hidden("UPDATE _prisma_migrations SET logs = 'x'"), "changed public._prisma_mig"),
    ("hidden TRUNCATE of the history", hidden("TRUNCATE _prisma_migrations"), "changed public._prisma_migrations"),
    ("hidden DROP of the history", hidden("DROP TABLE _prisma_migrations"), "changed public._prisma_migrations"),
    ("hidden renaming of the history", hidden("ALTER TABLE _prisma_migrations RENAME TO g"), "changed public._prisma"),
    ("hidden DELETE FROM the journal", hidden("DELETE FROM godwit.journal"), "changed godwit.journal"),
    ("hidden DROP of the journal's schema", hidden("DROP SCHEMA godwit CASCADE"), "changed godwit.journal"),
    ("DROP SCHEMA public", "DROP SCHEMA public CASCADE; CREATE SCHEMA public;", "changed public._prisma_migrations"),
    ("hidden rule that swallows its rows",
     hidden("CREATE RULE r AS ON INSERT TO _prisma_migrations DO INSTEAD NOTHING"), "changed public._prisma_migrations"),
    ("hidden trigger that swallows its rows",
     "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
     + hidden("CREATE TRIGGER t BEFORE INSERT ON _prisma_migrations FOR EACH ROW EXECUTE FUNCTION f()"),
     "changed public._prisma_migrations"),
)  # fmt: skip

SESSION = at_plan(
    Reason.STATEMENT_REFUSED,
    ("pg_advisory_unlock_all", "SELECT pg_advisory_unlock_all();", "could let go of the migration lock"),
    ("pg_advisory_unlock of the key", "SELECT pg_advisory_unlock(72707369);", "could let go"),
    ("pg_advisory_unlock by its quoted name", 'SELECT "pg_advisory_unlock"(72707369);', "could let go"),
    ("pg_advisory_unlock by its Unicode name", 'SELECT U&"pg_adviso\\0072y_unlock"(1);', "could let go"),
    ("pg_advisory_unlock in a DO", "DO $$ BEGIN PERFORM pg_advisory_unlock(72707369); END $$;", "could let go"),
    ("DISCARD ALL", "DISCARD ALL;", "could let go"),
    ("the own session terminated", "SELECT pg_terminate_backend(pg_backend_pid());", "ends sessions"),
    ("everybody's session terminated", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity;", "ends sess"),
    ("the own statement cancelled", "SELECT pg_cancel_backend(pg_backend_pid());", "ends sessions"),
)  # fmt: skip

SESSION += at_apply(
    Reason.SESSION_CHANGED,
    (
        "hidden pg_advisory_unlock_all",
        hidden("SELECT pg_advisory_unlock_all()"),
        "gave the migration lock back",
    ),
    ("SET ROLE", "SET ROLE pg_monitor;", "the role"),
    ("SET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION pg_monitor;", "to pg_monitor"),
    ("hidden SET ROLE", hidden("SET ROLE pg_monitor"), "to pg_monitor"),
    ("SET search_path", "SET search_path = pg_catalog; SELECT 1;", "search_path"),
    ("search_path emptied, as pg_dump does", "SELECT set_config('search_path', '', false);", "search_path"),
)

SESSION += at_apply(
    Reason.MIGRATION_FAILED,
    ("DROP OWNED by the server's owner", "DROP OWNED BY CURRENT_USER CASCADE;", "2BP01"),
    ("hidden pg_cancel_backend of ourselves", hidden("SELECT pg_cancel_backend(pg_backend_pid())"), "57014"),
    ("SET SESSION AUTHORIZATION of nobody", "SET SESSION AUTHORIZATION no_such_role;", "22023"),
    ("the transaction made read-only", "SET TRANSACTION READ ONLY; SELECT 1;", "25006"),
    ("LOAD of a library that is not there", "LOAD 'no_such_library';", "58P01"),
)

SESSION += at_apply(
    Reason.CONNECTION_LOST,
    ("hidden pg_terminate_backend", hidden("SELECT pg_terminate_backend(pg_backend_pid())"), "57P01"),
)

TRANSACTIONS = at_plan(
    Reason.STATEMENT_REFUSED,
    ("COMMIT in the middle", "DROP TABLE users; COMMIT; SELECT 1/0;", "take BEGIN, COMMIT"),
    ("END, which is COMMIT", "DROP TABLE users; END;", "take BEGIN, COMMIT"),
    ("ROLLBACK", "ROLLBACK; DROP TABLE users;", "take BEGIN, COMMIT"),
    ("ABORT", "ABORT; DROP TABLE users;", "take BEGIN, COMMIT"),
    ("BEGIN without an end", "BEGIN; DROP TABLE users;", "take BEGIN, COMMIT"),
    ("BEGIN twice", "BEGIN; BEGIN; DROP TABLE users; COMMIT;", "take BEGIN, COMMIT"),
    ("COMMIT twice", "BEGIN; DROP TABLE users; COMMIT; COMMIT;", "take BEGIN, COMMIT"),
    ("BEGIN and ROLLBACK", "BEGIN; DROP TABLE users; ROLLBACK;", "take BEGIN, COMMIT"),
    ("COMMIT AND CHAIN", "BEGIN; DROP TABLE users; COMMIT AND CHAIN;", "take BEGIN, COMMIT"),
    ("a transaction of its own kind", "START TRANSACTION READ ONLY; SELECT 1; COMMIT;", "take BEGIN, COMMIT"),
    ("PREPARE TRANSACTION", "DROP TABLE users; PREPARE TRANSACTION 'evil';", "take BEGIN, COMMIT"),
    ("COMMIT PREPARED", "COMMIT PREPARED 'evil';", "take BEGIN, COMMIT"),
    ("ROLLBACK PREPARED", "ROLLBACK PREPARED 'evil';", "take BEGIN, COMMIT"),
    ("VACUUM in BEGIN and COMMIT", "BEGIN; VACUUM users; COMMIT;", "take it out of BEGIN and COMMIT"),
    ("a savepoint around CONCURRENTLY",
     "SAVEPOINT s; CREATE INDEX CONCURRENTLY i ON users (name); RELEASE s;", "no savepoint"),
)  # fmt: skip

TRANSACTIONS += at_apply(
    Reason.MIGRATION_FAILED,
    ("COMMIT in a DO in company", "DROP TABLE users; DO $$ BEGIN COMMIT; END $$;", "2D000"),
    ("ROLLBACK in a DO in company", "DO $$ BEGIN ROLLBACK; END $$; DROP TABLE users;", "2D000"),
    ("a procedure that commits, in company",
     "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; CALL p();", "2D000"),
    ("hidden COMMIT", "DROP TABLE users; " + hidden("COMMIT"), "0A000"),
    ("a savepoint that is not there", "DROP TABLE users; ROLLBACK TO nowhere;", "3B001"),
    ("a new value of an enum, used at once",
     "CREATE TYPE c AS ENUM ('a'); ALTER TABLE users ADD c c; SAVEPOINT s; RELEASE s; SELECT 1/0;", "22012"),
    ("a constraint that only COMMIT would ask",
     "CREATE TABLE evil (u int REFERENCES users DEFERRABLE INITIALLY DEFERRED); INSERT INTO evil VALUES (-1);",
     "23503"),
)  # fmt: skip

TRANSACTIONS += [
    Case(
        "a DO that commits and then fails",
        b"DO $$ BEGIN UPDATE users SET name = 'x' WHERE id = 1; COMMIT; PERFORM 1/0; END $$;",
        End.HALF,
        Reason.PARTIALLY_APPLIED,
        sqlstate="22012",
        probe="SELECT name = 'x' FROM users WHERE id = 1",
    ),
    Case(
        "data changed and then an index that cannot be",
        b"UPDATE users SET name = 'x';\nCREATE UNIQUE INDEX CONCURRENTLY i ON users (name);",
        End.HALF,
        Reason.PARTIALLY_APPLIED,
        sqlstate="23505",
        probe="SELECT bool_and(name = 'x') AND (SELECT bool_and(indisvalid) FROM pg_index) FROM users",
    ),
]

DEEDS = [*SERVER, *HISTORY, *SESSION, *TRANSACTIONS]
