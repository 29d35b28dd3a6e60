"""Packages of npm for tests, in ~/.cache/godwit: the versions and SHA-512 hashes of a package-lock.json.

The lock names no registry, so npm asks the one that it is set up for, and refuses a package whose hash is
another. Scripts of packages are never run.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "godwit" / "interop"
OLDEST = 20
"""Node's major version that the tools need."""


class MissingToolError(Exception):
    """What a test needs is not here and could not be had; the text is the whole message."""


def modules(folder: Path) -> Path:
    """The folder node_modules with what *folder*'s package.json and package-lock.json say.

    Downloaded once for each content of the two. Raises MissingToolError.
    """
    _require_node()
    files = [folder / "package.json", folder / "package-lock.json"]
    content = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    target = CACHE / f"{folder.parent.name}-{content[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    # Test processes that run side by side ask for the same: one downloads, the others wait for it.
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            for path in files:
                shutil.copy(path, unfinished)
            _install(unfinished)
            unfinished.rename(target)
    return target / "node_modules"


def _require_node() -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        raise MissingToolError(
            f"These tests need Node >= {OLDEST} with npm, and there is none on the PATH. Install it, or "
            "leave these tests out: make test-fast ARGS='-m \"not cluster and not slow and not interop\"'"
        )
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.", said)
    if not found or int(found[1]) < OLDEST:
        raise MissingToolError(f"These tests need Node >= {OLDEST}; the one on the PATH is {said.strip()}.")


def _install(folder: Path) -> None:
    command = ["npm", "ci", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MissingToolError(
            f"npm could not install {folder / 'package.json'}: {done.stderr.strip()[-1500:]}"
        )
