"""dbmate's files are read as dbmate reads them, or refused at the line that is wrong."""

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.formats.dbmate_folder import build, sort_key, wanted
from godwit.engine.model import Mode, Transaction
from godwit.engine.statements import parse

WHOLE = """\
-- about users
-- migrate:up
CREATE TABLE a (id int);

-- migrate:down
DROP TABLE a;
"""


def refused(text: str):
    with pytest.raises(StepFailed) as raised:
        build({"1_a.sql": text.encode()})
    return raised.value.failure


def test_each_block_keeps_its_lines_where_they_are():
    (migration,) = build({"20260101_a.sql": WHOLE.encode()}).migrations
    up, down = (parse(s, Environment.PRODUCTION) for s in (migration.up, migration.down))
    assert [(s.line, s.tag) for s in up.statements] == [(3, "CreateStmt")]
    assert [(s.line, s.tag) for s in down.statements] == [(6, "DropStmt")]
    assert migration.name == "20260101"
    assert migration.up.transaction is Transaction.ALWAYS


def test_versions_are_text_and_files_come_by_name():
    files = {name: WHOLE.encode() for name in ("9_x.sql", "10_y.sql", "009.sql")}
    found = build(files).migrations
    assert [m.name for m in found] == ["009", "10", "9"]
    assert sorted((m.name for m in found), key=sort_key) == ["009", "10", "9"]


@pytest.mark.parametrize(
    ("mark", "transaction"),
    [
        ("transaction:false", Transaction.NEVER),
        ("  transaction:false  other:1", Transaction.NEVER),
        ("transaction:true", Transaction.ALWAYS),
        ("transaction:false transaction:true", Transaction.ALWAYS),
        ("transaction", Transaction.ALWAYS),
    ],
)
def test_a_block_says_whether_it_wants_a_transaction(mark, transaction):
    text = f"-- migrate:up {mark}\nSELECT 1;\n-- migrate:down\n"
    (migration,) = build({"1_a.sql": text.encode()}).migrations
    assert migration.up.transaction is transaction
    assert migration.down.transaction is Transaction.ALWAYS


def test_without_a_transaction_it_runs_statement_by_statement():
    text = "-- migrate:up transaction:false\nCREATE TABLE a ();\nSELECT 1;\n-- migrate:down\n"
    (migration,) = build({"1_a.sql": text.encode()}).migrations
    assert parse(migration.up, Environment.PRODUCTION).mode is Mode.STATEMENT_WISE


def test_what_needs_no_transaction_and_does_not_say_so_is_refused_with_the_option():
    (migration,) = build({"1_a.sql": b"-- migrate:up\nVACUUM;\n-- migrate:down\n"}).migrations
    with pytest.raises(StepFailed, match="transaction:false"):
        parse(migration.up, Environment.DEVELOPMENT)


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("SELECT 1;", Reason.SOURCE_INVALID, "no block that begins with `-- migrate:up`"),
        ("-- migrate:up\nSELECT 1;", Reason.SOURCE_INVALID, "no block that begins with `-- migrate:down`"),
        ("-- migrate:down\n-- migrate:up\n", Reason.SOURCE_INVALID, "must come before"),
        ("SELECT 1;\n-- migrate:up\n-- migrate:down\n", Reason.SOURCE_INVALID, "line 1"),
        (WHOLE + WHOLE, Reason.SOURCE_UNSUPPORTED, "line 8: a second block"),
        ("-- migrate:up\n-- migrate:down\n-- migrate:down\n", Reason.SOURCE_UNSUPPORTED, "line 3"),
    ],
)
def test_what_is_wrong_is_refused_at_its_line(text, reason, words):
    failure = refused(text)
    assert failure.reason is reason
    assert words in failure.message


def test_two_files_of_one_version_are_refused():
    with pytest.raises(StepFailed, match="both version 1"):
        build({name: WHOLE.encode() for name in ("1_a.sql", "1_b.sql")})


def test_other_files_are_none_of_its_business():
    assert [wanted(p) for p in ("1.sql", "1_a.sql", "a.sql", "1_a.txt", "sub/1_a.sql")] == [
        True,
        True,
        False,
        False,
        False,
    ]
