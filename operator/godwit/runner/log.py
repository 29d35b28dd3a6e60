"""The step's log: JSON lines on standard output, without secrets.

A line is `{"time", "level", "event", "message", ...facts}`. It is written by hand rather than by structlog,
whose import alone costs a third of the time that a step has until its first byte from PostgreSQL.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

from godwit.engine.redact import redact

# Shorter ones would black out ordinary text; their place (password=..., user:...@) still gives them away.
_SHORTEST_SECRET = 4


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that takes *secrets*, and passwords by their place in SQL and URIs, out of a text."""
    known = sorted({s for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "***")
        return redact(text)

    return clean


class JsonLog:
    """Writes each event as one line. Safe to use from several threads; a closed pipe is no error."""

    def __init__(self, stream: TextIO, clean: Callable[[str], str]) -> None:
        self._stream = stream
        self._clean = clean
        self._guard = threading.Lock()

    def info(self, event: str, **facts: Any) -> None:
        """Write an event that belongs to the normal course."""
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Write an event that a person may want to look at."""
        self._write("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Write an event that ended the step."""
        self._write("error", event, facts)

    def _write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = self._plain({"message": "", **facts})
        text = json.dumps({"time": time, "level": level, "event": event, **told}, ensure_ascii=False)
        # Whoever read the log may be gone; the step's work and its outcome do not depend on it.
        with self._guard, contextlib.suppress(OSError, ValueError):
            self._stream.write(text + "\n")
            self._stream.flush()

    def _plain(self, value: Any) -> Any:
        """*value* as JSON data with every text redacted."""
        if isinstance(value, str):
            return self._clean(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {str(k): self._plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple | set):
            return [self._plain(v) for v in value]
        return self._clean(str(value))
