"""PostgresDatabase: where a database is, how much it matters, where its backups go."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from godwit.api.common import (
    LIST_MAP_BY_NAME,
    ApiModel,
    Duration,
    LocalRef,
    Resource,
    SecretKey,
    Status,
)
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure, RungState
from godwit.contract.policy import Environment, Pooler


def rules(*pairs: tuple[str, str]) -> ConfigDict:
    """CEL rules for a model: (rule, message) pairs, as `x-kubernetes-validations`."""
    return ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [{"rule": rule, "message": text} for rule, text in pairs]
        }
    )


class ConnectionParts(ApiModel):
    """A connection in parts, with user and password from Secrets."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: Annotated[str, Field(min_length=1, max_length=63)]
    sslmode: Annotated[str, Field(pattern="^(disable|allow|prefer|require|verify-ca|verify-full)$")] = (
        "prefer"
    )
    user_from: SecretKey
    password_from: SecretKey


class ConnectionSpec(ApiModel):
    """How to reach the database: a URI in a Secret, or parts."""

    model_config = rules(("has(self.uriFrom) != has(self.parts)", "give exactly one of uriFrom and parts"))

    uri_from: SecretKey | None = None
    """Secret key with a libpq or Prisma connection URI."""
    parts: ConnectionParts | None = None
    role: Annotated[str, Field(max_length=63)] = ""
    """Role that owns what migrations make; the login user must be a member."""
    pooler: Pooler | None = None
    """Set to Session where a session pooler stands between. Transaction poolers are refused."""


class DeletionPolicy(StrEnum):
    """What happens to a backup's file when its object is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class BackupMethod(StrEnum):
    """How a backup is made."""

    DUMP = "Dump"


class VolumeDestination(ApiModel):
    """A folder of a PersistentVolumeClaim in the same namespace."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]
    path: Annotated[
        str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    ] = ""
    """Folder in the volume; empty for its root."""


class BackupPolicy(ApiModel):
    """Whether runs need a backup, and where backups go."""

    model_config = rules(("!self.required || has(self.volume)", "a required backup needs a volume"))

    required: bool = True
    """Whether a run needs a usable backup of this database before it applies anything. Production: always."""
    method: BackupMethod = BackupMethod.DUMP
    volume: VolumeDestination | None = None
    max_age: Duration = "1h"
    """How old, counted from its end, a backup may be when Apply takes its lock."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 10
    """How many finished backups made by runs are kept; the newest usable one always is."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """Given to the backups that runs make."""


class RollbackConsent(ApiModel):
    """What Godwit may do by itself to this database when a run fails. Everything here is off by default."""

    automatic_restore: bool = False
    """A failed run may restore its own backup (Swap) when no gentler way back works."""
    accept_data_loss: bool = False
    """That restore, or a down.sql, may lose what was written since the backup or the migration."""


Quantity = Annotated[
    int | str,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^[0-9]+(\.[0-9]+)?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]+)?$",
        }
    ),
]
"""A resource quantity as in a container: `500m`, `1.5`, `256Mi`, or a plain number."""


class Resources(TypedDict, total=False):
    """requests and limits as in a container."""

    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Toleration(TypedDict, total=False):
    """A toleration as in a pod (core/v1 Toleration)."""

    key: str
    operator: Literal["Exists", "Equal"]
    value: str
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    tolerationSeconds: int


class PodTemplate(ApiModel):
    """What may be set on the pods of steps: a closed list."""

    resources: Resources = Resources()
    """requests and limits as in a container."""
    node_selector: dict[str, str] = Field(default={})
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    image_pull_secrets: Annotated[
        tuple[LocalRef, ...], Field(max_length=16, json_schema_extra=LIST_MAP_BY_NAME)
    ] = ()
    labels: dict[str, str] = Field(default={})
    service_account_name: Annotated[str, Field(max_length=253)] = ""
    priority_class_name: Annotated[str, Field(max_length=253)] = ""


class PostgresDatabaseSpec(ApiModel):
    """Where, how much it matters, where backups go."""

    model_config = rules(
        (
            "has(self.backup)",
            "say where backups go (backup.volume), or that none is required (backup.required: false)",
        ),
        (
            "self.environment != 'Production' || !has(self.backup) || self.backup.required",
            "in Production a backup is always required",
        ),
    )

    connection: ConnectionSpec
    environment: Annotated[
        Environment,
        Field(
            json_schema_extra={
                "x-kubernetes-validations": [
                    {
                        "rule": "self == oldSelf || oldSelf == 'Development' || self == 'Production'",
                        "message": "environment can only become stricter",
                    }
                ]
            }
        ),
    ] = Environment.PRODUCTION
    schemas: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=63)], ...],
        Field(min_length=1, max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ("public",)
    """Schemas that belong to this team; the scope of counts, fingerprints and comparisons."""
    backup: Annotated[BackupPolicy, Field(json_schema_extra={"default": None})] = BackupPolicy()
    """Whether runs need a backup, and where backups go. Must be given: no default could know the volume."""
    rollback: RollbackConsent = RollbackConsent()
    show_blocking_queries: bool = False
    """Whether statuses and logs may hold the text of queries that stand in a migration's way: it may quote
    row data."""
    pod_template: PodTemplate = PodTemplate()
    check_interval: Duration = "1h"
    """How often a settled database is looked at again."""


class ActiveOperation(ApiModel):
    """Who holds this database: at most one run or restore at a time."""

    kind: str
    name: str
    uid: str
    since: datetime


class PostgresDatabaseStatus(Status):
    """What the last look at the database said."""

    identity: DatabaseIdentity | None = None
    server_version: str = ""
    size_bytes: int = 0
    stamp: Environment | None = None
    """Environment that the database's own journal is stamped with."""
    replicas: int = 0
    """Standbys and other receivers of WAL that were connected."""
    replica_lag_bytes: int | None = None
    """WAL, in bytes, that the slowest of them had not replayed yet; none where that cannot be seen."""
    rollback_options: tuple[RungState, ...] = ()
    warnings: tuple[str, ...] = ()
    checked_at: datetime | None = None
    check_key: str = ""
    """What the last look was for: generation, request, interval."""
    failure: Failure | None = None
    """Why the last look was not a success."""
    active_operation: ActiveOperation | None = None


class PostgresDatabase(Resource):
    """A PostgreSQL database that Godwit works on."""

    KIND: ClassVar[str] = "PostgresDatabase"
    PLURAL: ClassVar[str] = "postgresdatabases"
    SHORT: ClassVar[str] = "pgdb"
    spec: PostgresDatabaseSpec
    status: PostgresDatabaseStatus = PostgresDatabaseStatus()
