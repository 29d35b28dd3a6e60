"""MigrationRun: one execution of one plan, complete in itself. Made by the controller."""

from datetime import datetime
from typing import ClassVar

from pydantic import Field

from godwit.api.common import ApiModel, Resource, Status, UidRef
from godwit.api.database import BackupPolicy, ConnectionSpec, PodTemplate, RollbackConsent, rules
from godwit.api.migration import PinnedSource
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure, RungState
from godwit.contract.policy import Policy
from godwit.contract.progress import RunProgress
from godwit.contract.request import Format, PlanRef

IMMUTABLE = ("self == oldSelf", "spec is immutable")


class MigrationRunSpec(ApiModel):
    """Everything that the run needs; nothing is read from other specs while it runs."""

    model_config = rules(IMMUTABLE)

    migration_ref: UidRef
    database_ref: UidRef
    plan: PlanRef
    pending: int
    identity: DatabaseIdentity
    expected_journal: int
    """Id of the journal row that must still be the last one when the run starts."""
    format: Format
    source: PinnedSource
    policy: Policy
    connection: ConnectionSpec
    schemas: tuple[str, ...]
    backup: BackupPolicy
    rollback: RollbackConsent
    pod_template: PodTemplate = PodTemplate()
    image: str
    """Image of every step of this run."""
    contract_version: str


class MigrationRunStatus(Status):
    """Steps, times, outcome, and where the database stands."""

    outcome: str = ""
    """Succeeded, Failed, TakenBack, Restored, VerifyFailed, Cancelled; empty while it runs."""
    failure: Failure | None = None
    standing: str = ""
    """Where the database stands, in one sentence."""
    progress: RunProgress | None = None
    """How far the step that applies or takes back was some seconds ago; none while it does not run."""
    current: str = ""
    applied: int = 0
    total: int = 0
    journal_head: int = 0
    rungs: tuple[RungState, ...] = Field(default=())
    """The ways back: which were possible, which was taken."""
    backup: str = ""
    """Name of the DatabaseBackup that this run made."""
    restore: str = ""
    """Name of the DatabaseRestore that this run made."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    released: bool = False
    """Whether the database and the finalizers were given back."""


class MigrationRun(Resource):
    """One execution of one plan."""

    KIND: ClassVar[str] = "MigrationRun"
    PLURAL: ClassVar[str] = "migrationruns"
    SHORT: ClassVar[str] = "mrun"
    spec: MigrationRunSpec
    status: MigrationRunStatus = MigrationRunStatus()
