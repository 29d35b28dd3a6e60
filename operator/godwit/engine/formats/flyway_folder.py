"""Flyway's folder: `V{version}__{description}.sql`, repeatable `R__`, `U{version}__` as the way back. Pure.

Facts as of Flyway 11.14: folders below are read too; underscores in a version are dots, in a description
spaces; 1 and 1.0 are the same version; `NAME.sql.conf` beside a script configures it; the checksum is CRC-32
over the lines without their ends. What needs Flyway itself (Java, callbacks, placeholders, ...) is refused.
"""

import re
import zlib
from collections.abc import Mapping
from typing import Final

from godwit.contract.request import Format
from godwit.engine.formats.text import invalid, text_of, unsupported
from godwit.engine.model import Migration, Script, Source, Transaction

CONF: Final = ".conf"
REPEATABLE: Final = "R__"
_NAME: Final = re.compile(r"(?:([VU])([0-9]+(?:[._][0-9]+)*)|(R))__(.+)\.sql")
_ALMOST: Final = re.compile(r"(?:[VU][0-9].*|R_.*)\.sql")
_CALLBACK: Final = re.compile(r"(?:(?:before|after)[A-Z]\w*|createSchema)(?:__.*)?\.sql")
_BASELINE: Final = re.compile(r"B[0-9].*__.*\.sql")
_PROGRAM: Final = re.compile(r"(?:[VU][0-9].*|R)__.*\.(?:java|class|sh|bash|ps1|bat|cmd|py)")
_PLACEHOLDER: Final = re.compile(r"\$\{[^}]*\}")
_NEVER: Final = "executeInTransaction=false in a file of the script's name with .conf behind it"

_Conf = Mapping[str, str]


def wanted(path: str) -> bool:
    """Whether Flyway would look at the file at *path*, relative to the folder."""
    name = path.rsplit("/", 1)[-1].removesuffix(CONF)
    patterns = (_ALMOST, _NAME, _CALLBACK, _BASELINE, _PROGRAM)
    return any(pattern.fullmatch(name) for pattern in patterns)


def recognised(path: str) -> bool:
    """Whether a file's name can only be Flyway's."""
    return _NAME.fullmatch(path.rsplit("/", 1)[-1]) is not None


def build(files: Mapping[str, bytes]) -> Source:
    """The source in *files*: versions in their order, then the repeatables by description.

    A migration's name is its version as the history has it, or R__ and the description. Raises StepFailed:
    SourceInvalid, SourceUnsupported, EncodingInvalid.
    """
    ups: dict[str, str] = {}
    downs: dict[str, str] = {}
    for path in sorted(filter(wanted, files)):
        if path.endswith(CONF):
            continue
        kind, name = _parts(path)
        among = downs if kind == "U" else ups
        same = next((other for known, other in among.items() if sort_key(known) == sort_key(name)), None)
        if same:
            raise invalid(f"{same} and {path} are the same version, or have the same description.")
        among[name] = path
    if not ups:
        raise invalid("There is no migration: no file is named VVERSION__DESCRIPTION.sql.")
    order = sorted(ups, key=lambda name: (name.startswith(REPEATABLE), sort_key(name)))
    return Source(
        Format.FLYWAY,
        tuple(_migration(name, ups[name], downs.get(name), files) for name in order),
        files={path: data for path, data in files.items() if wanted(path)},
    )


def sort_key(name: str) -> tuple[tuple[int, ...], str]:
    """Versions by their numbers; repeatables, which no version is older than, before all of them."""
    if name.startswith(REPEATABLE):
        return (-1,), name
    numbers = [int(part) for part in name.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), ""


def described(path: str) -> str:
    """The description in a script's name, as the history has it."""
    match = _NAME.fullmatch(path.rsplit("/", 1)[-1])
    return match[4].replace("_", " ") if match else ""


def checksum(data: bytes) -> str:
    """CRC-32 over the lines without their ends, as the signed number that the history has."""
    crc = zlib.crc32(b"".join(re.split(rb"\r\n|\n|\r", data)))
    return str(crc - 2**32 if crc >= 2**31 else crc)


def _parts(path: str) -> tuple[str, str]:
    """Kind (V, U or R) and name. Raises StepFailed."""
    file = path.rsplit("/", 1)[-1]
    if _PROGRAM.fullmatch(file):
        raise unsupported(f"{path} is a program, which only Flyway can run.", file=path)
    if _CALLBACK.fullmatch(file):
        raise unsupported(f"{path} is a callback, which only Flyway runs.", file=path)
    if _BASELINE.fullmatch(file):
        raise unsupported(f"{path} is a baseline migration, which only Flyway can choose.", file=path)
    match = _NAME.fullmatch(file)
    if match is None:
        raise invalid(f"{path} is not named like a migration: two underscores end the version.", file=path)
    if match[3]:
        return "R", f"{REPEATABLE}{match[4].replace(' ', '_')}"
    return match[1], match[2].replace("_", ".")


def _migration(name: str, up: str, down: str | None, files: Mapping[str, bytes]) -> Migration:
    return Migration(
        name,
        _script(up, name, files),
        _script(down, name, files) if down else None,
        repeatable=name.startswith(REPEATABLE),
    )


def _script(path: str, name: str, files: Mapping[str, bytes]) -> Script:
    data = files[path]
    text = text_of(path, data, name)
    conf = _configuration(f"{path}{CONF}", files.get(f"{path}{CONF}", b""))
    placeholder = _PLACEHOLDER.search(text)
    if placeholder and conf.get("placeholderreplacement") != "false":
        line = text.count("\n", 0, placeholder.start()) + 1
        raise unsupported(
            f"{path}, line {line}: the placeholder {placeholder[0][:80]} is for Flyway's configuration.",
            file=path,
            line=line,
        )
    transaction = {"true": Transaction.ALWAYS, "false": Transaction.NEVER}.get(
        conf.get("executeintransaction", ""), Transaction.UNMIXED
    )
    return Script(path, data, checksum(data), transaction=transaction, directive=_NEVER)


def _configuration(path: str, data: bytes) -> _Conf:
    """The settings of a script's own file, names in lower case. Raises StepFailed for others than known."""
    found = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        name, _, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        known = {"executeintransaction": {"true", "false"}, "placeholderreplacement": {"true", "false"}}
        if value.lower() not in known.get(name.lower(), ()) and (name.lower(), value.lower()) != (
            "encoding",
            "utf-8",
        ):
            raise unsupported(f"{path}, line {number}: {name} is Flyway's alone.", file=path, line=number)
        found[name.lower()] = value.lower()
    return found
