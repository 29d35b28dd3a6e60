"""What a migration must leave as it found it: transaction, migration lock, search_path, role, settings."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import psycopg
from psycopg.abc import QueryNoTemplate
from psycopg.pq import TransactionStatus

from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed, fail
from godwit.engine.lock import HOLDS
from godwit.engine.message import bound
from godwit.engine.model import Statement
from godwit.engine.repeated import Repeated
from godwit.engine.session import Session

_SET: Final = re.compile(
    r"\s*SET\s+(?:(LOCAL)\s+|SESSION\s+(?!AUTHORIZATION))?(search_path|role|session\s+authorization)\b",
    re.IGNORECASE,
)
_LOCAL_CALL: Final = re.compile(r"set_config\s*\(.*,\s*true\s*\)", re.IGNORECASE | re.DOTALL)
_NAMED_CALL: Final = re.compile(r"set_config\s*\((?:\s*'(\w+)')?", re.IGNORECASE)
_WHO: Final = """jsonb_build_object(
    'search_path', current_setting('search_path'), 'user', current_user, 'role', current_setting('role'),
    'session_authorization', session_user)"""
_OF_WHO: Final = {
    "search_path": "search_path",
    "user": "the role",
    "role": "the role",
    "session_authorization": "the session's user",
}
# What says which migrations are applied, and the journal: a script that changes them is not to be believed.
_NAMED: Final = """
SELECT n.nspname, c.relname, c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY (%s) AND n.nspname = ANY (%s)"""
# Counters and file node tell what this transaction did to them (manual, section 28.2.21). One at a time: for
# several at once the server would read the whole of pg_class, which grows with every table.
_TABLE: Final = """(
SELECT json_build_array(c.oid::bigint, c.relname, c.relnamespace, c.relfilenode,
                        c.relhasrules, c.relhastriggers,
                        pg_stat_get_xact_tuples_inserted(c.oid), pg_stat_get_xact_tuples_updated(c.oid),
                        pg_stat_get_xact_tuples_deleted(c.oid))
  FROM pg_class c WHERE c.oid = {oid})"""
_TABLES: Final = "json_build_array({each})::text"
_OPENED: Final = "SELECT txid_current(), {tables}"
# It fails where not all is as it was, with what there is instead in its error's text: so what comes after it
# in the message is not done. The cast is called by its functions, which no CREATE CAST can replace.
_UNCHANGED: Final = """
SELECT CASE WHEN txid = %(txid)s AND holds AND tables = %(tables)s
             AND who - %(moved)s::text[] = %(who)s::jsonb - %(moved)s::text[] THEN 0
            ELSE pg_catalog.int4in(pg_catalog.textout(
                     concat('godwit', json_build_array(txid, holds, tables, who)))) END
  FROM (SELECT txid_current() AS txid, {holds} AS holds, {tables} AS tables, {who} AS who OFFSET 0) AS now"""
_TOLD: Final = re.compile(r"godwit(\[.*\])", re.DOTALL)
# Settings that came with the connection have the source `client`; what the session itself set, `session`.
_SETTINGS: Final = """
SELECT name, setting FROM pg_settings WHERE source = 'session' AND setting IS DISTINCT FROM reset_val"""


@dataclass(frozen=True)
class Opened:
    """A transaction before its script: its number, and how the history and the journal stood, as JSON."""

    txid: int
    tables: str


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
        self._holds = HOLDS % {"key": lock_key, "database": session.identity.database_oid}
        self._opened = self._unchanged = Repeated("")
        self._who: dict[str, str] = (session.execute(f"SELECT {_WHO}".encode()).fetchone() or ({},))[0]
        self._settings: dict[str, str] = dict(session.execute(_SETTINGS).fetchall())

    def opened(self) -> Opened:
        """Inside the migration's transaction, before its script."""
        found = self._look() if self._names else None
        if found is None or None in json.loads(found.tables):  # one of them is gone
            self._learn()
            found = self._look()
        return found

    def demand(self, before: Opened, statements: Sequence[Statement]) -> None:
        """Inside the migration's transaction, after its script: all is as it was, or the message ends here.

        Later; `judge` says what its error means. SET LOCAL ends with the transaction and is fine. Raises
        StepFailed(TransactionBroken) where there is no transaction.
        """
        if self._session.line.info.transaction_status is not TransactionStatus.INTRANS:
            raise fail(
                Reason.TRANSACTION_BROKEN,
                "The script ended the transaction that it ran in.",
                standing="What it did before that is committed; there is no history row.",
            )
        moved, who = moved_by(statements), json.dumps(self._who)
        self._session.repeat(
            self._unchanged, {"txid": before.txid, "tables": before.tables, "moved": moved, "who": who}
        )
        if moved:  # what is checked and recorded from here on is not the script's own
            for name in ("session_authorization", "role", "search_path"):
                self._session.later("SELECT set_config(%s, %s, true)", (name, self._who[name]))

    def judge(self, before: Opened, error: psycopg.Error, statements: Sequence[Statement]) -> None:
        """Whether *error* is that of a `demand`: what is wrong can still be rolled back.

        Raises StepFailed(TransactionBroken, SessionChanged, StatementRefused).
        """
        told = _TOLD.search(error.diag.message_primary or "")
        if told is None:
            return
        txid, holds, tables, who = json.loads(told[1])
        if txid != before.txid:
            raise fail(
                Reason.TRANSACTION_BROKEN,
                "The script ended the transaction that it ran in, and began another.",
                standing="What it did before that is committed; there is no history row.",
            )
        if not holds:
            raise fail(Reason.SESSION_CHANGED, "The script gave the migration lock back.")
        now = json.loads(tables)
        touched = next((oid for oid, *was in json.loads(before.tables) if [oid, *was] not in now), 0)
        if touched:
            name = self._names[touched]
            raise fail(
                Reason.STATEMENT_REFUSED,
                f"The script changed {name}, which says what is applied; no migration may.",
            )
        raise self._changed(self._difference(who, moved_by(statements)), statements)

    def restore(self) -> None:
        """Set everything right again that a script left changed; later."""
        for statement in self._way_back:
            self._session.later(statement)

    @cached_property
    def _way_back(self) -> list[bytes]:
        """The statements of `restore`."""
        user, role = self._who["session_authorization"], self._who["role"]
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

    def _look(self) -> Opened:
        txid, tables = self._session.repeat(self._opened).fetchone() or (0, "[]")
        return Opened(int(txid), tables)

    def _learn(self) -> None:
        """Which of the guarded tables are there, and the statements that ask for these by their OIDs."""
        schemas, names = zip(*self._guarded, strict=True)
        rows = self._session.later(_NAMED, (list(names), list(schemas))).fetchall()
        rows = [row for row in rows if row[:2] in self._guarded]
        self._names = {oid: f"{schema}.{name}" for schema, name, oid in rows}
        tables = _TABLES.format(each=",".join(_TABLE.format(oid=oid) for oid in self._names))
        self._opened = Repeated(_OPENED.format(tables=tables))
        self._unchanged = Repeated(
            _UNCHANGED.format(tables=tables, holds=self._holds, who=_WHO),
            txid="bigint",
            tables="text",
            moved="text[]",
            who="jsonb",
        )

    def _difference(self, now: Mapping[str, str], moved: Sequence[str]) -> str:
        changed = [key for key in _OF_WHO if key not in moved and now[key] != self._who[key]]
        return next((f"{_OF_WHO[key]} from {self._who[key]} to {now[key]}" for key in changed), "")

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


def moved_by(statements: Sequence[Statement]) -> list[str]:
    """What of `_WHO` may be another at a script's end, because the script set it for its transaction alone.

    Where it sets the same for the session as well, or may, what is in force at its end has to tell.
    """
    moved: set[str] = set()
    lasting: set[str] = set()
    for statement in statements:
        text = statement.text
        if found := _SET.match(text):
            (moved if found[1] else lasting).add("_".join(found[2].lower().split()))
        elif "set_config" in text.lower():
            named = {name.lower() for name in _NAMED_CALL.findall(text)}
            known = set(_OF_WHO) if "" in named else named & set(_OF_WHO)
            if _LOCAL_CALL.search(text):
                moved |= known
            else:
                lasting |= named
    moved -= lasting
    if moved & {"role", "session_authorization"}:
        moved |= {"role", "user"}
    return sorted(moved - {"role", "user"} if "role" in lasting else moved)
