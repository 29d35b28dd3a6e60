"""Containerd's images, kept in the cache for the next node: unpacking and deleting them takes longest."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from .places import CACHE, REGISTRY, Failure
from .processes import POLL, run

FOLDER = CACHE / "containerd"
# There only while no node uses the store, and its last one left nothing but images in it.
_CLEAN = FOLDER / "clean"
_IMPORTED = FOLDER / "imported"


def attach(work: Path) -> None:
    """Makes the store the containerd root of this work folder; one that was not left clean is begun anew."""
    if not _CLEAN.exists():
        run("rm", "-rf", "--one-file-system", FOLDER)
    _IMPORTED.mkdir(parents=True, exist_ok=True)
    _CLEAN.unlink(missing_ok=True)
    (work / "containerd").symlink_to(FOLDER)


def has(archive: Path) -> bool:
    """True when this archive was the last one imported of its image."""
    mark = _IMPORTED / archive.name.partition("-")[0]
    return mark.exists() and mark.read_text() == archive.name


def note(archive: Path) -> None:
    """Remembers what has() tells; a name is IMAGE-CONTENT.tar."""
    (_IMPORTED / archive.name.partition("-")[0]).write_text(archive.name)


def empty(ctr: Callable[..., str]) -> bool:
    """Removes all but our images once the containers have ended; False when containerd would not."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            for kind in ("containers", "sandboxes"):
                if left := _listed(ctr, kind):
                    ctr(kind, "rm", *left)
            if pulled := [name for name in _listed(ctr, "images") if name.startswith(f"{REGISTRY}/")]:
                ctr("images", "rm", *pulled)
        except Failure:
            time.sleep(POLL)  # it is still taking note that a container has ended
            continue
        return True
    return False


def detach() -> None:
    """Notes, once containerd has ended too, that the store is clean."""
    os.sync()  # before the mark, so that a power cut does not leave a mark on half-written files
    _CLEAN.touch()


def _listed(ctr: Callable[..., str], kind: str) -> list[str]:
    """The first column of a table, without its heading."""
    return [line.split()[0] for line in ctr(kind, "ls").splitlines()[1:] if line.strip()]
