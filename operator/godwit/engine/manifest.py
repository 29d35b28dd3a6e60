"""What is known of a backup besides its bytes: kept beside it and written last, so it means `finished`."""

from datetime import datetime

from pydantic import Field, ValidationError

from godwit.contract.base import Model, canonical_json
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import BackupOutcome
from godwit.contract.reasons import Reason
from godwit.contract.request import BackupType
from godwit.engine.errors import fail
from godwit.engine.snapshot import TableCount
from godwit.stores.base import Store

SUFFIX = ".json"


class Manifest(Model):
    """A finished backup. Times are the database server's, sizes bytes."""

    version: int = 1
    identity: DatabaseIdentity
    type: BackupType
    sha256: str
    """Of the whole archive, lower-case hexadecimal."""
    size_bytes: int
    server_version: int
    dump_version: str
    snapshot: str
    """`pg_current_snapshot()` of the dump: what it saw."""
    lsn: str
    """`pg_current_wal_lsn()` when the snapshot was taken."""
    started_at: datetime
    """When the snapshot was taken: what was written later is not in the dump."""
    ended_at: datetime
    state: str
    """Digest of the applied history inside the snapshot."""
    current: str = ""
    """Name of the newest applied migration inside the snapshot."""
    journal_head: int = 0
    encoding: str
    collate: str
    ctype: str
    extensions: dict[str, str] = Field(default_factory=dict)
    """name -> version."""
    tables: dict[str, TableCount] = Field(default_factory=dict)
    """`schema.table` -> its rows in the snapshot; empty for SchemaOnly."""

    def outcome(self, location: str) -> BackupOutcome:
        """The facts that the other wing wants to know."""
        return BackupOutcome(
            type=self.type,
            identity=self.identity,
            location=location,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            server_version=self.server_version,
            dump_version=self.dump_version,
            started_at=self.started_at,
            ended_at=self.ended_at,
            state=self.state,
            tables=len(self.tables),
            rows=sum(t.rows for t in self.tables.values()),
            journal_head=self.journal_head,
        )


def read_manifest(store: Store, location: str) -> Manifest | None:
    """The manifest of the backup at *location*, None where no backup was finished there.

    Raises StepFailed(BackupUnusable) when it is damaged, StoreError.
    """
    try:
        data = store.read(location + SUFFIX)
    except FileNotFoundError:
        return None
    try:
        return Manifest.model_validate_json(data)
    except ValidationError:
        raise fail(Reason.BACKUP_UNUSABLE, f"The manifest of {location} is damaged.") from None


def write_manifest(store: Store, location: str, manifest: Manifest) -> None:
    """Put *manifest* beside the archive at *location*. Raises StoreError."""
    with store.create(location + SUFFIX) as file:
        file.write(canonical_json(manifest))
