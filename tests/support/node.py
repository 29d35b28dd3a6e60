"""Packages of npm for tests, in ~/.cache/godwit: the versions and SHA-512 hashes of a package-lock.json.

The lock names no registry, so npm asks the one that it is set up for, and refuses a package whose hash is
another. Scripts of packages are never run.
"""

import re
import shutil
import subprocess
from pathlib import Path

from installed import LEAVE_OUT, MissingToolError, once

OLDEST = 20
"""Node's major version that the tools need."""


def modules(folder: Path) -> Path:
    """The folder node_modules with what *folder*'s package.json and package-lock.json say.

    Downloaded once for each content of the two. Raises MissingToolError.
    """
    _require_node()
    files = [folder / "package.json", folder / "package-lock.json"]
    return once(files, _install) / "node_modules"


def _require_node() -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        raise MissingToolError(
            f"These tests need Node >= {OLDEST} with npm, and there is none on the PATH. Install it, "
            f"{LEAVE_OUT}"
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
