"""How the engine says why it did not get on: one exception, which carries a Failure of the contract."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from godwit.contract.outcome import Failure, LockHolder, VerbOutcome
from godwit.contract.reasons import Reason
from godwit.engine.redact import redact, secrets_in

STATEMENT_LIMIT: Final = 300
"""Characters of a statement that an outcome quotes; cut once every secret is out of it."""


class StepFailed(Exception):  # noqa: N818  an answer that a step gives, not a defect
    """A verb did not get on. `failure` says why; `outcome` holds the facts beside it, if there are any.

    `document` is what people may want to read in the log besides: the whole of a refused plan.
    """

    def __init__(
        self,
        failure: Failure,
        outcome: VerbOutcome | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{failure.reason}: {failure.message}")
        self.failure = failure
        self.outcome = outcome
        self.document = document

    def beside(self, outcome: VerbOutcome) -> "StepFailed":
        """The same failure with *outcome* as the facts beside it."""
        return StepFailed(self.failure, outcome, self.document)


def fail(
    reason: Reason,
    message: str,
    *,
    standing: str = "",
    migration: str = "",
    file: str = "",
    line: int = 0,
    statement: str = "",
    sqlstate: str = "",
    hint: str = "",
    blockers: tuple[LockHolder, ...] = (),
    outcome: VerbOutcome | None = None,
) -> StepFailed:
    """The exception to raise. Passwords in the statement, and where the message quotes them, are masked.

    message: what happened. standing: where the database stands now. line: 1-based in *file*, 0 when unknown.
    """
    secrets = secrets_in(statement)
    return StepFailed(
        Failure(
            reason=reason,
            message=redact(message, *secrets),
            standing=standing,
            migration=migration,
            file=file,
            line=line,
            statement=redact(statement.strip(), *secrets),
            sqlstate=sqlstate,
            hint=redact(hint, *secrets),
            blockers=blockers,
        ),
        outcome,
    )


def utc(moment: datetime) -> str:
    """*moment* for people, in UTC: the server gives its times in the zone of the session."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def from_postgres(
    exc: psycopg.Error,
    *,
    default: Reason,
    standing: str = "",
    migration: str = "",
    file: str = "",
    line: int = 0,
    statement: str = "",
    outcome: VerbOutcome | None = None,
) -> StepFailed:
    """The exception to raise for an error of psycopg: PostgreSQL's primary message, its hint, its SQLSTATE.

    DETAIL and CONTEXT are left out: they quote row data. The reason follows from the SQLSTATE (PostgreSQL
    manual, appendix A) where that alone decides, and is *default* elsewhere.
    """
    sqlstate = exc.sqlstate or ""
    message = exc.diag.message_primary or str(exc).strip() or type(exc).__name__
    return fail(
        reason_of(exc, default),
        message,
        standing=standing,
        migration=migration,
        file=file,
        line=line,
        statement=statement,
        sqlstate=sqlstate,
        hint=exc.diag.message_hint or "",
        outcome=outcome,
    )


_BY_SQLSTATE: Final = {
    "28P01": Reason.AUTHENTICATION_FAILED,
    "28000": Reason.AUTHENTICATION_FAILED,
    "3D000": Reason.DATABASE_MISSING,
    "42501": Reason.PERMISSION_DENIED,
    "53300": Reason.DATABASE_UNREACHABLE,
    "57P01": Reason.CONNECTION_LOST,
    "57P02": Reason.CONNECTION_LOST,
    "57P03": Reason.DATABASE_UNREACHABLE,
    "57P04": Reason.CONNECTION_LOST,
    "57P05": Reason.CONNECTION_LOST,
    "25P03": Reason.CONNECTION_LOST,
}


def reason_of(exc: psycopg.Error, default: Reason) -> Reason:
    """The reason that the SQLSTATE alone decides, else *default*.

    An OperationalError without any SQLSTATE comes from the client library: the server is no longer there.
    """
    sqlstate = exc.sqlstate
    if sqlstate is None:
        return Reason.CONNECTION_LOST if isinstance(exc, psycopg.OperationalError) else default
    if sqlstate.startswith("08"):
        return Reason.CONNECTION_LOST
    return _BY_SQLSTATE.get(sqlstate, default)


# A refused connection has no SQLSTATE in libpq's interface, only the server's text: PostgreSQL's own English
# words. In another language the reason is DatabaseUnreachable, which is tried again in the same way.
_BY_TEXT: Final = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"permission denied to set role|invalid value for parameter \"role\"", Reason.ROLE_REFUSED),
        (r"unsupported startup parameter", Reason.POOLER_REFUSED),
        (
            (
                r"certificate verify failed|server certificate for|does not support SSL|tlsv1[0-9.]* alert"
                r"|sslv3 alert|(root|private) (certificate|key) file|could not (read|load) .*certificate"
                r"|could not load private key"
            ),
            Reason.TLS_REFUSED,
        ),
        (r"invalid sslmode value|invalid port number|invalid integer value", Reason.CONNECTION_INVALID),
        (r"database \"[^\n]*\" does not exist", Reason.DATABASE_MISSING),
        (r"permission denied for database", Reason.PERMISSION_DENIED),
        (
            (
                r"authentication failed|valid client certificate"
                r"|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
                r"|role \"[^\n]*\" does not exist|is not permitted to log in|password .*expired"
            ),
            Reason.AUTHENTICATION_FAILED,
        ),
    )
)


def from_connect(exc: psycopg.Error, *secrets: str) -> StepFailed:
    """The exception to raise when a connection could not be opened; *secrets* are masked in libpq's text."""
    text = " ".join(str(exc).split()).split(" DETAIL: ", 1)[0]
    reason = next((r for pattern, r in _BY_TEXT if pattern.search(text)), Reason.DATABASE_UNREACHABLE)
    return fail(reason, redact(text, *secrets), standing="Nothing was changed.")
