"""Who stands in a migration's way, asked before it queues for a lock.

A waiting request for a strong lock makes every later reader wait behind it. So nobody queues behind a holder
that has been in its transaction for longer than `lock_timeout`: the try is not made, and looked again later.
"""

import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pglast.parser import parse_sql_json

from godwit.contract.reasons import Reason
from godwit.engine.context import StepContext
from godwit.engine.errors import StepFailed, fail
from godwit.engine.model import Statement
from godwit.engine.session import Session

_LOOK_SECONDS: Final = 0.5
_BACKOFF_SECONDS: Final = (1.0, 30.0)

_ALL: Final = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
# What each mode conflicts with: manual, table 13.2.
_CONFLICTS: Final = {
    "ShareLock": tuple(m for m in _ALL[2:] if m != "ShareLock"),
    "ShareRowExclusiveLock": _ALL[2:],
    "AccessExclusiveLock": _ALL,
}

# An autovacuum gives way by itself when somebody waits for its table (manual, section 25.1.6).
_HOLDERS: Final = """
SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), coalesce(a.state, ''),
       l.relation::regclass::text, l.mode, extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
       coalesce(l.virtualtransaction, '')
  FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.relation IN (SELECT to_regclass(name) FROM unnest(%(relations)s::text[]) AS name)
   AND l.mode = ANY (%(modes)s)
   AND coalesce(a.backend_type, '') <> 'autovacuum worker'"""


@dataclass(frozen=True)
class Blocker:
    """A session, or a prepared transaction (no pid), that holds a conflicting lock."""

    pid: int | None
    application: str
    user: str
    state: str
    relation: str
    mode: str
    age: float | None
    """Seconds since its transaction began; None where the role may not see it."""
    transaction: str

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "a prepared transaction"
        what = f"{self.application or 'no application name'}, user {self.user or 'hidden'}"
        since = "a hidden time" if self.age is None else f"{self.age:.0f} s"
        return f"{who} ({what}, {self.state or 'state hidden'}, for {since}) on {self.relation}"


def lock_mode(statement: Statement) -> str:
    """The strongest table lock that a statement with locks takes (manual, section 13.3.1)."""
    match statement.tag:
        case "IndexStmt":
            return "ShareLock"
        case "CreateTrigStmt":
            return "ShareRowExclusiveLock"
        case "CreateStmt" | "AlterTableStmt":
            return "ShareRowExclusiveLock" if _only_foreign_keys(statement) else "AccessExclusiveLock"
        case _:
            return "AccessExclusiveLock"


def _only_foreign_keys(statement: Statement) -> bool:
    """Whether foreign keys are all that a CREATE TABLE or ALTER TABLE needs of tables that exist."""
    node = json.loads(parse_sql_json(statement.text))["stmts"][0]["stmt"][statement.tag]
    if statement.tag == "CreateStmt":
        return "partbound" not in node
    definitions = [c["AlterTableCmd"].get("def", {}).get("Constraint", {}) for c in node.get("cmds", ())]
    return all(d.get("contype") == "CONSTR_FOREIGN" for d in definitions)


def blockers(session: Session, statements: Iterable[Statement]) -> list[Blocker]:
    """Who holds a lock now that conflicts with what *statements* will take."""
    wanted: dict[str, set[str]] = {}
    for statement in statements:
        if statement.locks:
            wanted.setdefault(lock_mode(statement), set()).update(statement.locks)
    found: dict[tuple[int | None, str], Blocker] = {}
    for mode, relations in wanted.items():
        params = {"relations": sorted(relations), "modes": list(_CONFLICTS[mode])}
        for row in session.execute(_HOLDERS, params):
            blocker = Blocker(*row)
            found.setdefault((blocker.pid, blocker.relation), blocker)
    return list(found.values())


_OLD: Final = """
SELECT pid, coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(state, ''),
       datname::text, '', extract(epoch FROM clock_timestamp() - xact_start)::float8, ''
  FROM pg_stat_activity
 WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'
   AND xact_start < clock_timestamp() - make_interval(secs => %s) ORDER BY xact_start"""


def old_transactions(session: Session, *, seconds: float) -> list[Blocker]:
    """Transactions older than that in this database, which a CONCURRENTLY waits for (manual, CREATE INDEX).

    Those whose age the role may not see are not among them.
    """
    return [Blocker(*row) for row in session.execute(_OLD, [seconds])]


class Patience:
    """The lock budget of one migration: when a try may be made, how long to wait after a refused one."""

    def __init__(self, ctx: StepContext, session: Session, *, lock_timeout_ms: int, budget_ms: int) -> None:
        self._ctx = ctx
        self._session = session
        self._lock_timeout = lock_timeout_ms / 1000
        self._budget_ms = budget_ms
        self._deadline = time.monotonic() + budget_ms / 1000
        self._tries = 0
        self._first_seen: dict[tuple[int | None, str], float] = {}

    def until_free(self, statements: Sequence[Statement], *, standing: str) -> None:
        """Wait until no holder older than lock_timeout conflicts. Raises StepFailed(LockBudgetExceeded)."""
        told = False
        while long := [b for b in blockers(self._session, statements) if self._is_long(b)]:
            if time.monotonic() >= self._deadline:
                raise self._spent(long, standing)
            if not told:
                told = True
                self._ctx.progress("lock.busy", message=f"waiting for {named(long)}")
            self._pause(_LOOK_SECONDS, standing)

    def after_refusal(self, statements: Sequence[Statement], *, standing: str) -> None:
        """Wait before the next try, longer each time. Raises StepFailed(LockBudgetExceeded)."""
        seen = blockers(self._session, statements)
        if time.monotonic() >= self._deadline:
            raise self._spent(seen, standing)
        low, high = _BACKOFF_SECONDS
        seconds = min(high, low * 2**self._tries) * random.uniform(0.5, 1)  # noqa: S311  jitter, no secret
        self._tries += 1
        self._ctx.progress("lock.refused", message=f"try {self._tries} met a busy lock: {named(seen)}")
        self._pause(min(seconds, max(0.05, self._deadline - time.monotonic())), standing)

    def _is_long(self, blocker: Blocker) -> bool:
        """By its transaction's age, or by how long we have seen it where the age is hidden."""
        first = self._first_seen.setdefault((blocker.pid, blocker.transaction), time.monotonic())
        age = time.monotonic() - first if blocker.age is None else blocker.age
        return age > self._lock_timeout

    def _pause(self, seconds: float, standing: str) -> None:
        self._ctx.cancelled.wait(seconds)
        self._ctx.cancelled.check(standing=standing)

    def _spent(self, seen: Sequence[Blocker], standing: str) -> StepFailed:
        return fail(
            Reason.LOCK_BUDGET_EXCEEDED,
            f"The lock budget of {self._budget_ms / 1000:g} s is used up. In the way: {named(seen)}.",
            standing=standing,
        )


def named(seen: Sequence[Blocker]) -> str:
    """The first of them, for people."""
    return "; ".join(str(b) for b in seen[:5]) or "nobody who can be seen now"
