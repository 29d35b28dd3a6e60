"""goose's folder: `{version}_{name}.sql` with `-- +goose Up` and, as the way back, `-- +goose Down`. Pure.

Facts as of goose 3.27: each .sql file must carry a version greater than zero, of which 1 and 00001 are the
same; lines that begin with `--` and hold `+goose` are annotations; `NO TRANSACTION` counts for both
directions; folders below are not read.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats.text import invalid, only, text_of, unsupported
from godwit.engine.model import Migration, Script, Source, Transaction

NO_TRANSACTION: Final = "-- +goose NO TRANSACTION"
_VERSION: Final = re.compile(r"[+-]?[0-9]+")
_ENVSUB: Final = {"envsub on", "envsub off"}
_UNENDED: Final = "no semicolon ends the statement that begins here"
_LARGEST: Final = 2**63 - 1
"""The history's column is a bigint."""
_GO: Final = re.compile(r"[0-9]+_.*\.go")


def wanted(path: str) -> bool:
    """Whether the tool would look at the file at *path*, relative to the folder."""
    return "/" not in path and (path.endswith(".sql") or _GO.fullmatch(path) is not None)


def build(files: Mapping[str, bytes]) -> Source:
    """The source in *files*; a migration's name is its version as the history has it, without zeros in front.

    Raises StepFailed: SourceInvalid, SourceUnsupported, EncodingInvalid.
    """
    found: dict[int, str] = {}
    for path in sorted(filter(wanted, files)):
        version = _version(path)
        if path.endswith(".go"):
            raise unsupported(
                f"{path} is a migration in Go, which only the team's own goose program can run.", file=path
            )
        if version in found:
            raise invalid(f"{found[version]} and {path} are both version {version}.")
        found[version] = path
    if not found:
        raise invalid("There is no migration: no file is named VERSION_NAME.sql.")
    return Source(
        Format.GOOSE,
        tuple(_migration(str(version), found[version], files[found[version]]) for version in sorted(found)),
        files={path: files[path] for path in found.values()},
    )


def sort_key(name: str) -> int:
    """Versions are numbers."""
    return int(name)


def marked(text: str) -> bool:
    """Whether a file is one of goose's."""
    return any(_annotation(line) is not None for line in text.splitlines())


def _version(path: str) -> int:
    before, underscore, _ = path.partition("_")
    if not underscore or not _VERSION.fullmatch(before) or not 0 < int(before) <= _LARGEST:
        raise invalid(
            f"{path} does not begin with a version and an underscore, which goose demands.", file=path
        )
    return int(before)


@dataclass
class _Parts:
    """What lies where in a file, as offsets of whole lines; the annotations themselves are left out."""

    up: list[tuple[int, int]] = field(default_factory=list)
    down: list[tuple[int, int]] = field(default_factory=list)
    transaction: bool = True


def _migration(version: str, path: str, data: bytes) -> Migration:
    text = text_of(path, data, version)
    parts = _parts(path, text)
    up, down = (_script(path, text, found, parts) for found in (parts.up, parts.down))
    return Migration(version, up, down if parts.down else None)


def _script(path: str, text: str, found: list[tuple[int, int]], parts: _Parts) -> Script:
    """One direction's lines in their place. The history keeps no checksum."""
    return Script(
        path,
        only(text, found).encode(),
        checksum="",
        transaction=Transaction.ALWAYS if parts.transaction else Transaction.NEVER,
        directive=NO_TRANSACTION,
    )


def _parts(path: str, text: str) -> _Parts:
    """The lines of each direction. Statements themselves are split by PostgreSQL's own parser."""
    parts, section, begun, unended = _Parts(), "", False, 0
    for number, start, end in _lines(text):
        line = text[start:end]
        mark = _annotation(line)
        wrong = ""
        if mark is None:
            if section:
                (parts.up if section == "up" else parts.down).append((start, end))
                unended = 0 if _ends(line) else unended or (number if _is_sql(line) else 0)
            elif _is_sql(line):
                wrong = "it stands before `-- +goose Up`"
        elif line[0] in " \t":
            wrong = "an annotation must begin its line"
        else:
            wrong = _step(mark, section, begun=begun)
            if unended and mark == "down":
                number, wrong = unended, _UNENDED  # noqa: PLW2901  the line that is meant
            section = mark if mark in {"up", "down"} else section
            begun = mark == "statementbegin" or (begun and mark != "statementend")
            unended = 0 if mark == "statementend" else unended
            parts.transaction &= mark != "no transaction"
        if wrong:
            known = unsupported if mark in _ENVSUB else invalid
            raise known(f"{path}, line {number}: {wrong}.", file=path, line=number)
    if not section:
        raise invalid(f"{path} has no `-- +goose Up`.", file=path)
    if begun:
        raise invalid(f"{path}: a StatementBegin has no StatementEnd.", file=path)
    if unended:
        raise invalid(f"{path}, line {unended}: {_UNENDED}.", file=path, line=unended)
    return parts


def _step(mark: str, section: str, *, begun: bool) -> str:
    """What is wrong with an annotation at this place; empty when nothing is."""
    if mark in _ENVSUB:
        return "ENVSUB replaces variables by the environment of the goose program"
    match mark:
        case "up":
            return "a second `-- +goose Up`" if section else ""
        case "down":
            return "" if section == "up" and not begun else "`-- +goose Down` must follow Up"
        case "statementbegin":
            return "" if section and not begun else "StatementBegin must follow `-- +goose Up` or `Down`"
        case "statementend":
            return "" if begun else "StatementEnd has no StatementBegin"
        case "no transaction":
            return ""
        case _:
            return f"goose knows no annotation {mark!r}"


def _is_sql(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("--")


def _ends(line: str) -> bool:
    """Whether goose takes the line for the end of a statement: its last word before a comment ends it."""
    words = itertools.takewhile(lambda word: not word.startswith("--"), line.split())
    return (list(words) or [""])[-1].endswith(";")


def _lines(text: str) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each line, the line end included."""
    at = 0
    for number, line in enumerate(text.split("\n"), 1):
        end = min(at + len(line) + 1, len(text))
        yield number, at, end
        at = end


def _annotation(line: str) -> str | None:
    """The annotation of a line in lower case, or None where it is none."""
    if not line.lstrip().startswith("--") or "+goose" not in line:
        return None
    return line.replace("--", "").replace("+goose", "", 1).strip().lower()
