"""How the demo looks: headings, manifests, step lines with a bar; on a terminal colours and a live line."""

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.text import Text

from godwit.cli.pack import as_yaml

Manifest = dict[str, Any]

_WIDTH = 20
"""Cells of the progress bar."""


class Show:
    """Prints; keeps nothing but the console and the live line."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None

    def title(self, number: int, text: str) -> None:
        """Begin an act."""
        self.console.print()
        self.console.print(Text(f"{number}. {text}", style="bold cyan"))

    def say(self, text: str = "", style: str = "") -> None:
        """Print a paragraph as it is."""
        self.console.print(Text(text, style=style))

    def good(self, text: str) -> None:
        """Print something that was looked at and is so."""
        self.console.print(Text.assemble(("ok  ", "bold green"), text))

    def manifests(self, manifests: list[Manifest]) -> None:
        """Print manifests as YAML."""
        text = as_yaml(manifests).rstrip()
        if self.console.is_terminal:
            self.console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
        else:
            self.say(text)

    def sql(self, text: str) -> None:
        """Print SQL."""
        if self.console.is_terminal:
            self.console.print(Syntax(text.rstrip(), "sql", background_color="default", word_wrap=True))
        else:
            self.say(text.rstrip())

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """While inside, `now` shows what is under way (on a terminal only)."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, transient=True, refresh_per_second=12) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def now(self, done: int, total: int, text: str) -> None:
        """What is under way."""
        if self._live is not None:
            line = Text.assemble((f"  {bar(done, total)} ", "cyan"), text)
            self._live.update(Spinner("dots", text=line))

    def step(self, name: str, done: int, total: int, seconds: float, facts: str, *, failed: bool) -> None:
        """A step that ended: the bar, its name, its time, what came of it."""
        self.console.print(
            Text.assemble(
                (f"  {bar(done, total)} ", "cyan"),
                (f"{name:<7}", "bold red" if failed else "bold"),
                f" {seconds:6.2f} s  {facts}",
            )
        )

    def detail(self, text: str, seconds: float) -> None:
        """A part of a step, with its time."""
        self.console.print(Text(f"{'':>{_WIDTH + 17}} {seconds:6.3f} s  {text}", style="dim"))


def bar(done: int, total: int) -> str:
    """`[#####-----] 1/2`, at most full."""
    filled = _WIDTH * min(done, total) // max(total, 1)
    return f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {done}/{total}"
