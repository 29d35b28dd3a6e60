"""goose's files are read as goose reads them, annotations and all, or refused at the line that is wrong."""

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.formats.goose_folder import build, sort_key, wanted
from godwit.engine.model import Mode, Transaction
from godwit.engine.statements import parse

WHOLE = """\
-- a comment above
-- +goose Up
CREATE TABLE a (id int);

-- +goose StatementBegin
CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  RETURN 1; -- with a semicolon
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION f();
DROP TABLE a;
"""


def one(text: str, name: str = "00001_a.sql"):
    (migration,) = build({name: text.encode()}).migrations
    return migration


def refused(text: str, name: str = "00001_a.sql"):
    with pytest.raises(StepFailed) as raised:
        build({name: text.encode()})
    return raised.value.failure


def test_each_direction_keeps_its_lines_where_they_are():
    migration = one(WHOLE)
    up, down = (parse(s, Environment.PRODUCTION) for s in (migration.up, migration.down))
    assert [(s.line, s.tag) for s in up.statements] == [(3, "CreateStmt"), (6, "CreateFunctionStmt")]
    assert [(s.line, s.tag) for s in down.statements] == [(13, "DropStmt"), (14, "DropStmt")]
    assert migration.name == "1"
    assert migration.up.transaction is Transaction.ALWAYS


def test_versions_are_numbers_in_order():
    files = {f"{n}_x.sql": b"-- +goose Up\nSELECT 1;\n" for n in ("00010", "9")}
    assert [m.name for m in build(files).migrations] == ["9", "10"]
    assert sorted(["10", "9"], key=sort_key) == ["9", "10"]


def test_a_file_without_a_way_back_has_none():
    assert one("-- +goose Up\nSELECT 1;\n").down is None


def test_no_transaction_counts_for_both_directions_and_runs_statement_by_statement():
    text = (
        "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY i ON a (id);\nSELECT 1;\n"
        "-- +goose Down\nDROP INDEX CONCURRENTLY i;\n"
    )
    migration = one(text)
    assert parse(migration.up, Environment.PRODUCTION).mode is Mode.STATEMENT_WISE
    assert migration.down.transaction is Transaction.NEVER


def test_what_needs_no_transaction_and_does_not_say_so_is_refused_with_the_annotation():
    migration = one("-- +goose Up\nCREATE INDEX CONCURRENTLY i ON a (id);\n")
    with pytest.raises(StepFailed) as raised:
        parse(migration.up, Environment.DEVELOPMENT)
    assert raised.value.failure.reason is Reason.STATEMENT_REFUSED
    assert "-- +goose NO TRANSACTION" in raised.value.failure.message


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("SELECT 1;\n", Reason.SOURCE_INVALID, "line 1"),
        ("", Reason.SOURCE_INVALID, "no `-- +goose Up`"),
        ("-- +goose Up\nSELECT 1;\n-- +goose Up\n", Reason.SOURCE_INVALID, "line 3: a second"),
        ("-- +goose Down\nSELECT 1;\n", Reason.SOURCE_INVALID, "line 1"),
        ("-- +goose Up\n -- +goose Down\n", Reason.SOURCE_INVALID, "must begin its line"),
        ("-- +goose Up\n-- +goose Sideways\n", Reason.SOURCE_INVALID, "sideways"),
        ("-- +goose Up\n-- +goose StatementEnd\n", Reason.SOURCE_INVALID, "no StatementBegin"),
        ("-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n", Reason.SOURCE_INVALID, "no StatementEnd"),
        ("-- +goose Up\nSELECT 1\n", Reason.SOURCE_INVALID, "line 2: no semicolon"),
        ("-- +goose Up\nSELECT 1\n-- +goose Down\n", Reason.SOURCE_INVALID, "line 2: no semicolon"),
        ("-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${X}';\n", Reason.SOURCE_UNSUPPORTED, "line 2: ENVSUB"),
    ],
)
def test_what_goose_refuses_or_only_goose_can_do_is_refused_at_its_line(text, reason, words):
    failure = refused(text)
    assert failure.reason is reason
    assert words in failure.message


@pytest.mark.parametrize("name", ["a.sql", "x_a.sql", "0_a.sql", "-1_a.sql", f"{2**63}_a.sql"])
def test_every_sql_file_must_have_a_version(name):
    assert refused("-- +goose Up\nSELECT 1;\n", name).reason is Reason.SOURCE_INVALID


def test_two_files_of_one_version_are_refused():
    with pytest.raises(StepFailed, match="both version 1"):
        build(dict.fromkeys(("1_a.sql", "001_b.sql"), b"-- +goose Up\nSELECT 1;\n"))


def test_a_migration_in_go_is_refused():
    assert wanted("00001_a.go")
    assert not wanted("main.go")
    failure = refused("package migrations", "00001_a.go")
    assert failure.reason is Reason.SOURCE_UNSUPPORTED
    assert "goose program" in failure.message
