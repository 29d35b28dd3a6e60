"""The one way in which a step connects: directly to the primary of the database that it was planned for."""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import psycopg
from psycopg.abc import QueryNoTemplate
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from godwit.contract.identity import DatabaseIdentity
from godwit.contract.reasons import Reason
from godwit.contract.request import Connection
from godwit.engine.errors import StepFailed, fail, from_connect, from_postgres
from godwit.engine.message import Answer, Message
from godwit.engine.repeated import Repeated
from godwit.engine.uri import Target

LOCK_TIMEOUT_MS: Final = 2_000
"""Every session's own `lock_timeout`; also the setting whose absence gives a pooler away."""
IDLE_IN_TRANSACTION_MS: Final = 300_000
"""How long a writing session may sit in a transaction: a step that hangs must not keep its locks."""
CONNECT_TIMEOUT_S: Final = 10
_CANCEL_TIMEOUT_S: Final = 5
_CATCHING_S: Final = 2.0
"""How long a script may go on that catches the cancel (`EXCEPTION WHEN query_canceled`)."""
_LOOK_S: Final = 0.02
_DIRECT: Final = "Give a direct connection to PostgreSQL."

_LIFELINE: Final = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""A server that vanished without a word is noticed in about a minute (PostgreSQL manual, section 32.1.2)."""

_FACTS: Final = """
SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('server_version_num')::int,
       (SELECT system_identifier::text FROM pg_control_system()), d.oid::bigint, d.datname,
       (SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout')
  FROM pg_database AS d
 WHERE d.datname = current_database()"""

# What an ALTER ROLE or ALTER DATABASE set for the application and a step cannot live with: it waits between
# two statements, what it says is committed must survive a crash, strings are read as they were planned, and
# psycopg reads ISO dates. Set here and not at connect, where ISO would bring its own order of day and month.
_OURS: Final = """
SELECT set_config(name, value, false)
  FROM (VALUES ('idle_session_timeout', '0', '^[^0]'), ('transaction_timeout', '0', '^[^0]'),
               ('synchronous_commit', 'local', '^off$'), ('standard_conforming_strings', 'on', '^off$'),
               ('DateStyle', 'ISO', '^(?!ISO)'))
       AS ours (name, value, instead_of)
 WHERE current_setting(name, true) ~ instead_of"""


@dataclass
class Session:
    """An open connection in autocommit mode, and what is known about its other end.

    Each way to the server and back costs about as much as a small statement. `later` keeps a statement until
    the next one that somebody waits for, or `flush`, and all of them go as one message.
    """

    line: psycopg.Connection[TupleRow]
    """The connection itself, for other threads and for what must not wait; everybody else takes `conn`."""
    identity: DatabaseIdentity
    server_version: int
    """`server_version_num`, for example 160014."""
    schema: str
    """The schema that search_path consists of, and where the history table is."""
    target: Target
    backend_pid: int
    repeats: bool = True
    """Whether what is asked again is prepared; not through a pooler, which hands the connection on."""
    has_journal: bool = field(default=False, init=False)
    """Whether this session found a journal here that it can use."""
    _message: Message | None = field(default=None, init=False, repr=False)
    _prepared: dict[Repeated, tuple[Answer, bytes]] = field(default_factory=dict, init=False, repr=False)

    @property
    def conn(self) -> psycopg.Connection[TupleRow]:
        """The connection, after whatever still waited to be sent. Raises psycopg.Error of that."""
        self.flush()
        return self.line

    def execute(
        self, query: QueryNoTemplate, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> psycopg.Cursor[TupleRow]:
        """Run one statement. Raises psycopg.Error."""
        return self.conn.execute(query, params)

    def later(
        self, query: QueryNoTemplate, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> Answer:
        """Run one statement together with the next that is waited for; to ask for its rows is to wait.

        What it raises comes out there, and then nothing of the message that follows it has run.
        """
        if self._message is None:
            self._message = Message(self.line)
        return self._message.add(query, params)

    def repeat(self, statement: Repeated, values: Mapping[str, Any] | None = None) -> Answer:
        """As `later`, for what is asked again and again inside of a migration's transaction.

        After a script that forgot it (FORGOTTEN) nothing else is left but to do without: `repeats`.
        """
        if not self.repeats:
            return self.later(statement.query, values)
        prepared, execute = self._prepared.get(statement, (None, b""))
        if prepared is None or not prepared.there:
            name = f"godwit_{secrets.token_hex(8)}"
            prepared, execute = self.later(statement.prepare(name)), statement.execute(name)
            self._prepared[statement] = prepared, execute
        return self.later(execute, values)

    def flush(self) -> None:
        """Send what waits, and wait for it. Raises psycopg.Error of the first statement that fails."""
        message, self._message = self._message, None
        if message is not None:
            message.send()

    def forget(self) -> None:
        """Send nothing of what waits."""
        self._message = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """As psycopg's, with everything of the block sent before its end, or nothing more where it fails."""
        with self.conn.transaction():
            try:
                yield
                self.flush()
            except BaseException:
                self.forget()
                raise

    def cancel(self) -> None:
        """Cancel what runs now; from any thread. Raises psycopg.Error."""
        self.line.cancel_safe(timeout=_CANCEL_TIMEOUT_S)

    def stop(self) -> None:
        """Cancel what runs; where a script catches that, break the connection a little later. Any thread.

        The server ends a session whose client has gone within `client_connection_check_interval`.
        """
        with contextlib.suppress(psycopg.Error):
            self.cancel()
        if self._active():
            threading.Thread(target=self._break_off, name="godwit-break-off", daemon=True).start()

    def _active(self) -> bool:
        return self.line.info.transaction_status is TransactionStatus.ACTIVE

    def _break_off(self) -> None:
        """End the connection where the same query goes on; a later one is the step's own cleaning up."""
        patience = time.monotonic() + _CATCHING_S
        with contextlib.suppress(psycopg.Error, OSError):
            while self._active():
                if time.monotonic() >= patience:
                    with socket.socket(fileno=os.dup(self.line.fileno())) as line:
                        line.shutdown(socket.SHUT_RDWR)
                    return
                time.sleep(_LOOK_S)

    def as_login(self) -> Self:
        """The same without `connection.role`, which need not have the login's rights.

        To see and to signal the login's other sessions takes these. Raises psycopg.Error.
        """
        self.execute("SET ROLE NONE")
        return self

    def close(self) -> None:
        """Close the connection; what was not committed is rolled back by the server."""
        self.line.close()

    def __enter__(self) -> Self:
        """Open already; for `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()


def open_session(
    target: Target,
    connection: Connection,
    *,
    application_name: str,
    expected: DatabaseIdentity | None,
    database: str | None = None,
    writing: bool,
) -> Session:
    """Connect, look at the other end, and hand the session over ready for work.

    *expected*: where the step must run (invariant 8); with *database*, another database of the same cluster,
    only the cluster counts. *writing* False makes every transaction read-only. search_path is exactly the
    target's schema, as Prisma sets it; `connection.role` is in force from the first statement.

    Raises StepFailed: DatabaseUnreachable, AuthenticationFailed, DatabaseMissing, RoleRefused, PoolerRefused,
    StandbyRefused, DatabaseChanged, PermissionDenied.
    """
    if target.pgbouncer and not connection.pooler:
        raise _pooler("The URI says pgbouncer=true")
    settings = _settings(target, connection, writing=writing)
    conn = _connect(target, connection, settings, application_name, database)
    try:
        if connection.pooler:
            # Before anything is set, which would stay behind in a connection that others share.
            _refuse_shared(conn, lambda: _connect(target, connection, settings, application_name, database))
        return _ready(conn, target, connection, settings, expected, other=database is not None)
    except psycopg.Error as exc:
        conn.close()
        raise from_postgres(
            exc, default=Reason.DATABASE_UNREACHABLE, standing="Nothing was changed."
        ) from None
    except BaseException:
        conn.close()
        raise


def quote_identifier(name: str) -> str:
    """*name* as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _settings(target: Target, connection: Connection, *, writing: bool) -> dict[str, str]:
    settings = {
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        # Limits that an ALTER ROLE or ALTER DATABASE set for the application are not meant for a migration.
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS if writing else 0),
        "default_transaction_read_only": "off" if writing else "on",
        "search_path": quote_identifier(target.schema),
    }
    # Last, so that a role without a right to one of the others is not in their way.
    return settings | ({"role": connection.role} if connection.role else {})


def _connect(
    target: Target,
    connection: Connection,
    settings: Mapping[str, str],
    application_name: str,
    database: str | None,
) -> psycopg.Connection[TupleRow]:
    params = {"connect_timeout": str(CONNECT_TIMEOUT_S), **_LIFELINE, **target.params}
    params |= {"application_name": application_name, "client_encoding": "UTF8"}
    if database is not None:
        params["dbname"] = database
    if not connection.pooler:
        # Given at connect, they are what RESET ALL in a migration returns to. A pooler does not pass them on.
        ours = " ".join(f"-c {name}={_option(value)}" for name, value in settings.items())
        params["options"] = f"{params.get('options', '')} {ours}".strip()
    try:
        return psycopg.connect("", autocommit=True, prepare_threshold=None, **params)  # type: ignore[arg-type]
    except psycopg.Error as exc:
        failed = from_connect(exc, target.password)
        if connection.role and failed.failure.reason is Reason.AUTHENTICATION_FAILED:
            # `role "x" does not exist` is said of the login and of the role to take alike.
            named = f'role "{connection.role}" does not exist' in failed.failure.message
            if named and connection.role != target.params["user"]:
                raise _role_refused(failed.failure.message) from None
        if failed.failure.reason is Reason.POOLER_REFUSED:
            raise _pooler("The server refuses startup options") from None
        raise failed from None


def _ready(
    conn: psycopg.Connection[TupleRow],
    target: Target,
    connection: Connection,
    settings: Mapping[str, str],
    expected: DatabaseIdentity | None,
    *,
    other: bool,
) -> Session:
    if connection.pooler:
        _set(conn, settings, connection.role)
    row = conn.execute(_FACTS).fetchone()
    if row is None:  # renamed between connecting and asking
        raise fail(Reason.DATABASE_MISSING, "The database was renamed or dropped while connecting.")
    pid, standby, version, system, oid, name, lock_timeout = row
    if not connection.pooler:
        if pid != conn.info.backend_pid:
            raise _pooler("The server process that answers is not the one that was connected to")
        if lock_timeout != LOCK_TIMEOUT_MS:
            raise _pooler("A setting given at connect is not in force")
    if standby:
        raise fail(Reason.STANDBY_REFUSED, f"{_where(conn)} is a standby.", standing="Nothing was changed.")
    identity = DatabaseIdentity(
        system_identifier=system,
        database_oid=oid,
        host=conn.info.host,
        port=conn.info.port,
        name=name,
    )
    if expected is not None:
        same = (
            expected.system_identifier == identity.system_identifier
            if other
            else expected.same_database(identity)
        )
        if not same:
            raise fail(
                Reason.DATABASE_CHANGED,
                f"{name} on {_where(conn)} is {identity.key}, but {expected.key} was planned for.",
                standing="Nothing was changed.",
            )
    if version >= 140_000:
        # The server notices within 2 s that a step was killed, instead of finishing its statement under lock
        # (manual, section 20.3.2). Not on every operating system of a server, hence the suppression.
        with contextlib.suppress(psycopg.errors.InvalidParameterValue):
            conn.execute("SET client_connection_check_interval = '2s'")
    conn.execute(_OURS)
    return Session(conn, identity, version, target.schema, target, pid, repeats=not connection.pooler)


def _refuse_shared(
    conn: psycopg.Connection[TupleRow], another: Callable[[], psycopg.Connection[TupleRow]]
) -> None:
    """Whether the pooler that was declared as one of sessions keeps *conn* its own server process.

    In transaction mode an idle client has none: a second client that begins a transaction is either given
    the process that served the first one, or the first is served by another one afterwards. Raises
    StepFailed(PoolerRefused).
    """
    first = _pid(conn)
    try:
        with another() as second, second.transaction():
            shared = _pid(second) == first or _pid(conn) != first
    except StepFailed:
        return  # the pool has no place for another client: nothing was learnt
    if shared:
        raise fail(
            Reason.POOLER_REFUSED,
            "The pooler is declared as `pooler: Session`, but runs in transaction mode: two of its clients "
            "share a server process. It would lose the migration lock.",
            standing="Nothing was changed.",
            hint=f"{_DIRECT} Or let the pooler keep sessions (in PgBouncer `pool_mode=session`).",
        )


def _pid(conn: psycopg.Connection[TupleRow]) -> int:
    row = conn.execute("SELECT pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def _set(conn: psycopg.Connection[TupleRow], settings: Mapping[str, str], role: str) -> None:
    """Set for the session what a pooler does not pass on at connect."""
    for name, value in settings.items():
        try:
            conn.execute("SELECT set_config(%s, %s, false)", [name, value])
        except psycopg.Error as exc:
            if name == "role" and role:
                raise _role_refused(exc.diag.message_primary or str(exc)) from None
            raise


def _option(value: str) -> str:
    """*value* inside libpq's `options`, where a backslash escapes a space or itself (manual, 32.1.2)."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _where(conn: psycopg.Connection[TupleRow]) -> str:
    return f"{conn.info.host}:{conn.info.port}"


def _role_refused(message: str) -> StepFailed:
    return fail(Reason.ROLE_REFUSED, message, standing="Nothing was changed.")


def _pooler(what: str) -> StepFailed:
    return fail(
        Reason.POOLER_REFUSED,
        f"{what}: a connection pooler stands between. In transaction mode it would lose the migration lock.",
        standing="Nothing was changed.",
        hint=f"{_DIRECT} Where the pooler keeps sessions, declare `connection.pooler: Session`.",
    )
