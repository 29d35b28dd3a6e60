"""Every reason that a condition, an event or an outcome can carry, defined once.

Three kinds decide what happens next: `Progress` says how things stand and is no error; `Waiting` is tried again by
itself with backoff; `Terminal` sets Stalled until spec, source, history or a request changes.
"""

from enum import StrEnum
from typing import NamedTuple

from godwit.contract.base import Told


class Kind(StrEnum):
    """What follows from a reason."""

    PROGRESS = "Progress"
    WAITING = "Waiting"
    TERMINAL = "Terminal"


class Advice(NamedTuple):
    """A reason's kind, its meaning, and what a person should do next."""

    kind: Kind
    meaning: str
    next: str


class Reason(Told):
    """CamelCase, as Kubernetes' API conventions ask of condition reasons."""

    # How things stand
    UP_TO_DATE = "UpToDate"
    CHECKED = "Checked"
    CHECKING = "Checking"
    PLANNING = "Planning"
    PENDING = "Pending"
    SUSPENDED = "Suspended"
    RUNNING = "Running"
    BACKING_UP = "BackingUp"
    APPLYING = "Applying"
    REVERTING = "Reverting"
    RESTORING = "Restoring"
    DELETING = "Deleting"
    SUCCEEDED = "Succeeded"
    BACKED_UP = "BackedUp"
    RESTORED = "Restored"
    # The cluster
    DATABASE_NOT_FOUND = "DatabaseNotFound"
    BACKUP_NOT_FOUND = "BackupNotFound"
    SOURCE_MISSING = "SourceMissing"
    SECRET_MISSING = "SecretMissing"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    POD_REFUSED = "PodRefused"
    POD_PENDING = "PodPending"
    POD_UNREACHABLE = "PodUnreachable"
    DATABASE_BUSY = "DatabaseBusy"
    STEP_CRASHED = "StepCrashed"
    STEP_LOST = "StepLost"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    NAME_TAKEN = "NameTaken"
    CANCELLED = "Cancelled"
    # The connection
    CONNECTION_INVALID = "ConnectionInvalid"
    DATABASE_UNREACHABLE = "DatabaseUnreachable"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    TLS_REFUSED = "TlsRefused"
    DATABASE_MISSING = "DatabaseMissing"
    ROLE_REFUSED = "RoleRefused"
    POOLER_REFUSED = "PoolerRefused"
    STANDBY_REFUSED = "StandbyRefused"
    DATABASE_CHANGED = "DatabaseChanged"
    CONNECTION_LOST = "ConnectionLost"
    PERMISSION_DENIED = "PermissionDenied"
    JOURNAL_FORBIDDEN = "JournalForbidden"
    # The source and the plan
    SOURCE_INVALID = "SourceInvalid"
    SOURCE_UNSUPPORTED = "SourceUnsupported"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    SOURCE_CHANGED = "SourceChanged"
    SQL_INVALID = "SqlInvalid"
    ENCODING_INVALID = "EncodingInvalid"
    STATEMENT_REFUSED = "StatementRefused"
    PROVIDER_MISMATCH = "ProviderMismatch"
    TARGET_NOT_FOUND = "TargetNotFound"
    EDITED_MIGRATION = "EditedMigration"
    MISSING_ON_DISK = "MissingOnDisk"
    FAILED_EARLIER = "FailedEarlier"
    OUT_OF_ORDER = "OutOfOrder"
    HISTORY_MISSING = "HistoryMissing"
    RESOLVED = "Resolved"
    RESOLVE_REFUSED = "ResolveRefused"
    DOWN_MISSING = "DownMissing"
    DOWNGRADE_FORBIDDEN = "DowngradeForbidden"
    INVALID_INDEX = "InvalidIndex"
    RESTORED_HOLD = "RestoredHold"
    REQUEST_TOO_LARGE = "RequestTooLarge"
    # The run
    PLAN_CHANGED = "PlanChanged"
    STATE_MOVED = "StateMoved"
    TOO_LATE = "TooLate"
    LOCK_HELD = "LockHeld"
    TABLE_LOCKED = "TableLocked"
    LOCK_BUDGET_EXCEEDED = "LockBudgetExceeded"
    LOCK_HOLD_EXCEEDED = "LockHoldExceeded"
    LOCK_HOLD_PREDICTED = "LockHoldPredicted"
    LOCK_WAITERS = "LockWaiters"
    MIGRATION_FAILED = "MigrationFailed"
    TRANSACTION_BROKEN = "TransactionBroken"
    SESSION_CHANGED = "SessionChanged"
    CHECK_FAILED = "CheckFailed"
    VERIFY_FAILED = "VerifyFailed"
    PARTIALLY_APPLIED = "PartiallyApplied"
    TAKEN_BACK = "TakenBack"
    DATA_WOULD_BE_LOST = "DataWouldBeLost"
    # Backups and restores
    BACKUP_FAILED = "BackupFailed"
    BACKUP_UNUSABLE = "BackupUnusable"
    STORE_UNAVAILABLE = "StoreUnavailable"
    SERVER_TOO_NEW = "ServerTooNew"
    RESTORE_NOT_POSSIBLE = "RestoreNotPossible"
    RESTORE_FAILED = "RestoreFailed"
    SHARED_DATABASE = "SharedDatabase"
    FENCE_LEFT = "FenceLeft"
    # Godwit itself
    CONTRACT_MISMATCH = "ContractMismatch"
    INTERNAL_ERROR = "InternalError"

    @property
    def advice(self) -> Advice:
        """Kind, meaning and next step of this reason."""
        return CATALOGUE.get(self, _NEWER)

    @property
    def terminal(self) -> bool:
        """Whether only a change of spec, source, history or a request can help."""
        return self.advice.kind is Kind.TERMINAL


def _p(meaning: str, then: str = "Nothing: Godwit goes on by itself.") -> Advice:
    return Advice(Kind.PROGRESS, meaning, then)


def _w(meaning: str, then: str) -> Advice:
    return Advice(Kind.WAITING, meaning, then)


def _t(meaning: str, then: str) -> Advice:
    return Advice(Kind.TERMINAL, meaning, then)


_NEWER = _t(
    "A reason of a newer version of Godwit.",
    "Read the message; a newer version knows the reason. Then annotate the DatabaseMigration with `godwit.dev/requested-at`.",
)
"""Of what this version does not know: whether it would pass by itself is for a person to say."""

# fmt: off
# A table: one reason a row.
CATALOGUE: dict[Reason, Advice] = {
    Reason.UP_TO_DATE: _p("The database is at the wanted version, and its history says so.", "Nothing."),
    Reason.CHECKED: _p("The database answers and can be worked with.", "Nothing."),
    Reason.CHECKING: _p("The database is being looked at."),
    Reason.PLANNING: _p("The source is being compared with the database's history."),
    Reason.PENDING: _p("Migrations are pending and a run is about to start."),
    Reason.SUSPENDED: _p("Suspended: the plan is in the status, nothing runs.", "Read it with `godwit plan`; set `spec.suspend` to false to run it."),
    Reason.RUNNING: _p("A run is under way."),
    Reason.BACKING_UP: _p("The backup that the run needs is being made and read back."),
    Reason.APPLYING: _p("Migrations are being applied and verified."),
    Reason.REVERTING: _p("Migrations are being taken back."),
    Reason.RESTORING: _p("A backup is being restored beside the live database."),
    Reason.DELETING: _p("The object is being deleted; what runs is brought to an end first."),
    Reason.SUCCEEDED: _p("Done, and verified.", "Nothing."),
    Reason.BACKED_UP: _p("The backup is complete and was read back.", "Nothing."),
    Reason.RESTORED: _p("The backup is the live database now; the former one is kept.", "Drop the former database when nobody needs it."),
    Reason.DATABASE_NOT_FOUND: _w("No PostgresDatabase of that name is in this namespace.", "Create it, or correct `spec.databaseRef` (another namespace is never looked into)."),
    Reason.BACKUP_NOT_FOUND: _w("No finished DatabaseBackup of that name is in this namespace.", "Correct `spec.backupRef`, or wait for the backup."),
    Reason.SOURCE_MISSING: _w("A ConfigMap of the source, or a key in it, does not exist.", "Create it, or correct `spec.source`."),
    Reason.SECRET_MISSING: _w("A Secret, or a key in it, that the step needs does not exist.", "Create the Secret; the step starts by itself."),
    Reason.IMAGE_UNAVAILABLE: _w("An image of the step cannot be pulled.", "Correct the reference, or give the pod template its pull secret."),
    Reason.POD_REFUSED: _w("The API server refused the step's pod, or a change of an object (quota, policy, admission).", "Read the message; raise the quota, change the pod template, or allow what was refused."),
    Reason.POD_PENDING: _w("The step's pod is not running yet.", "Read the message; see `kubectl describe pod`."),
    Reason.POD_UNREACHABLE: _w("The step's pod should be gone and is not, or its node does not report it any more; whether its process still works is not known.", "See to it that the node is down, or that the process has ended: a second one is not started beside it. Then delete the Job that the message names (`kubectl delete job`; the pod itself with `--force` after that, should it stay): the journal is asked what was done."),
    Reason.DATABASE_BUSY: _w("Another operation holds this database.", "Wait for it, or look at `status.activeOperation` of the PostgresDatabase."),
    Reason.STEP_CRASHED: _w("The step ended without an outcome (killed, out of memory, node lost).", "Nothing at first: it is tried again. Then read its log, raise its memory."),
    Reason.STEP_LOST: _w("The step's Job is gone without an outcome.", "Nothing: the journal in the database is asked what happened."),
    Reason.DEADLINE_EXCEEDED: _t("The step was tried as often, or as long, as allowed.", "Read the last message, mend its cause, then annotate the DatabaseMigration with `godwit.dev/requested-at`; make a backup or restore of your own anew."),
    Reason.NAME_TAKEN: _t("An object that Godwit needs exists already and is not its own.", "Delete or rename the stranger."),
    Reason.CANCELLED: _t("Stopped by the annotation `godwit.dev/cancel`.", "Annotate the DatabaseMigration with `godwit.dev/requested-at` to run it after all."),
    Reason.CONNECTION_INVALID: _t("The connection cannot be understood.", "Correct the URI or the parts as the message says. Then annotate what is Stalled with `godwit.dev/requested-at`."),
    Reason.DATABASE_UNREACHABLE: _w("PostgreSQL does not answer.", "Check host, port, network policy and the server; it is tried again."),
    Reason.AUTHENTICATION_FAILED: _w("PostgreSQL refused the user or the password.", "Correct the Secret; it is tried again."),
    Reason.TLS_REFUSED: _w("The encrypted connection did not come about: no TLS, or a certificate that is not trusted.", "Read the message: correct the authority (`sslcert` in Prisma's terms, `sslrootcert` in libpq's), the host name, or `sslmode`; it is tried again."),
    Reason.DATABASE_MISSING: _w("The server has no database of that name.", "Create it, or correct the connection."),
    Reason.ROLE_REFUSED: _t("The session may not take `connection.role`.", "GRANT the role to the login user. Then annotate what is Stalled with `godwit.dev/requested-at`."),
    Reason.POOLER_REFUSED: _t("A pooler stands between that was not declared, or that is in transaction mode: session locks would not hold.", "Give a direct connection, or declare `connection.pooler: Session` where the pooler keeps sessions. Then annotate what is Stalled with `godwit.dev/requested-at`."),
    Reason.STANDBY_REFUSED: _w("The server is a standby (in recovery).", "Point the connection at the primary."),
    Reason.DATABASE_CHANGED: _t("This is not the database that was planned for.", "If the change is not meant, correct the connection. In either case annotate both the PostgresDatabase and the DatabaseMigration with `godwit.dev/requested-at` then."),
    Reason.CONNECTION_LOST: _w("The connection broke during the step.", "Nothing: the journal tells what was committed, and the step goes on from there."),
    Reason.PERMISSION_DENIED: _t("The role lacks a right in the database.", "Grant what the message names. Then annotate what is Stalled with `godwit.dev/requested-at`."),
    Reason.JOURNAL_FORBIDDEN: _t("The role may not create or use the schema `godwit`, where the journal is.", "Run the GRANT that the message shows. Then annotate what is Stalled with `godwit.dev/requested-at`."),
    Reason.SOURCE_INVALID: _t("The source is not a migration folder of its format.", "See the documentation of sources; `godwit pack FOLDER` makes ConfigMaps."),
    Reason.SOURCE_UNSUPPORTED: _t("The source holds something that only the migration tool itself can run.", "Write it as plain SQL, or go on with the tool; the page on formats lists what is refused."),
    Reason.CHECKSUM_MISMATCH: _t("The folder's files are not those that its sum file (`atlas.sum`) was made of.", "Take back what changed by mistake; where it is meant, run `atlas migrate hash` and commit the sum file with it."),
    Reason.SOURCE_CHANGED: _w("The mounted source is not the one that was planned.", "Nothing: it is planned again."),
    Reason.SQL_INVALID: _t("PostgreSQL's parser refuses a file.", "Correct the file at the line given."),
    Reason.ENCODING_INVALID: _t("A file is not valid UTF-8, or holds a NUL or a byte order mark.", "Save the file as UTF-8."),
    Reason.STATEMENT_REFUSED: _t("A statement cannot be run by a migration.", "Change the file as the message says."),
    Reason.PROVIDER_MISMATCH: _t("migration_lock.toml names another provider than postgresql.", "Use the migrations that were made for PostgreSQL."),
    Reason.TARGET_NOT_FOUND: _t("`spec.targetVersion` names no migration, or one that nothing leads to.", "Correct the name, or bring the source that has it."),
    Reason.EDITED_MIGRATION: _t("A migration was edited after it had been applied.", "Restore the file as it was, and make a new migration; or set `spec.editedMigrations` to Warn or Accept."),
    Reason.MISSING_ON_DISK: _t("The history has a migration that the source lacks.", "Bring it back into the source, or set `spec.targetVersion` to go down."),
    Reason.FAILED_EARLIER: _t("The history has a migration that failed and was not resolved.", "Bring the database in order, then say in `spec.resolve` what became of it, or to the migration tool (`prisma migrate resolve`, `migrate force`, `flyway repair`, `atlas migrate apply`) and annotate the DatabaseMigration with `godwit.dev/requested-at`."),
    Reason.OUT_OF_ORDER: _t("A pending migration is older than an applied one.", "Where it is refused (goose, Flyway and Atlas go by order), give its file a version above the newest applied one; where it is a warning, see to it that it does not depend on order."),
    Reason.HISTORY_MISSING: _t("The schema has tables but no history.", "Name in `spec.baseline` the newest migration that it has already, or to the migration tool (`prisma migrate resolve --applied`, `migrate force`, `flyway baseline`, `atlas migrate set`) and annotate the DatabaseMigration with `godwit.dev/requested-at`."),
    Reason.RESOLVED: _p("`spec.resolve` or `spec.baseline` changes what the history says; nothing of those migrations runs."),
    Reason.RESOLVE_REFUSED: _t("`spec.resolve` or `spec.baseline` says what cannot be carried out, or what the tool's history cannot say.", "Take the entry out, or correct it as the message says."),
    Reason.DOWN_MISSING: _t("A migration that must be taken back has no down.sql.", "Add it to the source (other tools have other files for it, see the page on formats), or set `spec.targetVersion` up again and go forward by a new migration."),
    Reason.DOWNGRADE_FORBIDDEN: _t("In Production a lower targetVersion needs `spec.allowDowngrade`.", "Set `spec.allowDowngrade` to true, or set `spec.targetVersion` up again and go forward by a new migration."),
    Reason.INVALID_INDEX: _p("The database has an INVALID index.", "Drop it concurrently and build it again."),
    Reason.RESTORED_HOLD: _t("These migrations were taken away by a restore and are held.", "Change the DatabaseMigration's spec or its source, or annotate it with `godwit.dev/requested-at`."),
    Reason.REQUEST_TOO_LARGE: _t("The checks in `spec.verify` are together larger than what a step can be given.", "Shorten them: a long query fits into a view, or a function, that the check asks."),
    Reason.PLAN_CHANGED: _w("Under the lock the plan came out different.", "Nothing: it is planned again."),
    Reason.STATE_MOVED: _w("Somebody else changed the database since the plan.", "Nothing: it is planned again."),
    Reason.TOO_LATE: _w("The step came later than it was allowed to.", "Nothing: it is started again with a new time, or a new backup."),
    Reason.LOCK_HELD: _w("Another migrator holds the migration lock.", "Wait for it; the message names its process."),
    Reason.TABLE_LOCKED: _w("Another session locks a table that has to be read.", "Wait for it, or end the session that holds the lock (`pg_locks`)."),
    Reason.LOCK_BUDGET_EXCEEDED: _t("Busy locks used up the lock budget.", "End the sessions that the message names, then annotate the DatabaseMigration with `godwit.dev/requested-at`."),
    Reason.LOCK_HOLD_EXCEEDED: _t("A migration would have held its locks for longer than `maxLockHold`; it was rolled back.", "Use the safe way (NOT VALID, CONCURRENTLY, batches) or raise `maxLockHold`."),
    Reason.LOCK_HOLD_PREDICTED: _t("A table is so large that the plan is sure to hold locks on it for longer than `maxLockHold`; nothing was run.", "Use the way that the message names (CONCURRENTLY; NOT VALID, then VALIDATE; a new column filled in batches), or raise `strategy.maxLockHold` for a time when nobody is kept waiting."),
    Reason.LOCK_WAITERS: _t("Sessions of others wait on the migration lock and would deadlock with CONCURRENTLY.", "End the sessions that the message names. Then annotate what is Stalled with `godwit.dev/requested-at`."),
    Reason.MIGRATION_FAILED: _t("A migration failed and was rolled back.", "Correct the migration at the line given."),
    Reason.TRANSACTION_BROKEN: _t("A migration ended the transaction that it ran in.", "Take COMMIT, ROLLBACK and their like out of the file."),
    Reason.SESSION_CHANGED: _t("A migration changed a session setting that outlives it.", "Use SET LOCAL."),
    Reason.CHECK_FAILED: _t("A check failed before COMMIT; nothing of that migration was kept.", "Read the check's message; correct the migration or the check."),
    Reason.VERIFY_FAILED: _t("A check failed after COMMIT; nothing else was touched.", "Look at the database, then decide: forward, down, or a DatabaseRestore; where it is right as it is by now, annotate the DatabaseMigration with `godwit.dev/requested-at`."),
    Reason.PARTIALLY_APPLIED: _t("A file that ran outside a transaction is half done.", "See where the database stands in the message. Finish or undo the file by hand and say in `spec.resolve` that it is Applied or RolledBack (a way back that you finished: remove its history row instead, and annotate the DatabaseMigration with `godwit.dev/requested-at`); or restore a backup by a DatabaseRestore."),
    Reason.TAKEN_BACK: _t("The run failed and its migrations were taken back.", "Correct the migration that failed."),
    Reason.DATA_WOULD_BE_LOST: _t("Going on would lose data that was written meanwhile.", "Go forward by a new migration; where the loss is meant, set `spec.rollback.acceptDataLoss` on the PostgresDatabase, or make another DatabaseRestore, with `acceptDataLoss: true`."),
    Reason.BACKUP_FAILED: _t("The backup failed; no migration ran.", "Read the message; mend its cause, then annotate the DatabaseMigration with `godwit.dev/requested-at`, or make another DatabaseBackup."),
    Reason.BACKUP_UNUSABLE: _t("The backup is not usable: damaged, of another database, or of another state.", "For a restore of your own make another DatabaseBackup. A run makes its own: annotate the DatabaseMigration with `godwit.dev/requested-at`."),
    Reason.STORE_UNAVAILABLE: _w("The backup store is full or cannot be written.", "Enlarge or repair the volume; it is tried again."),
    Reason.SERVER_TOO_NEW: _t("The server is newer than the client programs of the step's image.", "Use an image with a client of the server's major version or newer."),
    Reason.RESTORE_NOT_POSSIBLE: _t("A restore by swap is not possible here.", "See the message for what stands in the way."),
    Reason.RESTORE_FAILED: _t("The restore failed; the live database is as it was.", "Read the message."),
    Reason.SHARED_DATABASE: _t("Others share this database and have written since the backup.", "Restore by hand what is yours, or agree with the others."),
    Reason.FENCE_LEFT: _t("The database is closed to connections, and the step could not open it again.", "Run the statements that the message shows, in another database of the server (`postgres`)."),
    Reason.CONTRACT_MISMATCH: _t("The step's image speaks another contract version than the controller.", "Use the same release for both."),
    Reason.INTERNAL_ERROR: _w("Godwit itself failed.", "Report it with the step's log; it is tried again."),
}
# fmt: on
