"""Making a migration folder into ConfigMaps, in the layout that `source` reads."""

import base64
import gzip
import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.errors import fail
from godwit.engine.formats.prisma_folder import DOWN, LOCK, UP
from godwit.engine.model import Migration, Source
from godwit.engine.source import ARCHIVE, DOWN_KEY, UP_KEY, read_source

CONFIG_MAP_LIMIT: Final = 900_000
"""Bytes of one ConfigMap's keys and values. Kubernetes' limit is 1 MiB; room is left for its metadata."""

_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
"""A key of a ConfigMap, as the API server demands it."""


def pack(folder: Path, format: Format = Format.AUTO) -> list[dict[str, dict[str, str]]]:  # noqa: A002  the contract's word
    """`data` or `binaryData` of each ConfigMap that together hold the migrations in *folder*.

    Readable files where everything fits into one ConfigMap and every name can be a key, else archives, split
    where one would be too large. The same folder gives the same bytes. Raises StepFailed as `read_source`.
    """
    source = read_source(folder, format)
    if source.format is not Format.PRISMA:
        return _pack_files(source)
    migrations = source.migrations
    lock = folder / LOCK
    extra = {LOCK: lock.read_bytes()} if lock.is_file() else {}
    files = dict(extra)
    for migration in migrations:
        files |= {_key(migration, name): data for name, data in _scripts(migration)}
    fits = sum(len(key) + len(data) for key, data in files.items()) <= CONFIG_MAP_LIMIT
    if fits and all(_KEY.fullmatch(key) for key in files) and not any(_ambiguous(m.name) for m in migrations):
        return [{"data": {key: data.decode() for key, data in files.items()}}]
    parts = [extra | {f"{m.name}/{name}": data for name, data in _scripts(m)} for m in migrations]
    return _as_archives(parts)


def _pack_files(source: Source) -> list[dict[str, dict[str, str]]]:
    """The folder's own files by their names, which is how the tool knows them."""
    files = dict(source.files)
    fits = sum(len(key) + len(data) for key, data in files.items()) <= CONFIG_MAP_LIMIT
    if fits and all(_KEY.fullmatch(key) and not key.startswith("..") for key in files):
        return [{"data": {key: data.decode() for key, data in files.items()}}]
    return _as_archives([{path: data} for path, data in files.items()])


def _as_archives(parts: Sequence[Mapping[str, bytes]]) -> list[dict[str, dict[str, str]]]:
    return [
        {"binaryData": {f"migrations-{index}{ARCHIVE}": base64.b64encode(archive).decode()}}
        for index, archive in enumerate(_archives(parts))
    ]


def _ambiguous(name: str) -> bool:
    """Whether NAME.sql would be read as another migration's down, or as nothing."""
    return f"{name}{UP_KEY}".endswith(DOWN_KEY) or name.startswith("..")


def _key(migration: Migration, file: str) -> str:
    return migration.name + (UP_KEY if file == UP else DOWN_KEY)


def _scripts(migration: Migration) -> Iterator[tuple[str, bytes]]:
    yield UP, migration.up.data
    if migration.down is not None:
        yield DOWN, migration.down.data


def _archives(parts: Sequence[Mapping[str, bytes]]) -> Iterator[bytes]:
    """Archives of at most CONFIG_MAP_LIMIT bytes, no part torn: halves of halves, until each fits."""
    archive = _archive({path: data for part in parts for path, data in part.items()})
    if len(archive) <= CONFIG_MAP_LIMIT:
        yield archive
    elif len(parts) == 1:
        largest = max(parts[0], key=lambda path: len(parts[0][path]))
        raise fail(
            Reason.SOURCE_INVALID,
            f"{largest} is too large for a ConfigMap, even compressed.",
            hint="Give the migrations as an image instead.",
        )
    else:
        middle = len(parts) // 2
        yield from _archives(parts[:middle])
        yield from _archives(parts[middle:])


def _archive(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz without times and owners, so that the same files give the same bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)
