"""SQL of a migration as it is sent to the server: a file or one of its statements, as one message."""

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.pq import ConnStatus, ExecStatus

from godwit.engine.message import ERRORS, exchange
from godwit.engine.model import ParsedScript, Statement
from godwit.engine.session import Session

_COPIES: Final = {ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH}


@dataclass(frozen=True)
class Piece:
    """SQL to send as one message: a file, or one statement of it, and where it stands."""

    migration: str
    file: str
    body: str
    offset: int
    """Where `body` begins in the file, in characters."""
    statements: tuple[Statement, ...]

    @staticmethod
    def whole(migration: str, parsed: ParsedScript) -> "Piece":
        """The file."""
        return Piece(migration, parsed.script.path, parsed.body, 0, parsed.statements)

    @staticmethod
    def one(migration: str, parsed: ParsedScript, statement: Statement) -> "Piece":
        """One of its statements."""
        return Piece(migration, parsed.script.path, statement.text, statement.offset, (statement,))


class ScriptError(Exception):
    """An error that a script met, and how many of its statements were through before."""

    def __init__(self, error: psycopg.Error, through: int, *, ours: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.through = through
        self.ours = ours
        self.worked = 0.0
        """Seconds since its first statement was sent."""
        self.position = None if ours else _position(error)
        """0-based offset in the script, in characters; None where PostgreSQL gives none, and where it was
        *ours*: a statement of Godwit's own."""


def _position(error: psycopg.Error) -> int | None:
    text = error.diag.statement_position
    return int(text) - 1 if text else None


def send(session: Session, body: str) -> None:
    """Send *body* as one message of the simple protocol, as Prisma does; psycopg's `%` has no meaning in it.

    Raises ScriptError with the number of statements that were through.
    """
    conn = session.conn
    if conn.pgconn.parameter_status(b"standard_conforming_strings") != b"on":
        # An earlier script may have set it; this one is read as it was planned.
        conn.execute("SET standard_conforming_strings = on")
    results = exchange(conn, body.encode())
    for index, result in enumerate(results):
        if result.status in ERRORS:
            raise ScriptError(psycopg.errors.error_from_result(result, conn.info.encoding), index)
        if result.status in _COPIES:
            conn.close()
            raise ScriptError(psycopg.errors.FeatureNotSupported("COPY from or to the client"), index)
    if conn.pgconn.status != ConnStatus.OK:
        raise ScriptError(psycopg.OperationalError("the connection is closed"), 0)
