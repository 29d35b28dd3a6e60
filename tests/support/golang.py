"""Programs in Go for tests, built once into ~/.cache/godwit: the versions and hashes of a go.mod and go.sum.

The Go toolchain asks the proxy that it is set up for, and refuses a module whose hash is not go.sum's.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from installed import LEAVE_OUT, MissingToolError, once

OLDEST = (1, 24)
"""Go's version that the tools need."""


def program(folder: Path, package: str, *, tags: str = "") -> Path:
    """The program that *package*, of a module in *folder*'s go.mod, builds to.

    Built once for each content of go.mod and go.sum. Raises MissingToolError.
    """
    _require_go()
    files = [folder / name for name in ("go.mod", "go.sum", "tools.go")]
    return once(files, lambda made: _build(made, package, tags), variant=tags) / "program"


def _require_go() -> None:
    if not shutil.which("go"):
        raise MissingToolError(
            f"These tests need Go >= {OLDEST[0]}.{OLDEST[1]}, and there is none on the PATH. Install it, "
            f"{LEAVE_OUT}"
        )
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        raise MissingToolError(
            f"These tests need Go >= {OLDEST[0]}.{OLDEST[1]}; the one on the PATH is {said.strip()}."
        )


def _build(folder: Path, package: str, tags: str) -> None:
    # -mod=mod: go.mod names only what is wanted; what it needs in turn is listed, and hashed, in go.sum.
    command = ["go", "build", "-mod=mod", "-p", "2", "-trimpath", "-ldflags=-s -w", f"-tags={tags}"]
    done = subprocess.run(
        [*command, "-o", str(folder / "program"), package],
        cwd=folder,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MissingToolError(f"Go could not build {package}: {done.stderr.strip()[-1500:]}")
