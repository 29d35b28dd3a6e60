"""What others wrote is shown to a person, never done by the person's terminal."""

import contextlib
import os
import pty

import pytest

from godwit.cli.terminal import say


def said(text, *, err=False):
    """What a real terminal is sent."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with (
        open(theirs, "w", encoding="utf-8") as stream,  # noqa: PTH123  a file descriptor has no path
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        say(text, err=err)
        sent = os.read(ours, 10_000).decode().replace("\r\n", "\n")
    os.close(ours)
    return sent


@pytest.mark.parametrize("err", [False, True])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Line 4 is wrong: ä ✓\n\tSELECT 1;", "Line 4 is wrong: ä ✓\n\tSELECT 1;"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("Stalled\rReady  ", "Stalled\\rReady  "),
        ("DROP\b\b\b\bKEEP", "DROP\\x08\\x08\\x08\\x08KEEP"),
        ("1_\u202elqs.cod", "1_\\u202elqs.cod"),
    ],
)
def test_a_command_to_the_terminal_is_shown(text, shown, err):
    assert said(text, err=err).rstrip("\n").expandtabs() == shown.expandtabs()


def test_a_pipe_gets_the_text_as_it_is(capsys):
    say("SELECT '\x1b[2J';\r\n")
    assert capsys.readouterr().out == "SELECT '\x1b[2J';\r\n\n"


def test_lines_of_files_from_windows_stay_lines():
    assert "\\r" not in said("SELECT 1;\r\nSELECT 2;")
