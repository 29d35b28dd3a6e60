"""A database made like another one, and put in its place: the SQL of restore, without its flow."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, LiteralString

from psycopg import sql

from godwit.engine.session import Session

_PROVIDERS: Final = {"c": "libc", "i": "icu", "b": "builtin"}
# These are lists whose elements are quoted in the stored text; SET ... TO would take the text as one element
# (PostgreSQL's source, guc_tables.c: GUC_LIST_QUOTE).
_LISTS: Final = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "temp_tablespaces",
)
_PRIVILEGES: Final = ("CONNECT", "CREATE", "TEMPORARY")


class Opened(Exception):  # noqa: N818  what was found, no defect
    """Somebody else opened the database that was closed for the swap, so that it may have been written to."""


FORMER: Final = "Godwit restored a backup into its place"
"""What the comment on a former database says; never that of the live one."""


@dataclass(frozen=True)
class DatabaseFacts:
    """What CREATE DATABASE and ALTER DATABASE say of a database, and no dump of it holds."""

    oid: int
    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    provider: str
    locale: str | None
    """Of the providers icu and builtin."""
    rules: str | None
    tablespace: str
    connection_limit: int
    comment: str | None
    acl: tuple[tuple[str, str, bool], ...] | None
    """Grantee (empty: PUBLIC), privilege, with grant option; None where only the defaults are in force."""
    settings: tuple[tuple[str, str, str], ...]
    """Role (empty: every role), setting, value."""
    labels: tuple[tuple[str, str], ...]
    """Security labels: their provider, and what it says."""


def describe(session: Session, name: str) -> DatabaseFacts | None:
    """The facts of the database *name* of this server, None where there is none."""
    version = session.server_version
    # Columns came with 15 (providers), were renamed in 17, and ICU rules came with 16.
    provider = "d.datlocprovider::text" if version >= 150_000 else "'c'"
    locale = "d.datlocale" if version >= 170_000 else "d.daticulocale" if version >= 150_000 else "NULL"
    rules = "d.daticurules" if version >= 160_000 else "NULL"
    query = f"""
        SELECT d.oid::bigint, d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding),
               d.datcollate, d.datctype, {provider}, {locale}, {rules}, t.spcname, d.datconnlimit,
               shobj_description(d.oid, 'pg_database'), d.datacl IS NULL
          FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
         WHERE d.datname = %s"""  # noqa: S608  composed of constants
    row = session.execute(query, [name]).fetchone()
    if row is None:
        return None
    plain: dict[str, Any] = dict(zip((f.name for f in fields(DatabaseFacts)), row[:-1], strict=False))
    plain["acl"] = None if row[-1] else _acl(session, name)
    if FORMER in (plain["comment"] or ""):  # somebody renamed it back: it is to be dropped no more
        plain["comment"] = None
    return DatabaseFacts(**plain, settings=_settings(session, name), labels=_labels(session, plain["oid"]))


def _acl(session: Session, name: str) -> tuple[tuple[str, str, bool], ...]:
    rows = session.execute(
        "SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type, "
        "bool_or(a.is_grantable) FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = %s "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        [name],
    )
    return tuple((grantee, privilege, grantable) for grantee, privilege, grantable in rows)


def _settings(session: Session, name: str) -> tuple[tuple[str, str, str], ...]:
    rows = session.execute(
        "SELECT CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole) END, unnest(s.setconfig) "
        "FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = %s "
        "ORDER BY 1, 2",
        [name],
    )
    split = ((role, *text.partition("=")[::2]) for role, text in rows)
    return tuple((role, setting, value) for role, setting, value in split)


def _labels(session: Session, oid: int) -> tuple[tuple[str, str], ...]:
    query = """SELECT provider, label FROM pg_shseclabel
                WHERE classoid = 'pg_database'::regclass AND objoid = %s ORDER BY 1"""
    return tuple((provider, label) for provider, label in session.execute(query, [oid]))


def create_like(session: Session, facts: DatabaseFacts, name: str) -> None:
    """Make the empty database *name* with owner, encoding, locale and tablespace of *facts*."""
    options: list[tuple[LiteralString, sql.Composable]] = [
        ("TEMPLATE", sql.Identifier("template0")),
        ("OWNER", sql.Identifier(facts.owner)),
        ("ENCODING", sql.Literal(facts.encoding)),
        ("LC_COLLATE", sql.Literal(facts.collate)),
        ("LC_CTYPE", sql.Literal(facts.ctype)),
    ]
    if facts.tablespace != "pg_default":  # template0's own, which needs no right unless it is named
        options.append(("TABLESPACE", sql.Identifier(facts.tablespace)))
    if session.server_version >= 150_000:  # template0 has the one that the server was initialised with
        options.append(("LOCALE_PROVIDER", sql.SQL(_PROVIDERS[facts.provider])))
    if facts.locale is not None:
        option = "ICU_LOCALE" if facts.provider == "i" else "BUILTIN_LOCALE"
        options.append((option, sql.Literal(facts.locale)))
    if facts.rules is not None:
        options.append(("ICU_RULES", sql.Literal(facts.rules)))
    parts = [sql.SQL("{} = {}").format(sql.SQL(o), v) for o, v in options]
    session.execute(
        sql.SQL("CREATE DATABASE {} WITH {}").format(sql.Identifier(name), sql.SQL(" ").join(parts))
    )


def carry_properties(session: Session, facts: DatabaseFacts, name: str) -> list[str]:
    """Give *name* the limit, grants, settings, comment and labels of *facts*; returns what is different.

    What is a template cannot be dropped, so `rename_both` says that of it. Raises psycopg.Error.
    """
    database = sql.Identifier(name)
    with session.transaction():
        limit = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}")
        session.execute(limit.format(database, sql.Literal(facts.connection_limit)))
        if facts.acl is not None:
            for role in ("", facts.owner):
                session.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, _grantee(role)))
            for grantee, privilege, grantable in facts.acl:
                if privilege in _PRIVILEGES:
                    option = " WITH GRANT OPTION" if grantable else ""
                    session.execute(
                        sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                            sql.SQL(privilege), database, _grantee(grantee), sql.SQL(option)
                        )
                    )
        for role, setting, value in facts.settings:
            _carry_setting(session, name, role, setting, value)
        session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(facts.comment)))
        for provider, label in facts.labels:
            given = sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}")
            session.execute(given.format(sql.Identifier(provider), database, sql.Literal(label)))
    made = describe(session, name)
    compared = [f.name for f in fields(DatabaseFacts) if f.name not in {"oid", "name"}]
    return [field for field in compared if made is None or getattr(made, field) != getattr(facts, field)]


def _carry_setting(session: Session, name: str, role: str, setting: str, value: str) -> None:
    owner = (
        sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(name))
        if role
        else sql.SQL("ALTER DATABASE {}").format(sql.Identifier(name))
    )
    # A dotted name is one of an application's own; each part is quoted by itself.
    named = sql.SQL(".").join(sql.Identifier(part) for part in setting.split("."))
    if setting in _LISTS:
        session.execute("SELECT set_config(%s, %s, true)", [setting, value])
        session.execute(sql.SQL("{} SET {} FROM CURRENT").format(owner, named))
    else:
        session.execute(sql.SQL("{} SET {} TO {}").format(owner, named, sql.Literal(value)))


def _grantee(role: str) -> sql.Composable:
    return sql.Identifier(role) if role else sql.SQL("PUBLIC")


def rename_both(
    session: Session, *, live: str, restored: str, old: str, comment: str, committing: Callable[[], None]
) -> None:
    """In one transaction: *live* becomes *old*, with *comment*, and *restored* becomes *live*; both open.

    *committing* is called before its COMMIT, of which one may not hear what became. Nobody may be connected
    to either. Raises psycopg.Error, and Opened where *live* is not closed any more.
    """
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    with session.transaction():
        session.execute(rename.format(sql.Identifier(live), sql.Identifier(old)))
        # From here nobody comes in until the end. Whether anybody could before, the catalog tells.
        closed = "SELECT datistemplate FROM pg_database WHERE datname = %s AND NOT datallowconn"
        row = session.execute(closed, [old]).fetchone()
        if row is None:
            raise Opened
        session.execute(rename.format(sql.Identifier(restored), sql.Identifier(live)))
        for name in (live, old):
            opened = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true IS_TEMPLATE {}")
            session.execute(opened.format(sql.Identifier(name), sql.Literal(row[0])))
        session.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(old), sql.Literal(comment))
        )
        committing()


def close(session: Session, name: str) -> None:
    """Let nobody new into the database *name*."""
    session.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))


def drop(session: Session, name: str) -> None:
    """Drop the database *name* if it is there, and end who is in it."""
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def databases(session: Session) -> dict[str, int]:
    """Name -> OID of every database of the server."""
    return dict(session.execute("SELECT datname, oid::bigint FROM pg_database").fetchall())


_SEQUENCES: Final = """
SELECT schemaname, sequencename, last_value, increment_by FROM pg_sequences WHERE last_value IS NOT NULL"""


def carry_sequences(live: Session, restored: Session) -> int:
    """Move sequences of *restored* forward to where those of *live* stand; returns how many.

    A value that was given out once may stand outside the database, in a link or another system. One whose
    bounds were wider than they are in the backup is moved to its end: it gives out nothing twice.
    """
    bounds = "SELECT schemaname, sequencename, min_value, max_value FROM pg_sequences"
    there = {(s, n): (least, most) for s, n, least, most in restored.execute(bounds)}
    values = {(s, n): v for s, n, v, _ in restored.execute(_SEQUENCES)}
    moved = 0
    for schema, name, value, increment in live.execute(_SEQUENCES).fetchall():
        here = values.get((schema, name))
        ahead = here is None or (value > here if increment > 0 else value < here)
        if (schema, name) in there and ahead:
            least, most = there[schema, name]
            restored.execute(
                "SELECT setval(format('%%I.%%I', %s::text, %s::text)::regclass, %s)",
                [schema, name, min(max(value, least), most)],
            )
            moved += 1
    return moved


def copy_table(source: Session, target: Session, schema: str, table: str) -> None:
    """Replace the rows of a table of *target* with those of the same table of *source*."""
    named = sql.Identifier(schema, table)
    columns = sql.SQL(", ").join(sql.Identifier(c) for c in _columns(source, schema, table))
    target.execute(sql.SQL("DELETE FROM {}").format(named))
    with (
        source.conn.cursor() as reader,
        target.conn.cursor() as writer,
        reader.copy(sql.SQL("COPY {} ({}) TO STDOUT").format(named, columns)) as rows,
        writer.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(named, columns)) as sink,
    ):
        for data in rows:
            sink.write(data)


def _columns(session: Session, schema: str, table: str) -> list[Any]:
    rows = session.execute(
        "SELECT a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s "
        "AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
        [schema, table],
    )
    return [row[0] for row in rows]
