"""What a migration must leave as it found it: transaction, migration lock, search_path, role, settings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.pq import TransactionStatus

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed, fail
from godwit.engine.lock import holds_lock
from godwit.engine.model import Statement
from godwit.engine.session import Session

_LOCAL: Final = re.compile(
    r"^\s*SET\s+LOCAL\s+(search_path|role|session\s+authorization)|set_config\s*\(.*,\s*true\s*\)",
    re.IGNORECASE | re.DOTALL,
)
_NOW: Final = """
SELECT current_setting('search_path'), current_user::text, session_user::text, current_setting('role'),
       pg_my_temp_schema() <> 0 AND EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema())"""
# What says which migrations are applied, and the journal: a script that changes them is not to be believed.
# Counters and file node tell what this transaction did to them (manual, section 28.2.21).
_OPENED: Final = """
SELECT txid_current(),
       (SELECT jsonb_object_agg(n.nspname || '.' || c.relname, jsonb_build_array(
                 c.oid, c.relfilenode, c.relhasrules, c.relhastriggers,
                 pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
                 + pg_stat_get_xact_tuples_deleted(c.oid)))
          FROM unnest(%s::text[], %s::text[]) AS t (schema, name)
          JOIN pg_namespace n ON n.nspname = t.schema
          JOIN pg_class c ON c.relname = t.name AND c.relnamespace = n.oid)"""
# Settings that came with the connection have the source `client`; what the session itself set, `session`.
_SETTINGS: Final = """
SELECT name, setting FROM pg_settings WHERE source = 'session' AND setting IS DISTINCT FROM reset_val"""


@dataclass(frozen=True)
class Opened:
    """A transaction before its script: its number, and how the history and the journal stood."""

    txid: int
    tables: dict[str, list[Any]]


class Guard:
    """How a session was before migrations ran on it, and the way back to that.

    *tables* are the migration tool's own, in the session's schema or in one of the table's name.
    """

    def __init__(self, session: Session, lock_key: int, tables: Sequence[str]) -> None:
        self._session = session
        self._lock_key = lock_key
        schemas = [session.schema] * len(tables) + [*tables, "godwit", "godwit"]
        self._tables = (schemas, [*tables, *tables, "journal", "settings"])
        self._now = self._look()[:-1]
        self._settings = self._look_at_settings()

    def opened(self) -> Opened:
        """Inside the migration's transaction, before its script."""
        row = self._session.execute(_OPENED, self._tables).fetchone()
        return Opened(int(row[0]), row[1] or {}) if row else Opened(0, {})

    def check_open(self, before: Opened, statements: Sequence[Statement]) -> None:
        """Inside the migration's transaction, after its script: what is wrong can still be rolled back.

        Raises StepFailed(TransactionBroken, SessionChanged, StatementRefused). SET LOCAL ends with the
        transaction and is fine.
        """
        if self._session.conn.info.transaction_status is not TransactionStatus.INTRANS:
            raise fail(
                Reason.TRANSACTION_BROKEN,
                "The script ended the transaction that it ran in.",
                standing="What it did before that is committed; there is no history row.",
            )
        now = self.opened()
        if now.txid != before.txid:
            raise fail(
                Reason.TRANSACTION_BROKEN,
                "The script ended the transaction that it ran in, and began another.",
                standing="What it did before that is committed; there is no history row.",
            )
        if not holds_lock(self._session, self._lock_key):
            raise fail(Reason.SESSION_CHANGED, "The script gave the migration lock back.")
        touched = next((name for name, was in before.tables.items() if now.tables.get(name) != was), "")
        if touched:
            raise fail(
                Reason.STATEMENT_REFUSED,
                f"The script changed {touched}, which says what is applied; no migration may.",
            )
        if not any(_LOCAL.search(s.text) for s in statements) and (what := self._difference()):
            raise self._changed(what, statements)

    def restore(self) -> None:
        """After the transaction: set everything right again that the script left changed."""
        if self._look()[-1]:  # a temporary table would hide the next migration's
            self._session.execute("DISCARD TEMP")
        if self._difference():
            self._session.execute("RESET SESSION AUTHORIZATION")
            self._session.execute(
                "SELECT set_config('role', %s, false), set_config('search_path', %s, false)",
                (self._now[3], self._now[0]),
            )
        now = self._look_at_settings()
        for name in now.keys() - self._settings.keys():
            # The value that the connection began with. As a statement: set_config cannot reset.
            self._session.execute(
                "SELECT set_config(%s, (SELECT reset_val FROM pg_settings WHERE name = %s), false)",
                (name, name),
            )
        for name, value in self._settings.items():
            if now.get(name) != value:
                self._session.execute("SELECT set_config(%s, %s, false)", (name, value))

    def _difference(self) -> str:
        names = ("search_path", "the role", "the session's user", "the role")
        then_now = zip(names, self._now, self._look()[:-1], strict=True)
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

    def _look(self) -> tuple[Any, ...]:
        return tuple(self._session.execute(_NOW).fetchone() or ())

    def _look_at_settings(self) -> dict[str, str]:
        return dict(self._session.execute(_SETTINGS).fetchall())
