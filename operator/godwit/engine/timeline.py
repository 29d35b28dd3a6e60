"""What happened on the timeline of a database: its journal without what a restore left behind.

The journal goes along with every restore, so that what was done once is known for ever. But a database that
was restored never saw what came between its backup and the restore: neither that a migration was applied or
taken back, nor that a file was left half done, nor that somebody put the history right. Whoever asks what an
operation did reads `journal.entries_of`; whoever asks what holds now reads HAPPENED.
"""

from typing import Final

from psycopg import sql

from godwit.contract.request import Format
from godwit.engine import journal
from godwit.engine.journal import script_of
from godwit.engine.model import Declared, History, Script
from godwit.engine.session import Session

_UNSEEN: Final = sql.SQL(
    "SELECT detail -> 'unseen' FROM godwit.journal WHERE event = 'Done' AND verb = 'Restore' "
    "ORDER BY id DESC LIMIT 1"
)
_LOST: Final = sql.SQL("""coalesce(
       (SELECT range_agg(int8range((pair ->> 0)::bigint, (pair ->> 1)::bigint))
          FROM jsonb_array_elements(({unseen})) AS pair), '{{}}')""").format(unseen=_UNSEEN)

HAPPENED: Final = sql.SQL("""(
SELECT * FROM godwit.journal AS h
 WHERE NOT id <@ {lost}
   AND NOT (event = 'Resolved' AND EXISTS (
            SELECT FROM godwit.journal AS u
             WHERE u.event = 'Unresolved' AND u.operation = h.operation AND u.id > h.id
               AND NOT u.id <@ {lost})))""").format(lost=_LOST)
"""The rows that this database saw, without what was resolved and then taken back; to be used as a table."""

# Whoever applied a migration again after it had been taken back may have applied another file; so may whoever
# had its row made by resolve or baseline, where a row's id is the version, so that it looks like the old one.
_APPLIED: Final = sql.SQL("""(
SELECT migration, down_path, down_sql, detail
  FROM (SELECT DISTINCT ON (migration) id, migration, event, down_path, down_sql, detail
          FROM {happened} AS j
         WHERE event = 'Applied' OR event = 'Reverted' AND operation <> %(besides)s
         ORDER BY migration, id DESC) AS last
 WHERE event = 'Applied'
   AND NOT EXISTS (SELECT FROM {happened} AS r
                    WHERE r.event = 'Resolved' AND r.id > last.id
                      AND r.detail -> 'made' ? (last.detail ->> 'row')))""").format(happened=HAPPENED)
_KEPT_DOWNS: Final = sql.SQL(
    "SELECT * FROM {applied} AS a WHERE down_sql IS NOT NULL AND detail ->> 'row' = ANY (%(rows)s)"
).format(applied=_APPLIED)
_VERSIONS: Final = sql.SQL(
    "SELECT migration FROM {applied} AS a WHERE migration ~ '^[0-9]+$' AND detail ->> 'row' = migration"
).format(applied=_APPLIED)

_CARRIED_OUT: Final = sql.SQL("""
SELECT DISTINCT detail ->> 'as', migration, detail ->> 'requestedAt' FROM {happened} AS r
 WHERE event = 'Resolved' AND operation <> %(besides)s
   AND coalesce(detail ->> 'format', %(format)s) = %(format)s""").format(happened=HAPPENED)


def unseen(session: Session) -> list[list[int]]:
    """The rows that this database never saw: pairs of ids, the first one and the one after the last."""
    row = session.execute(_UNSEEN).fetchone()
    return row[0] or [] if row else []


def kept_downs(session: Session, history: History, besides: str) -> dict[str, Script]:
    """The way back of each migration as it was when the row that stands in *history* was written; by name.

    What the operation *besides* took back itself counts as not taken back.
    """
    if not journal.check_rights(session):
        return {}
    ids = [row.id for row in history.applied]
    rows = session.execute(_KEPT_DOWNS, {"besides": besides, "rows": ids})
    return {name: script_of(path, text, detail) for name, path, text, detail in rows}


def versions(session: Session, besides: str) -> list[str]:
    """The migrations that stand applied and whose rows are known by their numbers, of whatever tool.

    *besides* as in `kept_downs`.
    """
    if not journal.check_rights(session):
        return []
    return [name for (name,) in session.execute(_VERSIONS, {"besides": besides})]


def carried_out(session: Session, format: Format, besides: str) -> frozenset[Declared]:  # noqa: A002
    """The declarations on that tool's history that operations other than *besides* carried out here."""
    if not journal.check_rights(session):
        return frozenset()
    rows = session.execute(_CARRIED_OUT, {"besides": besides, "format": format})
    return frozenset(Declared(*row) for row in rows)
