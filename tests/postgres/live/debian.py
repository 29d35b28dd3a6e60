"""Programs from Debian's packages, unpacked into ~/.cache/godwit: nothing is installed, no root is needed.

apt checks every package against the signed index of its release; the release, and with it the version, is the
machine's own.
"""

import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "godwit" / "debian"


class MissingProgramError(Exception):
    """A program is not here and could not be had; the text is the whole message."""


def unpacked(package: str, *, libraries: str) -> Path:
    """The folder with *package* and those of its dependencies whose name matches the pattern *libraries*.

    Downloaded once. Raises MissingProgramError.
    """
    target = CACHE / package
    if target.exists():
        return target
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise MissingProgramError(
            f"These tests need {package}, and take it from Debian's packages: apt-get and dpkg are missing. "
            "The system must be Debian or Ubuntu."
        )
    unfinished = target.with_name(f"{package}.{secrets.token_hex(4)}")
    (unfinished / "packages").mkdir(parents=True)
    try:
        _fetch(package, libraries, unfinished)
        unfinished.rename(target)
    except OSError:  # another process was faster, which is as good
        if not target.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def environment(folder: Path) -> dict[str, str]:
    """The environment in which a program of that folder finds its libraries."""
    found = sorted(str(path) for path in (folder / "usr" / "lib").glob("*-linux-gnu*"))
    return {"PATH": os.environ.get("PATH", os.defpath), "LD_LIBRARY_PATH": ":".join(found), "LC_ALL": "C"}


def _fetch(package: str, libraries: str, folder: Path) -> None:
    names = _names(package, libraries)
    if not names:
        # A fresh machine may have no index yet.
        _run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "update")
        names = _names(package, libraries)
    if not names:
        raise MissingProgramError(f"These tests need {package}, and no package source of apt has it.")
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *names, cwd=folder / "packages")
    for path in sorted((folder / "packages").glob("*.deb")):
        _run("dpkg", "-x", str(path), str(folder))


def _names(package: str, libraries: str) -> list[str]:
    """The package and its matching dependencies; none where apt does not know it."""
    done = subprocess.run(
        ["apt-cache", "depends", "--no-recommends", "--no-suggests", package],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return []
    needed = re.findall(r"Depends: (\S+)", done.stdout)
    return [package, *(name for name in needed if re.match(libraries, name))]


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MissingProgramError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-1000:]}")
