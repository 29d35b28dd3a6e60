"""Waiting for what must come."""

import time
from collections.abc import Callable

_PATIENCE_S = 60.0
_POLL_S = 0.05


def until(holds: Callable[[], bool], what: str) -> None:
    """Ask again and again until it holds; *what* is named when it never does."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(_POLL_S)
