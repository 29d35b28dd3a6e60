"""A backup made into a database beside the live one, and compared with its manifest."""

import os
import re
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import sql

from godwit.contract.reasons import Reason
from godwit.engine.context import StepContext
from godwit.engine.dump import archive_chunks
from godwit.engine.errors import fail
from godwit.engine.formats.base import MigrationFormat
from godwit.engine.manifest import Manifest
from godwit.engine.programs import environment, major, readable, running, version
from godwit.engine.session import Session
from godwit.engine.snapshot import LARGE_OBJECTS, TABLES
from godwit.engine.swap import DatabaseFacts, create_like

_STANDING: Final = "The live database is as it was, and open."
# pg_restore 17 and later sets it whatever the server; older ones do not know it, and say so in any language.
_TOLERATED: Final = re.compile(r"^Command was: SET transaction_timeout = \d+;$", re.MULTILINE)
_MOST_JOBS: Final = 4
_GIVEN: Final = "plpgsql"
"""Every new database has it, also one made like a database where it was dropped."""


def build(
    ctx: StepContext, session: Session, facts: DatabaseFacts, name: str, *, location: str, manifest: Manifest
) -> None:
    """Make the database *name* like the live one and restore the backup into it; *session* is on another one.

    Raises StepFailed(RestoreNotPossible, RestoreFailed, BackupUnusable).
    """
    try:
        create_like(session, facts, name)
    except psycopg.errors.InsufficientPrivilege as error:
        raise fail(
            Reason.RESTORE_NOT_POSSIBLE,
            f"A database cannot be made beside the live one: {error.diag.message_primary}.",
            standing=_STANDING,
        ) from None
    store, jobs = ctx.store(), restore_jobs()
    # Several at once need a file that they can look into where they like: not what comes through a pipe.
    path = store.path(location) if jobs > 1 else None
    older = session.server_version < 170_000 <= major(version(ctx, "pg_restore")) * 10_000
    arguments = ["pg_restore", "--no-password", f"--dbname={_conninfo(name)}"]
    arguments += [] if older else ["--exit-on-error"]
    if path is not None:
        for _ in archive_chunks(store, location, manifest):  # what is read twice is compared first
            ctx.cancelled.check(standing=_STANDING)
        arguments += [f"--jobs={jobs}", str(path)]
    if ctx.request.connection.role:
        arguments.append(f"--role={ctx.request.connection.role}")
    with running(ctx, arguments, environment(ctx, name), stdin=path is None) as child:
        for data in archive_chunks(store, location, manifest) if path is None else ():
            if not child.feed(data):
                break
        status = child.finish()
        ctx.cancelled.check(standing=_STANDING)
        errors = child.errors()
        if status != 0 and not (older and only_tolerated(errors)):
            raise fail(
                Reason.RESTORE_FAILED,
                f"pg_restore ended with status {status}: {readable(errors)}",
                standing=_STANDING,
            )


def restore_jobs() -> int:
    """How many sessions pg_restore uses at once: one for each processor of the step, within a bound.

    They load and index tables side by side. The bound keeps them from crowding a server that others use too.
    """
    return max(1, min(_MOST_JOBS, len(os.sched_getaffinity(0))))


def only_tolerated(errors: str) -> bool:
    """Whether pg_restore complains of nothing but the setting that an older server lacks.

    Each of its sessions does so once; in its count of errors only those of the first one are.
    """
    ignored = re.search(r"errors ignored on restore: (\d+)\b", errors)
    complaints = re.findall(r"^pg_restore: (?:\[[^]]*\] )?error: ", errors, re.MULTILINE)
    tolerated = len(_TOLERATED.findall(errors)) == len(complaints)
    return tolerated and ignored is not None and 0 < int(ignored[1]) <= len(complaints)


def verify_built(session: Session, manifest: Manifest, format: MigrationFormat) -> None:  # noqa: A002
    """Compare the database of *session* with *manifest*: history, extensions, rows; then ANALYZE.

    Raises StepFailed(RestoreFailed).
    """
    problems = []
    if format.read_history(session).state != manifest.state:
        problems.append("its history is not the one of the backup")
    extensions: dict[str, str] = dict(
        session.execute("SELECT extname, extversion FROM pg_extension").fetchall()
    )
    if _GIVEN not in manifest.extensions:
        extensions.pop(_GIVEN, None)
    problems += _differences("the version of extension", extensions, manifest.extensions)
    rows = {table: count.rows for table, count in manifest.tables.items()}
    counted = _count_rows(session)
    if LARGE_OBJECTS in rows and counted.get(LARGE_OBJECTS, 0) > rows[LARGE_OBJECTS]:
        # A row is a page. Where nothing was ever written an object has none, until it is written anew.
        counted[LARGE_OBJECTS] = rows[LARGE_OBJECTS]
    problems += _differences("the number of rows of", counted, rows)
    if problems:
        raise fail(
            Reason.RESTORE_FAILED,
            f"The restored database is not what was backed up: {'; '.join(problems[:5])}.",
            standing=_STANDING,
        )
    session.execute("ANALYZE")


def _differences(what: str, found: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    return [
        f"{what} {key} is {found.get(key, 'none')} instead of {expected.get(key, 'none')}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]


def _count_rows(session: Session) -> dict[str, int]:
    counts = {}
    with session.transaction():
        session.execute("SET LOCAL row_security = off")
        for schema, name, *_ in session.execute(TABLES).fetchall():
            query = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(schema, name))
            row = session.execute(query).fetchone()
            counts[f"{schema}.{name}"] = int(row[0]) if row else 0
    return counts


def _conninfo(name: str) -> str:
    """A connection string for the database *name*, which may itself look like one."""
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
