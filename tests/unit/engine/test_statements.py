"""Files are split and judged as PostgreSQL's own parser reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.formats.prisma_folder import checksum
from godwit.engine.model import Mode, ParsedScript, Script
from godwit.engine.statements import NO_TRANSACTION, parse


def parsed(sql: str, environment: Environment = Environment.PRODUCTION) -> ParsedScript:
    return parse(Script("1/migration.sql", sql.encode(), checksum(sql.encode())), environment, migration="1")


def refused(sql: str, environment: Environment = Environment.PRODUCTION):
    with pytest.raises(StepFailed) as raised:
        parsed(sql, environment)
    return raised.value.failure


def test_statements_know_their_line_and_place_in_characters():
    sql = "-- é ü\nSELECT 'ö';\n\n/* a /* nested */ b */\n  SELECT 2 ;  -- end\n"
    first, second = parsed(sql).statements
    assert (first.text, first.line) == ("SELECT 'ö'", 2)
    assert (second.text, second.line) == ("SELECT 2", 5)
    assert all(sql[s.offset :].startswith(s.text) for s in (first, second))


def test_a_comment_ends_at_a_carriage_return_too_as_the_parser_has_it():
    first, second = parsed("-- harmless\rDROP TABLE a; -- more\rDROP TABLE b;").statements
    assert (first.text, second.text) == ("DROP TABLE a", "DROP TABLE b")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT $a$; $b$ ; $$ $a$",
        "SELECT $$;\n--$$",
        "SELECT $é$ ; $é$",
        "SELECT 'a\\'",
        r"SELECT E'\'; --'",
        "SELECT U&'\\0027 ;'",
        'SELECT 1 AS "a;""b"',
        "/* a /* ; */ ' */ SELECT 1 /* ; -- */",
        "SELECT 1 -- ; /*",
    ],
)
def test_a_semicolon_in_a_string_a_name_or_a_comment_splits_nothing(sql):
    found = parsed(f"{sql}\n;\nSELECT 2").statements
    assert [s.line for s in found] == [1, sql.count("\n") + 3]


def test_thousands_of_begin_and_commit_take_no_long_time():
    assert parsed("BEGIN; SELECT 1; COMMIT;\n" * 5_000).statements[-1].line == 5_000


def test_bodies_of_functions_are_not_split():
    sql = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;\nDO $$ BEGIN NULL; END $$;"
    assert [s.tag for s in parsed(sql).statements] == ["CreateFunctionStmt", "DoStmt"]


@pytest.mark.parametrize("sql", ["", "-- nothing\n", "/* nothing */ ;;"])
def test_a_file_without_statements_is_whole_and_empty(sql):
    assert (parsed(sql).mode, parsed(sql).statements) == (Mode.WHOLE, ())


@pytest.mark.parametrize(
    ("sql", "mode"),
    [
        ("CREATE TABLE a ()", Mode.WHOLE),
        ("CREATE TABLE a (); SELECT 1", Mode.WHOLE),
        ("DO $$ BEGIN NULL; END $$", Mode.ALONE),
        ("CALL p()", Mode.ALONE),
        ("DO $$ BEGIN NULL; END $$; SELECT 1", Mode.WHOLE),
        ("BEGIN; DO $$ BEGIN NULL; END $$; COMMIT", Mode.WHOLE),
        ("CREATE INDEX CONCURRENTLY i ON a (b)", Mode.STATEMENT_WISE),
        ("DROP INDEX CONCURRENTLY i", Mode.STATEMENT_WISE),
        ("REINDEX INDEX CONCURRENTLY i", Mode.STATEMENT_WISE),
        ("REINDEX (CONCURRENTLY OFF) INDEX i", Mode.WHOLE),
        ("VACUUM a", Mode.STATEMENT_WISE),
        ("ANALYZE a", Mode.WHOLE),
        ("CLUSTER", Mode.STATEMENT_WISE),
        ("CLUSTER a", Mode.WHOLE),
        ("ALTER TABLE p DETACH PARTITION q CONCURRENTLY", Mode.STATEMENT_WISE),
        ("ALTER TABLE p DETACH PARTITION q", Mode.WHOLE),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", Mode.STATEMENT_WISE),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (connect = false)", Mode.WHOLE),
        ("DROP SUBSCRIPTION s", Mode.STATEMENT_WISE),
        ("SAVEPOINT a; SELECT 1; ROLLBACK TO a; RELEASE a", Mode.WHOLE),
    ],
)
def test_a_file_is_sent_as_its_statements_demand(sql, mode):
    assert parsed(sql).mode is mode


def test_begin_and_commit_around_the_whole_file_are_blanked_and_lines_stay():
    sql = "-- comment\nBEGIN;\nCREATE TABLE a ();\n  CREATE TABLE b ();\nCOMMIT;\n"
    result = parsed(sql)
    assert result.body == "-- comment\n     ;\nCREATE TABLE a ();\n  CREATE TABLE b ();\n      ;\n"
    assert [(s.index, s.line) for s in result.statements] == [(0, 3), (1, 4)]
    assert [result.body[s.offset :][: len(s.text)] for s in result.statements] == [
        "CREATE TABLE a ()",
        "CREATE TABLE b ()",
    ]


def test_plain_pairs_in_the_middle_of_a_file_are_blanked_as_prisma_writes_them_for_enums():
    sql = "CREATE TABLE a ();\nBEGIN;\nDROP TYPE b;\nCOMMIT;\n\nBEGIN;\nDROP TYPE c;\nCOMMIT;\nSELECT 1"
    result = parsed(sql)
    assert result.mode is Mode.WHOLE
    assert [(s.index, s.line, s.text) for s in result.statements] == [
        (0, 1, "CREATE TABLE a ()"),
        (1, 3, "DROP TYPE b"),
        (2, 7, "DROP TYPE c"),
        (3, 9, "SELECT 1"),
    ]
    assert "BEGIN" not in result.body
    assert "COMMIT" not in result.body
    assert len(result.body) == len(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL session_replication_role = replica",
        "SET LOCAL search_path = s",
        "SET LOCAL ROLE r",
        "SELECT set_config('search_path', 's', true)",
        "CREATE TEMP TABLE users (id int) ON COMMIT DROP",
        "CREATE TEMP TABLE t ON COMMIT DELETE ROWS AS SELECT 1",
    ],
)
def test_what_a_commit_in_the_middle_would_end_is_refused(sql):
    failure = refused(f"SELECT 1;\nBEGIN;\n{sql};\nSELECT 2;\nCOMMIT;\nBEGIN;\nDELETE FROM users;\nCOMMIT;")
    assert (failure.reason, failure.line) == (Reason.STATEMENT_REFUSED, 3)
    assert "ends at the COMMIT of line 5" in failure.message
    assert "line 7 comes after it" in failure.message
    assert parsed(f"SELECT 1;\nBEGIN;\n{sql};\nSELECT 2;\nCOMMIT;\n").mode is Mode.WHOLE
    assert parsed(f"BEGIN; SELECT 1; COMMIT; BEGIN; {sql}; COMMIT;").mode is Mode.WHOLE


@pytest.mark.parametrize(
    "sql", ["SET work_mem = '1MB'", "SELECT set_config('search_path', 's', false)", "CREATE TEMP TABLE t ()"]
)
def test_what_a_commit_does_not_end_may_stand_before_one(sql):
    assert parsed(f"BEGIN; {sql}; COMMIT; SELECT 1;").mode is Mode.WHOLE


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; COMMIT",
        "BEGIN; SELECT 1",
        "BEGIN; SELECT 1; ROLLBACK",
        "BEGIN; SELECT 1; COMMIT AND CHAIN",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",
        "PREPARE TRANSACTION 'x'",
    ],
)
def test_other_transaction_statements_are_refused(sql):
    assert refused(sql).reason is Reason.STATEMENT_REFUSED


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("CREATE DATABASE d", "CREATE DATABASE"),
        ("DROP DATABASE d", "DROP DATABASE"),
        ("ALTER SYSTEM SET work_mem = '1MB'", "ALTER SYSTEM"),
        ("CREATE TABLESPACE t LOCATION '/x'", "tablespace"),
        ("DROP TABLESPACE t", "tablespace"),
        ("ALTER DATABASE d SET TABLESPACE t", "database"),
        ("COPY a FROM STDIN", "COPY"),
        ("COPY a TO STDOUT", "COPY"),
        ("COPY a FROM stdin;\n1\t2\n\\.\n", "COPY"),
        ("DISCARD ALL", "migration lock"),
        ("SELECT pg_advisory_unlock_all()", "migration lock"),
        ("DO $$ BEGIN PERFORM pg_advisory_unlock(72707369); END $$", "migration lock"),
        ("SELECT 1;\n\\copy a from 'x'", "\\copy"),
        ("\\restrict abc\nSELECT 1;", "\\restrict"),
        ("BEGIN; CREATE INDEX CONCURRENTLY i ON a (b); COMMIT", "BEGIN and COMMIT"),
        ("SAVEPOINT s; CREATE INDEX CONCURRENTLY i ON a (b)", "savepoint"),
    ],
)
def test_what_no_migration_can_run_is_refused_by_name(sql, word):
    failure = refused(sql)
    assert failure.reason is Reason.STATEMENT_REFUSED
    assert word in failure.message
    assert (failure.migration, failure.file) == ("1", "1/migration.sql")


def test_rows_of_copy_are_data_and_are_not_shown():
    assert "hunter2" not in refused("COPY a FROM stdin;\nhunter2\t2\n\\.\n").model_dump_json()


def test_a_syntax_error_names_file_and_line_in_postgresqls_words():
    failure = refused("-- é\nSELECT 1;\nSELEC 2;\n")
    assert failure.reason is Reason.SQL_INVALID
    assert (failure.line, failure.file, failure.migration) == (3, "1/migration.sql", "1")
    assert 'syntax error at or near "SELEC"' in failure.message


def test_an_end_that_is_missing_is_an_error_on_the_last_line():
    assert refused("SELECT 1;\nSELECT (\n\n").line == 2


def test_an_unterminated_password_is_not_shown():
    assert "hunter2" not in refused("ALTER ROLE a PASSWORD 'hunter2").model_dump_json()


MIXED = "CREATE INDEX CONCURRENTLY i ON a (b);\nSELECT 1;"


def test_concurrently_in_company_needs_the_mark_in_production_only():
    assert NO_TRANSACTION in refused(MIXED).message
    assert parsed(f"{NO_TRANSACTION}\n{MIXED}").mode is Mode.STATEMENT_WISE
    assert parsed(f"  --godwit:no-transaction  \r\n{MIXED}").mode is Mode.STATEMENT_WISE
    assert parsed(MIXED, Environment.STAGING).mode is Mode.STATEMENT_WISE


@pytest.mark.parametrize("place", ["'\n{}\n'", "$$\n{}\n$$", "1 {}\n", "1 /*\n{}\n*/"])
def test_the_mark_counts_only_as_a_comment_line_of_its_own(place):
    sql = f"SELECT {place.format(NO_TRANSACTION)};\n{MIXED}"
    assert NO_TRANSACTION in refused(sql).message


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("CREATE INDEX CONCURRENTLY i ON a (b)", "i"),
        ("CREATE INDEX CONCURRENTLY i ON s.a (b)", "s.i"),
        ("CREATE INDEX CONCURRENTLY ON a (b)", ""),
        ('DROP INDEX CONCURRENTLY "S"."I"', '"S"."I"'),
        ("REINDEX INDEX CONCURRENTLY s.i", "s.i"),
        ("REINDEX TABLE CONCURRENTLY a", ""),
        ("CREATE INDEX i ON a (b)", ""),
    ],
)
def test_the_index_of_a_concurrent_statement_is_named_as_sql(sql, name):
    assert parsed(sql).statements[0].concurrent_index == name


DESTRUCTIVE = [
    "DROP TABLE a",
    "DROP TABLE IF EXISTS a",
    "DROP SCHEMA s",
    "DROP TYPE t",
    "DROP SEQUENCE s",
    "DROP MATERIALIZED VIEW m",
    "DROP EXTENSION e",
    "DROP FUNCTION f() CASCADE",
    "DROP VIEW v CASCADE",
    "DROP OWNED BY r",
    "TRUNCATE a",
    "DELETE FROM a",
    "UPDATE a SET b = 1",
    "MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE",
    "INSERT INTO a VALUES (1) ON CONFLICT (x) DO UPDATE SET y = 1",
    "WITH d AS (DELETE FROM a RETURNING *) SELECT * FROM d",
    "WITH d AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM d",
    "ALTER TABLE a DROP COLUMN b",
    "ALTER TABLE a ALTER COLUMN b TYPE int",
    "ALTER TYPE c DROP ATTRIBUTE x",
    "SELECT app.cleanup()",
    "SELECT * FROM app.cleanup()",
    "EXPLAIN ANALYZE DELETE FROM a",
    "PREPARE p AS DELETE FROM a",
    "EXECUTE p",
    "COPY (DELETE FROM a RETURNING *) TO '/tmp/x'",
    "CALL p()",
    "DO $$ BEGIN DELETE FROM a; END $$",
    "DO $$ BEGIN EXECUTE 'something'; END $$",
    "DO LANGUAGE plpython3u 'pass'",
    "CREATE TABLE IF NOT EXISTS a (); DROP TABLE a",
    "CREATE TABLE b (); ALTER TABLE b RENAME TO c; ALTER TABLE a RENAME TO b; DROP TABLE b",
    "CREATE TEMP TABLE a (); DROP TABLE a; DELETE FROM a",
    "CREATE TABLE a (); SET search_path = other; DROP TABLE a",
    "INSERT INTO b SELECT cleanup()",
    "INSERT INTO b VALUES (cleanup())",
    "CREATE TABLE b AS SELECT cleanup()",
    "CREATE MATERIALIZED VIEW b AS SELECT cleanup()",
    "CREATE TABLE b (x int); UPDATE b SET x = cleanup()",
    "EXPLAIN ANALYZE SELECT cleanup()",
    "EXPLAIN ANALYZE MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE",
    "COPY (SELECT cleanup()) TO '/tmp/x'",
    "PREPARE p AS SELECT cleanup()",
    "DECLARE c CURSOR FOR SELECT cleanup()",
    "WITH d AS (MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE RETURNING *) SELECT * FROM d",
    "SELECT app.max(1)",
    "SELECT lo_unlink(1)",
    "ALTER TABLE a ADD COLUMN b int DEFAULT cleanup()",
    "ALTER TABLE a ADD CONSTRAINT c CHECK (cleanup() > 0)",
    "ALTER DOMAIN d ADD CHECK (cleanup() > 0)",
    "DO $$ DECLARE x int; BEGIN x := cleanup(); END $$",
    "DO $$ BEGIN INSERT INTO a SELECT app.count(); END $$",
    'DO $$ BEGIN IF "Cleanup" (1) THEN NULL; END IF; END $$',
    "CREATE TABLE a (x int); ALTER TABLE b ADD COLUMN a_x int REFERENCES a; TRUNCATE a CASCADE",
    "CREATE TABLE a (x int) PARTITION BY LIST (x); ALTER TABLE a ATTACH PARTITION b DEFAULT; TRUNCATE a",
    "CREATE TABLE a (x int); ALTER TABLE b INHERIT a; DELETE FROM a",
]
HARMLESS = [
    "CREATE TABLE a (x int)",
    "CREATE TABLE a (); DROP TABLE a",
    "CREATE TABLE a (x int, y int); ALTER TABLE a DROP COLUMN x; UPDATE a SET y = 1; TRUNCATE a",
    "CREATE TABLE a AS SELECT 1; DELETE FROM a",
    "ALTER TABLE a ADD COLUMN b int DEFAULT 0 NOT NULL",
    "ALTER TABLE a DROP CONSTRAINT c",
    "ALTER TABLE a RENAME TO b",
    "DROP INDEX i",
    "DROP INDEX i CASCADE",
    "DROP VIEW v",
    "DROP FUNCTION f()",
    "DROP TRIGGER t ON a",
    "INSERT INTO a VALUES (1)",
    "INSERT INTO a VALUES (1) ON CONFLICT DO NOTHING",
    "SELECT set_config('search_path', '', true)",
    "SELECT count(*) FROM a",
    "DO $$ BEGIN CREATE TYPE t AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    "CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM a'",
    "INSERT INTO a SELECT gen_random_uuid(), lower(x), trim(x), extract(year FROM now()) FROM b",
    "INSERT INTO a SELECT pg_catalog.upper(x), jsonb_build_object('x', x) FROM generate_series(1, 9) AS b(x)",
    "ALTER TABLE a ADD COLUMN b uuid DEFAULT gen_random_uuid()",
    "ALTER TABLE a ALTER COLUMN b SET DEFAULT make_id()",
    "CREATE TABLE a (b int DEFAULT make_id())",
    "CREATE INDEX i ON a (normal(b))",
    "COPY a FROM '/tmp/x'",
    "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM b) THEN INSERT INTO a (x) VALUES (lower('X')); END IF; END $$",
    "DO $$ BEGIN CREATE TABLE IF NOT EXISTS a (x varchar(9), y int REFERENCES c (x)); END $$",
]


@pytest.mark.parametrize("sql", DESTRUCTIVE)
def test_what_can_destroy_data_is_destructive(sql):
    assert parsed(sql).destructive


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_keeps_all_data_is_not_destructive(sql):
    assert not parsed(sql).destructive


def test_names_are_quoted_where_sql_needs_it():
    sql = 'LOCK TABLE plain, "User", "user", s."T""x", "select"'
    assert parsed(sql).statements[0].locks == ("plain", '"User"', '"user"', 's."T""x"', '"select"')


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=60))
def test_any_text_is_parsed_or_refused_with_a_line(text):
    try:
        lines = [s.line for s in parsed(text).statements]
    except StepFailed as failed:
        lines = [failed.failure.line]
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)


@given(
    st.lists(
        st.sampled_from(["SELECT 1", "CREATE TABLE é (x int)", "DO $$ ; $$", "SELECT ';' /* ; */"]),
        max_size=6,
    )
)
def test_joined_statements_come_apart_again(statements):
    sql = ";\n -- ü ;\n".join(statements)
    found = parsed(sql).statements
    assert [s.text for s in found] == statements
    assert [s.text for s in found] == [sql[s.offset : s.offset + len(s.text)] for s in found]
