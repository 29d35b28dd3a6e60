"""Looking whether the database is where it should be: before COMMIT where possible, and afterwards."""

import json
from collections.abc import Iterable, Sequence
from typing import Final

import psycopg
from pglast.parser import ParseError, parse_sql_json

from godwit.contract.outcome import VerifyOutcome
from godwit.contract.policy import SqlCheck
from godwit.contract.reasons import Reason
from godwit.contract.request import VerifyInput
from godwit.engine import journal, ownership
from godwit.engine.catalog import fingerprint, invalid_indexes
from godwit.engine.compare import newest_of
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail
from godwit.engine.journal import Event
from godwit.engine.model import History
from godwit.engine.session import Session

_UNTOUCHED: Final = "Nothing was touched after the COMMIT; the database is as the run left it."


def verify_verb(ctx: StepContext, verb: VerifyInput) -> VerifyOutcome:
    """Compare history, checks and catalog with what they should be; writes nothing but its journal row.

    Raises StepFailed: VerifyFailed with the facts beside it, or what the connection says.
    """
    with ctx.session(writing=True) as session:
        done = journal.find_done(session, ctx.request, verb.verb)
        if done is not None:
            ctx.resumed.set()
            return VerifyOutcome.model_validate(done)
        tool = ctx.format_in(session, verb.state)
        history = tool.read_history(session)
        outcome = VerifyOutcome(
            state=history.state,
            current=newest_of(tool, history),
            checks=len(verb.checks),
            journal_head=journal.head(session),
            fingerprint=fingerprint(session, ctx.request.connection.schemas),
        )
        try:
            _same_state(history, verb.state, outcome.current)
            run_checks(session, verb.checks, Reason.VERIFY_FAILED, standing=_UNTOUCHED)
            _no_invalid_index(session, ctx.request.operation)
        except StepFailed as failed:
            ctx.cancelled.check(standing=_UNTOUCHED)  # a check that was cut off has not failed
            ownership.end_failed(session, ctx.request, verb.verb, failed.failure)
            raise failed.beside(outcome) from None
        ctx.point("verify.before_record")
        if journal.exists(session):
            with session.transaction():
                journal.record_done(session, ctx.request, verb.verb, outcome)
                ownership.release(session, ctx.request.operation)
        ctx.point("verify.after_record")
        return outcome


def _same_state(history: History, wanted: str, current: str) -> None:
    if history.state == wanted:
        return
    failed = f", {len(history.failed)} of them failed" if history.failed else ""
    raise fail(
        Reason.VERIFY_FAILED,
        f"The history is not what the plan said: {len(history.applied)} migrations are applied{failed}, "
        f"the newest {current or '(none)'}.",
        standing=_UNTOUCHED,
    )


def _no_invalid_index(session: Session, operation: str) -> None:
    """Judge only what this operation built; a stranger's INVALID index is no fault of the plan."""
    entries = journal.entries_of(session, operation)
    sent = [e.detail["subject"] for e in entries if e.event is Event.SENT and e.detail.get("subject")]
    before = [oid for e in entries if e.event is Event.SENT for oid in e.detail["before"].get("indexes", ())]
    broken = invalid_indexes(
        session,
        tables=[s["table"] for s in sent if s.get("table")],
        indexes=[s["index"] for s in sent if s.get("index")],
        txids=[e.txid for e in entries if e.event in {Event.APPLIED, Event.STATEMENT}],
        before=before,
    )
    if broken:
        raise fail(
            Reason.VERIFY_FAILED,
            f"The run left an INVALID index: {', '.join(broken[:5])}.",
            standing=_UNTOUCHED,
            hint=f"DROP INDEX CONCURRENTLY {broken[0]}; then build it again.",
        )


def before_commit_checks(session: Session, checks: Iterable[SqlCheck]) -> None:
    """Ask the checks inside the migration's open transaction. Raises StepFailed(CheckFailed)."""
    run_checks(session, checks, Reason.CHECK_FAILED, standing="The migration was rolled back.")


def run_checks(session: Session, checks: Iterable[SqlCheck], reason: Reason, *, standing: str) -> None:
    """Ask each check: one SELECT that must return one true value, else StepFailed(*reason*).

    Each has its own timeout, can write nothing, and leaves nothing: savepoint, read-only, rolled back.
    """
    for check in checks:
        why = _ask_safely(session, check)
        if why:
            raise fail(reason, f"Check {check.name}: {why}.", standing=standing, statement=check.sql)


def _ask_safely(session: Session, check: SqlCheck) -> str:
    """Why the check is not satisfied; empty when it is."""
    if not _is_one_select(check.sql):
        return "it is not one SELECT"
    try:
        # A savepoint inside the migration's transaction, a transaction of its own afterwards.
        with session.conn.transaction(force_rollback=True):
            session.execute(
                "SELECT set_config('transaction_read_only', 'on', true), "
                "set_config('statement_timeout', %s, true)",
                [str(check.timeout_ms)],
            )
            # Its own message of the extended protocol, which takes one statement only.
            rows = session.conn.execute(check.sql.encode(), prepare=True).fetchmany(2)
    except psycopg.errors.QueryCanceled:
        return f"it did not end within {check.timeout_ms} ms"
    except psycopg.OperationalError:
        raise
    except psycopg.Error as exc:
        return f"{exc.diag.message_primary or type(exc).__name__} ({exc.sqlstate})"
    return _verdict(rows)


def _is_one_select(text: str) -> bool:
    try:
        statements = json.loads(parse_sql_json(text)).get("stmts", [])
    except ParseError:
        return False
    return len(statements) == 1 and set(statements[0]["stmt"]) == {"SelectStmt"}


def _verdict(rows: Sequence[tuple[object, ...]]) -> str:
    """Only shapes and truth values: what else a check returns may be row data."""
    if len(rows) != 1:
        return "it returned no row" if not rows else "it returned more than one row"
    if len(rows[0]) != 1:
        return f"it returned {len(rows[0])} columns instead of one"
    value = rows[0][0]
    if value is True:
        return ""
    what = "false" if value is False else "NULL" if value is None else "something else than true"
    return f"it returned {what}"
