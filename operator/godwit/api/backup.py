"""DatabaseBackup: one backup of one database."""

from datetime import datetime
from typing import ClassVar

from godwit.api.common import ApiModel, LocalRef, Resource, Status, UidRef
from godwit.api.database import BackupMethod, DeletionPolicy, PodTemplate, VolumeDestination, rules
from godwit.api.run import IMMUTABLE
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure
from godwit.contract.request import BackupType, Format


class RunOrder(ApiModel):
    """Why a run ordered this backup, and under which conditions it is of use to it."""

    run: UidRef
    identity: DatabaseIdentity
    from_state: str
    """Digest of the applied history that the dump must hold."""
    expected_journal: int
    image: str
    format: Format = Format.PRISMA
    """The format of the migrations, and with it the history that is looked at."""


class DatabaseBackupSpec(ApiModel):
    """Which database, how much of it."""

    model_config = rules(IMMUTABLE)

    database_ref: LocalRef
    type: BackupType = BackupType.FULL
    method: BackupMethod = BackupMethod.DUMP
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """Retain: the file stays when this object is deleted. Delete: the file goes first."""
    order: RunOrder | None = None
    """Set by the controller on backups that a run needs."""


class DatabaseBackupStatus(Status):
    """Where the file is and what it holds."""

    volume: VolumeDestination | None = None
    pod_template: PodTemplate | None = None
    """Of the pod that wrote the file; the one that deletes it may have to do without the PostgresDatabase."""
    location: str = ""
    size_bytes: int = 0
    sha256: str = ""
    identity: DatabaseIdentity | None = None
    server_version: str = ""
    dump_version: str = ""
    snapshot_at: datetime | None = None
    """What was written later is not in the backup."""
    ended_at: datetime | None = None
    state: str = ""
    """Digest of the applied history in the dump."""
    tables: int = 0
    verified: str = ""
    """Archive: the whole archive was read back and matched its checksum."""
    journal_head: int = 0
    failure: Failure | None = None


class DatabaseBackup(Resource):
    """One backup of one database."""

    KIND: ClassVar[str] = "DatabaseBackup"
    PLURAL: ClassVar[str] = "databasebackups"
    SHORT: ClassVar[str] = "dbb"
    spec: DatabaseBackupSpec
    status: DatabaseBackupStatus = DatabaseBackupStatus()
