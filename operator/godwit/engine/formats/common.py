"""What the tools' histories have in common: tables that are there or not, rows that stand for themselves."""

from collections.abc import Collection
from datetime import UTC, datetime
from functools import cache
from typing import Final, LiteralString

from psycopg import sql

from godwit.engine.model import History, Migration, PlannedMigration, Source
from godwit.engine.repeated import Repeated
from godwit.engine.session import Session

UNKNOWN_TIME: Final = datetime(1, 1, 1, tzinfo=UTC)
"""Where a tool keeps no time; the rank tells the order."""

_EXISTS: Final = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p'))"""
_HOME: Final = """
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname IN (%(schema)s, %(table)s) AND c.relname = %(table)s AND c.relkind IN ('r', 'p')
 ORDER BY n.nspname = %(schema)s DESC LIMIT 1"""
# Members of an extension are not in the way.
_OTHER_TABLES: Final = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND c.relname <> %s
                  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                     AND d.objid = c.oid AND d.deptype = 'e'))"""


def pending(source: Source, history: History) -> tuple[Migration, ...]:
    """Every migration that is not applied, in the source's order."""
    applied = {row.name for row in history.applied}
    return tuple(m for m in source.migrations if m.name not in applied)


def fill(history: History, source: Source, besides: Collection[str] = ()) -> History:  # noqa: ARG001  the interface
    """The history as it is: each row stands for itself."""
    return history


def record_statement(session: Session, row_id: str, planned: PlannedMigration, done: int) -> None:
    """Nothing: the history does not count statements."""


def table_exists(session: Session, table: str) -> bool:
    """Whether the session's schema has *table*."""
    row = session.execute(_EXISTS, [session.schema, table]).fetchone()
    return bool(row and row[0])


def home(session: Session, table: str) -> str:
    """The schema in which a tool's *table* is: the session's, or one of the table's name; else empty."""
    row = session.execute(_HOME, {"schema": session.schema, "table": table}).fetchone()
    return str(row[0]) if row else ""


def other_tables(session: Session, table: str) -> bool:
    """Whether the session's schema has tables beside *table*."""
    row = session.execute(_OTHER_TABLES, [session.schema, table]).fetchone()
    return bool(row and row[0])


def columns(session: Session, table: str) -> dict[str, str]:
    """The columns of *table* in the session's schema, with their types; empty where there is none."""
    query = """
SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped"""
    return dict(session.execute(query, [session.schema, table]).fetchall())


def ensure_schema(session: Session) -> None:
    """Make the session's schema where it is missing."""
    if session.execute("SELECT FROM pg_namespace WHERE nspname = %s", [session.schema]).rowcount == 0:
        session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(session.schema)))


def on(table: str, session: Session, statement: LiteralString, *, schema: str = "") -> bytes:
    """*statement* for `{table}` in the session's schema, or in *schema*.

    Qualified, because a script may have moved search_path.
    """
    return _on(table, schema or session.schema, statement)


@cache
def _on(table: str, schema: str, statement: LiteralString) -> bytes:
    return sql.SQL(statement).format(table=sql.Identifier(schema, table)).as_string(None).encode()


def repeated(table: str, schema: str, statement: LiteralString, **types: str) -> Repeated:
    """*statement* as `on` makes it, to be asked again; *types* are those of its values."""
    return Repeated(_on(table, schema, statement).decode(), **types)


def lock_table(session: Session, table: str) -> None:
    """Keep other writers off *table* until the transaction ends; later."""
    session.later(on(table, session, "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))
