"""A source may hold anything at all: it is read, or refused by a sentence, within bounds."""

import gzip
import io
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from godwit.contract.base import canonical_json
from godwit.contract.outcome import Failure
from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine import source as source_module
from godwit.engine.errors import StepFailed
from godwit.engine.source import read_source

SQL = b"-- +goose Up\nSELECT 1;"


def refused(folder: Path, layout: Format) -> Failure:
    """Why the folder is refused; the refusal can be told."""
    with pytest.raises(StepFailed) as raised:
        read_source(folder, layout)
    failure = raised.value.failure
    assert failure.reason is Reason.SOURCE_INVALID
    canonical_json(failure)
    return failure


def entry(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def packed(folder: Path, *entries: tarfile.TarInfo) -> Path:
    """An archive of *entries*, each with our SQL where it has a size."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for one in entries:
            archive.addfile(one, io.BytesIO(SQL))
    (folder / "all.tar.gz").write_bytes(gzip.compress(plain.getvalue()))
    return folder


@pytest.mark.parametrize("layout", list(Format))
@pytest.mark.parametrize("name", ["1_\udce4", "1_\x1b[2J", "1_a\rb", "1_\u202eb"])
@pytest.mark.parametrize("as_archive", [True, False])
def test_a_name_that_cannot_be_shown_is_refused_so_that_it_can_be_told(tmp_path, layout, name, as_archive):
    path = {
        Format.PRISMA: f"{name}/migration.sql",
        Format.AUTO: f"V1__{name}.sql",
        Format.FLYWAY: f"V1__{name}.sql",
        Format.GOLANG_MIGRATE: f"{name}.up.sql",
    }.get(layout, f"{name}.sql")
    if as_archive:
        packed(tmp_path, entry(path, len(SQL)))
    else:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(SQL)
    assert "cannot be shown" in refused(tmp_path, layout).message


def test_a_folder_of_another_encoding_that_is_no_migration_is_named(tmp_path):
    (tmp_path / "1_\udce4").mkdir()
    assert "1_\\udce4" in refused(tmp_path, Format.PRISMA).message


@pytest.mark.parametrize("name", ["x" * 256, "\N{GRINNING FACE}" * 64])
def test_a_name_that_no_file_system_could_hold_is_refused(tmp_path, name):
    packed(tmp_path, entry(f"{name}/migration.sql", len(SQL)))
    assert "more than 255 bytes" in refused(tmp_path, Format.PRISMA).message


@pytest.mark.parametrize("layout", list(Format))
def test_what_cannot_be_read_further_down_is_named(tmp_path, layout):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "migration.sql").symlink_to("migration.sql")
    assert "1/migration.sql cannot be read: Too many levels" in refused(tmp_path, layout).message


def test_a_migration_in_many_folders_is_not_overlooked(tmp_path):
    deep = tmp_path.joinpath(*"abcdefghijkl")
    deep.mkdir(parents=True)
    (deep / "V2__deep.sql").write_bytes(SQL)
    (tmp_path / "V1__flat.sql").write_bytes(SQL)
    assert [m.name for m in read_source(tmp_path, Format.FLYWAY).migrations] == ["1", "2"]
    deeper = deep.joinpath(*("m" * 60))
    deeper.mkdir(parents=True)
    assert "more than 64 folders" in refused(tmp_path, Format.FLYWAY).message


def test_links_back_have_no_end_and_are_not_followed(tmp_path):
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "V1__a.sql").write_bytes(SQL)
    for number in range(9):
        (tmp_path / "sql" / f"back{number}").symlink_to("../sql" if number % 2 else "..")
    (tmp_path / "V2__b.sql").symlink_to("sql/V1__a.sql")
    assert [m.name for m in read_source(tmp_path, Format.FLYWAY).migrations] == ["1", "2"]


def test_an_archives_headers_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "SIZE_LIMIT", 1_000_000)
    header = entry("x", 100_000_000, type=tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "all.tar.gz").write_bytes(gzip.compress(header + bytes(100_000_000), 1))
    tracemalloc.start()
    assert "unpacks to more" in refused(tmp_path, Format.PRISMA).message
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize(
    "fields", [{"GNU.sparse.map": "1,x"}, {"GNU.sparse.size": "x"}, {"size": "99999999999999999999"}]
)
def test_an_archive_with_broken_headers_is_refused(tmp_path, fields):
    packed(tmp_path, entry("1_a/migration.sql", len(SQL), pax_headers=fields))
    assert "all.tar.gz" in refused(tmp_path, Format.PRISMA).message


def test_no_archive_breaks_the_reader(tmp_path):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9", "path": "1/ä"}
        for number in range(3):
            archive.addfile(entry(f"{number}/migration.sql", len(SQL), pax_headers=fields), io.BytesIO(SQL))
    chance = random.Random(7)
    for _ in range(500):
        bytes_now = bytearray(plain.getvalue())
        for _ in range(chance.randint(1, 6)):
            bytes_now[chance.randrange(len(bytes_now) - 8192)] = chance.choice(b"\0 019-=x\xff\n")
        (tmp_path / "all.tar.gz").write_bytes(gzip.compress(bytes(bytes_now), 1))
        try:
            read_source(tmp_path, Format.PRISMA)
        except StepFailed as failed:
            canonical_json(failed.failure)
    assert [path.name for path in tmp_path.iterdir()] == ["all.tar.gz"]
