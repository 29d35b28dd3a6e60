"""Backfills: one large change of data, in ranges of a key, each committed with how far it got.

No batch holds anything for longer than its own rows need, and a step that was killed goes on with the next
range. Between two batches it waits for standbys that are behind.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from psycopg import sql

from godwit.contract.reasons import Reason
from godwit.engine import journal
from godwit.engine.batch_key import key_refusal
from godwit.engine.batched import Batched
from godwit.engine.errors import StepFailed, fail
from godwit.engine.execute import Part, transactional
from godwit.engine.journal import Event
from godwit.engine.model import PlannedMigration
from godwit.engine.replicas import ReplicaLag
from godwit.engine.run import Run
from godwit.engine.script import Piece
from godwit.engine.statementwise import Left, Progress, record
from godwit.engine.undo import Undone

_LOOK_SECONDS: Final = 1.0
_TELL_SECONDS: Final = 1.0
_MOST_KEPT: Final = 1_000
"""Batches of an INSERT whose transactions the journal keeps: its row is written anew with each batch."""


def run_backfill(
    run: Run, planned: PlannedMigration, progress: Progress, *, settle: Callable[[Left], StepFailed]
) -> None:
    """Run the batches that are not done yet; the start is in the journal already.

    Failures as in `run_statements`: what is tried again by itself leaves all as it is, anything else is
    handed to *settle*. Raises StepFailed.
    """
    batched = planned.run.batched
    if batched is None:
        raise TypeError(f"{planned.name} does not ask for batches")
    work = _Backfill(run, planned, batched, progress)
    try:
        work.all()
    except StepFailed as failed:
        if not failed.failure.terminal:
            raise
        raise settle(Left(failed, Undone(), (), unknown=False, partly=work.partly())) from failed
    run.guard.restore()
    run.session.flush()


class _Backfill:
    """The walk through the ranges of one statement."""

    def __init__(self, run: Run, planned: PlannedMigration, batched: Batched, progress: Progress) -> None:
        self.run = run
        self.planned = planned
        self.batched = batched
        self.statement = planned.run.statements[0]
        self.progress = progress
        self.lag = ReplicaLag()
        self.told_at = 0.0
        row = progress.batch
        self.row_id = row.id if row else 0
        self.upto: str = row.detail["upTo"] if row else ""
        self.end: str = row.detail["end"] if row else ""
        self.batches: int = row.detail["batches"] if row else 0
        self.txids: list[int] = list(row.detail.get("txids", ())) if row else []

    def partly(self) -> str:
        """How far it got, for people; nothing where no batch was committed."""
        if not self.batches:
            return ""
        return (
            f"{self.batches} batches are done: every {self.batched.key} up to {self.upto} "
            f"of {self.end}; the rest is untouched"
        )

    @property
    def standing(self) -> str:
        return (
            f"{self.partly()[:1].upper()}{self.partly()[1:]}." if self.batches else "No batch was committed."
        )

    def all(self) -> None:
        """Run batch after batch. Raises StepFailed."""
        if self.statement.index in self.progress.done:
            return
        why = key_refusal(self.run.session, self.batched)
        if why:
            raise fail(
                Reason.STATEMENT_REFUSED,
                f"{self.planned.run.script.path}, line {self.statement.line}: {why}.",
                standing=self.standing,
                migration=self.planned.name,
                file=self.planned.run.script.path,
                line=self.statement.line,
            )
        # As the plain statement, which sees what is there when it begins.
        self.end = self.end or self.last_key() or ""
        while self.end and (high := self.next_key()) is not None:
            self.run.ctx.cancelled.check(standing=self.standing)
            self.wait_for_standbys()
            self.batch(high)
            self.tell()
        self.tell(last=True)
        record(self.run, self.planned, self.statement, Event.STATEMENT)

    # ORDER BY takes an output column first, so the text must not have the key's name: as text 9 is above 10.
    def last_key(self) -> str | None:
        """The largest key that is there now."""
        return self.key("SELECT {key}::text AS told FROM {table} ORDER BY {key} DESC LIMIT 1")

    def next_key(self) -> str | None:
        """The last key of the next range, or None after the last range."""
        low = sql.SQL("AND {key} > {low}").format(key=self.name, low=sql.Literal(self.upto))
        return self.key(
            "SELECT found::text AS told FROM (SELECT {key} AS found FROM {table} WHERE {key} <= {end} {low} "
            "ORDER BY {key} LIMIT {size}) AS range ORDER BY found DESC LIMIT 1",
            end=sql.Literal(self.end),
            low=low if self.upto else sql.SQL(""),
            size=sql.Literal(self.batched.size),
        )

    @property
    def name(self) -> sql.SQL:
        """The key as SQL: quoted where it needs to be, from the parse tree."""
        return sql.SQL(self.batched.key)

    def key(self, query: Any, **values: sql.Composable) -> str | None:
        table = sql.SQL(self.batched.table)
        row = self.run.session.execute(sql.SQL(query).format(key=self.name, table=table, **values)).fetchone()
        return str(row[0]) if row else None

    def batch(self, high: str) -> None:
        """One range in one transaction, with its progress; tried again while its rows are locked."""
        low = f"'{self.upto}'" if self.upto else ""
        body = self.batched.ranged(low, f"'{high}'")
        piece = Piece(
            self.planned.name, self.planned.run.script.path, body, self.statement.offset, (self.statement,)
        )
        row_id, txids = self.row_id, self.txids

        def done() -> None:
            nonlocal row_id, txids
            detail: dict[str, Any] = {"upTo": high, "end": self.end, "batches": self.batches + 1}
            if self.statement.tag == "InsertStmt":  # the others destroy, and are not taken back by counting
                txids = [*self.txids, *self.txid()][:_MOST_KEPT]
                detail["txids"] = txids
            if self.row_id:
                journal.advance(self.run.session, self.row_id, detail)
            else:
                row_id = record(self.run, self.planned, self.statement, Event.BATCH, **detail)

        standing = f"This batch was rolled back. {self.standing}"
        transactional(self.run, [Part(piece, done)], standing=standing)
        self.row_id, self.upto, self.batches, self.txids = row_id, high, self.batches + 1, txids
        self.run.point("after_batch")

    def txid(self) -> tuple[int, ...]:
        """The number of the open transaction: rows that it wrote are the migration's own (`loss`)."""
        return self.run.session.execute("SELECT txid_current()").fetchone() or ()

    def wait_for_standbys(self) -> None:
        """Until none is further behind than the policy allows; holds nothing meanwhile."""
        limit, told = self.run.policy.max_replica_lag_ms / 1000, False
        while limit and (behind := self.lag.seconds(self.run.session) or 0.0) > limit:
            if not told:
                told = True
                text = f"a standby is {behind:.1f} s behind, more than {limit:g} s: the next batch waits"
                self.run.ctx.progress("backfill.waits", message=text, migration=self.planned.name)
            self.run.ctx.cancelled.wait(_LOOK_SECONDS)
            self.run.ctx.cancelled.check(standing=self.standing)

    def tell(self, *, last: bool = False) -> None:
        """Progress for the log, not more than one line a second."""
        if last or time.monotonic() - self.told_at >= _TELL_SECONDS:
            self.told_at = time.monotonic()
            self.run.ctx.progress(
                "backfill.progress",
                message=f"{self.planned.name}: {self.partly() or 'there was nothing to do'}",
                migration=self.planned.name,
                batches=self.batches,
                up_to=self.upto,
                end=self.end,
            )
