"""What another version of Godwit has written is read: reasons and other words that this one does not know,
objects without fields that it has."""

from datetime import datetime
from typing import Any

import pytest

from godwit.api.common import API_VERSION, SPEC_HASH
from godwit.api.database import BackupPolicy, PostgresDatabase
from godwit.api.kinds import parse
from godwit.api.migration import DatabaseMigration
from godwit.api.restore import DatabaseRestore, DatabaseRestoreSpec
from godwit.api.run import MigrationRun, MigrationRunSpec
from godwit.cluster.local_schema import admit
from godwit.contract.base import digest
from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import StepOutcome
from godwit.contract.reasons import Reason
from godwit.planner.run_steps import apply_step, restore_manifest
from godwit.planner.runs import run_manifest
from godwit.planner.source import spec_hash_of

NEWER = "QuotaOfTheMoon"
TIME = "2026-03-01T12:00:00Z"
AT = datetime.fromisoformat(TIME)
FAILURE = {"reason": NEWER, "message": "It is full.", "standing": "Nothing was changed."}
SPEC = {
    "PostgresDatabase": {"connection": {"uriFrom": {"name": "shop", "key": "uri"}}},
    "DatabaseMigration": {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": "files"}]}},
    "DatabaseBackup": {"databaseRef": {"name": "shop"}},
    "DatabaseRestore": {"databaseRef": {"name": "shop"}, "backupRef": {"name": "b"}},
}


@pytest.mark.parametrize("kind", SPEC)
def test_a_status_with_a_reason_of_a_newer_version_is_read_and_written_back_as_it_was(kind: str):
    status = {"failure": FAILURE}
    manifest = {"kind": kind, "metadata": {"name": "shop"}, "spec": SPEC[kind], "status": status}
    told = parse(manifest).status
    written = told.to_json()["failure"]
    assert {key: written[key] for key in FAILURE} == FAILURE


def test_a_reason_of_a_newer_version_waits_for_a_person():
    failure = StepOutcome.decode(
        f'{{"requestHash": "h", "startedAt": "{TIME}", "endedAt": "{TIME}",'
        f' "failure": {{"reason": "{NEWER}", "message": "It is full."}}}}'
    ).failure
    assert failure is not None
    assert (failure.reason, failure.terminal, failure.reason.known) == (Reason(NEWER), True, False)
    assert "newer" in failure.reason.advice.next
    assert NEWER not in list(Reason)


def test_what_is_no_text_is_no_reason():
    with pytest.raises(ValueError, match="5 is not a valid Reason"):
        Reason(5)


class LaterBackup(BackupPolicy):
    """A policy that has got a field."""

    off_site: bool = False


class LaterRunSpec(MigrationRunSpec):
    """A spec that has got fields."""

    backup: LaterBackup
    moon: str = "full"


class LaterRun(MigrationRun):
    """A run as a newer version reads it."""

    spec: LaterRunSpec


class LaterRestoreSpec(DatabaseRestoreSpec):
    """A spec that has got a field."""

    moon: str = "full"


class LaterRestore(DatabaseRestore):
    """A restore as a newer version reads it."""

    spec: LaterRestoreSpec


IDENTITY = DatabaseIdentity(system_identifier="7300000000000000001", database_oid=16_384, name="shop")
REF = {"content": "c", "plan": "p", "direction": "Up", "fromState": "s0", "toState": "s1"}
DATABASE = PostgresDatabase.model_validate(
    {
        "metadata": {"name": "shop", "namespace": "team", "uid": "d"},
        "spec": {
            **SPEC["PostgresDatabase"],
            "backup": {"required": False},
            "environment": "Staging",
            "podTemplate": {"resources": {"limits": {"cpu": 1}}},
        },
    }
)
PLAN = {"ref": REF, "source": {"configMaps": ["shop-source-0"]}, "identity": IDENTITY, "madeAt": TIME}
MIGRATION = DatabaseMigration.model_validate(
    {
        "metadata": {"name": "shop", "namespace": "team", "uid": "m"},
        "spec": {**SPEC["DatabaseMigration"], "verify": {"checks": [{"name": "c", "sql": "SELECT true"}]}},
        "status": {"pending": 1, "plan": PLAN},
    }
)


def kept(manifest: dict[str, Any], uid: str = "r") -> dict[str, Any]:
    """What the API server keeps of an object."""
    return admit({**manifest, "metadata": {**manifest["metadata"], "uid": uid}})


RUN = kept(run_manifest(MIGRATION, DATABASE, "godwit:1"))


def test_a_run_is_known_by_the_same_hash_when_its_spec_has_got_fields_meanwhile():
    # An attempt finds by it what the attempt before, of an older operator, has done.
    now, later = MigrationRun.model_validate(RUN), LaterRun.model_validate(RUN)
    hashes = {apply_step(run, None).build(2, AT).request.spec_hash for run in (now, later)}
    assert hashes == {RUN["metadata"]["annotations"][SPEC_HASH]}
    assert later.to_json()["spec"] != now.to_json()["spec"]


def test_a_run_of_the_version_that_hashed_every_field_keeps_its_hash():
    former = {**RUN, "metadata": {**RUN["metadata"], "annotations": {SPEC_HASH: digest(RUN["spec"])}}}
    run = MigrationRun.model_validate(former)
    assert spec_hash_of(run) == digest(run.spec.to_json()) == digest(RUN["spec"])


def test_a_restore_that_is_applied_again_is_known_as_the_one_that_was_done():
    # Without its annotation, with another uid: by its name and its spec alone (a lost cluster, GitOps).
    spec = {**SPEC["DatabaseRestore"], "acceptDataLoss": True}
    manifest = {"metadata": {"name": "undo", "namespace": "team", "uid": "1"}, "spec": spec}
    now, later = DatabaseRestore.model_validate(manifest), LaterRestore.model_validate(manifest)
    assert spec_hash_of(now) == spec_hash_of(later) == digest(now.spec.to_json())
    other = {**manifest, "spec": {**spec, "acceptDataLoss": False}}
    assert spec_hash_of(DatabaseRestore.model_validate(other)) != spec_hash_of(now)
    newer = {**manifest, "spec": {**spec, "moon": "new"}}
    assert spec_hash_of(LaterRestore.model_validate(newer)) != spec_hash_of(later)


def test_the_restore_of_a_run_is_known_by_the_hash_that_it_was_made_with():
    run = MigrationRun.model_validate({**RUN, "status": {"backup": "b"}})
    made = kept(restore_manifest(run)) | {"kind": DatabaseRestore.KIND}
    restores = DatabaseRestore.model_validate(made), LaterRestore.model_validate(made)
    assert {spec_hash_of(restore) for restore in restores} == {made["metadata"]["annotations"][SPEC_HASH]}


RUNG = {"rung": NEWER, "possible": True}
FINDING = {"severity": NEWER, "reason": "OutOfOrder", "message": "It is old."}
WORDS = {
    "PostgresDatabase": (DATABASE, {"rollbackOptions": [RUNG]}),
    "DatabaseMigration": (MIGRATION, {"plan": {**PLAN, "rungs": [RUNG], "findings": {"first": [FINDING]}}}),
    "MigrationRun": (MigrationRun.model_validate(RUN), {"rungs": [RUNG]}),
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_status_with_other_words_of_a_newer_version_is_read_and_kept(kind: str):
    known, status = WORDS[kind]
    manifest = {**known.to_json(), "apiVersion": API_VERSION, "kind": kind, "status": status}
    written = {**manifest, "status": parse(manifest).status.to_json()}
    assert str(admit(written)["status"]).count(NEWER) == str(status).count(NEWER)
