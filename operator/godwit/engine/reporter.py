"""Telling how far a long run is: into the log every few seconds, by a thread with a session of its own.

A run that is through before the first look costs nothing.
"""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg

from godwit.contract.progress import EVENT, EVERY_SECONDS, RunProgress
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed
from godwit.engine.replicas import ReplicaLag
from godwit.engine.session import Session

_FIRST_SECONDS: Final = 2.0
_INDEX: Final = """
SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total, lockers_done, lockers_total
  FROM pg_stat_progress_create_index WHERE pid = %s"""


@dataclass(frozen=True)
class _Place:
    migration: str = ""
    number: int = 0
    total: int = 0
    statement: int = 0
    statements: int = 0


class Reporter:
    """Reports on what *watched* does. `plan`, `migration` and `statement` say where that is."""

    def __init__(self, ctx: StepContext, watched: Session) -> None:
        self._ctx = ctx
        self._watched = watched
        self._place = _Place()
        self._numbers: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="godwit-reporter", daemon=True)

    def plan(self, names: Sequence[str]) -> None:
        """The migrations that there are, in order."""
        self._numbers = {name: number for number, name in enumerate(names, 1)}

    def migration(self, name: str) -> None:
        """The migration *name* begins."""
        self._place = _Place(name, self._numbers.get(name, 0), len(self._numbers))
        if not self._thread.ident:
            self._thread.start()

    def statement(self, number: int, total: int) -> None:
        """The *number*-th of *total* statements of this migration begins, counted from 1."""
        self._place = replace(self._place, statement=number, statements=total)

    def close(self) -> None:
        """End the reports."""
        self._over.set()
        if self._thread.ident:
            self._thread.join(timeout=10)

    def _work(self) -> None:
        if self._over.wait(_FIRST_SECONDS):
            return
        session: Session | None = None
        with contextlib.suppress(StepFailed, psycopg.Error):
            session = self._ctx.open(cancellable=False).as_login()
        try:
            lag = ReplicaLag()
            while True:
                self._tell(session, lag)
                if self._over.wait(EVERY_SECONDS):
                    return
        finally:
            if session is not None:
                session.close()

    def _tell(self, session: Session | None, lag: ReplicaLag) -> None:
        place, facts = self._place, dict[str, Any]()
        if session is not None:
            with contextlib.suppress(psycopg.Error):
                row = session.execute(_INDEX, [self._watched.backend_pid]).fetchone()
                if row is not None:
                    facts = {"phase": row[0], "percent": percent(row[0], row[1:])}
                facts["replica_lag_seconds"] = lag.seconds(session)
        progress = RunProgress(
            migration=place.migration,
            number=place.number,
            total=place.total,
            statement=place.statement,
            statements=place.statements,
            at=self._ctx.clock(),
            **facts,
        )
        self._ctx.progress(EVENT, message=str(progress), **{EVENT: progress.to_json()})


def percent(phase: str, counts: Sequence[int]) -> int | None:
    """Share of a phase that is done: of lockers while it waits, else of blocks or tuples; None: not counted.

    *counts*: done and total of blocks, tuples, lockers.
    """
    pairs = [(counts[4], counts[5])] if phase.startswith("waiting") else [counts[0:2], counts[2:4]]
    for done, total in pairs:
        if total:
            return min(100, 100 * done // total)
    return None
