"""What a migration must leave as it found it: transaction, migration lock, search_path, role, settings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from psycopg.abc import QueryNoTemplate
from psycopg.pq import TransactionStatus

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed, fail
from godwit.engine.lock import HOLDS
from godwit.engine.message import Answer, bound
from godwit.engine.model import Statement
from godwit.engine.session import Session

_LOCAL: Final = re.compile(
    r"^\s*SET\s+LOCAL\s+(search_path|role|session\s+authorization)|set_config\s*\(.*,\s*true\s*\)",
    re.IGNORECASE | re.DOTALL,
)
_WHO: Final = (
    "current_setting('search_path'), current_user::text, session_user::text, current_setting('role')"
)
_NOW: Final = f"SELECT {_WHO}"
_STILL: Final = f"SELECT txid_current(), {HOLDS}, {_WHO}"
# What says which migrations are applied, and the journal: a script that changes them is not to be believed.
# Counters and file node tell what this transaction did to them (manual, section 28.2.21).
_FACTS: Final = """
       c.oid, c.relname, c.relnamespace, c.relfilenode, c.relhasrules, c.relhastriggers,
       pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
       + pg_stat_get_xact_tuples_deleted(c.oid)
  FROM pg_class c"""
_BY_NAME: Final = f"""
SELECT n.nspname, {_FACTS} JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY (%s) AND n.nspname = ANY (%s)"""
_BY_OID: Final = f"SELECT {_FACTS} WHERE c.oid = ANY (%s::oid[])"
# Settings that came with the connection have the source `client`; what the session itself set, `session`.
_SETTINGS: Final = """
SELECT name, setting FROM pg_settings WHERE source = 'session' AND setting IS DISTINCT FROM reset_val"""


_Tables = dict[int, tuple[Any, ...]]
"""Facts by OID."""


@dataclass(frozen=True)
class Opened:
    """A transaction before its script: its number, and how the history and the journal stood."""

    txid: int
    tables: _Tables


@dataclass(frozen=True)
class Asked:
    """What was asked of a session after a script, to be answered with the next message."""

    still: Answer
    tables: Answer


class Guard:
    """How a session was before migrations ran on it, and the way back to that.

    *tables* are the migration tool's own, in the session's schema or in one of the table's name.
    """

    def __init__(self, session: Session, lock_key: int, tables: Sequence[str]) -> None:
        self._session = session
        own = [(schema, table) for table in tables for schema in (session.schema, table)]
        self._guarded = [*own, ("godwit", "journal"), ("godwit", "settings")]
        self._names: dict[int, str] = {}
        """The tables that are there, by OID."""
        lock = {"key": lock_key, "database": session.identity.database_oid}
        # Each migration asks the same: the values are put into the text once.
        self._ask_still = self._text(_STILL, lock)
        self._ask_tables = b""
        self._now = tuple(session.execute(_NOW).fetchone() or ())
        self._settings: dict[str, str] = dict(session.execute(_SETTINGS).fetchall())

    def opened(self) -> Opened:
        """Inside the migration's transaction, before its script."""
        txid = self._session.later("SELECT txid_current()")
        tables = self._tables()
        row = txid.fetchone()
        return Opened(int(row[0]) if row else 0, tables)

    def ask(self) -> Asked:
        """Inside the migration's transaction, after its script: what `judge` has to know; later.

        Raises StepFailed(TransactionBroken) where there is no transaction.
        """
        if self._session.line.info.transaction_status is not TransactionStatus.INTRANS:
            raise fail(
                Reason.TRANSACTION_BROKEN,
                "The script ended the transaction that it ran in.",
                standing="What it did before that is committed; there is no history row.",
            )
        return Asked(self._session.later(self._ask_still), self._session.later(self._ask_tables))

    def judge(self, before: Opened, asked: Asked, statements: Sequence[Statement]) -> None:
        """What is wrong can still be rolled back. Nothing is said of what was not answered.

        Raises StepFailed(TransactionBroken, SessionChanged, StatementRefused). SET LOCAL ends with the
        transaction and is fine.
        """
        row = asked.still.fetchone() if asked.still.there else None
        if row is None:
            return
        txid, holds, *now = row
        if txid != before.txid:
            raise fail(
                Reason.TRANSACTION_BROKEN,
                "The script ended the transaction that it ran in, and began another.",
                standing="What it did before that is committed; there is no history row.",
            )
        if not holds:
            raise fail(Reason.SESSION_CHANGED, "The script gave the migration lock back.")
        if asked.tables.there:
            tables = _by_oid(asked.tables.fetchall())
            touched = next((oid for oid, was in before.tables.items() if tables.get(oid) != was), 0)
            if touched:
                name = self._names[touched]
                raise fail(
                    Reason.STATEMENT_REFUSED,
                    f"The script changed {name}, which says what is applied; no migration may.",
                )
        if not any(_LOCAL.search(s.text) for s in statements) and (what := self._difference(now)):
            raise self._changed(what, statements)

    def restore(self) -> None:
        """Set everything right again that a script left changed; later."""
        for statement in self._way_back:
            self._session.later(statement)

    @cached_property
    def _way_back(self) -> list[bytes]:
        """The statements of `restore`."""
        _, _, user, role = self._now
        put = "SELECT set_config(%(name)s, %(value)s, false) WHERE current_setting(%(name)s) <> %(value)s"
        again = "SELECT set_config(%s, %s, false)"
        return [
            b"DISCARD TEMP",  # a temporary table would hide the next migration's
            self._text(put, {"name": "session_authorization", "value": user}),
            self._text(put, {"name": "role", "value": role}),
            # To what the connection began with; what was set after that is made up for.
            b"RESET ALL",
            *(self._text(again, setting) for setting in self._settings.items()),
        ]

    def _text(self, query: QueryNoTemplate, params: Sequence[Any] | Mapping[str, Any]) -> bytes:
        return bound(self._session.line, query, params).encode()

    def _tables(self) -> _Tables:
        """The guarded tables as they are now; by their OIDs, while these are the same: that is quicker."""
        if self._names:
            found = _by_oid(self._session.later(self._ask_tables).fetchall())
            if found.keys() == self._names.keys():
                return found
        schemas, names = zip(*self._guarded, strict=True)
        rows = self._session.later(_BY_NAME, (list(names), list(schemas))).fetchall()
        rows = [row for row in rows if (row[0], row[2]) in self._guarded]
        self._names = {oid: f"{schema}.{table}" for schema, oid, table, *_ in rows}
        self._ask_tables = self._text(_BY_OID, [list(self._names)])
        return _by_oid([row[1:] for row in rows])

    def _difference(self, now: Sequence[Any]) -> str:
        names = ("search_path", "the role", "the session's user", "the role")
        then_now = zip(names, self._now, now, strict=True)
        return next((f"{name} from {old} to {new}" for name, old, new in then_now if old != new), "")

    def _changed(self, what: str, statements: Sequence[Statement]) -> StepFailed:
        guilty = next(
            (s for s in statements if s.tag == "VariableSetStmt" or "set_config" in s.text.lower()), None
        )
        return fail(
            Reason.SESSION_CHANGED,
            f"The script changed {what} for the rest of the session.",
            line=guilty.line if guilty else 0,
            statement=guilty.text if guilty else "",
            hint="Use SET LOCAL, or set_config(..., true): it ends with the migration.",
        )


def _by_oid(rows: Iterable[tuple[Any, ...]]) -> _Tables:
    return {oid: tuple(facts) for oid, *facts in rows}
