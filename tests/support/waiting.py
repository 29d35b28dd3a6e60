"""Waiting for what must come."""

import time
from collections.abc import Callable
from typing import Any

_PATIENCE_S = 60.0
_POLL_S = 0.05


def until(holds: Callable[[], bool], what: str) -> None:
    """Ask again and again until it holds; *what* is named when it never does."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(_POLL_S)


def until_answered(project: Any, sql: str, value: str) -> None:
    """Ask the project's database until it answers so."""
    until(lambda: project.database.psql(sql) == value, f"{value}: {sql}")
