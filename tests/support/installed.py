"""What tests install for themselves, once, in ~/.cache/godwit: a folder for each content of its files."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "godwit" / "interop"
LEAVE_OUT = "or leave these tests out: make test-fast ARGS='-m \"not cluster and not slow and not interop\"'"


class MissingToolError(Exception):
    """What a test needs is not here and could not be had; the text is the whole message."""


def once(files: Sequence[Path], install: Callable[[Path], None], *, variant: str = "") -> Path:
    """The folder that *install* filled, given copies of *files* in it: the first time, or an earlier one.

    Test processes that run side by side ask for the same: one installs, the others wait for it.
    """
    parts = [*(path.read_bytes() for path in files), *([variant.encode()] if variant else [])]
    content = hashlib.sha256(b"\0".join(parts)).hexdigest()
    target = CACHE / f"{files[0].parent.parent.name}-{content[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            for path in files:
                shutil.copy(path, unfinished)
            install(unfinished)
            unfinished.rename(target)
    return target
