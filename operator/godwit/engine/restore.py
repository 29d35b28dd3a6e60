"""Restore by swap: built beside the live database, which is closed only to count again and to rename.

Every stop before the rename leaves the live database as it was, and open. The rename is one transaction, and
the journal with this restore's own row is in the new database before it; so an attempt that finds the rename
done has nothing left to do, and one that does not begins anew.
"""

import contextlib
from dataclasses import dataclass
from typing import Final

import psycopg

from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import RestoreOutcome
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupType, RestoreInput
from godwit.engine import journal, ownership, swap, timeline
from godwit.engine.build import build, verify_built
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail, from_postgres, reason_of, utc
from godwit.engine.fence import Fence, closed_by_others, lift
from godwit.engine.lock import check_fence, migration_lock
from godwit.engine.loss_since import loss_refusal
from godwit.engine.maintenance import Names, lock_key, maintenance_session
from godwit.engine.manifest import Manifest, read_manifest
from godwit.engine.obstacles import swap_obstacles
from godwit.engine.programs import major, version
from godwit.engine.session import Session
from godwit.engine.snapshot import Written, total, written_since
from godwit.stores.base import StoreError

VERB: Final = "Restore"
AS_IT_WAS: Final = "The live database is as it was, and open."


def restore_verb(ctx: StepContext, verb: RestoreInput) -> RestoreOutcome:
    """Put the backup at the verb's location in the place of the live database, and keep the former one.

    Raises StepFailed: BackupUnusable, DataWouldBeLost, SharedDatabase, RestoreNotPossible, RestoreFailed,
    FenceLeft, LockHeld, StateMoved, TooLate, StoreUnavailable, ConnectionLost and those of connecting.
    """
    names = Names.of(ctx.target.database, ctx.request.operation or verb.location)
    standing = "Nothing was changed by this attempt."  # an earlier one may have left the database closed
    try:
        with (
            maintenance_session(ctx, names.live) as session,
            migration_lock(ctx, session, key=lock_key(names.live)),
        ):
            ctx.point("restore.start")
            lift(session, names.live)
            standing = AS_IT_WAS
            done = _done_before(ctx, session, names)
            if done is not None:
                ctx.resumed.set()
                return done
            manifest = _usable(ctx, verb)
            _drop_unfinished(session, names)
            try:
                return _replace(_Job(ctx, verb, manifest, names), session)
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    _drop_unfinished(session, names)
                raise
    except StoreError as error:
        raise fail(Reason.STORE_UNAVAILABLE, str(error), standing=AS_IT_WAS) from None
    except psycopg.Error as error:
        raise from_postgres(error, default=Reason.RESTORE_FAILED, standing=standing) from None


def _done_before(ctx: StepContext, session: Session, names: Names) -> RestoreOutcome | None:
    """The outcome of this very restore where it was done already; nothing is done twice.

    Raises StepFailed(DatabaseChanged) when the live database is neither the one that was asked for nor ours.
    """
    with ctx.session(database=names.live) as live:
        own = journal.find_done(live, ctx.request, VERB)
        found = own or journal.find_done_by_object(live, ctx.request, VERB)
        if found is not None:
            if not _own_journal(live):
                raise fail(
                    Reason.RESTORE_NOT_POSSIBLE,
                    "The journal came with a copy of another database, where this restore was done already.",
                    standing="Nothing was changed.",
                    hint="Make a DatabaseRestore of another name.",
                )
            outcome = RestoreOutcome.model_validate(found)
            repeats = {"repeats": True, "identity": live.identity}
            return outcome if own else outcome.model_copy(update=repeats)
        expected = ctx.request.identity
        if expected is not None and not expected.same_database(live.identity):
            raise fail(
                Reason.DATABASE_CHANGED,
                f"{names.live} is database {live.identity.key}, but {expected.key} was to be replaced.",
                standing="Nothing was changed.",
            )
    if closed_by_others(session, names.live):
        raise fail(
            Reason.RESTORE_NOT_POSSIBLE,
            f"{names.live} is closed to connections, and not by Godwit.",
            standing="Nothing was changed.",
        )
    return None


def _own_journal(live: Session) -> bool:
    """Whether the newest restore in the journal made this very database, and not one that it is a copy of."""
    row = live.execute(
        "SELECT detail -> 'outcome' -> 'identity' FROM godwit.journal "
        "WHERE event = 'Done' AND verb = %s ORDER BY id DESC LIMIT 1",
        [VERB],
    ).fetchone()
    return row is not None and DatabaseIdentity.model_validate(row[0]).same_database(live.identity)


def _usable(ctx: StepContext, verb: RestoreInput) -> Manifest:
    manifest = read_manifest(ctx.store(), verb.location)
    problem = ""
    if manifest is None:
        problem = "no finished backup is there"
    elif manifest.type is not BackupType.FULL:
        problem = f"it is {manifest.type.value}"
    elif manifest.sha256 != verb.sha256:
        problem = "it has another checksum than the one that was asked for"
    elif major(manifest.dump_version) > major(version(ctx, "pg_restore")):
        problem = f"it was made by pg_dump {manifest.dump_version}, which is newer than pg_restore here"
    if manifest is None or problem:
        raise fail(
            Reason.BACKUP_UNUSABLE,
            f"The backup {verb.location} cannot be restored: {problem}.",
            standing=AS_IT_WAS,
        )
    return manifest


def _drop_unfinished(session: Session, names: Names) -> None:
    """Drop what unfinished restores of this database left; the lock says that none is under way."""
    for name in swap.databases(session):
        if name.startswith(names.all_building):
            swap.drop(session, name)


@dataclass(frozen=True)
class _Job:
    """What every stage of one restore needs to know."""

    ctx: StepContext
    verb: RestoreInput
    manifest: Manifest
    names: Names


def _replace(job: _Job, session: Session) -> RestoreOutcome:
    """Count, build, verify, close, count again, rename; *session* is on another database of the server."""
    ctx = job.ctx
    with ctx.session(writing=True) as live, migration_lock(ctx, live):
        check_fence(ctx, live)
        ownership.take_turn(live, ctx.request, job.verb.verb, process=ctx.process)
        ownership.claim(live, ctx.request)
        try:
            if job.names.old in swap.databases(session):
                raise fail(
                    Reason.NAME_TAKEN,
                    f"The database {job.names.old} exists; the former database would get that name.",
                    standing=AS_IT_WAS,
                )
            accepted = job.verb.accept_replication_loss
            obstacles = swap_obstacles(live, replication_accepted=accepted)
            if obstacles:
                raise fail(Reason.RESTORE_NOT_POSSIBLE, "; ".join(obstacles) + ".", standing=AS_IT_WAS)
            _same_line(live, job.manifest)
            _judge(job, live)
            _build(job, session)
            with ctx.session(writing=True, database=job.names.building) as restored:
                return _swap(job, session, live, restored)
        except StepFailed as failed:
            ownership.end_failed(live, ctx.request, job.verb.verb, failed.failure)
            raise
        except BaseException:
            ownership.release_quietly(live, ctx.request.operation)
            raise


def _build(job: _Job, session: Session) -> None:
    facts = swap.describe(session, job.names.live)
    if facts is None:
        raise fail(Reason.DATABASE_MISSING, f"{job.names.live} was renamed meanwhile.")
    job.ctx.point("restore.before_build")
    build(job.ctx, session, facts, job.names.building, location=job.verb.location, manifest=job.manifest)
    job.ctx.point("restore.built")


def _carry_properties(job: _Job, session: Session) -> None:
    """Give the new database what is set on the live one now: building took a while."""
    facts = swap.describe(session, job.names.live)
    if facts is None:
        raise fail(Reason.DATABASE_MISSING, f"{job.names.live} was renamed meanwhile.")
    differences = swap.carry_properties(session, facts, job.names.building)
    if differences:
        raise fail(
            Reason.RESTORE_FAILED,
            f"The restored database differs in: {', '.join(differences)}.",
            standing=AS_IT_WAS,
        )


def _swap(job: _Job, session: Session, live: Session, restored: Session) -> RestoreOutcome:
    ctx, names = job.ctx, job.names
    verify_built(restored, job.manifest, ctx.format_in(restored, job.manifest.state))
    ctx.cancelled.check(standing=AS_IT_WAS)
    _carry_properties(job, session)
    ctx.point("restore.before_fence")
    # Not to be cut short when the step is told to end: this session lifts the fence.
    with maintenance_session(ctx, names.live, cancellable=False) as keeper:
        fence = Fence(
            keeper,
            names.live,
            lambda: ctx.open(writing=True, database=session.identity.name, cancellable=False),
        )
        try:
            with fence.closed(job.verb.fence_timeout_ms, live.conn.cancel_safe):
                outcome = _behind_fence(job, fence, live, restored)
        except StepFailed:
            if fence.left is None or not fence.in_doubt:
                raise
            raise _in_doubt(names, fence.left) from None
    ctx.point("restore.swapped")
    ctx.log.info("restore.swapped", message=f"the former database is {names.old}", old_database=names.old)
    return outcome


def _in_doubt(names: Names, left: StepFailed) -> StepFailed:
    """What is known where the server was gone as it got the rename, and has not been back since."""
    return fail(
        Reason.CONNECTION_LOST,
        "The connection broke during the rename, and the server has not answered since.",
        standing=f"Either the rename is done: {names.live} is the restored database, and open, and the "
        f"former one is {names.old}. Or it is not: {names.live} is as it was, but closed to connections. "
        "The next attempt finds out; it opens the database, and begins anew where the rename was not done.",
        hint=left.failure.hint,
    )


def _behind_fence(job: _Job, fence: Fence, live: Session, restored: Session) -> RestoreOutcome:
    ctx, names = job.ctx, job.names
    ctx.point("restore.fenced")
    ctx.log.info("restore.fenced", message=f"{names.live} takes no new connections")
    fence.end_sessions(names.live, live.backend_pid, AS_IT_WAS)
    # Monitoring connects to whatever database it finds, and nobody may be in the new one either.
    swap.close(fence.session, names.building)
    fence.end_sessions(names.building, restored.backend_pid, AS_IT_WAS)
    try:
        written = _judge(job, live)
        swap.carry_sequences(live, restored)
        outcome = _carry_journal(job, live, restored, total(written.values()))
    except psycopg.Error:
        fence.check(AS_IT_WAS)  # where its time ran out the query was cancelled by ourselves
        raise
    ctx.cancelled.check(standing=AS_IT_WAS)
    ctx.point("restore.counted")
    # Whoever renames it back need not wait for the claim's end.
    ownership.release(live, ctx.request.operation)
    live.close()
    restored.close()
    ctx.point("restore.before_swap")
    lost = _rows(outcome.lost_rows)
    comment = (
        f"Was {names.live} until {swap.FORMER} ({ctx.request.object}). "
        f"Only here: {lost} written since that backup. Drop it when it is no longer needed."
    )
    try:
        with fence.swapping(AS_IT_WAS):
            swap.rename_both(
                fence.session,
                live=names.live,
                restored=names.building,
                old=names.old,
                comment=comment,
                committing=fence.committing,
            )
    except swap.Opened:
        raise fail(
            Reason.RESTORE_NOT_POSSIBLE,
            f"{names.live} was opened to connections, and not by this restore: "
            "what was written then was not counted.",
            standing=AS_IT_WAS,
        ) from None
    except psycopg.OperationalError as error:
        if reason_of(error, Reason.RESTORE_NOT_POSSIBLE) is Reason.RESTORE_NOT_POSSIBLE:
            raise fail(
                Reason.RESTORE_NOT_POSSIBLE,
                f"The databases cannot be renamed: {error.diag.message_primary}.",
                standing=AS_IT_WAS,
                hint="A prepared transaction or a background worker uses it, or an open transaction of "
                "somebody else changes it (COMMENT ON DATABASE, ALTER DATABASE).",
            ) from None
        raise from_postgres(
            error,
            default=Reason.CONNECTION_LOST,
            standing="The connection broke during the rename; the next attempt sees whether it was done.",
        ) from None
    return outcome


def _judge(job: _Job, live: Session) -> dict[str, Written]:
    """Count what was written since the backup; raise when it may not be lost."""
    since = job.manifest.started_at
    written = written_since(live, job.manifest.snapshot, job.manifest.tables, job.ctx.format.TABLES)
    job.ctx.log.info(
        "restore.counted",
        message=f"{_rows(total(written.values()))} written since {utc(since)}",
        tables={name: w.to_json() for name, w in sorted(written.items())[:20]},
    )
    schemas = {live.schema, *job.ctx.request.connection.schemas}
    refusal = loss_refusal(written, accepted=job.verb.accept_data_loss, schemas=schemas, since=since)
    if refusal is not None:
        reason, message = refusal
        raise fail(reason, message, standing=AS_IT_WAS)
    return written


def _rows(number: int) -> str:
    return "an unknown number of rows" if number < 0 else f"{number} row{'' if number == 1 else 's'}"


def _same_line(live: Session, manifest: Manifest) -> None:
    """The backup is of this database, or of one that an earlier restore replaced by it.

    Raises StepFailed(BackupUnusable).
    """
    if manifest.identity.same_database(live.identity):
        return
    replaced = live.execute(
        "SELECT FROM godwit.journal WHERE event = 'Done' AND verb = %s AND detail ->> 'replaced' = %s",
        [VERB, manifest.identity.key],
    )
    if replaced.rowcount == 0:
        raise fail(
            Reason.BACKUP_UNUSABLE,
            f"The backup is of database {manifest.identity.key}, this one is {live.identity.key}.",
            standing=AS_IT_WAS,
        )


def _carry_journal(job: _Job, live: Session, restored: Session, lost_rows: int) -> RestoreOutcome:
    """Take the whole journal along: what was done once is known for ever, this restore among it."""
    request = job.ctx.request
    stamp = ownership.stamp(live)
    with restored.transaction():
        journal.ensure(restored)
        unseen, seen = timeline.unseen(restored), journal.head(restored)
        for table in ("journal", "settings"):
            swap.copy_table(live, restored, journal.SCHEMA, table)
        ownership.write_stamp(restored, Environment.stricter(request.environment, stamp))
        ownership.release(restored, request.operation)
        own = journal.head(restored) + 1
        outcome = RestoreOutcome(
            identity=restored.identity.model_copy(update={"name": job.names.live}),
            old_database=job.names.old,
            state=job.manifest.state,
            current=job.manifest.current,
            lost_rows=lost_rows,
            journal_head=own,
        )
        detail = {
            "outcome": outcome.to_json(),
            "replaced": live.identity.key,
            "unseen": [*unseen, [seen + 1, own]],
        }
        journal.append(restored, request, journal.Event.DONE, verb=VERB, detail=detail)
    return outcome
