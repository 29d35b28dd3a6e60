"""Reading a migration folder from where it is mounted: a folder tree, or the keys of ConfigMaps.

A ConfigMap holds the files of a folder by their names, or the whole tree in one or more keys that end in
.tar.gz. Prisma's layout has a folder for each migration: there the keys are NAME.sql and NAME.down.sql.
Several ConfigMaps are mounted as folders 0, 1, ... and are one source together.
"""

import errno
import gzip
import io
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from godwit.contract.base import digest
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, Format
from godwit.contract.source import source_content
from godwit.engine.errors import StepFailed, fail
from godwit.engine.formats.prisma_folder import DOWN, LOCK, UP
from godwit.engine.formats.recognise import recognise, telling
from godwit.engine.formats.registry import format_of
from godwit.engine.model import Source

SIZE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of all scripts together, unpacked; a step's pod has little memory."""
_DEPTH: Final = 64
"""Folders in folders that are looked into; with more of them, nothing is read and that is said."""
_NAME_LIMIT: Final = 255
"""Bytes of a file's or folder's name, as of file systems; an archive could hold longer ones."""
ARCHIVE: Final = ".tar.gz"
UP_KEY: Final = ".sql"
DOWN_KEY: Final = ".down.sql"


def read_source(folder: Path, format: Format) -> Source:  # noqa: A002  the contract's word
    """The migrations in *folder*, in the order of *format*; Auto looks which one it is.

    Links are followed inside of *folder* only. Raises StepFailed: SourceInvalid, SourceUnsupported,
    EncodingInvalid, ProviderMismatch.
    """
    if format is Format.AUTO:
        return read_source(folder, recognise(_Files(folder, telling).files()))
    tool = format_of(format)
    reader = _PrismaTree(folder, tool.wanted) if format is Format.PRISMA else _Files(folder, tool.wanted)
    return tool.build(reader.files())


def pinned_content(folder: Path) -> str:
    """Digest of a pinned copy as it is mounted: one folder for each ConfigMap, named 0, 1, ...

    A ConfigMap volume holds links `..data` and `..<time>` of its own; keys never begin like that.
    """
    parts = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    return source_content(
        [{f.name: f.read_bytes() for f in part.iterdir() if not f.name.startswith("..")} for part in parts]
    )


def content_digest(
    format: Format,  # noqa: A002  as above
    steps: Sequence[tuple[str, str, str]],
    direction: Direction | None,
) -> str:
    """Digest of what a plan takes from the source: (name, checksum of up, of down or nothing) in order.

    Equal wherever the same files meet the same history.
    """
    return digest({"format": format, "direction": direction, "migrations": [list(step) for step in steps]})


class _Files:
    """Collects the files of one source that *wanted* says yes to, by their path below the folder."""

    def __init__(self, root: Path, wanted: Callable[[str], bool]) -> None:
        self.root = str(root)
        self.wanted = wanted
        self.real_root = os.path.realpath(root)
        self.collected: dict[str, bytes] = {}
        self.size = 0

    def files(self) -> dict[str, bytes]:
        for folder in self._mounts():
            self._read(folder)
        return self.collected

    def _mounts(self) -> list[str]:
        """The folders 0, 1, ... of several ConfigMaps, else the folder itself."""
        entries = list(self._entries(self.root))
        names = [name for name, is_folder in entries if is_folder]
        if names and self._are_mounts(names, beside=len(entries) - len(names)):
            return [f"{self.root}/{name}" for name in sorted(names, key=int)]
        return [self.root]

    def _are_mounts(self, names: Sequence[str], *, beside: int) -> bool:
        """Whether folders of these names, with so many files beside them, are ConfigMaps."""
        return not beside and set(names) == {str(number) for number in range(len(names))}

    def _entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Names in *folder* and whether each is a folder, without what a ConfigMap mount has of its own."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("..") or (entry.is_symlink() and self._leads_back(entry.path)):
                        continue
                    yield entry.name, entry.is_dir()
        except OSError as exc:
            where = os.path.relpath(exc.filename or folder, self.root)
            raise _invalid(
                f"{'The source' if where == '.' else where} cannot be read: {exc.strerror}."
            ) from None

    def _leads_back(self, link: str) -> bool:
        """Whether *link* leads to a folder that it lies in itself, where there would be no end of reading."""
        self._check_inside(link)
        return Path(os.path.realpath(Path(link).parent)).is_relative_to(os.path.realpath(link))

    def _check_inside(self, path: str) -> None:
        if os.path.commonpath([self.real_root, os.path.realpath(path)]) != self.real_root:
            raise _invalid(f"{os.path.relpath(path, self.root)} is a link that leads out of the source.")

    def _read(self, folder: str, below: str = "") -> None:
        """Everything in *folder*, which lies *below* the source; archives only at its top."""
        for name, is_folder in sorted(self._entries(f"{folder}/{below}")):
            path = below + name
            if is_folder and below.count("/") == _DEPTH:
                raise _invalid(f"{path} lies in more than {_DEPTH} folders.")
            if is_folder:
                self._read(folder, f"{path}/")
            elif not below and name.endswith(ARCHIVE):
                for inner, content in _unpacked(name, self._load(f"{folder}/{name}") or b"", self.wanted):
                    self._add(inner, content)
            elif self.wanted(path):
                self._add(path, self._load(f"{folder}/{path}") or b"")

    def _load(self, path: str) -> bytes | None:
        """The bytes of a regular file, or None where there is none."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            try:
                handle = os.open(path, flags | os.O_NOFOLLOW)
            except OSError as exc:
                if exc.errno != errno.ELOOP:
                    raise
                self._check_inside(path)
                handle = os.open(path, flags)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _invalid(f"{os.path.relpath(path, self.root)} cannot be read: {exc.strerror}.") from None
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > SIZE_LIMIT:
                raise _invalid(f"{os.path.relpath(path, self.root)} is not a file, or too large.")
            return b"".join(iter(lambda: os.read(handle, facts.st_size or 1), b""))
        finally:
            os.close(handle)

    def _add(self, path: str, data: bytes) -> None:
        if not path.isprintable():
            raise _invalid(f"The name {path!r} has characters that cannot be shown.")
        if any(len(part.encode()) > _NAME_LIMIT for part in path.split("/")):
            raise _invalid(f"The name {path[:40]}… has more than {_NAME_LIMIT} bytes.")
        self.size += len(data)
        if self.size > SIZE_LIMIT:
            raise _invalid(f"The source is larger than {SIZE_LIMIT // 1024**2} MiB.")
        if self.collected.setdefault(path, data) != data:
            raise _invalid(f"{path} is there twice, with different content.")


class _PrismaTree(_Files):
    """Prisma's layout: every folder is a migration, and must hold its script."""

    def _are_mounts(self, names: Sequence[str], *, beside: int) -> bool:  # noqa: ARG002  as above
        # A migration may be called 1; it has a script then.
        return all(
            re.fullmatch(r"\d+", name) and not os.path.lexists(f"{self.root}/{name}/{UP}") for name in names
        )

    def _read(self, folder: str, below: str = "") -> None:  # noqa: ARG002  as above
        entries = sorted(self._entries(folder))
        folders = [name for name, is_folder in entries if is_folder]
        if (data := self._load(f"{folder}/{LOCK}")) is not None:
            self._add(LOCK, data)
        for name in folders:
            up, down = self._load(f"{folder}/{name}/{UP}"), self._load(f"{folder}/{name}/{DOWN}")
            if up is None:
                raise _invalid(f"The folder {name} has no {UP}: every folder must be a migration.")
            self._add(f"{name}/{UP}", up)
            if down is not None:
                self._add(f"{name}/{DOWN}", down)
        if not folders:  # in a tree, files beside the folders are none of the format's business
            for key, _ in entries:
                self._read_key(folder, key)

    def _read_key(self, folder: str, key: str) -> None:
        if not key.endswith((ARCHIVE, UP_KEY)):
            return
        data = self._load(f"{folder}/{key}") or b""
        if key.endswith(ARCHIVE):
            for path, content in _prisma_archive(key, data):
                self._add(path, content)
        elif key.endswith(DOWN_KEY):
            self._add(f"{key.removesuffix(DOWN_KEY)}/{DOWN}", data)
        else:
            self._add(f"{key.removesuffix(UP_KEY)}/{UP}", data)


def _unpacked(key: str, data: bytes, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The files of an archive that are *wanted*, without the folders that all of them lie in."""
    found = _members(key, data, lambda parts: wanted(parts[-1]) or wanted("/".join(parts)))
    folders = [parts[:-1] for parts in found]
    depth = 0
    while folders and all(len(f) > depth and f[depth] == folders[0][depth] for f in folders):
        depth += 1
    for parts, content in found.items():
        path = "/".join(parts[depth:])
        if wanted(path):
            yield path, content


def _members(
    key: str, data: bytes, wanted: Callable[[tuple[str, ...]], bool]
) -> dict[tuple[str, ...], bytes]:
    """The wanted files of an archive by the parts of their path. Nothing touches the disk."""
    found: dict[tuple[str, ...], bytes] = {}
    size = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflated(key, data)), mode="r:") as archive:
            for member in archive:
                parts = tuple(part for part in member.name.split("/") if part not in {"", "."})
                if member.isdir() or not parts or parts[-1].startswith("._"):  # macOS' own entries
                    continue
                if not member.isreg() or ".." in parts or member.name.startswith("/"):
                    raise _invalid(f"{key} holds {member.name!r}, which is not a plain file below it.")
                size += member.size
                if size > SIZE_LIMIT:
                    raise _too_much(key)
                if wanted(parts) and (content := archive.extractfile(member)):
                    found[parts] = content.read()
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as exc:
        raise _invalid(f"{key} is no readable tar.gz archive: {exc}.") from None
    return found


def _inflated(key: str, data: bytes) -> bytes:
    """The tar archive in *data*, never more than the limit: headers too may be made to fill the memory."""
    with gzip.open(io.BytesIO(data)) as stream:
        plain = stream.read(SIZE_LIMIT + 1)
    if len(plain) > SIZE_LIMIT:
        raise _too_much(key)
    return plain


def _prisma_archive(key: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of Prisma's layout in an archive, without the folders that all of them lie in."""
    found = _members(key, data, lambda parts: parts[-1] in {UP, DOWN, LOCK})
    depth = _common_depth(list(found))
    for parts, content_bytes in found.items():
        below = parts[depth:]
        if len(below) > 2 or (len(below) == 1 and below[0] != LOCK):
            raise _invalid(f"{key} holds {'/'.join(parts)}, which is not where a migration's file would be.")
        yield "/".join(below), content_bytes


def _common_depth(paths: list[tuple[str, ...]]) -> int:
    """How many folders all *paths* lie in, apart from a migration's own."""
    depth = 0
    while (
        paths
        and len({path[depth] for path in paths}) == 1
        and all(len(path) - depth > (1 if path[-1] == LOCK else 2) for path in paths)
    ):
        depth += 1
    return depth


def _too_much(key: str) -> StepFailed:
    return _invalid(f"{key} unpacks to more than {SIZE_LIMIT // 1024**2} MiB.")


def _invalid(message: str) -> StepFailed:
    """The refusal of the source. A name in *message* may have bytes that are not UTF-8; it is shown."""
    told = message.encode(errors="backslashreplace").decode()
    return fail(Reason.SOURCE_INVALID, told, standing="Nothing was run.")
