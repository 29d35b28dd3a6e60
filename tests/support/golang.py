"""Programs in Go for tests, built once into ~/.cache/godwit: the versions and hashes of a go.mod and go.sum.

The Go toolchain asks the proxy that it is set up for, and refuses a module whose hash is not go.sum's.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from installed import LEAVE_OUT, MissingToolError, once

OLDEST = (1, 24)
"""Go's version that the tools need."""


def program(folder: Path, package: str, *, tags: str = "", added: Mapping[str, str] | None = None) -> Path:
    """The program that *package* builds to: of a module in *folder*'s go.mod, or *folder* itself (`.`).

    *added*: files below *folder* that the program needs beside those of a module, by where they belong: the
    module's path, a colon, a path in it. Built once for each content of all these files. Raises
    MissingToolError.
    """
    _require_go()
    files = [folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))]
    files += [folder / name for name in (added or {}).values()]

    def build(made: Path) -> None:
        for place, name in (added or {}).items():
            module, _, path = place.partition(":")
            _add(made, module, path, made / Path(name).name)
        _go(
            made, "build", "-p", "2", "-trimpath", "-ldflags=-s -w", f"-tags={tags}", "-o", "program", package
        )

    return once(files, build, variant=tags) / "program"


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


def _add(folder: Path, module: str, path: str, file: Path) -> None:
    """Let the build use a copy of *module*, whose hash is go.sum's, with *file* at *path*."""
    there = Path(json.loads(_go(folder, "mod", "download", "-json", module))["Dir"])
    copy = folder / "changed" / module.replace("/", "+")
    shutil.copytree(there, copy, copy_function=shutil.copyfile)
    for made in (copy, *copy.rglob("*")):
        made.chmod(0o755 if made.is_dir() else 0o644)  # the module cache is read-only
    file.rename(copy / path)
    _go(folder, "mod", "edit", f"-replace={module}=./{copy.relative_to(folder)}")


def _go(folder: Path, *words: str) -> str:
    """Run the command go in *folder*, and give what it says. Raises MissingToolError."""
    # -mod=mod: go.mod names only what is wanted; what it needs in turn is listed, and hashed, in go.sum.
    flags = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        ["go", *words],
        cwd=folder,
        env=os.environ | flags,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip()[-1500:]
        raise MissingToolError(f"Go could not make what {folder.name} holds ({words[0]}): {said}")
    return done.stdout
