"""What a step is asked to do."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from godwit.contract.base import CONTRACT_VERSION, Model, digest
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.policy import Environment, Policy, Pooler, SqlCheck


class ObjectRef(Model):
    """The custom resource on whose behalf a step runs. `uid` tells an object from its namesake."""

    kind: str
    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


class Connection(Model):
    """The part of a connection that is no secret. Credentials come as environment variables from Secret keys.

    With `GODWIT_DATABASE_URI` set the URI says where; otherwise host, port, database and sslmode do,
    with user and
    password from their variables.
    """

    host: str = ""
    port: int = 5432
    database: str = ""
    sslmode: str = ""
    role: str = ""
    """Role that the session takes (`options=-c role=...`) before anything else, the history row included."""
    pooler: Pooler | None = None
    schemas: tuple[str, ...] = ("public",)
    """Schemas that this database's owner declares as its own; the scope of counts and comparisons."""


class Format(StrEnum):
    """The layout of a migration folder, and with it the history table."""

    PRISMA = "Prisma"
    GOLANG_MIGRATE = "GolangMigrate"
    GOOSE = "Goose"
    DBMATE = "Dbmate"
    FLYWAY = "Flyway"
    ATLAS = "Atlas"
    AUTO = "Auto"
    """Whichever of these the folder's files show; refused where that is unclear."""


class BackupType(StrEnum):
    """Full: schema and data.

    SchemaOnly: `pg_dump --schema-only`; never counts as a usable backup for a run.
    """

    FULL = "Full"
    SCHEMA_ONLY = "SchemaOnly"


class Direction(StrEnum):
    """Up applies pending migrations; Down takes applied ones back by their down.sql."""

    UP = "Up"
    DOWN = "Down"


class PlanRef(Model):
    """A plan by its digests: what runs is what was planned, or nothing runs."""

    content: str
    """Digest of format, ordered names, checksums of up and down, direction; equal across environments."""
    plan: str
    """Digest of content, from-state, database identity and policy."""
    direction: Direction
    from_state: str
    """Digest of the applied history (names and checksums) before the run."""
    to_state: str
    """Digest of the applied history after it."""
    target: str = ""
    """Name of the newest migration that is applied afterwards; empty when none is."""


class CheckInput(Model):
    """Look at the database: identity, versions, rights, ways back. Writes nothing."""

    verb: Literal["Check"] = "Check"
    store: bool = False
    """Whether the backup store is mounted and should be looked at too."""


class PlanInput(Model):
    """Compare the source with the history. Writes nothing."""

    verb: Literal["Plan"] = "Plan"
    target: str = "Latest"
    policy: Policy


class BackupInput(Model):
    """Dump the database to the store."""

    verb: Literal["Backup"] = "Backup"
    type: BackupType = BackupType.FULL
    location: str
    """Path in the store, relative, made from the backup object's name and uid: the same request, the
    same file."""
    from_state: str = ""
    """Digest of history that the dump must hold; empty: whatever there is."""


class VerifyBackupInput(Model):
    """Read the whole archive in the store back and compare it with its manifest."""

    verb: Literal["VerifyBackup"] = "VerifyBackup"
    location: str


class DeleteBackupInput(Model):
    """Delete a backup's file and manifest from the store; already gone is done. Needs no database."""

    verb: Literal["DeleteBackup"] = "DeleteBackup"
    location: str


class ApplyInput(Model):
    """Apply what the plan says, upwards."""

    verb: Literal["Apply"] = "Apply"
    plan: PlanRef
    policy: Policy


class RevertScope(StrEnum):
    """Plan: what the plan (direction Down) says.

    Operation: what this operation applied, to the from-state.
    """

    PLAN = "Plan"
    OPERATION = "Operation"


class RevertInput(Model):
    """Take migrations back, newest application first, each with its history row in one transaction."""

    verb: Literal["Revert"] = "Revert"
    scope: RevertScope
    plan: PlanRef
    policy: Policy


class VerifyInput(Model):
    """Look whether the database is where it should be. Writes nothing but its journal row."""

    verb: Literal["Verify"] = "Verify"
    state: str
    """Digest that the applied history must have."""
    checks: tuple[SqlCheck, ...] = ()


class RestoreInput(Model):
    """Put a backup in the place of the live database (Swap): built and verified beside it, then renamed."""

    verb: Literal["Restore"] = "Restore"
    location: str
    sha256: str
    accept_data_loss: bool = False
    """What was written since the backup's snapshot may be lost; else any such write stops before a fence."""
    accept_replication_loss: bool = False
    """Logical slots and subscriptions may stay with the former database; else any such stops it at once."""
    fence_timeout_ms: int = 30_000
    """How long the fence may stand before it is lifted whatever happens."""


VerbInput = Annotated[
    CheckInput
    | PlanInput
    | BackupInput
    | VerifyBackupInput
    | DeleteBackupInput
    | ApplyInput
    | RevertInput
    | VerifyInput
    | RestoreInput,
    Field(discriminator="verb"),
]


class StepRequest(Model):
    """An ordered list of verbs for one process, which stops at the first failure."""

    contract_version: str = CONTRACT_VERSION
    object: ObjectRef
    step: str
    """The step's name within its object: `plan`, `backup`, `apply`, ..."""
    attempt: int = 1
    operation: str = ""
    """uid of the run, restore or backup that owns the database meanwhile; empty for steps that only read."""
    spec_hash: str = ""
    """Digest of the object's spec: with `operation`, how the journal knows that this was done already."""
    environment: Environment = Environment.PRODUCTION
    connection: Connection = Connection()
    identity: DatabaseIdentity | None = None
    """Where this must run; another database refuses (DatabaseChanged). None only before it is known."""
    expected_journal: int | None = None
    """Id of the journal row that a writing step expects as the last one of others; 0: none."""
    not_after: datetime | None = None
    """A writing step refuses (TooLate) when it gets the lock later than this."""
    budget_seconds: int = 3_600
    """When the runner stops by itself; the Job's deadline is longer."""
    format: Format = Format.PRISMA
    source_content: str = ""
    """Digest of the pinned copy's files; empty for an image, which its own digest pins."""
    verbs: tuple[VerbInput, ...]

    @property
    def hash(self) -> str:
        """Digest of the whole request; an existing Job is ours only with this and our owner's uid."""
        return digest(self)
