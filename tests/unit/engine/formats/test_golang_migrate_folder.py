"""golang-migrate's folder is read as golang-migrate reads it, or refused with the file that is wrong."""

import pytest

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.formats.golang_migrate_folder import build, sort_key, wanted


def test_versions_are_numbers_and_downs_belong_to_them():
    found = build(
        {
            "000010_late.up.sql": b"SELECT 10;",
            "000002_early.up.sql": b"SELECT 2;",
            "2_early.down.sql": b"SELECT -2;",
        }
    )
    assert [(m.name, m.up.path, m.down.path if m.down else None) for m in found.migrations] == [
        ("2", "000002_early.up.sql", "2_early.down.sql"),
        ("10", "000010_late.up.sql", None),
    ]
    assert set(found.files) == {"000010_late.up.sql", "000002_early.up.sql", "2_early.down.sql"}
    assert sorted(["10", "9"], key=sort_key) == ["9", "10"]


def test_the_history_keeps_no_checksum_but_a_plan_knows_the_content():
    (migration,) = build({"1_a.up.sql": b"SELECT 1;"}).migrations
    assert migration.up.checksum == ""
    assert len(migration.up.content) == 64


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("1_a.up.sql", True),
        ("1_a.down.sql", True),
        ("1_.up.sql", True),
        ("1_a.sql", False),
        ("a_1.up.sql", False),
        ("below/1_a.up.sql", False),
        ("README.md", False),
    ],
)
def test_other_files_are_none_of_its_business(path, is_one):
    assert wanted(path) is is_one


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ({}, Reason.SOURCE_INVALID, "no migration"),
        ({"1_a.up.sql": b"", "01_b.up.sql": b""}, Reason.SOURCE_INVALID, "both the up of version 1"),
        ({"1_a.down.sql": b""}, Reason.SOURCE_INVALID, "no .up.sql"),
        ({f"{2**63}_a.up.sql": b""}, Reason.SOURCE_INVALID, "bigint"),
        ({"1_a.up.sql": b"SELECT '\xff';"}, Reason.ENCODING_INVALID, "not UTF-8"),
    ],
)
def test_what_is_wrong_is_refused_with_the_file(files, reason, words):
    with pytest.raises(StepFailed) as raised:
        build(files)
    assert raised.value.failure.reason is reason
    assert words in raised.value.failure.message
