"""Migrations are found wherever a source may be mounted, in Prisma's order, or refused with a reason."""

import base64
import gzip
import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, Format
from godwit.engine import source as source_module
from godwit.engine.errors import StepFailed
from godwit.engine.formats.prisma_folder import build, checksum, same_script, sort_key
from godwit.engine.model import Script, Source
from godwit.engine.pack import CONFIG_MAP_LIMIT, pack
from godwit.engine.source import content_digest, read_source

SAMPLES = Path(__file__).parents[3] / "migrations"
LOCK_TEXT = 'provider = "postgresql"\n'


def read(folder: Path) -> Source:
    return read_source(folder, Format.PRISMA)


def refused(folder: Path):
    with pytest.raises(StepFailed) as raised:
        read(folder)
    return raised.value.failure


def write(folder: Path, **files: str | bytes) -> Path:
    """Files by path, with __ for a slash."""
    for key, content in files.items():
        path = folder / key.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tree(folder: Path, files: dict[str, str | bytes]) -> Path:
    return write(folder, **{key.replace("/", "__"): value for key, value in files.items()})


def archive(files: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz") as made:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
        for path, to in (links or {}).items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, to
            made.addfile(entry)
    return plain.getvalue()


def mounted(folder: Path, keys: dict[str, bytes]) -> Path:
    """A ConfigMap as the kubelet mounts it: links into a folder that is swapped as a whole."""
    version = folder / "..2026_01_01"
    version.mkdir(parents=True)
    (folder / "..data").symlink_to("..2026_01_01")
    for key, data in keys.items():
        (version / key).write_bytes(data)
        (folder / key).symlink_to(f"..data/{key}")
    return folder


def unpacked(folder: Path, maps: list[dict[str, dict[str, str]]]) -> Path:
    for index, made in enumerate(maps):
        keys = {key: text.encode() for key, text in made.get("data", {}).items()}
        keys |= {key: base64.b64decode(text) for key, text in made.get("binaryData", {}).items()}
        mounted(folder / str(index), keys)
    return folder


def test_a_folder_is_read_with_downs_and_foreign_files_are_left_alone(tmp_path):
    tree(
        tmp_path,
        {
            "2_b/migration.sql": "SELECT 2;",
            "1_a/migration.sql": "SELECT 1;\r\n",
            "1_a/down.sql": "SELECT -1;",
            "1_a/README.md": "not ours",
            "seed.sql": "SELECT 'no migration';",
            "migration_lock.toml": f"# comment\n{LOCK_TEXT}",
        },
    )
    found = read(tmp_path)
    assert [(m.name, m.up.text, m.down.text if m.down else None) for m in found.migrations] == [
        ("1_a", "SELECT 1;\r\n", "SELECT -1;"),
        ("2_b", "SELECT 2;", None),
    ]
    assert found.migrations[0].up.path == "1_a/migration.sql"
    assert found.get("2_b") == found.migrations[1]


def test_order_is_prismas():
    names = ["B_x", "a_x", "2_b", "10_a", "1-a", "1_B", "1_a", "0001_x", "_y"]
    assert sorted(names, key=sort_key) == ["_y", "0001_x", "1_a", "1_B", "1-a", "10_a", "2_b", "a_x", "B_x"]
    assert sorted(["f", "é", "e", "E"], key=sort_key) == ["e", "E", "é", "f"]


def test_names_with_spaces_and_names_of_digits_only_are_migrations(tmp_path):
    tree(tmp_path, {"1/migration.sql": "SELECT 1;", "2 add a table/migration.sql": "SELECT 2;"})
    assert [m.name for m in read(tmp_path).migrations] == ["1", "2 add a table"]
    tree(tmp_path / "only", {"0/migration.sql": "SELECT 0;", "1/migration.sql": "SELECT 1;"})
    assert [m.name for m in read(tmp_path / "only").migrations] == ["0", "1"]


def test_an_empty_folder_with_a_lock_is_a_source_without_migrations(tmp_path):
    assert read(write(tmp_path, **{"migration_lock.toml": LOCK_TEXT})).migrations == ()


@pytest.mark.parametrize(
    ("files", "reason", "word"),
    [
        ({}, Reason.SOURCE_INVALID, "no migration"),
        ({"README.md": "x"}, Reason.SOURCE_INVALID, "no migration"),
        ({"src/index.ts": "x", "1/migration.sql": ""}, Reason.SOURCE_INVALID, "src"),
        ({"a.down.sql": "SELECT 1;"}, Reason.SOURCE_INVALID, "a has a down.sql"),
        ({"1/migration.sql": b"SELECT '\xff';"}, Reason.ENCODING_INVALID, "not UTF-8"),
        ({"1/migration.sql": b"SELECT 1;\n\0"}, Reason.ENCODING_INVALID, "line 2: a NUL"),
        ({"1/migration.sql": b"\xef\xbb\xbfSELECT 1;"}, Reason.ENCODING_INVALID, "byte order mark"),
        ({"1/migration.sql": "", "1/down.sql": b"\xff"}, Reason.ENCODING_INVALID, "1/down.sql"),
        ({"migration_lock.toml": 'provider = "mysql"'}, Reason.PROVIDER_MISMATCH, "mysql"),
        ({"a.tar.gz": b"not gzip"}, Reason.SOURCE_INVALID, "a.tar.gz"),
        ({"a.tar.gz": gzip.compress(b"not tar" * 200)}, Reason.SOURCE_INVALID, "a.tar.gz"),
        ({f"{'x' * 251}.sql": b"SELECT 1;"}, None, ""),
    ],
)
def test_what_is_no_migration_folder_is_refused_with_a_reason(tmp_path, files, reason, word):
    tree(tmp_path, files)
    if reason is None:
        assert len(read(tmp_path).migrations) == 1
    else:
        failure = refused(tmp_path)
        assert failure.reason is reason
        assert word in failure.message


def test_a_source_that_is_not_mounted_is_refused(tmp_path):
    assert refused(tmp_path / "nowhere").reason is Reason.SOURCE_INVALID


@pytest.mark.parametrize("what", ["migration.sql", "folder"])
def test_a_link_out_of_the_source_is_refused(tmp_path, what):
    secret = tree(tmp_path / "outside", {"migration.sql": "hunter2"})
    source = tmp_path / "source"
    source.mkdir()
    if what == "folder":
        (source / "1").symlink_to(secret)
    else:
        (source / "1").mkdir()
        (source / "1" / "migration.sql").symlink_to(secret / "migration.sql")
    failure = refused(source)
    assert failure.reason is Reason.SOURCE_INVALID
    assert "leads out" in failure.message
    assert "hunter2" not in failure.model_dump_json()


def test_what_is_not_a_regular_file_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "1").mkdir()
    os.mkfifo(tmp_path / "1" / "migration.sql")
    assert "not a file" in refused(tmp_path).message


def test_keys_of_several_config_maps_are_one_source(tmp_path):
    mounted(tmp_path / "0", {"1_a.sql": b"SELECT 1;", "1_a.down.sql": b"SELECT -1;"})
    mounted(tmp_path / "1", {"2_b.sql": b"SELECT 2;", "1_a.sql": b"SELECT 1;"})
    mounted(tmp_path / "10", {"3 c.tar.gz": archive({"./3 c/migration.sql": b"SELECT 3;"})})
    found = read(tmp_path)
    assert [(m.name, m.down is not None) for m in found.migrations] == [
        ("1_a", True),
        ("2_b", False),
        ("3 c", False),
    ]


def test_the_same_name_with_other_content_is_refused(tmp_path):
    mounted(tmp_path / "0", {"1_a.sql": b"SELECT 1;"})
    mounted(tmp_path / "1", {"1_a.sql": b"SELECT 2;"})
    failure = refused(tmp_path)
    assert failure.reason is Reason.SOURCE_INVALID
    assert "1_a/migration.sql is there twice" in failure.message


@pytest.mark.parametrize("prefix", ["", "./", "migrations/", "./prisma/migrations/"])
def test_an_archive_may_hold_the_folder_at_any_depth(tmp_path, prefix):
    data = {"1 a/migration.sql": b"SELECT 1;", "1 a/down.sql": b"", "2/migration.sql": b"SELECT 2;"}
    files = {prefix + path: content for path, content in data.items()}
    files |= {f"{prefix}migration_lock.toml": LOCK_TEXT.encode(), f"{prefix}._junk": b"\0"}
    mounted(tmp_path, {"all.tar.gz": archive(files)})
    assert [m.name for m in read(tmp_path).migrations] == ["1 a", "2"]


@pytest.mark.parametrize("name", ["only", "migrations/only"])
def test_an_archive_of_one_migration_keeps_its_name(tmp_path, name):
    mounted(tmp_path, {"all.tar.gz": archive({f"{name}/migration.sql": b"SELECT 1;"})})
    assert [m.name for m in read(tmp_path).migrations] == ["only"]


@pytest.mark.parametrize(
    ("files", "links", "word"),
    [
        ({"../1/migration.sql": b""}, {}, "plain file"),
        ({"/1/migration.sql": b""}, {}, "plain file"),
        ({}, {"1/migration.sql": "/proc/self/environ"}, "plain file"),
        ({"a/b/migration.sql": b"", "c/migration.sql": b""}, {}, "not where"),
        ({"migration.sql": b"SELECT 1;"}, {}, "not where"),
    ],
)
def test_an_archive_with_anything_but_plain_files_below_it_is_refused(tmp_path, files, links, word):
    mounted(tmp_path, {"all.tar.gz": archive(files, links=links)})
    failure = refused(tmp_path)
    assert failure.reason is Reason.SOURCE_INVALID
    assert word in failure.message


def test_a_cut_archive_is_refused(tmp_path):
    whole = archive({"1/migration.sql": os.urandom(100_000)})
    mounted(tmp_path, {"all.tar.gz": whole[: len(whole) // 2]})
    assert refused(tmp_path).reason is Reason.SOURCE_INVALID


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "SIZE_LIMIT", 1_000_000)
    mounted(tmp_path, {"all.tar.gz": archive({"1/migration.sql": b" " * 1_000_001})})
    assert "unpacks to more" in refused(tmp_path).message


def test_a_checksum_is_accepted_with_either_line_end_and_in_the_old_short_form():
    script = Script("1/migration.sql", b"a\r\nb\n", checksum(b"a\r\nb\n"))
    assert same_script(script.checksum, script)
    assert same_script(checksum(b"a\nb\n"), script)
    assert same_script(checksum(b"a\r\nb\r\n"), script)
    assert not same_script(checksum(b"a b"), script)
    assert not same_script("", script)
    assert checksum(b"SELECT 1;") == "17db4fd369edb9244b9f91d9aeed145c3d04ad8ba6e95d06247f07a63527d11a"
    padded = bytes.fromhex(checksum(b"x0"))
    assert same_script("".join(f"{b:x}" for b in padded), Script("p", b"x0", checksum(b"x0")))


def test_packing_gives_readable_keys_where_they_fit(tmp_path):
    (made,) = pack(SAMPLES)
    assert set(made) == {"data"}
    assert {"migration_lock.toml", "20260105090000_init.sql", "20260105090000_init.down.sql"} <= set(
        made["data"]
    )
    assert read(unpacked(tmp_path, [made])) == read(SAMPLES)


@pytest.mark.parametrize(
    "name", ["with space", "ünï", "a.down", "x" * 254], ids=["space", "letters", "down", "long"]
)
def test_names_that_cannot_be_keys_are_packed_into_an_archive(tmp_path, name):
    folder = tmp_path / "in"
    tree(folder, {f"{name}/migration.sql": "SELECT 1;", f"{name}/down.sql": "SELECT 2;"})
    (made,) = pack(folder)
    assert list(made["binaryData"]) == ["migrations-0.tar.gz"]
    assert pack(folder) == [made]
    assert read(unpacked(tmp_path / "out", [made])) == read(folder)


def test_a_large_source_becomes_several_config_maps_below_the_limit(tmp_path):
    folder = tree(
        tmp_path / "in",
        {f"{i:03}/migration.sql": f"-- {base64.b64encode(os.urandom(150_000)).decode()}" for i in range(12)},
    )
    maps = pack(folder)
    assert len(maps) > 1
    assert all(len(base64.b64decode(v)) <= CONFIG_MAP_LIMIT for m in maps for v in m["binaryData"].values())
    assert read(unpacked(tmp_path / "out", maps)) == read(folder)


def test_a_migration_that_fits_into_no_config_map_is_refused(tmp_path):
    big = f"-- {base64.b64encode(os.urandom(CONFIG_MAP_LIMIT * 2)).decode()}"
    with pytest.raises(StepFailed) as raised:
        pack(tree(tmp_path, {"1/migration.sql": big}))
    assert raised.value.failure.reason is Reason.SOURCE_INVALID
    assert "image" in raised.value.failure.hint


def test_the_content_digest_tells_order_files_and_direction_apart():
    steps = [("1", "a", "b"), ("2", "c", "")]
    one = content_digest(Format.PRISMA, steps, Direction.UP)
    assert one == content_digest(Format.PRISMA, list(steps), Direction.UP)
    others = [
        content_digest(Format.PRISMA, steps[::-1], Direction.UP),
        content_digest(Format.PRISMA, steps, Direction.DOWN),
        content_digest(Format.PRISMA, [("1", "a", ""), ("2", "c", "")], Direction.UP),
        content_digest(Format.PRISMA, steps[:1], Direction.UP),
    ]
    assert len({one, *others}) == 5


def test_five_thousand_migrations_are_read_quickly(tmp_path):
    files = {f"2026{i:010}_step/migration.sql": b"CREATE TABLE a (x int);" for i in range(5_000)}
    mounted(tmp_path, {"all.tar.gz": archive(files)})
    started = time.process_time()
    found = read(tmp_path)
    assert len(found.migrations) == 5_000
    assert time.process_time() - started < 2


NAMES = st.text("abcXYZ019_- .", min_size=1, max_size=12).filter(lambda n: not n.startswith("."))


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, st.tuples(st.binary(max_size=30), st.none() | st.binary(max_size=30)), min_size=1)
)
def test_what_was_packed_is_read_as_it_was(tmp_path_factory, migrations):
    def text(data: bytes) -> bytes:
        return data.hex().encode()

    files: dict[str, str | bytes] = {}
    for name, (up, down) in migrations.items():
        files[f"{name}/migration.sql"] = text(up)
        if down is not None:
            files[f"{name}/down.sql"] = text(down)
    base = tmp_path_factory.mktemp("pack")
    for path, data in files.items():
        target = base / "in" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bytes(data) if isinstance(data, bytes) else data.encode())
    expected = build({path: bytes(data) for path, data in files.items() if isinstance(data, bytes)})
    assert read(base / "in") == expected
    assert read(unpacked(base / "out", pack(base / "in"))) == expected


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """As a user for whom rights hold: root reads everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_within_that_may_not_be_read_is_named(server_folder: Path, request: pytest.FixtureRequest):
    folder = tree(server_folder / "unreadable", {"sub/V1__a.sql": "SELECT 1;", "V2__b.sql": "SELECT 2;"})
    (folder / "sub").chmod(0o000)
    request.getfixturevalue("unprivileged")
    with pytest.raises(StepFailed) as raised:
        read_source(folder, Format.FLYWAY)
    assert raised.value.failure.reason is Reason.SOURCE_INVALID
    assert raised.value.failure.message == "sub cannot be read: Permission denied."
