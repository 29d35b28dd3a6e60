"""Making a migration folder into ConfigMaps, in the layout that `source` reads."""

import base64
import gzip
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.errors import fail
from godwit.engine.formats.prisma_folder import DOWN, LOCK, UP
from godwit.engine.model import Migration
from godwit.engine.source import ARCHIVE, DOWN_KEY, UP_KEY, read_source

CONFIG_MAP_LIMIT: Final = 900_000
"""Bytes of one ConfigMap's keys and values. Kubernetes' limit is 1 MiB; room is left for its metadata."""

_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
"""A key of a ConfigMap, as the API server demands it."""


def pack(folder: Path, format: Format = Format.PRISMA) -> list[dict[str, dict[str, str]]]:  # noqa: A002  the contract's word
    """`data` or `binaryData` of each ConfigMap that together hold the migrations in *folder*.

    Readable files where everything fits into one ConfigMap and every name can be a key, else archives, split
    where one would be too large. The same folder gives the same bytes. Raises StepFailed as `read_source`.
    """
    migrations = read_source(folder, format).migrations
    lock = folder / LOCK
    extra = {LOCK: lock.read_bytes()} if lock.is_file() else {}
    files = dict(extra)
    for migration in migrations:
        files |= {_key(migration, name): data for name, data in _scripts(migration)}
    fits = sum(len(key) + len(data) for key, data in files.items()) <= CONFIG_MAP_LIMIT
    if fits and all(_KEY.fullmatch(key) for key in files) and not any(_ambiguous(m.name) for m in migrations):
        return [{"data": {key: data.decode() for key, data in files.items()}}]
    archives = list(_archives(migrations, extra))
    return [
        {"binaryData": {f"migrations-{index}{ARCHIVE}": base64.b64encode(archive).decode()}}
        for index, archive in enumerate(archives)
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


def _archives(migrations: tuple[Migration, ...], extra: dict[str, bytes]) -> Iterator[bytes]:
    """Archives of at most CONFIG_MAP_LIMIT bytes: halves of halves, until each fits."""
    archive = _archive(migrations, extra)
    if len(archive) <= CONFIG_MAP_LIMIT:
        yield archive
    elif len(migrations) == 1:
        raise fail(
            Reason.SOURCE_INVALID,
            f"{migrations[0].name} is too large for a ConfigMap, even compressed.",
            hint="Give the migrations as an image instead.",
        )
    else:
        middle = len(migrations) // 2
        yield from _archives(migrations[:middle], extra)
        yield from _archives(migrations[middle:], extra)


def _archive(migrations: tuple[Migration, ...], extra: dict[str, bytes]) -> bytes:
    """A tar.gz without times and owners, so that the same files give the same bytes."""
    files = extra | {f"{m.name}/{name}": data for m in migrations for name, data in _scripts(m)}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)
