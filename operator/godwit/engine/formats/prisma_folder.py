"""Prisma Migrate's folder: what is in it, in which order, and what a checksum is. Pure.

Every folder below is a migration, named by the folder; `migration.sql` is its script. `down.sql` beside it is
the way back by Prisma's documented convention; Prisma itself never runs it. Facts as of Prisma 6.14 to 7.10.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Final

from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.errors import fail
from godwit.engine.formats.text import invalid, text_of
from godwit.engine.model import Migration, Script, Source

UP: Final = "migration.sql"
DOWN: Final = "down.sql"
LOCK: Final = "migration_lock.toml"

_PROVIDERS: Final = {"postgresql", "postgres"}

# Punctuation and symbols in the order of the Unicode collation (CLDR root); digits and letters follow.
_SIGNS: Final = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"
_BEFORE_DIGITS: Final = {ord(sign): rank for rank, sign in enumerate(_SIGNS)}


def wanted(path: str) -> bool:
    """Whether the tool would look at the file at *path*, relative to the folder."""
    return path == LOCK or path.endswith((f"/{UP}", f"/{DOWN}"))


def build(files: Mapping[str, bytes]) -> Source:
    """The source in *files*, whose keys are `NAME/migration.sql`, `NAME/down.sql` and `migration_lock.toml`.

    Raises StepFailed: SourceInvalid, EncodingInvalid, ProviderMismatch.
    """
    if LOCK in files:
        _check_provider(files[LOCK])
    names = sorted({path.split("/", 1)[0] for path in files if "/" in path}, key=sort_key)
    if not names and LOCK not in files:
        raise invalid(f"There is no migration: no folder with a {UP}, and no {LOCK}.")
    lacking = [name for name in names if f"{name}/{UP}" not in files]
    if lacking:
        raise invalid(f"{lacking[0]} has a {DOWN} but no {UP}.")
    return Source(Format.PRISMA, tuple(_migration(name, files) for name in names))


def sort_key(name: str) -> tuple[str, str, str]:
    """Prisma's order of names: JavaScript's `localeCompare`, so signs, digits, letters; case counts last.

    Exact for ASCII; accents after their letter; other scripts by code point.
    """
    letters, accents = name, ""
    if not name.isascii():
        decomposed = unicodedata.normalize("NFD", name)
        letters = "".join(c for c in decomposed if not unicodedata.combining(c))
        accents = "".join(c for c in decomposed if unicodedata.combining(c))
    return letters.casefold().translate(_BEFORE_DIGITS), accents, name.swapcase()  # lower case first


def checksum(data: bytes) -> str:
    """What Prisma stores for a script: the SHA-256 of its bytes, nothing trimmed, lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def same_script(stored: str, script: Script) -> bool:
    """Whether the history's checksum is that of *script*, line ends apart, as Prisma compares them.

    A checksum of another length was written by an old version that left out leading zeros of bytes.
    """
    if stored == script.checksum:
        return True
    unix = script.data.replace(b"\r\n", b"\n")
    digests = [hashlib.sha256(d).digest() for d in (script.data, unix, unix.replace(b"\n", b"\r\n"))]
    if len(stored) == len(script.checksum):
        return stored in {d.hex() for d in digests}
    return bool(stored) and stored in {"".join(f"{byte:x}" for byte in d) for d in digests}


def _migration(name: str, files: Mapping[str, bytes]) -> Migration:
    down = files.get(f"{name}/{DOWN}")
    return Migration(
        name,
        _script(f"{name}/{UP}", files[f"{name}/{UP}"], name),
        None if down is None else _script(f"{name}/{DOWN}", down, name),
    )


def _script(path: str, data: bytes, name: str) -> Script:
    text_of(path, data, name)
    return Script(path, data, checksum(data))


def _check_provider(data: bytes) -> None:
    """Prisma takes the first line that begins with `provider`, and what follows its equals sign."""
    for line in data.decode(errors="replace").splitlines():
        found = re.match(r"provider\s*=\s*\"?([^\"]*)\"?\s*$", line)
        if found and found[1].strip() not in _PROVIDERS:
            raise fail(
                Reason.PROVIDER_MISMATCH,
                f"{LOCK} says {found[1].strip()}, not postgresql.",
                standing="Nothing was run.",
                file=LOCK,
            )
        if line.startswith("provider"):
            return
