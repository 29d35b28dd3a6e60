"""The API's own refusals: on a real server by its schemas and CEL rules, locally by the same schemas."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from conformance.bed import Bed, database, migration

from godwit.api.common import Metadata, UidRef
from godwit.api.database import (
    BackupPolicy,
    ConnectionSpec,
    RollbackConsent,
    SecretKey,
)
from godwit.api.migration import PinnedSource
from godwit.api.run import MigrationRun, MigrationRunSpec
from godwit.cluster.port import STATUS_MANAGER, Manifest, RefusedError
from godwit.contract.base import CONTRACT_VERSION
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Failure, StepOutcome
from godwit.contract.policy import Environment, Policy, SqlCheck
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, Format, PlanRef

URI = {"uriFrom": {"name": "shop", "key": "uri"}}
PARTS = {
    "host": "db",
    "database": "shop",
    "userFrom": {"name": "shop", "key": "user"},
    "passwordFrom": {"name": "shop", "key": "password"},
}
VOLUME = {"volume": {"claimName": "backups"}}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def with_spec(manifest: Manifest, **spec: Any) -> Manifest:
    return {**manifest, "spec": {**manifest["spec"], **spec}}


def production(bed: Bed) -> Manifest:
    return with_spec(database(bed), environment="Production", backup=VOLUME)


def run(bed: Bed) -> Manifest:
    """A complete MigrationRun, as the controller makes it."""
    spec = MigrationRunSpec(
        migration_ref=UidRef(name="orders", uid="u-1"),
        database_ref=UidRef(name="shop", uid="u-2"),
        plan=PlanRef(content="c", plan="p", direction=Direction.UP, from_state="f", to_state="t"),
        pending=1,
        identity=DatabaseIdentity(system_identifier="7", database_oid=5),
        expected_journal=0,
        format=Format.PRISMA,
        source=PinnedSource(config_maps=("orders-source-1",)),
        policy=Policy(environment=Environment.STAGING, checks=(SqlCheck(name="any", sql="SELECT true"),)),
        connection=ConnectionSpec(uri_from=SecretKey(name="shop", key="uri")),
        schemas=("public",),
        backup=BackupPolicy(required=False),
        rollback=RollbackConsent(),
        image="godwit:test",
        contract_version=CONTRACT_VERSION,
    )
    return MigrationRun(metadata=Metadata(name="orders-1", namespace=bed.namespace), spec=spec).manifest()


def backup(bed: Bed) -> Manifest:
    return {
        "apiVersion": "godwit.dev/v1alpha1",
        "kind": "DatabaseBackup",
        "metadata": {"name": "monday", "namespace": bed.namespace},
        "spec": {"databaseRef": {"name": "shop"}},
    }


def restore(bed: Bed) -> Manifest:
    return {
        **backup(bed),
        "kind": "DatabaseRestore",
        "spec": {"databaseRef": {"name": "shop"}, "backupRef": {"name": "monday"}},
    }


KINDS = [database, production, migration, run, backup, restore]


@pytest.mark.parametrize("make", KINDS)
async def test_a_manifest_of_each_kind_is_taken_and_starts_unseen(bed: Bed, make: Callable[[Bed], Manifest]):
    made = await bed.cluster.create(make(bed))

    assert made["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(
            lambda bed: with_spec(database(bed), connection={**URI, "parts": PARTS}),
            "give exactly one of uriFrom and parts",
            id="two ways to connect",
        ),
        pytest.param(
            lambda bed: with_spec(database(bed), connection={}),
            "give exactly one of uriFrom and parts",
            id="no way to connect",
        ),
        pytest.param(
            lambda bed: with_spec(database(bed), connection={"parts": {**PARTS, "sslmode": "maybe"}}),
            "sslmode",
            id="an unknown sslmode",
        ),
        pytest.param(
            lambda bed: with_spec(migration(bed), source={}),
            "give exactly one of configMaps and image",
            id="no source",
        ),
        pytest.param(
            lambda bed: with_spec(
                migration(bed), source={"configMaps": [{"name": "a"}], "image": {"reference": "a"}}
            ),
            "give exactly one of configMaps and image",
            id="two sources",
        ),
        pytest.param(
            lambda bed: with_spec(database(bed), environment="Production"),
            "in Production a backup is always required",
            id="Production without a backup",
        ),
        pytest.param(
            lambda bed: with_spec(database(bed), backup={}),
            "a required backup needs a volume",
            id="a required backup without a volume",
        ),
        pytest.param(
            lambda bed: {**(made := database(bed)), "spec": {k: made["spec"][k] for k in ("connection",)}},
            "say where backups go",
            id="nothing said about backups",
        ),
        pytest.param(
            lambda bed: with_spec(
                migration(bed), verify={"checks": [{"name": "a", "sql": "x"}, {"name": "a", "sql": "y"}]}
            ),
            "Duplicate",
            id="two checks of one name",
        ),
        pytest.param(
            lambda bed: with_spec(database(bed), schemas=["a", "a"]), "Duplicate", id="one schema twice"
        ),
        pytest.param(
            lambda bed: with_spec(database(bed), podTemplate={"resources": {"limits": {"memory": "much"}}}),
            "memory",
            id="a quantity that is none",
        ),
        pytest.param(
            lambda bed: {**migration(bed), "metadata": {"name": "Orders_1", "namespace": bed.namespace}},
            "RFC 1123",
            id="a name that is no DNS name",
        ),
    ],
)
async def test_what_contradicts_itself_is_refused(bed: Bed, make: Callable[[Bed], Manifest], says: str):
    with pytest.raises(RefusedError, match=says):
        await bed.cluster.create(make(bed))


@pytest.mark.parametrize(
    ("make", "change", "says"),
    [
        pytest.param(
            migration, {"databaseRef": {"name": "other"}}, "databaseRef is immutable", id="another database"
        ),
        pytest.param(run, {"pending": 2}, "spec is immutable", id="a run"),
        pytest.param(backup, {"type": "SchemaOnly"}, "spec is immutable", id="a backup"),
        pytest.param(restore, {"acceptDataLoss": True}, "spec is immutable", id="a restore"),
        pytest.param(
            production,
            {"environment": "Staging"},
            "environment can only become stricter",
            id="Production to Staging",
        ),
        pytest.param(
            production, {"environment": "Development"}, "only become stricter", id="Production to Development"
        ),
        pytest.param(
            production, {"backup": {**VOLUME, "required": False}}, "always required", id="no more backups"
        ),
    ],
)
async def test_what_must_not_change_is_refused(
    bed: Bed, make: Callable[[Bed], Manifest], change: Manifest, says: str
):
    made = await bed.cluster.create(make(bed))

    with pytest.raises(RefusedError, match=says):
        await bed.edit(made["kind"], made["metadata"]["name"], lambda m: m["spec"].update(change))
    assert await bed.cluster.get(made["kind"], bed.namespace, made["metadata"]["name"]) == made


async def test_the_environment_may_become_stricter_step_by_step(bed: Bed):
    await bed.cluster.create(with_spec(database(bed), backup=VOLUME))
    for environment in ("Staging", "Production"):
        made = await bed.edit(
            "PostgresDatabase", "shop", lambda m, e=environment: m["spec"].update(environment=e)
        )
        assert made["spec"]["environment"] == environment


async def test_a_left_out_environment_is_production(bed: Bed):
    manifest = production(bed)
    del manifest["spec"]["environment"]

    assert (await bed.cluster.create(manifest))["spec"]["environment"] == "Production"


async def test_quantities_come_as_numbers_and_as_text_and_tolerations_keep_their_fields(bed: Bed):
    pod = {
        "resources": {"requests": {"cpu": 1, "memory": "128Mi"}, "limits": {"memory": "1.5Gi"}},
        "tolerations": [{"key": "db", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"disk": "ssd"},
        "labels": {"team": "shop"},
    }
    made = await bed.cluster.create(with_spec(database(bed), podTemplate=pod))

    assert made["spec"]["podTemplate"] == pod


async def test_a_null_counts_as_absent(bed: Bed):
    pod = {"nodeSelector": {"disk": None}}
    connection = {**URI, "pooler": None}
    made = await bed.cluster.create(
        with_spec(database(bed), connection=connection, podTemplate=pod, checkInterval=None)
    )
    assert made["spec"]["podTemplate"] == {"nodeSelector": {}}
    assert made["spec"]["checkInterval"] == "1h"
    assert made["spec"]["connection"] == URI

    with pytest.raises(RefusedError, match=r"spec\.source: Required value"):
        await bed.cluster.create(with_spec(migration(bed), source=None))


async def test_a_whole_status_comes_back_as_it_was_written(bed: Bed):
    """The outcome of a step is kept with fields that this version's schema does not know."""
    made = await bed.cluster.create(run(bed))
    outcome = StepOutcome(
        request_hash="h",
        started_at=NOW,
        ended_at=NOW,
        failure=Failure(reason=Reason.LOCK_HELD, message="held"),
    )
    time = "2026-01-01T00:00:00Z"
    status = {
        "observedGeneration": 1,
        "phase": "Applying",
        "conditions": [
            {
                "type": "Ready",
                "status": "Unknown",
                "reason": "Applying",
                "message": "m",
                "lastTransitionTime": time,
                "observedGeneration": 1,
            }
        ],
        "steps": [
            {
                "name": "apply",
                "attempt": 2,
                "job": "orders-1-apply-2",
                "startedAt": time,
                "outcome": {**outcome.to_json(), "madeByANewerVersion": {"x": [1]}},
            }
        ],
        "failure": {"reason": "AReasonOfANewerVersion", "message": "m"},
        "rungs": [{"rung": "Transaction", "possible": True, "taken": False, "why": ""}],
    }
    written = await bed.cluster.apply_status(made, status, STATUS_MANAGER)

    assert written["status"] == status


async def test_a_condition_is_true_false_or_unknown(bed: Bed):
    made = await bed.cluster.create(migration(bed))
    condition = {
        "type": "Ready",
        "status": "Maybe",
        "reason": "R",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }

    with pytest.raises(RefusedError, match="conditions"):
        await bed.cluster.apply_status(made, {"conditions": [condition]}, STATUS_MANAGER)
