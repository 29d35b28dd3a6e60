"""How far a step is while it runs, by way of its log: for people alone, no decision depends on it."""

import contextlib
import json
from collections.abc import Iterable
from datetime import datetime

from pydantic import ValidationError

from godwit.contract.base import Model

EVENT = "progress"
"""Event of the log's lines that hold one, in the field of the same name."""
EVERY_SECONDS = 5.0
"""How often one is written, and read, at most."""


class RunProgress(Model):
    """Where a writing step stands. Numbers count from 1; 0 where there is nothing to count."""

    migration: str = ""
    number: int = 0
    """The migration's place among those of the plan."""
    total: int = 0
    statement: int = 0
    """The statement's place in its file, where a file's statements are sent one by one; else 0."""
    statements: int = 0
    phase: str = ""
    """Phase of an index build, in PostgreSQL's words (manual, table 28.45)."""
    percent: int | None = None
    """Share of that phase that is done."""
    replica_lag_seconds: float | None = None
    """How long the slowest standby has been behind; none where no standby can be seen."""
    at: datetime

    def __str__(self) -> str:
        parts = [f"migration {self.number} of {self.total} ({self.migration})"]
        if self.statement:
            parts.append(f"statement {self.statement} of {self.statements}")
        if self.phase:
            parts.append(self.phase + ("" if self.percent is None else f", {self.percent} %"))
        if self.replica_lag_seconds:
            parts.append(f"standbys {self.replica_lag_seconds:.1f} s behind")
        return "; ".join(parts)


def last_progress(lines: Iterable[str]) -> RunProgress | None:
    """The newest in the end of a step's log; None where there is none that can be read."""
    for line in reversed(list(lines)):
        if f'"{EVENT}"' in line:
            with contextlib.suppress(ValueError, ValidationError, AttributeError):
                found = json.loads(line)
                if found.get("event") == EVENT:
                    return RunProgress.model_validate(found.get(EVENT))
    return None
