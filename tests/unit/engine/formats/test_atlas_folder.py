"""Atlas' folder is read as Atlas reads it, or refused with the file that is wrong."""

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.errors import StepFailed
from godwit.engine.formats.atlas import ADVISORY_KEY, statement_hashes
from godwit.engine.formats.atlas_folder import build, description, sort_key, wanted
from godwit.engine.formats.atlas_sum import check, file_hashes
from godwit.engine.formats.recognise import recognise
from godwit.engine.model import Mode, PlannedMigration, Transaction
from godwit.engine.statements import parse

ONE = "20260101000001_one.sql"
TWO = "20260101000002_two.sql"
FILES = {
    ONE: b"CREATE TABLE a (id int);\nINSERT INTO a VALUES (1);\n",
    TWO: b"-- atlas:txmode none\n\nCREATE TABLE b (id int);\n-- note\nINSERT INTO b VALUES (1);\n"
    b"SELECT 1/0;\nSELECT 2;\n",
}
# As `atlas migrate hash` wrote it.
SUM = b"""\
h1:P2UQNvyIiUUcs9O4sB48uFWxVaVcsAyxLFA1eQs39Xs=
20260101000001_one.sql h1:a7wEJAYSt6aIcuEuDDIrHJHEuDKF/PyopYMvH3gG5bE=
20260101000002_two.sql h1:43pr4kZYBGGg0vXx+/DxIa5OGU9h8M3C3o667f4TzAs=
"""


def sealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """*files* with an atlas.sum, made as the one above was checked to be."""
    import base64
    import hashlib

    hashes = file_hashes({name: data for name, data in files.items() if name.endswith(".sql")})
    total = hashlib.sha256("".join(n + h for n, h in hashes.items()).encode()).digest()
    lines = "".join(f"{name} h1:{stored}\n" for name, stored in hashes.items())
    return files | {"atlas.sum": f"h1:{base64.b64encode(total).decode()}\n{lines}".encode()}


def refused(files):
    with pytest.raises(StepFailed) as raised:
        build(files)
    return raised.value.failure


def test_files_come_by_name_and_are_known_by_version():
    files = sealed(FILES | {"README.md": b"", f"{ONE}.down": b"DROP TABLE a;"})
    found = build(files)
    assert [(m.name, m.up.path, m.down and m.down.path) for m in found.migrations] == [
        ("20260101000001", ONE, f"{ONE}.down"),
        ("20260101000002", TWO, None),
    ]
    assert set(found.files) == {ONE, TWO, f"{ONE}.down", "atlas.sum"}
    assert sorted(["2", "10", "1"], key=sort_key) == ["1", "10", "2"]
    assert [description(path) for path in (ONE, "1.sql", "2_a_b.sql")] == ["one", "", "a_b"]


def test_the_sum_file_is_atlas_own():
    assert check(SUM, FILES) == file_hashes(FILES)
    assert sealed(FILES)["atlas.sum"] == SUM
    assert check(SUM.replace(b"\n", b"\r\n"), FILES) == file_hashes(FILES)


@pytest.mark.parametrize(
    ("files", "told", "words"),
    [
        (FILES, None, "has no atlas.sum"),
        (FILES | {ONE: b"DROP TABLE a;"}, SUM, f"{ONE} is not the file"),
        (FILES | {TWO: b""}, SUM, f"{TWO} is not the file"),
        ({ONE: FILES[ONE]}, SUM, f"{TWO} stands in atlas.sum"),
        (FILES | {"20260101000003_c.sql": b""}, SUM, "20260101000003_c.sql was added"),
        (FILES | {"20250101000001_z.sql": b""}, SUM, "20250101000001_z.sql was added"),
        (FILES, SUM.replace(b"h1:P2", b"h1:X2"), "edited by hand"),
        (FILES, SUM.replace(b"h1:43", b"43"), "line 3: there is no hash"),
        (FILES, b"", "edited by hand"),
    ],
)
def test_a_folder_that_is_not_its_sum_files_is_refused_with_what_differs(files, told, words):
    failure = refused(files | ({} if told is None else {"atlas.sum": told}))
    assert failure.reason is Reason.CHECKSUM_MISMATCH
    assert words in failure.message
    assert "atlas migrate hash" in failure.hint


def test_statements_are_hashed_as_atlas_hashes_them():
    # Of the table's column partial_hashes, as Atlas wrote it.
    known = {
        ONE: [
            "h1:Fo9K92y+zoKkGFxsVzZuB4g8bkFV8lzihVkBjZlDO4E=",
            "h1:J60a0JCqsmYwmpz4mMcCZ/e45GD0WMY98eQC/dVmy8Q=",
        ],
        TWO: [
            "h1:S7G5baio/zGrFFLxGPtk0fVQ3+gaPtdjGwVJGO8KqYg=",
            "h1:ZH8n0zAx7MM1Nz/A+dIUKEnK4mnvpnNYkgOEh1ktLYs=",
        ],
    }
    for migration in build(sealed(FILES)).migrations:
        parsed = parse(migration.up, Environment.PRODUCTION)
        planned = PlannedMigration(migration.name, migration.up.checksum, parsed)
        assert statement_hashes(planned, 2) == known[migration.up.path]


def test_the_lock_is_that_of_atlas():
    value = 2_166_136_261  # FNV-1, 32 bits
    for byte in b"atlas_migrate_execute":
        value = (value * 16_777_619) % 2**32 ^ byte
    assert value == ADVISORY_KEY


@pytest.mark.parametrize(
    ("text", "transaction"),
    [
        ("SELECT 1;", Transaction.ALWAYS),
        ("-- about\n-- atlas:txmode none\n\nSELECT 1;", Transaction.NEVER),
        ("-- atlas:txmode none\n \t\nSELECT 1;", Transaction.NEVER),
        ("-- atlas:txmode none", Transaction.NEVER),
        ("-- atlas:txmode file\n\nSELECT 1;", Transaction.ALWAYS),
        ("-- atlas:nolint\nSELECT 1;", Transaction.ALWAYS),
        ("SELECT 1;\n-- atlas:txmode none\n\nSELECT 2;", Transaction.ALWAYS),
    ],
)
def test_a_directive_says_whether_it_wants_a_transaction(text, transaction):
    (migration,) = build(sealed({"1_a.sql": text.encode()})).migrations
    assert migration.up.transaction is transaction


def test_without_a_transaction_it_runs_statement_by_statement():
    found = build(sealed(FILES)).migrations
    modes = [parse(migration.up, Environment.PRODUCTION).mode for migration in found]
    assert modes == [Mode.WHOLE, Mode.STATEMENT_WISE]


def test_what_needs_no_transaction_and_does_not_say_so_is_refused_with_the_directive():
    (migration,) = build(sealed({"1_a.sql": b"VACUUM;"})).migrations
    with pytest.raises(StepFailed, match="-- atlas:txmode none"):
        parse(migration.up, Environment.DEVELOPMENT)


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ({}, Reason.SOURCE_INVALID, "no migration"),
        ({"_a.sql": b""}, Reason.SOURCE_INVALID, "no version"),
        ({"1_a.sql": b"", "1_b.sql": b""}, Reason.SOURCE_INVALID, "both version 1"),
        ({"10_b.sql": b"", "1_a.sql": b""}, Reason.SOURCE_UNSUPPORTED, "the same length"),
        ({"1_a.sql": b"", "2_b.sql.down": b""}, Reason.SOURCE_INVALID, "has no 2_b.sql beside it"),
        (
            {"1_a.sql": b"-- atlas:delimiter \\n\\n\nSELECT 1"},
            Reason.SOURCE_UNSUPPORTED,
            "line 1: a delimiter",
        ),
        ({"1_a.sql": b"-- atlas:sum ignore\n\n"}, Reason.SOURCE_UNSUPPORTED, "line 1"),
        ({"1_a.sql": b"--\n-- atlas:checkpoint v1\n\n"}, Reason.SOURCE_UNSUPPORTED, "line 2: a checkpoint"),
        ({"1_a.sql": b"-- atlas:import x.sql\n"}, Reason.SOURCE_UNSUPPORTED, "imported by Atlas"),
        ({"1_a.sql": b"-- atlas:txtar\n\n-- checks.sql --\n"}, Reason.SOURCE_UNSUPPORTED, "an archive"),
        ({"1_a.sql": b"-- atlas:txmode none\nSELECT 1;"}, Reason.SOURCE_INVALID, "unless an empty line"),
        (
            {"1_a.sql": b"-- atlas:txmode none\r\n\r\nSELECT 1;"},
            Reason.SOURCE_INVALID,
            "unless an empty line",
        ),
        ({"1_a.sql": b"-- atlas:txmode all\n\nSELECT 1;"}, Reason.SOURCE_INVALID, "`none` or `file`"),
        (
            {"1_a.sql": b"-- atlas:txmode none\n-- atlas:txmode none\n\nSELECT 1;"},
            Reason.SOURCE_INVALID,
            "stands once",
        ),
        ({"1_a.sql": b"\xff"}, Reason.ENCODING_INVALID, "not UTF-8"),
    ],
)
def test_what_is_wrong_or_only_atlas_can_do_is_refused(files, reason, words):
    failure = refused(sealed(files))
    assert failure.reason is reason
    assert words in failure.message


def test_other_files_are_none_of_its_business():
    paths = (ONE, f"{ONE}.down", "atlas.sum", "README.md", "atlas.hcl", f"shared/{ONE}")
    assert [path for path in paths if wanted(path)] == [ONE, f"{ONE}.down", "atlas.sum"]


def test_the_sum_file_tells_the_format_and_another_tools_files_beside_it_are_refused():
    assert recognise(sealed(FILES)) is Format.ATLAS
    with pytest.raises(StepFailed, match="could be GolangMigrate or Atlas"):
        recognise({"1_a.up.sql": b"SELECT 1;", "1_a.down.sql": b"", "atlas.sum": b""})
