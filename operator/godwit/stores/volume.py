"""Backups on a mounted volume: written under a temporary name, made durable, then renamed."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from godwit.stores.base import StoreError, Writable

_PARTIAL = ".partial"


class VolumeStore:
    """The store in the folder *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, location: str) -> Path:
        """See `Store.path`. Raises StoreError when that would be outside the store."""
        parts = PurePosixPath(location).parts
        if not parts or location.startswith("/") or ".." in parts or "\0" in location:
            raise StoreError(f"{location!r} is no place in the backup store.")
        path = self.root.joinpath(*parts)
        # A link inside the volume could still lead out of it.
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise StoreError(f"{location!r} leads out of the backup store.")
        return path

    @contextlib.contextmanager
    def create(self, location: str) -> Iterator[Writable]:
        """See `Store.create`. A rename is atomic, and durable after fsync of its folder (POSIX)."""
        path = self.path(location)
        with _explained("written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._clear(path)
            partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
            file = partial.open("xb")
        try:
            with file:
                yield _Writable(file)
                with _explained("written"):
                    file.flush()
                    os.fsync(file.fileno())
            with _explained("written"):
                partial.rename(path)
                _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def open(self, location: str) -> BinaryIO:
        """See `Store.open`."""
        with _explained("read"):
            return self.path(location).open("rb")

    def read(self, location: str) -> bytes:
        """See `Store.read`."""
        with _explained("read"):
            return self.path(location).read_bytes()

    def size(self, location: str) -> int:
        """See `Store.size`."""
        with _explained("read"):
            return self.path(location).stat().st_size

    def delete(self, location: str) -> None:
        """See `Store.delete`."""
        path = self.path(location)
        with _explained("written"):
            if not path.parent.is_dir():
                return
            self._clear(path)
            path.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def free_bytes(self) -> int:
        """See `Store.free_bytes`."""
        with _explained("written"), tempfile.TemporaryFile(dir=self.root):
            return shutil.disk_usage(self.root).free

    @staticmethod
    def _clear(path: Path) -> None:
        for left in path.parent.iterdir():
            if left.name.startswith(f".{path.name}.") and left.name.endswith(_PARTIAL):
                left.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the block's OSError into a StoreError, but for a file to read that is not there."""
    try:
        yield
    except OSError as error:
        if what == "read" and isinstance(error, FileNotFoundError):
            raise
        raise StoreError(f"The backup store cannot be {what}: {error.strerror}.") from None


class _Writable:
    """A file whose failed writes say that it is the store that failed: its block may fail by other things."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        with _explained("written"):
            return self._file.write(data)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
