"""What the folders of every migration tool share: files that must be text, and parts of one file. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed, fail

_STANDING: Final = "Nothing was run."
_BOM: Final = b"\xef\xbb\xbf"


def text_of(path: str, data: bytes, migration: str = "") -> str:
    """*data* as text. Raises StepFailed(EncodingInvalid) with the line of what is not UTF-8, or is a NUL."""
    where = data.find(b"\0")
    what = "a NUL"
    if data.startswith(_BOM):
        where, what = 0, "a byte order mark"
    else:
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            where, what = exc.start, "a byte that is not UTF-8"
    if where < 0:
        return text
    line = data.count(b"\n", 0, where) + 1
    raise fail(
        Reason.ENCODING_INVALID,
        f"{path}, line {line}: {what}.",
        standing=_STANDING,
        migration=migration,
        file=path,
        line=line,
    )


def only(text: str, parts: Sequence[tuple[int, int]]) -> str:
    """*text* with everything outside of *parts* (start, end) blanked, so that lines and offsets stay."""
    kept, at = [], 0
    for start, end in parts:
        kept += [_blank(text[at:start]), text[start:end]]
        at = end
    return "".join([*kept, _blank(text[at:])])


def invalid(message: str, *, file: str = "", line: int = 0) -> StepFailed:
    """The refusal of a folder or file that its tool would refuse as well."""
    return fail(Reason.SOURCE_INVALID, message, standing=_STANDING, file=file, line=line)


def unsupported(message: str, *, file: str = "", line: int = 0) -> StepFailed:
    """The refusal of what only the tool itself can run."""
    return fail(Reason.SOURCE_UNSUPPORTED, message, standing=_STANDING, file=file, line=line)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
