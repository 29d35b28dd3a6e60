"""Atlas' sum file, atlas.sum: a hash of each migration together with all before it, and one of these. Pure.

Facts as of Atlas 1.2: every file of the folder that ends in .sql counts, in the order of their names; hashes
are SHA-256 in base64, behind `h1:`; the first line is the hash of the other lines' names and hashes.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed, fail

SUM: Final = "atlas.sum"
MARK: Final = "h1:"
_NEXT: Final = "`atlas migrate hash` writes it anew."


def file_hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Each file's hash by its name, in order; as atlas.sum and the history have it, without the mark."""
    running, found = hashlib.sha256(), {}
    for name in sorted(files):
        running.update(name.encode() + files[name])
        found[name] = _base64(running.digest())
    return found


def check(data: bytes | None, files: Mapping[str, bytes]) -> dict[str, str]:
    """The hashes of *files*, which are those that the sum file *data* tells.

    Raises StepFailed(ChecksumMismatch) with the first file that is another one, is missing, or is new.
    """
    found = file_hashes(files)
    if data is None:
        raise _mismatch(f"The folder has no {SUM}. {_NEXT}")
    told = _told(data.decode(errors="replace"))
    if list(told.items()) == list(found.items()):
        return found
    names = list(found)
    for number, (name, stored) in enumerate(told.items()):
        if names[number : number + 1] == [name] and found[name] == stored:
            continue
        if name not in found:
            raise _mismatch(f"{name} stands in {SUM}, but not in the folder.", number + 2)
        if names[number] != name:
            raise _mismatch(f"{names[number]} was added, and {SUM} does not have it.", number + 2)
        raise _mismatch(f"{name} is not the file that {SUM} was made of: it was edited.", number + 2)
    raise _mismatch(f"{names[len(told)]} was added, and {SUM} does not have it.", len(told) + 2)


def _told(text: str) -> dict[str, str]:
    """What a sum file's lines say of each file. Raises StepFailed where it does not agree with itself."""
    first, *lines = (line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))
    told = {}
    for number, line in enumerate(lines, 2):
        name, mark, stored = line.partition(MARK)
        if not mark:
            raise _mismatch(f"{SUM}, line {number}: there is no hash. {_NEXT}", number)
        told[name.strip()] = stored
    if first.removeprefix(MARK) != _total(told.items()):
        raise _mismatch(f"{SUM} was edited by hand: its first line is not the hash of the others. {_NEXT}", 1)
    return told


def _total(told: Iterable[tuple[str, str]]) -> str:
    return _base64(hashlib.sha256("".join(name + stored for name, stored in told).encode()).digest())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _mismatch(message: str, line: int = 0) -> StepFailed:
    reason = Reason.CHECKSUM_MISMATCH
    return fail(reason, message, standing="Nothing was run.", file=SUM, line=line, hint=reason.advice.next)
