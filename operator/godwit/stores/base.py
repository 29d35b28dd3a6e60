"""What a backup store must be able to do; a volume does it today."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol


class StoreError(Exception):
    """The store is full, cannot be written or read, or was asked for a place outside itself."""


class Writable(Protocol):
    """What a new file offers until it is complete."""

    def write(self, data: bytes, /) -> int:
        """Append *data*. Raises StoreError."""


class Store(Protocol):
    """Files by their location: a relative path with `/`, made from the backup object's name and uid."""

    def create(self, location: str) -> AbstractContextManager[Writable]:
        """A file to write, which appears under *location*, whole and durable, once the block ended well.

        Otherwise nothing appears. What dead attempts at the same location left behind is removed first.
        Raises StoreError.
        """

    def open(self, location: str) -> BinaryIO:
        """The file at *location*, to read. Raises FileNotFoundError, StoreError."""

    def path(self, location: str) -> Path | None:
        """Where a program can read the file by itself; None where only `open` can. Raises StoreError."""

    def read(self, location: str) -> bytes:
        """The content of a small file. Raises FileNotFoundError, StoreError."""

    def size(self, location: str) -> int:
        """Bytes at *location*. Raises FileNotFoundError, StoreError."""

    def delete(self, location: str) -> None:
        """Remove *location* and what unfinished attempts left; already gone is done. Raises StoreError."""

    def free_bytes(self) -> int:
        """How much more can be written. Raises StoreError also where nothing can be written at all."""
