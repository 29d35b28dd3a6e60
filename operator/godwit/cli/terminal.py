"""Printing what others wrote: names of migrations, messages of servers, SQL."""

import re
import sys
from typing import Final

import typer

# Control characters but tab, line feed and the carriage return before it; what turns the order of writing.
_COMMAND: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)"
)


def say(text: str, *, err: bool = False) -> None:
    """Print *text* and a line feed, on standard error with *err*.

    On a terminal, what would be a command to it is shown as an escape of Python's: a message could clear the
    screen, change what was printed before, or write into the terminal's input. A pipe gets the text as it is.
    """
    stream = sys.stderr if err else sys.stdout
    # color=True: else typer would take escape sequences out of what goes into a pipe.
    typer.echo(_COMMAND.sub(_escaped, text) if stream.isatty() else text, err=err, color=True)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
