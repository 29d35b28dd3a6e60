"""What a step answers. Every fact that a decision needs is in it; no decision depends on a log line."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from godwit.contract.base import CONTRACT_VERSION, Model, Told, canonical_json
from godwit.contract.environment import OUTCOME_LIMIT
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupType, Direction

T = TypeVar("T", bound=Model)


class LockHolder(Model):
    """A session that stands in a migration's way. What the role may not see is empty."""

    pid: int | None = None
    """Its server process; None for a prepared transaction."""
    user: str = ""
    application: str = ""
    query_start: datetime | None = None
    """When its query began; of an idle one, its last query."""
    relation: str = ""
    mode: str = ""
    """Mode of the lock, as in pg_locks."""
    query: str = ""
    """Start of its query's text; only where `showBlockingQueries` allows it."""


class Failure(Model):
    """Why a step, or an object, did not get on: what happened, where the database stands, what to do next.

    Never holds a secret or row data (PostgreSQL's DETAIL is left out).
    """

    reason: Reason
    message: str
    standing: str = ""
    """Where the database stands now, in one sentence."""
    migration: str = ""
    file: str = ""
    line: int = 0
    """1-based line in `file`; 0 when unknown."""
    statement: str = ""
    """Start of the statement, passwords redacted."""
    sqlstate: str = ""
    hint: str = ""
    blockers: tuple[LockHolder, ...] = ()
    """Who was in the way, the first five, where the reason is a busy lock."""

    @property
    def terminal(self) -> bool:
        """Whether only a change of spec, source, history or a request can help."""
        return self.reason.terminal


class Severity(Told):
    """How bad a finding is: Error, which refuses the plan, Warning or Info."""

    ERROR = "Error"
    WARNING = "Warning"
    INFO = "Info"


class Finding(Model):
    """Something that a plan or a check found."""

    severity: Severity
    reason: Reason
    message: str
    migration: str = ""
    line: int = 0


class Findings(Model):
    """How many findings there are, and the first of them, worst first."""

    errors: int = 0
    warnings: int = 0
    infos: int = 0
    first: tuple[Finding, ...] = ()


class Rung(Told):
    """A way back; they are tried in this order: Transaction, Undo, Down, Restore."""

    TRANSACTION = "Transaction"
    UNDO = "Undo"
    DOWN = "Down"
    RESTORE = "Restore"


class RungState(Model):
    """Whether a way back is open, and why not."""

    rung: Rung
    possible: bool
    taken: bool = False
    why: str = ""


class CheckOutcome(Model):
    """What Check saw."""

    verb: Literal["Check"] = "Check"
    identity: DatabaseIdentity
    server_version: int
    """`server_version_num`, for example 160014."""
    size_bytes: int = 0
    stamp: Environment | None = None
    """Environment stamped into the journal for this very database; None when there is none."""
    journal_head: int = 0
    """Id of the last journal row; 0 when there is no journal yet."""
    replicas: int = 0
    replica_lag_bytes: int | None = None
    """WAL, in bytes, that the slowest standby had not replayed yet; None where none is seen."""
    rollback_options: tuple[RungState, ...] = ()
    warnings: tuple[str, ...] = ()


class PlanOutcome(Model):
    """What is to be done. The whole plan, SQL included, is in the log."""

    verb: Literal["Plan"] = "Plan"
    direction: Direction | None = None
    """None when nothing is pending."""
    content: str
    plan: str
    from_state: str
    to_state: str
    current: str = ""
    """Name of the newest applied migration; empty when none is."""
    target: str = ""
    applied: int = 0
    pending: int = 0
    pending_names: tuple[str, ...] = ()
    """The first ones, in the order in which they would run."""
    statements: int = 0
    resolutions: int = 0
    """How many of `resolve` and `baseline` would change the history, before anything runs."""
    journal_head: int = 0
    transactional: bool = True
    """Whether every pending file runs in a transaction."""
    destructive: bool = False
    """Whether any pending statement drops, truncates, rewrites or deletes what existed before."""
    rungs: tuple[RungState, ...] = ()
    findings: Findings = Findings()


class BackupOutcome(Model):
    """A finished dump."""

    verb: Literal["Backup"] = "Backup"
    type: BackupType
    identity: DatabaseIdentity
    location: str
    size_bytes: int
    sha256: str
    server_version: int
    dump_version: str
    started_at: datetime
    """When the dump's snapshot was taken: what was written later is not in it."""
    ended_at: datetime
    state: str
    """Digest of the applied history inside the dump's snapshot."""
    tables: int = 0
    rows: int = 0
    journal_head: int = 0


class VerifyBackupOutcome(Model):
    """The whole archive was read back and matched its manifest."""

    verb: Literal["VerifyBackup"] = "VerifyBackup"
    location: str
    sha256: str
    entries: int = 0


class DeleteBackupOutcome(Model):
    """The files are gone."""

    verb: Literal["DeleteBackup"] = "DeleteBackup"
    location: str


class MigrationProgress(Model):
    """What this operation did to the database so far, failed or not."""

    applied: int = 0
    """Migrations that this operation committed and that stand."""
    reverted: int = 0
    resolved: int = 0
    """How many of `resolve` and `baseline` it carried out; they stand."""
    total: int = 0
    current: str = ""
    state: str = ""
    """Digest of the applied history now; empty when it could not be read."""
    journal_head: int = 0
    partial: str = ""
    """Name of a migration that is half done and could not be undone or judged; empty when there is none."""
    rungs: tuple[RungState, ...] = ()


class ApplyOutcome(MigrationProgress):
    """What Apply did; present beside a failure too."""

    verb: Literal["Apply"] = "Apply"


class RevertOutcome(MigrationProgress):
    """What Revert did; present beside a failure too."""

    verb: Literal["Revert"] = "Revert"


class VerifyOutcome(Model):
    """What Verify saw."""

    verb: Literal["Verify"] = "Verify"
    state: str
    current: str = ""
    checks: int = 0
    journal_head: int = 0
    fingerprint: str = ""
    """Digest of the catalog in the declared schemas."""


class RestoreOutcome(Model):
    """The backup is the live database now; the former one is kept under `old_database`."""

    verb: Literal["Restore"] = "Restore"
    identity: DatabaseIdentity
    old_database: str
    state: str
    current: str = ""
    lost_rows: int = 0
    """Rows written since the snapshot that the swap left behind in the old database; -1 when unknown."""
    journal_head: int = 0
    repeats: bool = False
    """It was done for an earlier object of the same name and content, and nothing for this one."""


VerbOutcome = Annotated[
    CheckOutcome
    | PlanOutcome
    | BackupOutcome
    | VerifyBackupOutcome
    | DeleteBackupOutcome
    | ApplyOutcome
    | RevertOutcome
    | VerifyOutcome
    | RestoreOutcome,
    Field(discriminator="verb"),
]


class StepOutcome(Model):
    """The termination message of a step: at most 4,096 bytes of JSON."""

    contract_version: str = CONTRACT_VERSION
    request_hash: str
    attempt: int = 1
    started_at: datetime
    ended_at: datetime
    verbs: tuple[VerbOutcome, ...] = ()
    """Outcomes of the verbs that ran; the last one may belong to the verb that failed."""
    failure: Failure | None = None
    resumed: bool = False
    """Whether the journal already held this outcome and nothing was done again."""

    def get(self, kind: type[T]) -> T | None:
        """The outcome of the verb with that model, or None."""
        return next((o for o in self.verbs if isinstance(o, kind)), None)

    def encode(self, clean: Callable[[str], str] = str) -> bytes:
        """The outcome as JSON of at most 4,096 bytes; long texts and lists give way, facts never do.

        *clean* takes secrets out of the texts for people, before a cut could leave half of one.
        Raises ValueError when even the bare facts do not fit (a bug: every list in the models is bounded).
        """
        data = b""
        for limit in (1_000, 400, 160, 60):
            data = canonical_json(_shorten(self.to_json(), limit, clean))
            if len(data) <= OUTCOME_LIMIT:
                return data
        raise ValueError(f"the outcome needs {len(data)} bytes, more than {OUTCOME_LIMIT}")

    @staticmethod
    def decode(data: bytes | str) -> "StepOutcome":
        """The outcome in a termination message. Raises ValueError when it is none."""
        return StepOutcome.model_validate_json(data)


_FREE_TEXT = {"message", "standing", "statement", "hint", "why", "query"}
_SAMPLES = {"first", "pendingNames", "warnings", "blockers"}


def _shorten(value: Any, limit: int, clean: Callable[[str], str], key: str = "") -> Any:
    """*value* with free texts of at most *limit* characters and samples of at most limit // 60 entries."""
    if isinstance(value, dict):
        return {k: _shorten(v, limit, clean, k) for k, v in value.items()}
    if isinstance(value, list):
        kept = value[: max(1, limit // 60)] if key in _SAMPLES else value
        return [_shorten(v, limit, clean, "message" if key == "warnings" else "") for v in kept]
    if isinstance(value, str) and key in _FREE_TEXT:
        text = clean(value)
        return text if len(text) <= limit else text[: limit - 1] + "…"
    return value
