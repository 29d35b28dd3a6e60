"""Observations in few words: objects as they might stand, so that a case is three to six lines."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from godwit.api.backup import DatabaseBackup, RunOrder
from godwit.api.common import (
    FINALIZER,
    Condition,
    LocalRef,
    Metadata,
    OwnerReference,
    Resource,
    SecretKey,
    StepRecord,
    UidRef,
)
from godwit.api.database import (
    ActiveOperation,
    BackupPolicy,
    ConnectionSpec,
    PostgresDatabase,
    VolumeDestination,
)
from godwit.api.migration import DatabaseMigration, PinnedSource
from godwit.api.restore import DatabaseRestore
from godwit.api.run import MigrationRun
from godwit.contract.base import CONTRACT_VERSION
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure, StepOutcome
from godwit.contract.policy import Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, Format, PlanRef
from godwit.planner.decision import Decision, Effect, StepSeen, StepState

R = TypeVar("R", bound=Resource)
E = TypeVar("E", bound=Effect)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
IMAGE = "godwit@sha256:" + "a" * 64
IDENTITY = DatabaseIdentity(system_identifier="7300000000000000001", database_oid=16_384, name="shop")
OTHER = DatabaseIdentity(system_identifier="7300000000000000001", database_oid=16_999, name="shop")
HELD = (FINALIZER,)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def later(**span: float) -> datetime:
    return NOW + timedelta(**span)


def failure(reason: Reason, message: str = "It did not work.") -> Failure:
    return Failure(reason=reason, message=message)


def outcome(*verbs: Any, reason: Reason | None = None, message: str = "It did not work.") -> StepOutcome:
    return StepOutcome(
        request_hash="h",
        started_at=NOW,
        ended_at=NOW,
        verbs=verbs,
        failure=None if reason is None else failure(reason, message),
    )


def finished(*verbs: Any, reason: Reason | None = None) -> StepSeen:
    return StepSeen(StepState.FINISHED, outcome=outcome(*verbs, reason=reason))


def record(name: str, **more: Any) -> StepRecord:
    return StepRecord.model_validate({"name": name, "job": f"job-{name}-1", "started_at": NOW, **more})


def condition(kind: str, status: str, reason: str = "Checked", message: str = "") -> Condition:
    return Condition(
        type=kind, status=status, reason=reason, message=message, last_transition_time=ago(hours=1)
    )


READY = (condition("Ready", "True"),)
STALLED = (condition("Ready", "False", "BackupFailed"), condition("Stalled", "True", "BackupFailed"))


def meta(name: str, **more: Any) -> Metadata:
    return Metadata.model_validate(
        {"name": name, "namespace": "team", "uid": f"uid-{name}", "resource_version": "7", **more}
    )


def touched(resource: R, *, status: dict[str, Any] | None = None, **metadata: Any) -> R:
    """The same object with other metadata and with other fields in its status."""
    told = resource.status.model_copy(update=status or {})  # type: ignore[attr-defined]
    return resource.model_copy(
        update={"metadata": resource.metadata.model_copy(update=metadata), "status": told}
    )


def operation(uid: str = "uid-shop-1", kind: str = "MigrationRun", name: str = "shop-1") -> ActiveOperation:
    return ActiveOperation(kind=kind, name=name, uid=uid, since=ago(minutes=5))


def database(
    *, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **metadata: Any
) -> PostgresDatabase:
    """PostgresDatabase shop: Production, with a volume for its backups, looked at a minute ago."""
    made = PostgresDatabase.model_validate(
        {
            "metadata": meta("shop"),
            "spec": {
                "connection": {"uri_from": {"name": "shop", "key": "uri"}},
                "backup": {"volume": {"claim_name": "backups"}},
                **(spec or {}),
            },
            "status": {
                "identity": IDENTITY,
                "checked_at": ago(minutes=1),
                "check_key": "1//",
                "server_version": "16.4",
                "conditions": READY,
            },
        }
    )
    return touched(made, status=status, **metadata)


def migration(
    *, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **metadata: Any
) -> DatabaseMigration:
    """DatabaseMigration shop of ConfigMap shop-files; never planned unless the status says so."""
    made = DatabaseMigration.model_validate(
        {
            "metadata": meta("shop"),
            "spec": {
                "database_ref": {"name": "shop"},
                "source": {"config_maps": [{"name": "shop-files"}]},
                **(spec or {}),
            },
        }
    )
    return touched(made, status=status, **metadata)


REF = PlanRef(
    content="c" * 64, plan="p" * 64, direction=Direction.UP, from_state="s0", to_state="s2", target="m2"
)


def run(
    *, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **metadata: Any
) -> MigrationRun:
    """MigrationRun shop-1: two migrations up, with a backup; nothing of it done yet."""
    made = MigrationRun.model_validate(
        {
            "metadata": meta(
                "shop-1",
                owner_references=[
                    OwnerReference(
                        api_version="godwit.dev/v1alpha1",
                        kind="DatabaseMigration",
                        name="shop",
                        uid="uid-shop",
                    )
                ],
            ),
            "spec": {
                "migration_ref": UidRef(name="shop", uid="uid-shop"),
                "database_ref": UidRef(name="shop", uid="uid-shop"),
                "plan": REF,
                "pending": 2,
                "identity": IDENTITY,
                "expected_journal": 4,
                "format": Format.PRISMA,
                "source": PinnedSource(config_maps=("shop-source-0",), content="0"),
                "policy": Policy(),
                "connection": ConnectionSpec(uri_from=SecretKey(name="shop", key="uri")),
                "schemas": ("public",),
                "backup": BackupPolicy(volume=VolumeDestination(claim_name="backups")),
                "rollback": {},
                "image": IMAGE,
                "contract_version": CONTRACT_VERSION,
                **(spec or {}),
            },
        }
    )
    return touched(made, status=status, **metadata)


ORDER = RunOrder(
    run=UidRef(name="shop-1", uid="uid-shop-1"),
    identity=IDENTITY,
    from_state="s0",
    expected_journal=4,
    image=IMAGE,
)


def backup(
    *, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **metadata: Any
) -> DatabaseBackup:
    """DatabaseBackup shop-1-backup, ordered by run shop-1; nothing of it done yet."""
    made = DatabaseBackup.model_validate(
        {
            "metadata": meta("shop-1-backup"),
            "spec": {"database_ref": LocalRef(name="shop"), "order": ORDER, **(spec or {})},
        }
    )
    return touched(made, status=status, **metadata)


DONE = {
    "location": "team/shop/b.dump",
    "volume": VolumeDestination(claim_name="backups"),
    "identity": IDENTITY,
    "sha256": "f" * 64,
    "ended_at": ago(minutes=1),
    "state": "s0",
    "verified": "Archive",
    "conditions": READY,
}
"""Status of a backup that is finished and usable for run shop-1."""


def restore(
    *, status: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **metadata: Any
) -> DatabaseRestore:
    """DatabaseRestore undo of that backup, made by a person; nothing of it done yet."""
    made = DatabaseRestore.model_validate(
        {
            "metadata": meta("undo"),
            "spec": {
                "database_ref": LocalRef(name="shop"),
                "backup_ref": LocalRef(name="shop-1-backup"),
                **(spec or {}),
            },
        }
    )
    return touched(made, status=status, **metadata)


def only(decision: Decision, kind: type[E]) -> E:
    """The one effect of that kind."""
    (found,) = of(decision, kind)
    return found


def of(decision: Decision, kind: type[E]) -> list[E]:
    return [effect for effect in decision.effects if isinstance(effect, kind)]


def stand(decision: Decision) -> tuple[str, str, bool]:
    """(Ready, its reason, whether Stalled)."""
    ready = decision.status.condition("Ready")
    assert ready is not None
    return ready.status, ready.reason, decision.status.condition("Stalled") is not None
