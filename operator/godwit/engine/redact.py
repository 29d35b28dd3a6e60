"""Takes passwords out of text that may reach a log, a status or an exception."""

import re

MASK = "***"

_LITERAL = r"(?:[eE]?'(?:\\.|''|[^'\\])*(?:'|$)|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|$))"
# ALTER ROLE ... PASSWORD 'x', OPTIONS (password 'x'), and the keyword strings of libpq: password=x.
_SQL = re.compile(
    rf"(?P<key>\b(?:ssl)?passw(?:or)?d\b\s*(?:=>|:=|=)?\s*)(?P<value>{_LITERAL})", re.IGNORECASE | re.DOTALL
)
_KEYWORD = re.compile(
    r"(?P<key>\b(?:ssl)?passw(?:or)?d\s*=\s*)(?P<value>(?:\\.|[^\s'\"&\\])+)", re.IGNORECASE
)
# A password may hold an @ that was not escaped, so it reaches to the last one before a space or a quote.
_URI = re.compile(r"(?P<key>\b[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:)(?P<value>[^\s'\"]+)(?=@)", re.IGNORECASE)
_QUOTES = re.compile(r"^(?:[eE]?'|\$\w*\$)|(?:'|\$\w*\$)$")
_PATTERNS = ((_SQL, f"'{MASK}'"), (_KEYWORD, MASK), (_URI, MASK))


def redact(text: str, *secrets: str) -> str:
    """*text* without passwords: those after PASSWORD in SQL, in connection URIs and in `password=` keywords.

    *secrets* are masked wherever they stand as words of their own: messages quote pieces of statements.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    for pattern, mask in _PATTERNS:
        text = pattern.sub(lambda found, mask=mask: found["key"] + mask, text)  # type: ignore[misc]
    return text


def secrets_in(text: str) -> tuple[str, ...]:
    """The passwords that `redact` would take out of *text*, without their quotes."""
    values = (found["value"] for pattern, _ in _PATTERNS for found in pattern.finditer(text))
    return tuple(sorted({_QUOTES.sub("", value) for value in values}))
