"""dbmate's folder: `{version}_{name}.sql`, each with a block `-- migrate:up` and one `-- migrate:down`. Pure.

Facts as of dbmate 2.36: the version is the digits in front, as text; files come in the order of their names;
`transaction:false` behind a block's mark runs it outside a transaction; folders below are not read.
"""

import re
from collections.abc import Mapping
from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats.text import invalid, only, text_of, unsupported
from godwit.engine.model import Migration, Script, Source, Transaction

NAME: Final = re.compile(r"([0-9]+).*\.sql")
NO_TRANSACTION: Final = "transaction:false"

_UP: Final = re.compile(r"^--\s*migrate:up(\s*$|\s+\S+)", re.MULTILINE)
_DOWN: Final = re.compile(r"^--\s*migrate:down(\s*$|\s+\S+)", re.MULTILINE)
_MARK: Final = re.compile(r"^--\s*migrate:(up|down)")


def wanted(path: str) -> bool:
    """Whether the tool would take the file at *path*, relative to the folder, for a migration."""
    return NAME.fullmatch(path) is not None and "/" not in path


def build(files: Mapping[str, bytes]) -> Source:
    """The source in *files*; a migration's name is its version, the digits in front of the file's name.

    Raises StepFailed: SourceInvalid, SourceUnsupported, EncodingInvalid.
    """
    found: dict[str, str] = {}
    for path in sorted(filter(wanted, files)):
        version = _version(path)
        if version in found:
            raise invalid(f"{found[version]} and {path} are both version {version}.")
        found[version] = path
    if not found:
        raise invalid("There is no migration: no file is named VERSION_NAME.sql.")
    return Source(
        Format.DBMATE,
        tuple(_migration(version, path, files[path]) for version, path in found.items()),
        files={path: files[path] for path in found.values()},
    )


def sort_key(name: str) -> str:
    """By the file's name, in which an underscore follows the version."""
    return f"{name}_"


def marked(text: str) -> bool:
    """Whether a file is one of dbmate's."""
    return _UP.search(text) is not None


def _version(path: str) -> str:
    match = NAME.fullmatch(path)
    if match is None:
        raise ValueError(path)
    return match[1]


def _migration(version: str, path: str, data: bytes) -> Migration:
    text = text_of(path, data, version)
    ups, downs = list(_UP.finditer(text)), list(_DOWN.finditer(text))
    if not ups:
        raise invalid(f"{path} has no block that begins with `-- migrate:up`.", file=path)
    if not downs:
        raise invalid(f"{path} has no block that begins with `-- migrate:down`.", file=path)
    if len(ups) > 1 or len(downs) > 1:
        line = _line(text, (ups[1:] or downs[1:])[0].start())
        raise unsupported(
            f"{path}, line {line}: a second block in one file, of which dbmate cannot record both.",
            file=path,
            line=line,
        )
    up, down = ups[0].start(), downs[0].start()
    if up > down:
        raise invalid(f"{path}: `-- migrate:up` must come before `-- migrate:down`.", file=path)
    before = text[:up].splitlines()
    stray = next((n for n, at in enumerate(before, 1) if at.strip() and not at.lstrip().startswith("--")), 0)
    if stray:
        raise invalid(f"{path}, line {stray}: it stands before `-- migrate:up`.", file=path, line=stray)
    return Migration(version, _block(path, text, up, down), _block(path, text, down, len(text)))


def _block(path: str, text: str, start: int, end: int) -> Script:
    """One block in its place. The history keeps no checksum."""
    options = _MARK.sub("", text[start:end].split("\n", 1)[0]).split()
    # The last one counts; anything but `false` means true.
    pairs = dict(option.split(":") for option in options if option.count(":") == 1)
    alone = pairs.get("transaction") == "false"
    return Script(
        path,
        only(text, [(start, end)]).encode(),
        checksum="",
        transaction=Transaction.NEVER if alone else Transaction.ALWAYS,
        directive=NO_TRANSACTION,
    )


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
