"""Takes passwords out of text that may reach a log, a status or an exception.

Text is whole statements, pieces of them that a server quotes, and connection strings, one in the other. Each
place where a password may begin is looked at by itself, and read in every way that it may have been meant: as
a literal, as one inside of another, as a value of libpq's keywords. What any reading finds is masked.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

MASK: Final = "***"

# What may be long has a limit, or a text full of beginnings without ends would be read again for each.
_GAP: Final = r"(?:\s|/\*.{0,300}?\*/|--[^\n]{0,300}(?:\n|$))*"
_OPENS: Final = r"(?:[en]|u&)?"
_STRING: Final = rf"{_OPENS}'(?:''|[^'])*(?:'|$)"
# Backslashes escape in E'' and, as an old setting has it, anywhere. A literal goes on after a line's end.
_ESCAPED: Final = rf"{_OPENS}'(?:\\.|''|[^'\\])*(?:'|$)(?:[ \t\r]*\n\s*'(?:''|[^'])*(?:'|$))*"
_DOLLAR: Final = r"\$(?P<tag>\w{0,63})\$(?:(?!\$(?P=tag)\$).){0,4000}(?:\$(?P=tag)\$)?"
# In a literal its quotes are doubled, in one within that one again. `''` alone is an empty one.
_QUOTED: Final = r"(?P<quotes>''+)(?:(?=[^\s,);'])|(?=.{0,4000}?(?P=quotes)))"
_NESTED: Final = rf"{_QUOTED}(?:(?P=quotes){{2}}|(?!(?P=quotes)).){{0,4000}}(?P=quotes)?"
_NESTED_ESCAPED: Final = rf"{_QUOTED}(?:\\(?:(?P=quotes)|.)|(?!(?P=quotes)).){{0,4000}}(?P=quotes)?"
_CALLS: Final = rf"(?:[\w.]+{_GAP}\({_GAP})"
_BEFORE_LITERAL: Final = "|".join(
    (
        rf"\w+'+{_GAP},{_GAP}",  # set_config('app.password', 'x', false)
        rf"\w+{_GAP}'+{_GAP}\|\|{_GAP}{_CALLS}*",  # EXECUTE '... PASSWORD ' || quote_literal('x')
        rf"\w+\"?{_GAP}(?:=>|:=|=|\bTO\b)?{_GAP}",  # PASSWORD 'x', OPTIONS ("password" 'x')
        rf"\w+\"?{_GAP}=>?{_GAP}{_CALLS}+",  # password = crypt('x', ...)
        rf"crypt{_GAP}\({_GAP}",
    )
)
# No word boundary in front: PGPASSWORD, app.user_password, odbc_PWD. PROGRAM is COPY's: a command line may
# hold anything. What cannot go on to a value is passed over at once.
_PLACE: Final = r"(?:pass(?:word|wd|phrase)|pwd|\bcrypt|\bprogram)(?!\w)(?=\s*(?:['\"$=:(/\\%-]|[eunt]|$))"
_BEGINS: Final = rf"(?:{_BEFORE_LITERAL})(?={_OPENS}'|\$\w*\$)"
_LITERALS: Final = (_STRING, _ESCAPED, _DOLLAR, _NESTED, _NESTED_ESCAPED)
# libpq's keywords: password=x. What is called there, and how, stays to be read.
_BARE: Final = rf"\w+\s*=\s*(?!{_CALLS}{_OPENS}')(?P<value>(?:\\.|[^\s'\"&\\])+)"
_JSON: Final = r"\w+\\?\"\s*:\s*(?P<value>\\?\"(?:\\.|[^\"\\])*(?:\"|$))"
# Up to the last @ before a space or a quote: a password may hold one that was not escaped.
_URI: Final = r"\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@'\"]{0,300}:(?P<value>(?:''|[^\s'\"]){1,1000})(?=@)"
# format('... PASSWORD %L', 'x'): any of its arguments may be the one.
_FORMATTED: Final = rf"\w+{_GAP}=?{_GAP}'*%[^']{{0,1000}}'+{_GAP},"
_ARGUMENTS: Final = tuple(rf"(?:{literal}|{_DOLLAR}|[^';])*" for literal in (_STRING, _ESCAPED))
_ARGUMENT: Final = tuple(rf"{literal}|{_DOLLAR}" for literal in (_STRING, _ESCAPED))
_ARGUMENTS_LIMIT: Final = 4000
_QUOTES: Final = rf"^(?:{_OPENS}'+|\$\w*\$|\\?\")|(?:'+|\$\w*\$|\\?\")$"


@cache
def _read(pattern: str) -> re.Pattern[str]:
    """Compiled when it is needed first: most steps meet no password, and all of them would take 0.1 s."""
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


def redact(text: str, *secrets: str) -> str:
    """*text* without passwords: those after PASSWORD in SQL, in connection URIs and in `password=` keywords.

    *secrets* are masked wherever they stand as words of their own: messages quote pieces of statements.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    parts, at = [], 0
    for start, end, mask in sorted(_found(text), key=lambda found: (found[0], -found[1])):
        if start >= at:
            parts += [text[at:start], mask]
        at = max(at, end)
    return "".join((*parts, text[at:]))


def secrets_in(text: str) -> tuple[str, ...]:
    """The passwords that `redact` would take out of *text*, without their quotes."""
    return tuple(sorted({_read(_QUOTES).sub("", text[start:end]) for start, end, _ in _found(text)} - {""}))


def _found(text: str) -> Iterator[tuple[int, int, str]]:
    """Where a password stands, as any reading has it, and what is to stand there instead."""
    for place in _read(_PLACE).finditer(text):
        if begins := _read(_BEGINS).match(text, place.start()):
            for literal in _LITERALS:
                if found := _read(literal).match(text, begins.end()):
                    yield *found.span(), f"'{MASK}'"
        for pattern, mask in ((_BARE, MASK), (_JSON, f'"{MASK}"')):
            if found := _read(pattern).match(text, place.start()):
                yield *found.span("value"), mask
        if found := _read(_FORMATTED).match(text, place.start()):
            yield from _arguments(text, found.end())
    if "://" in text:
        for found in _read(_URI).finditer(text):
            yield *found.span("value"), MASK


def _arguments(text: str, start: int) -> Iterator[tuple[int, int, str]]:
    """All that may follow the text of a `format`, and each literal in it."""
    limit = start + _ARGUMENTS_LIMIT
    for whole, each in zip(_ARGUMENTS, _ARGUMENT, strict=True):
        if region := _read(whole).match(text, start, limit):
            yield *region.span(), MASK
            for argument in _read(each).finditer(text, *region.span()):
                yield *argument.span(), MASK
