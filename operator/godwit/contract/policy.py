"""The policies that change what a step does to a database. All of them are part of the plan's digest."""

from enum import StrEnum

from pydantic import Field

from godwit.contract.base import Model


class Environment(StrEnum):
    """How much a database matters; ordered by strictness."""

    DEVELOPMENT = "Development"
    STAGING = "Staging"
    PRODUCTION = "Production"

    @property
    def strictness(self) -> int:
        """0 for Development, 1 for Staging, 2 for Production."""
        return list(Environment).index(self)

    @staticmethod
    def stricter(a: "Environment", b: "Environment | None") -> "Environment":
        """The stricter of the two; *a* where *b* is None."""
        return a if b is None or a.strictness >= b.strictness else b


class OnFailure(StrEnum):
    """What happens to migrations that were committed before a later one of the same run failed."""

    STOP = "Stop"
    ROLL_BACK = "RollBack"


class TransactionMode(StrEnum):
    """How many migrations share a transaction.

    PerMigration: each has its own. Batch: all that are pending have one, so that all of them stand or none;
    `maxLockHold` counts from the first lock of the first to the end of the last.
    """

    PER_MIGRATION = "PerMigration"
    BATCH = "Batch"


class EditedMigrations(StrEnum):
    """What a migration means that was edited after it had been applied; Prisma's `migrate deploy` ignores it.

    Refuse: nothing runs. Warn: a warning, and what is pending runs. Accept: as Warn, but merely told.
    """

    REFUSE = "Refuse"
    WARN = "Warn"
    ACCEPT = "Accept"


class ResolveAs(StrEnum):
    """What became of a migration; in Prisma's words `prisma migrate resolve --applied` and `--rolled-back`.

    Applied: its work is in the database; it is never run. RolledBack: of its failed try nothing is left; it
    is run again.
    """

    APPLIED = "Applied"
    ROLLED_BACK = "RolledBack"


class Resolve(Model):
    """One migration of which the history does not say what became of it."""

    migration: str
    as_: ResolveAs = Field(alias="as")
    requested_at: str = ""
    """Any text; another one asks once more, after the same migration has failed again."""


class Pooler(StrEnum):
    """A pooler that the team declared to stand between the step and PostgreSQL."""

    SESSION = "Session"


class CheckWhen(StrEnum):
    """When a SQL check is asked.

    BeforeCommit: in the last migration's own transaction, and again afterwards.
    """

    BEFORE_COMMIT = "BeforeCommit"
    AFTER_COMMIT = "AfterCommit"


class SqlCheck(Model):
    """One SELECT that must return exactly one row with one true value."""

    name: str
    sql: str
    when: CheckWhen = CheckWhen.BEFORE_COMMIT
    timeout_ms: int = 5_000


class Policy(Model):
    """Everything about a run, other than its source, that changes what runs.

    Durations are milliseconds; 0 is none.
    """

    environment: Environment = Environment.PRODUCTION
    transaction: TransactionMode = TransactionMode.PER_MIGRATION
    on_failure: OnFailure = OnFailure.STOP
    lock_timeout_ms: int = Field(default=2_000, ge=1)
    """How long one statement waits for a lock (`lock_timeout`)."""
    max_lock_hold_ms: int = Field(default=5_000, ge=1)
    """How long locks on tables that existed before may be held, verification included."""
    lock_budget_ms: int = Field(default=600_000, ge=0)
    """How long tries that met a busy lock are repeated before the run gives up."""
    statement_timeout_ms: int = Field(default=0, ge=0)
    """`statement_timeout` of each statement; 0: bounded by `max_lock_hold_ms` only."""
    concurrent_budget_ms: int = Field(default=21_600_000, ge=1)
    """How long one CONCURRENTLY may take: it keeps nobody out, but waits for every older transaction."""
    max_replica_lag_ms: int = Field(default=10_000, ge=0)
    """How far standbys may be behind while a backfill goes on; 0: it does not look."""
    show_blocking_queries: bool = False
    """Whether the text of queries that stand in the way may be told."""
    checks: tuple[SqlCheck, ...] = ()
    edited: EditedMigrations = EditedMigrations.REFUSE
    resolve: tuple[Resolve, ...] = ()
    """Changes of the history alone, each carried out once, before anything runs."""
    baseline: str = ""
    """The newest migration that a database without a history has already; empty: none is said to be."""
    backup_required: bool = True
    allow_downgrade: bool = False
    allow_data_loss: bool = False
    """The database's owner consented that taking back may lose what was written since."""
