"""golang-migrate's folder: `{version}_{title}.up.sql` and, as the way back, `.down.sql`. Pure.

Facts as of golang-migrate 4.19: versions are numbers, so 1 and 000001 are the same; a folder below, and what
is not named like a migration, is ignored; two files of one version and direction are an error.
"""

import re
from collections.abc import Mapping
from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats.text import invalid, text_of
from godwit.engine.model import Migration, Script, Source, Transaction

NAME: Final = re.compile(r"([0-9]+)_(.*)\.(down|up)\.(.*)")
"""The tool's own pattern; `.*` ends at a line, which file names hardly hold."""
_LARGEST: Final = 2**63 - 1
"""The history's column is a bigint."""


def wanted(path: str) -> bool:
    """Whether the tool would take the file at *path*, relative to the folder, for a migration."""
    return NAME.fullmatch(path) is not None and "/" not in path


def build(files: Mapping[str, bytes]) -> Source:
    """The source in *files*; a migration's name is its version as the history has it, without zeros in front.

    Raises StepFailed: SourceInvalid, EncodingInvalid.
    """
    found: dict[int, dict[str, str]] = {}
    for path in sorted(filter(wanted, files)):
        version, direction = _parts(path)
        scripts = found.setdefault(version, {})
        if direction in scripts:
            raise invalid(f"{scripts[direction]} and {path} are both the {direction} of version {version}.")
        scripts[direction] = path
    if not found:
        raise invalid("There is no migration: no file is named VERSION_TITLE.up.sql.")
    return Source(
        Format.GOLANG_MIGRATE,
        tuple(_migration(version, found[version], files) for version in sorted(found)),
        files={path: data for path, data in files.items() if wanted(path)},
    )


def sort_key(name: str) -> int:
    """Versions are numbers."""
    return int(name)


def _parts(path: str) -> tuple[int, str]:
    match = NAME.fullmatch(path)
    if match is None:
        raise ValueError(path)
    if int(match[1]) > _LARGEST:
        raise invalid(f"The version of {path} is larger than the history's bigint can hold.")
    return int(match[1]), match[3]


def _migration(version: int, paths: Mapping[str, str], files: Mapping[str, bytes]) -> Migration:
    if "up" not in paths:
        raise invalid(f"{paths['down']} has no .up.sql beside it.")
    name = str(version)
    scripts = {way: _script(path, files[path], name) for way, path in paths.items()}
    return Migration(name, scripts["up"], scripts.get("down"))


def _script(path: str, data: bytes, name: str) -> Script:
    """The history keeps no checksum. The whole file is one message to the server, and so one transaction."""
    text_of(path, data, name)
    return Script(path, data, checksum="", transaction=Transaction.ONE_MESSAGE)
