"""DatabaseRestore: one restore of one backup, done once."""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from godwit.api.backup import RunOrder
from godwit.api.common import ApiModel, LocalRef, Resource, Status
from godwit.api.database import rules
from godwit.api.run import IMMUTABLE
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure


class RestoreMethod(StrEnum):
    """How a backup comes back.

    Swap: built and verified beside the live database, then renamed into its place.
    """

    SWAP = "Swap"


class DatabaseRestoreSpec(ApiModel):
    """Which backup, into which database."""

    model_config = rules(IMMUTABLE)

    database_ref: LocalRef
    backup_ref: LocalRef
    method: RestoreMethod = RestoreMethod.SWAP
    accept_data_loss: bool = False
    """What was written since the backup's snapshot may be lost (it stays in the former database, which
    is kept)."""
    accept_replication_loss: bool = False
    """Logical replication slots and subscriptions stay with the former database and end with it; whoever
    reads from such a slot has to begin anew. Without this they keep the restore from starting."""
    order: RunOrder | None = None
    """Set by the controller on restores that a failed run needs."""


class DatabaseRestoreStatus(Status):
    """What became of it."""

    identity: DatabaseIdentity | None = None
    """Identity of the live database after the swap."""
    old_database: str = ""
    """Name of the former database. It is kept until somebody runs `DROP DATABASE "<name>"`."""
    lost_rows: int = 0
    """Rows written since the backup, which are only in the former database; -1 when unknown."""
    state: str = ""
    current: str = ""
    journal_head: int = 0
    repeats: bool = False
    """An earlier object of the same name and content was carried out, and nothing was done for this one."""
    failure: Failure | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    released: bool = False


class DatabaseRestore(Resource):
    """One restore of one backup."""

    KIND: ClassVar[str] = "DatabaseRestore"
    PLURAL: ClassVar[str] = "databaserestores"
    SHORT: ClassVar[str] = "dbr"
    spec: DatabaseRestoreSpec
    status: DatabaseRestoreStatus = DatabaseRestoreStatus()
