"""DatabaseMigration: which migrations a database should have."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from godwit.api.common import LIST_MAP_BY_NAME, ApiModel, Duration, LocalRef, Resource, Status
from godwit.api.database import rules
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure, Findings, RungState
from godwit.contract.policy import CheckWhen, EditedMigrations, OnFailure, ResolveAs, TransactionMode
from godwit.contract.request import Format, PlanRef


class ImageSource(ApiModel):
    """A folder in a container image, mounted as an image volume."""

    reference: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
    """Image by digest (`name@sha256:...`); a tag is accepted only for a Development database."""
    path: Annotated[
        str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    ] = ""
    """Folder in the image that holds the migrations; empty for its root."""


class SourceSpec(ApiModel):
    """Where the migration files are: ConfigMaps, or an image."""

    model_config = rules(
        ("has(self.configMaps) != has(self.image)", "give exactly one of configMaps and image")
    )

    config_maps: Annotated[tuple[LocalRef, ...], Field(min_length=1, max_length=64)] | None = None
    """ConfigMaps whose keys are NAME.sql, NAME.down.sql, migration_lock.toml, or a *.tar.gz of the folder."""
    image: ImageSource | None = None


class ApprovalPolicy(StrEnum):
    """Whether a person must approve a plan."""

    NEVER = "Never"


class RehearsalPolicy(StrEnum):
    """Whether a plan is rehearsed on a copy."""

    NEVER = "Never"


class Gates(ApiModel):
    """What must be open before a run starts."""

    approval: ApprovalPolicy = ApprovalPolicy.NEVER
    rehearsal: RehearsalPolicy = RehearsalPolicy.NEVER


class Strategy(ApiModel):
    """How migrations are executed.

    What is not given depends on the database's environment. In Staging and Production a query of the
    application waits for a migration for at most `lockTimeout` and `maxLockHold` together.
    """

    transaction: TransactionMode = TransactionMode.PER_MIGRATION
    lock_timeout: Duration | None = None
    """How long one statement waits for a lock: 2s."""
    max_lock_hold: Duration | None = None
    """How long locks on existing tables may be held, verification included: 5s, in Development 1m.

    A plan that is sure to take longer is refused.
    """
    lock_budget: Duration | None = None
    """How long a migration is tried again when its locks are busy: 10m, in Development 1m."""
    concurrent_budget: Duration | None = None
    """How long one CONCURRENTLY may take, which waits for every older transaction: 6h, in Development 1h."""
    max_replica_lag: Duration = "10s"
    """How far standbys may be behind before a backfill (`-- godwit: batched by`) waits; 0s: never."""
    statement_timeout: Duration | None = None
    """Bound of one statement; by default only `maxLockHold` bounds statements that lock existing tables."""


class CheckSpec(ApiModel):
    """A SELECT that must return one row with one true value."""

    name: Annotated[
        str, Field(min_length=1, max_length=63, pattern="^[A-Za-z0-9]([A-Za-z0-9 _.-]*[A-Za-z0-9])?$")
    ]
    sql: Annotated[str, Field(min_length=1, max_length=4096)]
    when: CheckWhen = CheckWhen.BEFORE_COMMIT
    """BeforeCommit: in the last migration's transaction, and again afterwards.

    AfterCommit: afterwards only.
    """
    timeout: Duration = "5s"


class VerifySpec(ApiModel):
    """What must be true of the database after a run, beyond its history."""

    checks: Annotated[
        tuple[CheckSpec, ...],
        Field(max_length=32, json_schema_extra=LIST_MAP_BY_NAME),
    ] = ()
    """Together at most some 100 KiB: a step's pod is told each of them twice, in an annotation."""


class ResolveSpec(ApiModel):
    """What became of one migration, said once."""

    migration: Annotated[str, Field(min_length=1, max_length=255)]
    as_: Annotated[ResolveAs, Field(alias="as")]
    """Applied: its work is in the database, it never runs. RolledBack: nothing of its failed try is left."""
    requested_at: Annotated[str, Field(max_length=64)] = ""
    """Any text, such as the time; another one asks once more after the migration has failed again."""


class DatabaseMigrationSpec(ApiModel):
    """Which migrations, to which version, under which rules."""

    database_ref: Annotated[
        LocalRef,
        Field(
            json_schema_extra={
                "x-kubernetes-validations": [
                    {"rule": "self == oldSelf", "message": "databaseRef is immutable"}
                ]
            }
        ),
    ]
    source: SourceSpec
    format: Format = Format.PRISMA
    target_version: Annotated[str, Field(min_length=1, max_length=255)] = "Latest"
    """Latest, or the name of a migration; a lower one than the current goes down by down.sql."""
    baseline: Annotated[str, Field(max_length=255)] = ""
    """The newest migration that a database with tables but without a history has already.

    It and all before it are marked as applied, as the migration tool's own command does; none of them runs.
    Carried out once; a database that has a history, or no tables, is left as it is.
    """
    resolve: Annotated[
        tuple[ResolveSpec, ...],
        Field(
            max_length=32,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["migration"],
            },
        ),
    ] = ()
    """Migrations of which a person says what became of them, as to the migration tool's own command.

    Each is carried out once, by a run, before anything else of it; the entry may stay in the manifest.
    """
    edited_migrations: EditedMigrations = EditedMigrations.REFUSE
    """What a migration means that was edited after it had been applied."""
    gates: Gates = Gates()
    strategy: Strategy = Strategy()
    verify: VerifySpec = VerifySpec()
    on_failure: OnFailure | None = None
    """What happens to migrations committed before a later one failed.

    Default: RollBack in Development, else Stop.
    """
    allow_downgrade: bool = False
    """Whether a lower targetVersion may run in Production."""
    suspend: bool = False
    """Plan only: the next run does not start (a running one goes on)."""
    interval: Duration = "24h"
    """How often a settled migration is planned again."""
    run_history_limit: Annotated[int, Field(ge=1, le=100)] = 10
    """How many finished runs are kept."""


class PinnedSource(ApiModel):
    """The source as it was when it was planned: an immutable copy, or an image reference."""

    config_maps: tuple[str, ...] = ()
    """Names of immutable ConfigMaps, in the order in which they are mounted as 0, 1, ..."""
    image: ImageSource | None = None
    content: str = ""
    """Digest of the copied files; empty for an image."""


class PlanStatus(ApiModel):
    """The last plan. Its SQL is in the ConfigMap named by `document`, and in the step's log."""

    ref: PlanRef | None = None
    """The plan's digests; None when nothing is pending."""
    source: PinnedSource
    identity: DatabaseIdentity
    journal_head: int = 0
    state: str = ""
    """Digest of the applied history when the plan was made."""
    pending_names: tuple[str, ...] = ()
    statements: int = 0
    resolutions: int = 0
    """How many of `resolve` and `baseline` the run would carry out."""
    transactional: bool = True
    destructive: bool = False
    rungs: tuple[RungState, ...] = ()
    findings: Findings = Findings()
    document: str = ""
    """Name of the ConfigMap with the whole plan, SQL included."""
    made_at: datetime


class RunSummary(ApiModel):
    """A run that ended."""

    name: str
    uid: str
    outcome: str
    reason: str
    """Succeeded, or why it did not."""
    ended_at: datetime | None = None


class DatabaseMigrationStatus(Status):
    """Where the database stands, what is planned, what ran last."""

    current: str = ""
    """Newest applied migration."""
    target: str = ""
    """Newest migration once the plan has run."""
    applied: int = 0
    pending: int = 0
    plan: PlanStatus | None = None
    plan_key: str = ""
    """What was planned last: generation, source, database, request. Another key, another plan."""
    planned_at: datetime | None = None
    requested_at: str = ""
    """The annotation `godwit.dev/requested-at` as it was seen last; taking it away asks for nothing."""
    failure: Failure | None = None
    """Why it is Stalled."""
    hold: str = ""
    """Plan key under which a run failed, or the own part of that before a restore: without the database.
    Nothing runs until it changes."""
    retries: int = 0
    """Runs in a row that ended because the database or the plan had moved meanwhile; they are planned
    again."""
    seen_restore: str = ""
    """uid of the newest restore of this database that was taken notice of."""
    active_run: str = ""
    last_run: RunSummary | None = None
    copies: tuple[str, ...] = ()
    """Names of the ConfigMaps made for this migration (pinned sources, plan documents)."""
    run_count: int = 0
    """Number of the newest run ever made; names are never used twice."""


class DatabaseMigration(Resource):
    """The migrations that a database should have."""

    KIND: ClassVar[str] = "DatabaseMigration"
    PLURAL: ClassVar[str] = "databasemigrations"
    SHORT: ClassVar[str] = "dbm"
    spec: DatabaseMigrationSpec
    status: DatabaseMigrationStatus = DatabaseMigrationStatus()
