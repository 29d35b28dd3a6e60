"""Atlas' folder: `{version}_{name}.sql` and atlas.sum; as the way back `{version}_{name}.sql.down`. Pure.

Facts as of Atlas 1.2: every file that ends in .sql is a migration; its version is what stands before the
first underscore, as text; files come in the order of their names; folders below are not read. Lines
`-- atlas:...` at the top of a file, with an empty line after them, are its directives. The open source
edition has no way back, and whatever else ended in .sql would be a migration for it: hence the ending .down.
"""

import re
from collections.abc import Mapping
from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats.atlas_sum import SUM, check
from godwit.engine.formats.text import invalid, text_of, unsupported
from godwit.engine.model import Migration, Script, Source, Transaction

NO_TRANSACTION: Final = "-- atlas:txmode none"
_UP: Final = ".sql"
_DOWN: Final = ".sql.down"
_DIRECTIVE: Final = re.compile(r"([ -~]*)atlas:(\w+)(?: +(.+))*", re.ASCII)
_REFUSED: Final = {
    "checkpoint": "a checkpoint stands for the files before it, which only Atlas can choose between",
    "import": "other files are imported by Atlas alone",
    "txtar": "an archive of checks and migration is taken apart by Atlas alone",
}
_MODES: Final = {"none": Transaction.NEVER, "file": Transaction.ALWAYS}


def wanted(path: str) -> bool:
    """Whether the file at *path*, relative to the folder, is a migration, a way back, or atlas.sum."""
    return "/" not in path and (path == SUM or path.endswith((_UP, _DOWN)))


def build(files: Mapping[str, bytes]) -> Source:
    """The source in *files*; a migration's name is its version, as the history has it.

    Raises StepFailed: SourceInvalid, SourceUnsupported, ChecksumMismatch, EncodingInvalid.
    """
    ups = {path: files[path] for path in sorted(files) if wanted(path) and path.endswith(_UP)}
    if not ups:
        raise invalid("There is no migration: no file is named VERSION_NAME.sql.")
    before = ""
    for path in ups:
        _check_order(before, path)
        before = path
    for path in files:
        if wanted(path) and path.endswith(_DOWN) and path.removesuffix(".down") not in ups:
            raise invalid(f"{path} has no {path.removesuffix('.down')} beside it.", file=path)
    texts = {path: text_of(path, data, version(path)) for path, data in ups.items()}
    for path, text in texts.items():
        _check_first_line(path, text)
    hashes = check(files.get(SUM), ups)
    return Source(
        Format.ATLAS,
        tuple(_migration(path, text, hashes[path], files) for path, text in texts.items()),
        files={path: data for path, data in files.items() if wanted(path)},
    )


def sort_key(name: str) -> str:
    """Versions are text."""
    return name


def version(path: str) -> str:
    """What stands before the first underscore of a file's name."""
    return path.removesuffix(_UP).partition("_")[0]


def description(path: str) -> str:
    """What stands after it."""
    return path.partition("_")[2].removesuffix(_UP)


def _check_order(before: str, path: str) -> None:
    """Atlas runs files by name and compares versions: where the two differ, it would pass some over."""
    if not version(path):
        raise invalid(f"{path} has no version before its underscore.", file=path)
    if before and version(before) == version(path):
        raise invalid(f"{before} and {path} are both version {version(path)}.")
    if before and version(before) > version(path):
        raise unsupported(
            f"{before} comes before {path} by name, and after it by version, so that Atlas is of two minds: "
            "give the versions the same length.",
            file=path,
        )


def _check_first_line(path: str, text: str) -> None:
    """What counts in a file's very first line, whatever follows."""
    found = _DIRECTIVE.match(text)
    if found is None:
        return
    if found[2] == "delimiter" and found[1] == "-- ":
        why = "a delimiter of the team's own is no SQL: end each statement with a semicolon"
        raise unsupported(f"{path}, line 1: {why}.", file=path, line=1)
    if found[2] == "sum" and found[3] == "ignore":
        raise unsupported(f"{path}, line 1: Atlas cannot run what {SUM} does not have.", file=path, line=1)


def _migration(path: str, text: str, stored: str, files: Mapping[str, bytes]) -> Migration:
    name, down = version(path), f"{path}.down"
    back = None
    if down in files:
        back = _script(down, text_of(down, files[down], name), files[down], "")
    return Migration(name, _script(path, text, files[path], stored), back)


def _script(path: str, text: str, data: bytes, stored: str) -> Script:
    return Script(path, data, checksum=stored, transaction=_transaction(path, text), directive=NO_TRANSACTION)


def _transaction(path: str, text: str) -> Transaction:
    """What the file's directives say of its transaction. Raises StepFailed for what only Atlas can do."""
    lines, ended = _comments(text)
    modes = []
    for number, line in enumerate(lines, 1):
        found = _DIRECTIVE.match(line)
        kind = found[2] if found else ""
        if kind not in _REFUSED and kind != "txmode":
            continue
        if not ended:
            why = f"Atlas passes `atlas:{kind}` over unless an empty line follows the comments at the top"
            raise invalid(f"{path}, line {number}: {why}.", file=path, line=number)
        if kind in _REFUSED:
            raise unsupported(f"{path}, line {number}: {_REFUSED[kind]}.", file=path, line=number)
        modes.append((number, found[3] if found else ""))
    for number, mode in modes:
        if mode not in _MODES or len(modes) > 1:
            why = "txmode is `none` or `file`, and stands once in a file"
            raise invalid(f"{path}, line {number}: {why}.", file=path, line=number)
    return _MODES[modes[0][1]] if modes else Transaction.ALWAYS


def _comments(text: str) -> tuple[list[str], bool]:
    """The comment lines at the top of a file, and whether Atlas takes them for the file's own."""
    lines, rest = [], text
    while rest.startswith(("#", "--")):
        line, end, rest = rest.partition("\n")
        lines.append(line.strip() if end else line)
    return lines, not rest or rest.lstrip(" \t").startswith("\n")
