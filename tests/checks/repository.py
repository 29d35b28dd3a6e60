"""The repository's own rules, checked on every tracked text file: `python tests/checks/repository.py`.

- A module has at most 400 lines.
- Nothing names a package registry's host or a folder of the machine that it was written on: a lock file or
  a log pasted into a page would bind everyone to them.
- `operator/` has no __init__.py: it would shadow the standard library's module.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST_MODULE = 400

# Written so that this file passes its own check: ~ stands for a dot.
_REGISTRIES = (
    *("pypi~org", "pythonhosted~org", "npmjs~(org|com)", "crates~io", "proxy~golang~org", "sum~golang~org"),
    *("repo1?~maven", "deb~debian~org"),
)
_MACHINE = [r"/(root|home|Users)/\w", r"-{2}find-links", re.escape(str(ROOT)) + r"\b"]
_FOREIGN = re.compile("|".join([*(host.replace("~", r"\.") for host in _REGISTRIES), *_MACHINE]))


def tracked() -> list[Path]:
    """Files that git knows, as they stand in the work tree."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def complaints(path: Path, text: str) -> Iterator[str]:
    """What is wrong with one file, a line each."""
    name = path.relative_to(ROOT)
    lines = text.splitlines()
    if path.suffix == ".py" and len(lines) > LONGEST_MODULE:
        yield f"{name}: {len(lines)} lines; a module has at most {LONGEST_MODULE}"
    for number, line in enumerate(lines, 1):
        if found := _FOREIGN.search(line):
            yield f"{name}:{number}: names a registry's host or a machine's folder: {found[0]}"


def main() -> int:
    """Print every complaint; exit 1 if there is one."""
    found = ["operator/__init__.py must not exist"] if (ROOT / "operator/__init__.py").exists() else []
    files = 0
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            files += 1
            found += complaints(path, content.decode("utf-8", "replace"))
    print("\n".join(found) if found else f"repository: {files} files keep its rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
