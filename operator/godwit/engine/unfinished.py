"""Migrations begun outside a transaction and not ended, for tools whose history has no word for it."""

from dataclasses import replace
from typing import Final

from godwit.engine import journal
from godwit.engine.formats.base import MigrationFormat
from godwit.engine.model import History, HistoryRow
from godwit.engine.session import Session

_BEGUN: Final = """
SELECT migration, at
  FROM (SELECT DISTINCT ON (migration) migration, at, event FROM godwit.journal AS j
         WHERE verb = 'Apply' AND operation <> %s
           AND (event IN ('Started', 'Applied', 'Abandoned')
                OR event = 'Resolved' AND NOT EXISTS (
                     SELECT FROM godwit.journal AS u
                      WHERE u.event = 'Unresolved' AND u.operation = j.operation AND u.id > j.id))
         ORDER BY migration, id DESC) AS last
 WHERE event = 'Started'"""


def with_unfinished(session: Session, history: History, format: MigrationFormat, besides: str) -> History:  # noqa: A002
    """*history* with a failed row for each migration that, by the journal, is half done.

    One that the history calls applied was brought to its end by a person, with the tool itself. What the
    operation *besides* began itself does not count.
    """
    if format.RECORDS_FAILURES or not journal.check_rights(session):
        return history
    known = {row.name for row in history.rows}
    begun = session.execute(_BEGUN, [besides]).fetchall()
    rows = tuple(HistoryRow(name, name, "", at, only_ours=True) for name, at in begun if name not in known)
    return replace(history, rows=history.rows + rows) if rows else history
