"""Several statements as one message of the simple protocol, with one wait for all their answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import generators, sql
from psycopg.abc import QueryNoTemplate
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, Escaping, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

ERRORS: Final = {ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE}


class Answer:
    """What one statement of a message is answered by."""

    def __init__(self, message: "Message") -> None:
        self._message = message
        self.result: PGresult | None = None

    @property
    def there(self) -> bool:
        """Whether the statement was through."""
        return self.result is not None

    def fetchone(self) -> TupleRow | None:
        """Its first row."""
        rows = self.fetchall()
        return rows[0] if rows else None

    def fetchall(self) -> list[TupleRow]:
        """Its rows; the message is sent for them where it was not yet. Raises psycopg.Error."""
        if self.result is None:
            self._message.send()
        return self._message.rows(self.result) if self.result is not None else []


class Message:
    """Statements that wait to be sent on *conn*, each exactly one; values become literals in their text."""

    def __init__(self, conn: psycopg.Connection[TupleRow]) -> None:
        self._conn = conn
        self._text: list[str] = []
        self._answers: list[Answer] = []

    def add(self, query: QueryNoTemplate, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Answer:
        """Send this one as well, after the others."""
        self._text.append(bound(self._conn, query, params))
        answer = Answer(self)
        self._answers.append(answer)
        return answer

    def send(self) -> None:
        """Send them, once, and give each its answer. Raises psycopg.Error of the first that fails."""
        text, self._text = self._text, []
        answers, self._answers = self._answers, []
        if not answers:
            return
        results = exchange(self._conn, ";\n".join(text).encode(self._conn.info.encoding))
        for answer, result in zip(answers, results, strict=False):
            if result.status in ERRORS:
                raise psycopg.errors.error_from_result(result, self._conn.info.encoding)
            answer.result = result
        if len(results) < len(answers) or self._conn.pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError("the connection is closed")

    def rows(self, result: PGresult) -> list[TupleRow]:
        """The rows of one of its answers, as psycopg's cursors would load them."""
        loading = Transformer(self._conn)
        loading.set_pgresult(result)
        return loading.load_rows(0, result.ntuples, tuple)


def bound(
    conn: psycopg.Connection[TupleRow],
    query: QueryNoTemplate,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
) -> str:
    """The statement's text with the values in it as literals, whatever the session's settings will be."""
    text = (
        query.decode()
        if isinstance(query, bytes)
        else query
        if isinstance(query, str)
        else query.as_string(conn)
    )
    if params is None:
        return text
    literal = _literals(conn)
    if isinstance(params, Mapping):
        return text % {name: literal(value) for name, value in params.items()}
    return text % tuple(map(literal, params))


def _literals(conn: psycopg.Connection[TupleRow]) -> Callable[[Any], str]:
    """What makes literals as psycopg does, those of most statements in a tenth of its time."""
    encoding, escaping = conn.info.encoding, Escaping(conn.pgconn)

    def literal(value: Any) -> str:
        if type(value) is str and "\0" not in value:
            return escaping.escape_literal(value.encode(encoding)).decode(encoding)
        if value is None:
            return "NULL"
        return sql.Literal(value).as_string(conn)

    return literal


def exchange(conn: psycopg.Connection[TupleRow], message: bytes) -> list[PGresult]:
    """Send *message* by the simple protocol and return what its statements answer, up to the first error.

    A connection that breaks meanwhile raises psycopg.Error, or shows as too few answers.
    """
    with conn.lock:
        conn.pgconn.send_query(message)
        return conn.wait(generators.execute(conn.pgconn))
