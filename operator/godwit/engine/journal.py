"""The journal: what Godwit did to a database, kept in that database, in the schema `godwit`.

A schema of its own, because Prisma reports strangers in the application's schema as drift. Rows are written
in the transaction of what they tell about, so that they stand exactly when it does. Ids have no gaps: each is
one more than the last, taken under a lock of the table, so that a rolled back row leaves no trace.
"""

import contextlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, LiteralString, Required, TypedDict, Unpack

from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from godwit.contract.base import Model, digest
from godwit.contract.outcome import Failure
from godwit.contract.reasons import Reason
from godwit.contract.request import StepRequest
from godwit.engine.errors import StepFailed, fail
from godwit.engine.journal_row import APPEND, APPEND_JUDGED
from godwit.engine.message import Answer
from godwit.engine.model import Script, Transaction
from godwit.engine.session import Session

SCHEMA: Final = "godwit"


class Event(StrEnum):
    """What a row tells about. `Done` carries the outcome of a verb that ended well."""

    CLAIMED = "Claimed"
    """An attempt of a writing step has its turn: earlier ones, and who planned before, come too late."""
    STARTED = "Started"
    """A file that runs outside a transaction began; `detail.row` is its history row."""
    SENT = "Sent"
    """A statement that cannot run in a transaction is about to run; `detail.before` is how it is judged."""
    BATCH = "Batch"
    """How far a backfill got; `detail.upTo` is the last key done. The one row is kept up to date."""
    STATEMENT = "Statement"
    """A statement of such a file is done."""
    UNDONE = "Undone"
    """What a failed statement left was removed."""
    ABANDONED = "Abandoned"
    """Such a file failed and nothing of it is left."""
    APPLIED = "Applied"
    REVERTED = "Reverted"
    RESOLVED = "Resolved"
    """A declaration of `spec.resolve` or `spec.baseline` was carried out, or held already."""
    UNRESOLVED = "Unresolved"
    """What the operation had resolved was taken back."""
    DONE = "Done"
    FAILED = "Failed"
    """A verb ended in a failure, which `detail` tells; what it did before stands in the rows before."""


@dataclass(frozen=True)
class Entry:
    """One row. `txid` is the number of the transaction that wrote it (`txid_current()`)."""

    id: int
    at: datetime
    object: str
    operation: str
    spec_hash: str
    step: str
    attempt: int
    verb: str
    event: Event
    migration: str
    checksum: str
    statement: int | None
    down: Script | None
    txid: int
    detail: dict[str, Any]


class Facts(TypedDict, total=False):
    """What a row says beside its request and its event."""

    verb: Required[str]
    migration: str
    checksum: str
    statement: int | None
    down: Script | None
    detail: dict[str, Any]


_CREATE: Final = """
CREATE TABLE godwit.journal (
    id        bigint PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    object    text NOT NULL,
    operation text NOT NULL,
    spec_hash text NOT NULL,
    step      text NOT NULL,
    attempt   integer NOT NULL,
    verb      text NOT NULL,
    event     text NOT NULL,
    migration text NOT NULL DEFAULT '',
    checksum  text NOT NULL DEFAULT '',
    statement integer,
    down_path text,
    down_sql  text,
    txid      bigint NOT NULL DEFAULT txid_current(),
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX journal_operation ON godwit.journal (operation);
CREATE INDEX journal_migration ON godwit.journal (migration, id) WHERE event = 'Applied';
CREATE TABLE godwit.settings (
    key   text PRIMARY KEY,
    value jsonb NOT NULL,
    at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON SCHEMA godwit IS 'What Godwit did to this database, and the down scripts as they were applied.'
"""

# The catalog can be read without any right to the schema; to_regclass could not.
_RIGHTS: Final = """
SELECT (SELECT n.oid FROM pg_namespace n WHERE n.nspname = 'godwit') IS NOT NULL,
       (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'godwit' AND c.relname IN ('journal', 'settings') AND c.relkind = 'r'),
       has_database_privilege(current_database(), 'CREATE'),
       (SELECT has_schema_privilege(n.oid, 'USAGE') AND coalesce(bool_and(
                   has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                   AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')),
                   has_schema_privilege(n.oid, 'CREATE'))
          FROM pg_namespace n
          LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname IN ('journal', 'settings')
         WHERE n.nspname = 'godwit' GROUP BY n.oid),
       current_user, current_database()"""

_COLUMNS: Final = (
    "id, at, object, operation, spec_hash, step, attempt, verb, event, migration, checksum, statement, "
    "down_path, down_sql, txid, detail"
)


def exists(session: Session) -> bool:
    """Whether this database has a journal."""
    row = session.execute(_RIGHTS).fetchone()
    return bool(row and row[1] == 2)


def check_rights(session: Session) -> bool:
    """Whether there is a journal, after making sure that it can be used, or made where there is none.

    A session that found one that it can use does not ask again. Raises StepFailed(JournalForbidden) with the
    GRANT to run.
    """
    if session.has_journal:
        return True
    row = session.execute(_RIGHTS).fetchone()
    schema, tables, may_create, usable, user, database = row or (False, 0, False, False, "", "")
    if not schema and not may_create:
        raise _forbidden(
            session,
            "may not create the schema godwit",
            sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
                sql.Identifier(database), sql.Identifier(user)
            ),
        )
    if schema and not usable:
        grant = sql.SQL(
            "GRANT USAGE, CREATE ON SCHEMA godwit TO {0}; "
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA godwit TO {0}"
        ).format(sql.Identifier(user))
        raise _forbidden(session, "may not use the schema godwit", grant)
    # In a transaction it may be one that is rolled back again.
    idle = session.line.info.transaction_status is TransactionStatus.IDLE
    session.has_journal = bool(tables == 2) and idle
    return bool(tables == 2)


def _forbidden(session: Session, what: str, grant: sql.Composed) -> StepFailed:
    command = grant.as_string(session.conn)
    return fail(
        Reason.JOURNAL_FORBIDDEN,
        f"The role {what}, where the journal is kept. Let an administrator run: {command};",
        standing="Nothing was changed.",
        hint=command,
    )


def ensure(session: Session) -> None:
    """Make the journal where there is none, in the open transaction if there is one.

    Raises StepFailed(JournalForbidden).
    """
    if check_rights(session):
        return
    with atomic(session):
        if session.execute("SELECT FROM pg_namespace WHERE nspname = 'godwit'").rowcount == 0:
            session.execute("CREATE SCHEMA godwit")
        session.execute(_CREATE)


def atomic(session: Session) -> contextlib.AbstractContextManager[object]:
    """The open transaction, or one of its own for the block."""
    if session.conn.info.transaction_status is TransactionStatus.IDLE:
        return session.transaction()
    return contextlib.nullcontext()


def append(session: Session, request: StepRequest, event: Event, **facts: Unpack[Facts]) -> int:
    """Add a row in the open transaction, or in one of its own. Returns its id."""
    with atomic(session):
        row = put(session, request, event, **facts).fetchone()
    return int(row[0]) if row else 0


def put(
    session: Session,
    request: StepRequest,
    event: Event,
    *,
    judged: Collection[str] | None = None,
    **facts: Unpack[Facts],
) -> Answer:
    """Add a row in the open transaction; later. It is answered by its id.

    *judged*: as APPEND_JUDGED, with these tables of the migration tool, and as `Session.repeat`.
    """
    session.later("LOCK TABLE godwit.journal IN SHARE ROW EXCLUSIVE MODE")
    down, detail = facts.get("down"), facts.get("detail") or {}
    if down and down.transaction is not Transaction.JUDGED:
        detail = {**detail, "downTransaction": down.transaction}
    values = {
        "object": str(request.object),
        "operation": request.operation,
        "spec_hash": request.spec_hash,
        "step": request.step,
        "attempt": request.attempt,
        "verb": facts["verb"],
        "event": event.value,
        "migration": facts.get("migration", ""),
        "checksum": facts.get("checksum", ""),
        "statement": facts.get("statement"),
        "down_path": down.path if down else None,
        "down_sql": down.text if down else None,
        "detail": Jsonb(detail),
    }
    if judged is None:
        return session.later(APPEND, values)
    return session.repeat(APPEND_JUDGED, values | {"own": json.dumps(sorted(judged))})


def advance(session: Session, row_id: int, detail: dict[str, Any]) -> None:
    """Bring the row of a backfill up to date, in the open transaction."""
    session.execute(
        "UPDATE godwit.journal SET detail = %s, at = clock_timestamp(), txid = txid_current() WHERE id = %s",
        (Jsonb(detail), row_id),
    )


def head(session: Session) -> int:
    """Id of the last row; 0 without a journal. Writes nothing. Raises StepFailed(JournalForbidden)."""
    return _max(session, "SELECT max(id) FROM godwit.journal", ())


def head_of_others(session: Session, operation: str) -> int:
    """Id of the last row that another operation wrote; 0 where there is none."""
    return _max(session, "SELECT max(id) FROM godwit.journal WHERE operation <> %s", (operation,))


def _max(session: Session, query: LiteralString, params: Sequence[object]) -> int:
    if not check_rights(session):
        return 0
    row = session.execute(query, params).fetchone()
    return int(row[0] or 0) if row else 0


def script_of(path: str, text: str, detail: dict[str, Any]) -> Script:
    """The way back that a row keeps."""
    data = text.encode()
    transaction = Transaction(detail.get("downTransaction", Transaction.JUDGED))
    return Script(path=path, data=data, checksum=digest(data), transaction=transaction)


def entries_of(session: Session, operation: str) -> tuple[Entry, ...]:
    """The rows of one operation, oldest first; none without a journal or without an operation."""
    if not operation or not check_rights(session):
        return ()
    rows = session.execute(
        sql.SQL("SELECT {} FROM godwit.journal WHERE operation = %s ORDER BY id").format(sql.SQL(_COLUMNS)),
        (operation,),
    )
    return tuple(_entry(row) for row in rows)


def _entry(row: tuple[Any, ...]) -> Entry:
    plain = dict(zip((name.strip() for name in _COLUMNS.split(",")), row, strict=True))
    path, text = plain.pop("down_path"), plain.pop("down_sql")
    plain["event"] = Event(plain["event"])
    return Entry(**plain, down=None if text is None else script_of(path, text, plain["detail"]))


def find_done(session: Session, request: StepRequest, verb: str) -> dict[str, Any] | None:
    """The recorded outcome (a VerbOutcome's JSON) of this verb of this operation, spec and step, or None.

    What is done is not done again: a repeated or late request gets what its predecessor recorded.
    """
    return _done(session, request, verb, "operation = %(operation)s") if request.operation else None


def find_done_by_object(session: Session, request: StepRequest, verb: str) -> dict[str, Any] | None:
    """As `find_done`, for an object of the same kind, namespace and name, whatever its uid.

    For one-shot requests: a lost cluster or a restored object must not run them twice.
    """
    return _done(session, request, verb, "object = %(object)s")


def _done(session: Session, request: StepRequest, verb: str, clause: LiteralString) -> dict[str, Any] | None:
    if not check_rights(session):
        return None
    query = sql.SQL(
        "SELECT detail -> 'outcome' FROM godwit.journal WHERE event = 'Done' AND {} "
        "AND spec_hash = %(hash)s AND step = %(step)s AND verb = %(verb)s ORDER BY id DESC LIMIT 1"
    ).format(sql.SQL(clause))
    params = {
        "operation": request.operation,
        "object": str(request.object),
        "hash": request.spec_hash,
        "step": request.step,
        "verb": verb,
    }
    row = session.execute(query, params).fetchone()
    return row[0] if row else None


def record_done(session: Session, request: StepRequest, verb: str, outcome: Model) -> int:
    """Record that a verb ended well, with its outcome. Returns the row's id."""
    return append(session, request, Event.DONE, verb=verb, detail={"outcome": outcome.to_json()})


def record_failed(session: Session, request: StepRequest, verb: str, failure: Failure) -> int:
    """Record why a verb failed, in a transaction of its own. Returns the row's id.

    Without the message and the statement: PostgreSQL quotes values in them, which may be a row's.
    """
    told = {"reason", "file", "line", "sqlstate", "standing"}
    detail = {key: value for key, value in failure.to_json().items() if key in told and value}
    return append(session, request, Event.FAILED, verb=verb, migration=failure.migration, detail=detail)
