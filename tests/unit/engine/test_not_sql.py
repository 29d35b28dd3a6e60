"""What is no SQL is told by name and line, with what to do instead; a slip of the pen stays one."""

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.model import Script
from godwit.engine.statements import SIZE_LIMIT, parse


def refused(sql):
    with pytest.raises(StepFailed) as raised:
        parse(Script("1/migration.sql", sql.encode(), ""), Environment.PRODUCTION, migration="1")
    return raised.value.failure


@pytest.mark.parametrize(
    ("sql", "line", "says"),
    [
        ("\\i other.sql", 1, "\\i is a command of psql, which migrations are not run by: put the SQL"),
        ("SELECT 1;\n\\ir ../x.sql", 2, "\\ir is a command of psql"),
        ("-- é\nSELECT 1;\n\\copy a from 'x'", 3, "run by: use INSERT"),
        ("\\c other\nSELECT 1", 1, "run by: give each database"),
        ("SELECT 1;\n\n\\set x 5\nSELECT :x", 3, "\\set is a command of psql"),
        ("SELECT 'DROP TABLE a'\n\\gexec\n", 2, "use EXECUTE in a DO block"),
        ("SELECT 1 \\g\n", 1, "\\g is a command of psql, which migrations are not run by: end the statement"),
        ("\\if true\nSELECT 1;\n\\endif", 1, "use IF in a DO block"),
        ("\\restrict abc\nSELECT 1;", 1, "pg_dump wrote it for psql"),
        ("\\! rm -rf x", 1, "\\! is a command of psql"),
        ("\\timing on", 1, "take the line out"),
        ("\\d+ users", 1, "run by: take the line out"),
        ("\\unheard_of", 1, "run by: write it as SQL"),
        ("SELECT 1 \\; SELECT 2", 1, "\\; is a command of psql"),
        ("SELECT\n :limit", 2, ":limit is a variable of psql"),
        ("SELECT :'name'", 1, ":'name' is a variable of psql"),
        ('SELECT * FROM :"table"', 1, ':"table" is a variable of psql'),
    ],
)  # fmt: skip
def test_a_command_or_variable_of_psql_is_named_with_its_line_and_what_to_do_instead(sql, line, says):
    failure = refused(sql)
    assert failure.reason is Reason.STATEMENT_REFUSED
    assert failure.line == line
    assert says in failure.message
    assert f"1/migration.sql, line {line}: " in failure.message


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'x';\n-- ü\nCOPY a FROM stdin;\n1\t2\n\\.\n",
        "SELECT 'x';\n-- ü\nCOPY a (b, c) FROM STDIN WITH (FORMAT csv);\nit's,2\n",
        "SELECT 'x';\n-- ü\nCOPY a FROM stdin;\n\\N\tb\n\\.\nSELECT 1;",
        "SELECT 'x';\n-- ü\nCOPY a FROM stdin;\n\\.\n",
        "SELECT 'x';\n-- ü\nCOPY a FROM stdin;",
    ],
)
def test_copy_from_stdin_is_refused_at_its_own_line_with_the_way_out(sql):
    failure = refused(sql)
    assert (failure.reason, failure.line) == (Reason.STATEMENT_REFUSED, 3)
    assert "use INSERT, or load the data outside of migrations" in failure.message


@pytest.mark.parametrize(
    "sql",
    [
        "-- we used COPY a FROM stdin;\nSELEC 1",
        "SELECT 'COPY a FROM stdin;';\nSELEC 1",
        "COPY a FROM '/x';\nSELEC 1",
        "COPY a TO stdout;\nSELEC 1",
    ],
)
def test_a_slip_of_the_pen_is_not_taken_for_rows_of_copy(sql):
    failure = refused(sql)
    assert failure.reason is Reason.SQL_INVALID
    assert failure.line == 2
    assert 'at or near "SELEC"' in failure.message


def test_many_copies_before_an_error_take_no_long_time():
    assert refused("COPY a FROM '/x';\n" * 20_000 + "SELEC 1").line == 20_001


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "1+" * 9_000 + "1",
        "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
        "SELECT " + "(SELECT " * 3_000 + "1" + ")" * 3_000,
        "/*" * 40_000 + "*/" * 40_000 + "SELECT 1",
        "/*+" * 40_000 + "*/" * 40_000 + "SELECT 1",
    ],
)
def test_what_is_nested_without_end_is_refused_at_once(sql):
    assert refused(sql).reason is Reason.SQL_INVALID


def test_a_wide_comment_is_only_a_comment():
    sql = "/" + "*" * 1_500 + "\n" + "-" * 5_000 + "\n" + "*" * 5_000 + "/\nSELECT 1;\n" + "-" * 5_000
    parsed = parse(Script("f", sql.encode(), ""), Environment.PRODUCTION)
    assert [s.line for s in parsed.statements] == [4]


def test_a_script_of_fifty_megabytes_is_refused_before_it_is_parsed():
    failure = refused("SELECT 1;" + " " * 50 * 1024 * 1024)
    assert failure.reason is Reason.STATEMENT_REFUSED
    assert "it has 50 MiB, and a script has at most 8" in failure.message
    assert parse(Script("f", b"SELECT 1;".ljust(SIZE_LIMIT), ""), Environment.PRODUCTION).statements
