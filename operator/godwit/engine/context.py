"""What a verb is given: the request, its places, the way to the database, and how it is told to stop.

The runner makes one for a process; the engine's verbs take nothing else from their surroundings.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from godwit.contract.reasons import Reason
from godwit.contract.request import Format, StepRequest
from godwit.engine.errors import fail

if TYPE_CHECKING:
    from godwit.engine.formats.base import MigrationFormat
    from godwit.engine.model import Source
    from godwit.engine.session import Session
    from godwit.engine.uri import Target
    from godwit.stores.base import Store

# NAMEDATALEN - 1: the server cuts application_name there (manual, section 20.8).
APPLICATION_NAME_LIMIT = 63


class Log(Protocol):
    """Where progress goes: one JSON line an event. `message`, where given, is for people."""

    def info(self, event: str, **facts: Any) -> None:
        """Write an event that belongs to the normal course."""

    def warning(self, event: str, **facts: Any) -> None:
        """Write an event that a person may want to look at."""

    def error(self, event: str, **facts: Any) -> None:
        """Write an event that ended the step."""


class Cancellation(threading.Event):
    """Set when the process was told to end or its time is up; the first cause counts.

    What is under way is stopped at once by the actions that were registered for it: a query is cancelled, a
    child process terminated. Everything else looks at `check()` before its next effect.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason = Reason.CONNECTION_LOST
        self.message = ""
        self._actions: list[Callable[[], None]] = []
        self._guard = threading.Lock()

    def cancel(self, reason: Reason, message: str) -> None:
        """Set the event and run the registered actions, once; may be called from any thread."""
        with self._guard:
            if self.is_set():
                return
            self.reason, self.message = reason, message
            self.set()
            actions = list(self._actions)
        for action in actions:
            # A connection that broke meanwhile, a child that has ended: nothing is left to stop.
            with contextlib.suppress(Exception):
                action()

    @contextlib.contextmanager
    def stopping(self, action: Callable[[], None]) -> Iterator[None]:
        """Run *action* when the cancellation comes while the block runs."""
        self.register(action)
        try:
            yield
        finally:
            self.unregister(action)

    def register(self, action: Callable[[], None]) -> None:
        """Have *action* run on cancellation; at once when that has come already."""
        with self._guard:
            self._actions.append(action)
            late = self.is_set()
        if late:
            with contextlib.suppress(Exception):
                action()

    def unregister(self, action: Callable[[], None]) -> None:
        """Forget *action*; one that is not known is no error."""
        with self._guard, contextlib.suppress(ValueError):
            self._actions.remove(action)

    def check(self, *, standing: str = "") -> None:
        """Raise StepFailed with the cause of the cancellation when there is one."""
        if self.is_set():
            raise fail(self.reason, self.message, standing=standing)


def _nothing(_: str) -> None:
    """The fault hook of a process without injected faults."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class StepContext:
    """The surroundings of one step. `environ` holds the credentials and must not be logged."""

    request: StepRequest
    environ: Mapping[str, str]
    source_dir: Path
    store_dir: Path
    scratch_dir: Path
    log: Log
    clock: Callable[[], datetime] = _now
    cancelled: Cancellation = field(default_factory=Cancellation)
    point: Callable[[str], None] = _nothing
    """Called as `ctx.point("<verb>.<boundary>")` before and after every effect; tests inject faults there."""
    process: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells this process from any other, also from one that was given the same request."""
    resumed: threading.Event = field(default_factory=threading.Event)
    """Set by a verb that found its own row in the journal and did nothing again."""

    @cached_property
    def target(self) -> "Target":
        """Where the database is. Raises StepFailed(ConnectionInvalid)."""
        from godwit.engine.uri import parse_target  # noqa: PLC0415  not every step needs a database

        return parse_target(self.request.connection, self.environ)

    @cached_property
    def format(self) -> "MigrationFormat":
        """The tool whose folder and history these are.

        Auto: the one that the mounted folder shows, else the one that the database's tables do. Raises
        StepFailed as `source` and `session`.
        """
        from godwit.engine.formats.registry import format_of  # noqa: PLC0415  as above
        from godwit.engine.formats.shown import shown_by  # noqa: PLC0415  as above

        if self.request.format is not Format.AUTO:
            return format_of(self.request.format)
        if self._has_source:
            return format_of(self.source().format)
        with self.session() as session:
            return shown_by(session)

    @property
    def _has_source(self) -> bool:
        return self.source_dir.is_dir() and any(self.source_dir.iterdir())

    def format_in(self, session: "Session", state: str) -> "MigrationFormat":
        """As `format`; of several tools' tables the one that is in *state* (nothing: not known)."""
        from godwit.engine.formats.shown import shown_by  # noqa: PLC0415  as above

        if self.request.format is not Format.AUTO or self._has_source:
            return self.format
        return shown_by(session, state)

    def source(self) -> "Source":
        """The mounted migrations, if they are the ones that were planned.

        Raises StepFailed: SourceChanged, and as engine.source.read_source.
        """
        from godwit.engine.source import pinned_content, read_source  # noqa: PLC0415  as above

        wanted = self.request.source_content
        if wanted and pinned_content(self.source_dir) != wanted:
            text = "The mounted source is not the copy that this step was made for."
            raise fail(Reason.SOURCE_CHANGED, text, standing="Nothing was changed.")
        return read_source(self.source_dir, self.request.format)

    @property
    def application_name(self) -> str:
        """How the step's sessions are called in pg_stat_activity: who, which step, which attempt."""
        owner = self.request.object
        name = f"godwit {self.request.step}#{self.request.attempt} {owner.namespace}/{owner.name}"
        return name[:APPLICATION_NAME_LIMIT]

    def open(
        self, *, writing: bool = False, database: str | None = None, cancellable: bool = True
    ) -> "Session":
        """A new session on the target, or on another *database* of the same server.

        The request's identity is required: the very database, or for another one its cluster. A session that
        is not *cancellable* goes on when the process is told to end: for lifting a fence. Raises StepFailed.
        """
        from godwit.engine.session import open_session  # noqa: PLC0415  as above

        session = open_session(
            self.target,
            self.request.connection,
            application_name=self.application_name,
            expected=self.request.identity,
            database=database,
            writing=writing,
        )
        if cancellable:
            self.cancelled.register(session.stop)
        return session

    @contextlib.contextmanager
    def session(
        self, *, writing: bool = False, database: str | None = None, cancellable: bool = True
    ) -> Iterator["Session"]:
        """As `open`, closed at the end of the block."""
        session = self.open(writing=writing, database=database, cancellable=cancellable)
        try:
            yield session
        finally:
            self.cancelled.unregister(session.stop)
            session.close()

    def store(self) -> "Store":
        """The backup store that is mounted."""
        from godwit.stores.volume import VolumeStore  # noqa: PLC0415  as above

        return VolumeStore(self.store_dir)

    def progress(self, event: str, **facts: Any) -> None:
        """Write an event of the normal course to the log; no decision depends on it."""
        self.log.info(event, **facts)
