"""Migrations and ways back that began outside a transaction and did not end, where no history tells of it."""

from dataclasses import replace
from typing import Final

from psycopg import sql

from godwit.engine import journal
from godwit.engine.formats.base import MigrationFormat
from godwit.engine.model import History, HistoryRow
from godwit.engine.session import Session
from godwit.engine.timeline import HAPPENED

_BEGUN: Final = sql.SQL("""
SELECT migration, at
  FROM (SELECT DISTINCT ON (migration) migration, at, event FROM {happened} AS j
         WHERE verb = 'Apply' AND operation <> %s
           AND event IN ('Started', 'Applied', 'Abandoned', 'Resolved')
         ORDER BY migration, id DESC) AS last
 WHERE event = 'Started'""").format(happened=HAPPENED)


_TAKEN_HALF_BACK: Final = sql.SQL("""
SELECT migration, at
  FROM (SELECT DISTINCT ON (migration) migration, at, event FROM {happened} AS j
         WHERE operation <> %s
           AND (verb = 'Revert' AND event IN ('Started', 'Reverted', 'Abandoned')
                OR event IN ('Applied', 'Resolved'))
         ORDER BY migration, id DESC) AS last
 WHERE event = 'Started'""").format(happened=HAPPENED)


def with_unfinished(session: Session, history: History, format: MigrationFormat, besides: str) -> History:  # noqa: A002
    """*history* with what, by the journal, is half done.

    A migration is a failed row, unless the tool's own history knows of it; one that the history calls applied
    was brought to its end by a person, with the tool itself. A way back is half done while the row that it
    was to remove still stands. What the operation *besides* began itself does not count.
    """
    if not journal.check_rights(session):
        return history
    standing = {row.name: row for row in history.applied}
    back = session.execute(_TAKEN_HALF_BACK, [besides]).fetchall()
    half = tuple((n, at) for n, at in back if n in standing and standing[n].started_at <= at)
    history = replace(history, half_back=half)
    if format.RECORDS_FAILURES:
        return history
    known = {row.name for row in history.rows}
    begun = session.execute(_BEGUN, [besides]).fetchall()
    rows = tuple(HistoryRow(name, name, "", at, only_ours=True) for name, at in begun if name not in known)
    return replace(history, rows=history.rows + rows) if rows else history
