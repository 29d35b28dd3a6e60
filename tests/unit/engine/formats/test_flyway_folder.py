"""Flyway's folder is read as Flyway reads it, or refused with the file that is wrong."""

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.formats.flyway_folder import build, checksum, described, sort_key, wanted
from godwit.engine.model import Mode, Transaction
from godwit.engine.statements import parse

INDEX = b"CREATE INDEX CONCURRENTLY i ON a (id);\n"


def refused(files):
    with pytest.raises(StepFailed) as raised:
        build(files)
    return raised.value.failure


def test_versions_come_in_their_order_and_then_the_repeatables():
    found = build(
        {
            "R__my_view.sql": b"SELECT 1;",
            "V10__x.sql": b"SELECT 1;",
            "sub/V2_1__y_z.sql": b"SELECT 1;",
            "sub/U2_1__y_z.sql": b"SELECT 2;",
            "V02__w.sql": b"SELECT 1;",
            "seed.sql": b"",
        }
    )
    assert [(m.name, m.up.path, m.down is not None, m.repeatable) for m in found.migrations] == [
        ("02", "V02__w.sql", False, False),
        ("2.1", "sub/V2_1__y_z.sql", True, False),
        ("10", "V10__x.sql", False, False),
        ("R__my_view", "R__my_view.sql", False, True),
    ]
    assert "seed.sql" not in found.files
    assert described("sub/V2_1__y_z.sql") == "y z"


def test_a_version_is_its_numbers():
    names = ["1.10", "1.9", "1", "2.0.1", "2"]
    assert sorted(names, key=sort_key) == ["1", "1.9", "1.10", "2", "2.0.1"]
    assert sort_key("01.0") == sort_key("1")


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        # As Flyway 11.14 wrote them.
        (b"CREATE TABLE a (id int);\nINSERT INTO a VALUES (1);\n", "-279898995"),
        (b"CREATE INDEX CONCURRENTLY a_i ON a (id);\n", "1377352551"),
        (b"CREATE TABLE b (id int);", "1128195672"),
        (b"CREATE OR REPLACE VIEW v AS SELECT id FROM a;\r\n", "-883864728"),
    ],
)
def test_the_checksum_is_flyways(data, stored):
    assert checksum(data) == stored


def test_line_ends_do_not_count():
    assert checksum(b"a\nb") == checksum(b"a\r\nb\r\n") == checksum(b"a\rb")


def test_what_cannot_run_in_a_transaction_has_a_file_of_its_own():
    (migration,) = build({"V1__a.sql": INDEX + INDEX.replace(b" i ", b" j ")}).migrations
    assert parse(migration.up, Environment.PRODUCTION).mode is Mode.STATEMENT_WISE
    (mixed,) = build({"V1__a.sql": b"CREATE TABLE a (id int);\n" + INDEX}).migrations
    with pytest.raises(StepFailed, match="line 1 can"):
        parse(mixed.up, Environment.DEVELOPMENT)


@pytest.mark.parametrize(
    ("conf", "transaction"),
    [
        (b"", Transaction.UNMIXED),
        (b"# why\nexecuteInTransaction=false\n", Transaction.NEVER),
        (b"executeInTransaction = true", Transaction.ALWAYS),
        (b"encoding=UTF-8", Transaction.UNMIXED),
    ],
)
def test_the_configuration_beside_a_script_counts(conf, transaction):
    (migration,) = build({"V1__a.sql": b"SELECT 1;", "V1__a.sql.conf": conf}).migrations
    assert migration.up.transaction is transaction


def test_placeholders_may_stay_where_flyway_leaves_them_alone():
    files = {"V1__a.sql": b"SELECT '${x}';", "V1__a.sql.conf": b"placeholderReplacement=false"}
    assert build(files).migrations[0].name == "1"


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ({}, Reason.SOURCE_INVALID, "no migration"),
        ({"V1_a.sql": b""}, Reason.SOURCE_INVALID, "two underscores"),
        ({"V1__a.sql": b"", "V1.0__b.sql": b""}, Reason.SOURCE_INVALID, "same version"),
        ({"R__a.sql": b"", "x/R__a.sql": b""}, Reason.SOURCE_INVALID, "same description"),
        ({"V1__a.sql": b"SELECT 1;\n-- ${x}"}, Reason.SOURCE_UNSUPPORTED, "line 2: the placeholder ${x}"),
        ({"V1__a.sql": b"", "V2__b.java": b""}, Reason.SOURCE_UNSUPPORTED, "is a program"),
        ({"V1__a.sql": b"", "afterMigrate.sql": b""}, Reason.SOURCE_UNSUPPORTED, "is a callback"),
        ({"V1__a.sql": b"", "beforeEachMigrate__x.sql": b""}, Reason.SOURCE_UNSUPPORTED, "is a callback"),
        ({"V1__a.sql": b"", "B1__a.sql": b""}, Reason.SOURCE_UNSUPPORTED, "baseline migration"),
        ({"V1__a.sql": b"", "V1__a.sql.conf": b"shouldExecute=false"}, Reason.SOURCE_UNSUPPORTED, "line 1"),
        ({"V1__a.sql": b"\xff"}, Reason.ENCODING_INVALID, "not UTF-8"),
    ],
)
def test_what_is_wrong_or_only_flyway_can_do_is_refused(files, reason, words):
    failure = refused(files)
    assert failure.reason is reason
    assert words in failure.message


def test_other_files_are_none_of_its_business():
    assert not any(map(wanted, ("README.md", "seed.sql", "x/data.csv", "migration.sql")))
