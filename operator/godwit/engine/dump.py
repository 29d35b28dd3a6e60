"""Backup, VerifyBackup, DeleteBackup: an archive of pg_dump in the store, and a manifest beside it."""

import contextlib
import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import psycopg

from godwit.contract.outcome import BackupOutcome, DeleteBackupOutcome, VerifyBackupOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupInput, BackupType, DeleteBackupInput, VerifyBackupInput
from godwit.engine import journal
from godwit.engine.compare import newest_of
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail, from_postgres
from godwit.engine.holding import held
from godwit.engine.manifest import SUFFIX, Manifest, read_manifest, write_manifest
from godwit.engine.programs import CHUNK, bare_environment, environment, major, running, version
from godwit.engine.session import Session
from godwit.engine.snapshot import TableCount, count_tables, current_snapshot
from godwit.stores.base import Store, StoreError

LOCK_WAIT_S: Final = 60
"""How long pg_dump waits for its ACCESS SHARE locks: behind a waiting ALTER TABLE it would join the queue."""

_FACTS: Final = """
SELECT clock_timestamp(), pg_current_wal_lsn()::text,
       pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
       (SELECT coalesce(jsonb_object_agg(extname, extversion), '{}') FROM pg_extension)
  FROM pg_database d WHERE d.datname = current_database()"""

_UNTOUCHED: Final = "The database was only read; no finished backup was touched."


def backup_verb(ctx: StepContext, verb: BackupInput) -> BackupOutcome:
    """Dump the database to the store; one that is there already, finished, is the answer again.

    Everything (the dump, the rows counted, the state of the history) is of one snapshot. Made for a run, it
    holds the database for that run. Raises StepFailed: BackupFailed, StateMoved, ServerTooNew,
    StoreUnavailable, DatabaseBusy, ConnectionLost and those of connecting.
    """
    store = ctx.store()
    with _store_failures(), held(ctx), ctx.session() as session:
        found = read_manifest(store, verb.location)
        if found is not None:
            return _again(ctx, store, verb, found, session)
        dump_version = version(ctx, "pg_dump")
        if major(dump_version) < session.server_version // 10_000:
            raise fail(
                Reason.SERVER_TOO_NEW,
                f"The server is PostgreSQL {session.server_version // 10_000}, pg_dump is {dump_version}.",
                standing=_UNTOUCHED,
            )
        store.free_bytes()  # a store that cannot be written is found before the work, not after it
        ctx.point("backup.before_dump")
        try:
            manifest = _dump(ctx, store, verb, session, dump_version)
            ctx.point("backup.before_manifest")
            _only_one(store, verb.location)
        except _Finished as other:
            return _again(ctx, store, verb, other.manifest, session)
        write_manifest(store, verb.location, manifest)
        ctx.point("backup.done")
    return manifest.outcome(verb.location)


def verify_backup_verb(ctx: StepContext, verb: VerifyBackupInput) -> VerifyBackupOutcome:
    """Read the whole archive back: its bytes as in the manifest, and every part of it legible to pg_restore.

    pg_restore's list alone proves nothing: it reads only the beginning. Needs no database, but holds it for
    its run where it comes right after the Backup. Raises StepFailed(BackupUnusable, StoreUnavailable), and as
    Backup there.
    """
    store = ctx.store()
    after_backup = any(isinstance(v, BackupInput) for v in ctx.request.verbs)
    with _store_failures(), held(ctx) if after_backup else contextlib.nullcontext():
        manifest = read_manifest(store, verb.location)
        if manifest is None:
            raise fail(Reason.BACKUP_UNUSABLE, f"No finished backup is at {verb.location}.")
        entries = _read_back(ctx, store, verb.location, manifest)
    return VerifyBackupOutcome(location=verb.location, sha256=manifest.sha256, entries=entries)


def delete_backup_verb(ctx: StepContext, verb: DeleteBackupInput) -> DeleteBackupOutcome:
    """Remove the backup, the manifest first: what is left of a deletion that was cut short is no backup."""
    store = ctx.store()
    with _store_failures():
        store.delete(verb.location + SUFFIX)
        ctx.point("delete_backup.between")
        store.delete(verb.location)
    return DeleteBackupOutcome(location=verb.location)


def archive_chunks(store: Store, location: str, manifest: Manifest) -> Iterator[bytes]:
    """The archive's bytes; at the end their size and SHA-256 are compared with the manifest's.

    Raises StepFailed(BackupUnusable).
    """
    sha256, size = hashlib.sha256(), 0
    try:
        with store.open(location) as file:
            while data := file.read(CHUNK):
                sha256.update(data)
                size += len(data)
                yield data
    except FileNotFoundError:
        raise fail(
            Reason.BACKUP_UNUSABLE, f"The archive {location} is gone; its manifest is there."
        ) from None
    if (size, sha256.hexdigest()) != (manifest.size_bytes, manifest.sha256):
        raise fail(
            Reason.BACKUP_UNUSABLE,
            f"The archive {location} is damaged: it has {size} bytes where {manifest.size_bytes} were written"
            + ("." if size != manifest.size_bytes else ", and another checksum."),
        )


class _Finished(Exception):  # noqa: N818  what was found, no defect
    """Another attempt finished this backup meanwhile."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self.manifest = manifest


def _only_one(store: Store, location: str) -> None:
    """Raise _Finished where an attempt that was thought lost, or came after this one, has finished."""
    found = read_manifest(store, location)
    if found is not None:
        raise _Finished(found)


def _again(
    ctx: StepContext, store: Store, verb: BackupInput, found: Manifest, session: Session
) -> BackupOutcome:
    """The outcome of a backup that an earlier attempt finished."""
    try:
        whole = store.size(verb.location) == found.size_bytes
    except FileNotFoundError:
        whole = False
    same = found.type is verb.type and found.identity.same_database(session.identity)
    if not whole or not same or verb.from_state not in ("", found.state):
        what = "another backup" if whole else "a damaged backup"
        raise fail(
            Reason.BACKUP_UNUSABLE,
            f"{verb.location} holds {what}; it is not overwritten.",
            standing=_UNTOUCHED,
        )
    ctx.resumed.set()
    return found.outcome(verb.location)


def _dump(ctx: StepContext, store: Store, verb: BackupInput, session: Session, dump_version: str) -> Manifest:
    facts: dict[str, Any] = {}
    try:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        snapshot = current_snapshot(session)
        session.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'")
        (exported,) = _row(session, "SELECT pg_export_snapshot()")
        names = ("started_at", "lsn", "encoding", "collate", "ctype", "extensions")
        facts = dict(zip(names, _row(session, _FACTS), strict=True))
        tool = ctx.format_in(session, verb.from_state)
        history = tool.read_history(session)
        if verb.from_state not in ("", history.state):
            raise fail(
                Reason.STATE_MOVED, "The history is no longer the one that was planned.", standing=_UNTOUCHED
            )
        head = 0
        with contextlib.suppress(StepFailed):  # a role that only reads need not use the journal
            head = journal.head(session)
        ctx.log.info("backup.started", message=f"pg_dump {dump_version}", location=verb.location)
        tables: dict[str, TableCount] = {}

        def count() -> None:
            if verb.type is BackupType.FULL:
                tables.update(count_tables(session, snapshot))

        sha256, size = _write_archive(ctx, store, verb, session, exported=str(exported), count=count)
        session.execute("COMMIT")
    except psycopg.Error as error:
        ctx.cancelled.check(standing=_UNTOUCHED)
        raise from_postgres(error, default=Reason.BACKUP_FAILED, standing=_UNTOUCHED) from None
    (ended_at,) = _row(session, "SELECT clock_timestamp()")
    ctx.log.info("backup.written", message=f"{size} bytes", location=verb.location, tables=len(tables))
    return Manifest(
        identity=session.identity,
        type=verb.type,
        sha256=sha256,
        size_bytes=size,
        server_version=session.server_version,
        dump_version=dump_version,
        snapshot=snapshot,
        ended_at=_time(ended_at),
        state=history.state,
        current=newest_of(tool, history),
        journal_head=head,
        tables=tables,
        **facts,
    )


def _write_archive(
    ctx: StepContext,
    store: Store,
    verb: BackupInput,
    session: Session,
    *,
    exported: str,
    count: Callable[[], None],
) -> tuple[str, int]:
    """Run pg_dump into the store while *count* runs beside it. Returns the archive's SHA-256 and size."""
    arguments = [
        "pg_dump",
        "--format=custom",
        "--no-password",
        f"--snapshot={exported}",
        f"--lock-wait-timeout={LOCK_WAIT_S * 1000}",
    ]
    if verb.type is BackupType.SCHEMA_ONLY:
        arguments.append("--schema-only")
    if ctx.request.connection.role:
        arguments.append(f"--role={ctx.request.connection.role}")
    sha256, size = hashlib.sha256(), 0
    with (
        store.create(verb.location) as file,
        running(ctx, arguments, environment(ctx), stdout=True) as child,
        _beside(count, session.conn.cancel_safe) as counted,
    ):
        for data in child.chunks():
            sha256.update(data)
            size += file.write(data)
        status = child.finish()
        ctx.cancelled.check(standing=_UNTOUCHED)
        counted()
        if status != 0:
            raise _dump_failure(child.complaint(), status)
        ctx.point("backup.before_rename")
        _only_one(store, verb.location)
    return sha256.hexdigest(), size


def _dump_failure(complaint: str, status: int) -> StepFailed:
    lost = "server closed the connection" in complaint or "could not connect" in complaint
    return fail(
        Reason.CONNECTION_LOST if lost else Reason.BACKUP_FAILED,
        f"pg_dump ended with status {status}: {complaint}",
        standing=_UNTOUCHED,
        hint=f"A lock as ALTER TABLE holds keeps pg_dump out; it waited for {LOCK_WAIT_S} s."
        if "lock timeout" in complaint
        else "",
    )


@contextlib.contextmanager
def _beside(work: Callable[[], None], stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Do *work* in a thread during the block; the value waits for its end and raises what it raised.

    A block that fails stops the work by *stop*.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  raised again by the caller
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> None:
        thread.join()
        if failed:
            raise failed[0]

    try:
        yield join
    except BaseException:
        stop()
        raise
    finally:
        thread.join()


def _read_back(ctx: StepContext, store: Store, location: str, manifest: Manifest) -> int:
    env = bare_environment(ctx)
    with running(ctx, ["pg_restore", "--file=/dev/null"], env, stdin=True) as child:
        for data in archive_chunks(store, location, manifest):
            child.feed(data)
        status = child.finish()
        ctx.cancelled.check()
        if status != 0:
            raise fail(
                Reason.BACKUP_UNUSABLE, f"pg_restore cannot read the archive {location}: {child.complaint()}"
            )
    # Into a file: pg_restore stops reading before it writes the list, and would wait for us as we for it.
    with tempfile.NamedTemporaryFile(dir=ctx.scratch_dir) as listed:
        with (
            running(ctx, ["pg_restore", "--list", f"--file={listed.name}"], env, stdin=True) as child,
            store.open(location) as file,
        ):
            while (data := file.read(CHUNK)) and child.feed(data):
                pass
            child.finish()
        return sum(1 for line in listed if line[:1].isdigit())


@contextlib.contextmanager
def _store_failures() -> Iterator[None]:
    """Turn a StoreError into the step's failure."""
    try:
        yield
    except StoreError as error:
        raise fail(Reason.STORE_UNAVAILABLE, str(error), standing=_UNTOUCHED) from None


def _row(session: Session, query: Any) -> tuple[Any, ...]:
    row = session.execute(query).fetchone()
    assert row is not None  # noqa: S101  a SELECT without FROM has a row
    return row


def _time(value: Any) -> datetime:
    assert isinstance(value, datetime)  # noqa: S101  as above
    return value
