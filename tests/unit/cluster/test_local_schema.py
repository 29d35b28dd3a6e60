"""What the local cluster's API refuses, fills in and drops."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from godwit.api.common import API_VERSION
from godwit.api.kinds import KINDS
from godwit.api.schema import Schema, object_schema
from godwit.cluster.local_schema import RULES, admit
from godwit.cluster.port import Manifest, RefusedError

URI = {"uriFrom": {"name": "shop", "key": "uri"}}
PARTS = {
    "parts": {
        "host": "db",
        "database": "shop",
        "userFrom": {"name": "shop", "key": "user"},
        "passwordFrom": {"name": "shop", "key": "password"},
    }
}
VOLUME = {"volume": {"claimName": "backups"}}


def manifest(kind: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": spec,
    }


def database(**spec: Any) -> Manifest:
    return manifest("PostgresDatabase", {"connection": URI, "backup": VOLUME, **spec})


def migration(**spec: Any) -> Manifest:
    base = {"databaseRef": {"name": "shop"}, "source": {"configMaps": [{"name": "files"}]}}
    return manifest("DatabaseMigration", {**base, **spec})


def config_map(**more: Any) -> Manifest:
    meta = {"name": "files", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **more}


def nodes(schema: Schema) -> Iterator[Schema]:
    yield schema
    for child in schema.get("properties", {}).values():
        yield from nodes(child)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key])


def test_every_rule_of_the_definitions_has_its_local_counterpart_and_none_is_left_over():
    written = {
        rule["rule"]
        for kind in KINDS.values()
        for node in nodes(object_schema(kind))
        for rule in node.get("x-kubernetes-validations", [])
    }
    assert set(RULES) == written


def test_no_rule_about_the_old_value_stands_inside_a_list():
    """Entries of lists have no old value in the local cluster, so such a rule would never be asked."""
    inside = [
        rule["rule"]
        for kind in KINDS.values()
        for node in nodes(object_schema(kind))
        if "items" in node
        for inner in nodes(node["items"])
        for rule in inner.get("x-kubernetes-validations", [])
        if "oldSelf" in rule["rule"]
    ]
    assert inside == []


@pytest.mark.parametrize(
    ("made", "says"),
    [
        pytest.param(
            database(connection={**URI, **PARTS}),
            "exactly one of uriFrom and parts",
            id="both ways to connect",
        ),
        pytest.param(database(connection={}), "exactly one of uriFrom and parts", id="no way to connect"),
        pytest.param(database(backup=None), "say where backups go", id="a null counts as absent"),
        pytest.param(database(backup={}), "a required backup needs a volume", id="a backup to nowhere"),
        pytest.param(
            database(backup={"required": False}),
            "in Production a backup is always required",
            id="Production, the default, without a backup",
        ),
        pytest.param(
            migration(source={"configMaps": [{"name": "a"}], "image": {"reference": "a@sha256:0"}}),
            "exactly one of configMaps and image",
            id="two sources",
        ),
        pytest.param(migration(source={}), "exactly one of configMaps and image", id="no source"),
        pytest.param(
            migration(verify={"checks": [{"name": "a", "sql": "x"}, {"name": "a", "sql": "y"}]}),
            r"spec.verify.checks\[1\]: Duplicate value",
            id="two checks of one name",
        ),
        pytest.param(database(schemas=["a", "a"]), "Duplicate value", id="one schema twice"),
        pytest.param(database(schemas=[]), "at least 1 items", id="no schema at all"),
        pytest.param(
            database(schemas=["a", ""]), r"spec.schemas\[1\].*at least 1", id="a schema without a name"
        ),
        pytest.param(
            migration(strategy={"lockTimeout": "2s\n"}),
            "spec.strategy.lockTimeout.*should match",
            id="a line break after what fits the pattern",
        ),
        pytest.param(database(environment="Test"), 'Unsupported value: "Test"', id="an unknown environment"),
        pytest.param(
            database(connection={"parts": {**PARTS["parts"], "port": 70000}}), "65535", id="a port too high"
        ),
        pytest.param(
            database(connection={"parts": {**PARTS["parts"], "port": True}}),
            "must be of type integer",
            id="a truth value is no number",
        ),
        pytest.param(
            database(podTemplate={"resources": {"limits": {"memory": "much"}}}),
            "spec.podTemplate.resources.limits.memory",
            id="a quantity that is none",
        ),
        pytest.param(
            database(podTemplate={"resources": {"limits": {"memory": ["1Gi"]}}}),
            "must be of type integer,string",
            id="a quantity of another type",
        ),
        pytest.param(
            database(podTemplate={"nodeSelector": {"disk": 1}}),
            "spec.podTemplate.nodeSelector.disk",
            id="a label",
        ),
        pytest.param(
            manifest("DatabaseMigration", {}), "spec.databaseRef: Required value", id="an empty spec"
        ),
        pytest.param(
            {**migration(), "apiVersion": "godwit.dev/v1"}, "no matches for kind", id="another version"
        ),
        pytest.param({**migration(), "kind": "Secret"}, "no matches for kind", id="an unknown kind"),
        pytest.param(
            {**migration(), "metadata": {"name": "Shop_1"}}, "RFC 1123", id="a name that is no DNS name"
        ),
        pytest.param(config_map(data={"a b.sql": ""}), "valid config key", id="a key with a space"),
        pytest.param(
            config_map(data={"..data": ""}), "valid config key", id="a key that a mount uses itself"
        ),
        pytest.param(config_map(data={"a.sql": 1}), "must be of type string", id="a value that is no text"),
        pytest.param(config_map(binaryData={"a": "%"}), "illegal base64", id="bytes that are not base64"),
        pytest.param(
            config_map(data={"a": ""}, binaryData={"a": ""}), "also in binaryData", id="one key in both parts"
        ),
        pytest.param(config_map(data={"a.sql": "x" * (2**20 + 1)}), "Too long", id="more than a mebibyte"),
    ],
)
def test_what_is_wrong_is_refused_by_name(made: Manifest, says: str):
    with pytest.raises(RefusedError, match=says):
        admit(made)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param(
            migration(),
            migration(databaseRef={"name": "other"}),
            "databaseRef is immutable",
            id="another database",
        ),
        pytest.param(
            database(environment="Staging"),
            database(environment="Development"),
            "only become stricter",
            id="Staging to Development",
        ),
        pytest.param(
            database(), database(environment="Staging"), "only become stricter", id="Production to Staging"
        ),
        pytest.param(
            config_map(immutable=True, data={"a": "x"}),
            config_map(immutable=True, data={"a": "y"}),
            "immutable",
            id="an immutable ConfigMap's data",
        ),
        pytest.param(
            config_map(immutable=True), config_map(), "immutable", id="taking the immutability back"
        ),
        pytest.param(
            manifest("DatabaseBackup", {"databaseRef": {"name": "shop"}}),
            manifest("DatabaseBackup", {"databaseRef": {"name": "shop"}, "type": "SchemaOnly"}),
            "spec is immutable",
            id="another kind of backup",
        ),
    ],
)
def test_what_must_not_change_is_refused(old: Manifest, new: Manifest, says: str):
    with pytest.raises(RefusedError, match=says):
        admit(new, admit(old))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            database(environment="Development", backup={"required": False}),
            database(environment="Staging", backup={"required": False}),
            id="Development to Staging, without a backup",
        ),
        pytest.param(database(environment="Staging"), database(), id="Staging to Production"),
        pytest.param(
            migration(), migration(suspend=True, targetVersion="20260101000000_init"), id="what may change"
        ),
        pytest.param(
            database(podTemplate={"resources": {"limits": {"memory": "1Gi", "cpu": 1}}}),
            database(podTemplate={"resources": {"limits": {"memory": "1.5Gi", "cpu": "500m"}}}),
            id="quantities as numbers and as text",
        ),
        pytest.param(
            config_map(immutable=True, data={"a": "x"}),
            {
                **config_map(immutable=True, data={"a": "x"}),
                "metadata": {"name": "files", "labels": {"a": "b"}},
            },
            id="a label of an immutable ConfigMap",
        ),
    ],
)
def test_what_may_change_is_kept(old: Manifest, new: Manifest):
    assert admit(new, admit(old))["metadata"] == new["metadata"]


def test_defaults_reach_into_defaulted_objects_and_a_null_is_filled_in_where_there_is_a_default():
    spec = admit(migration(strategy={"transaction": None, "lockBudget": "1m"}, suspend=None))["spec"]
    assert spec["strategy"] == {"transaction": "PerMigration", "lockBudget": "1m", "maxReplicaLag": "10s"}
    assert spec["suspend"] is False
    assert spec["gates"] == {"approval": "Never", "rehearsal": "Never"}


def test_a_status_starts_as_one_that_nobody_has_written():
    assert admit(migration())["status"] == {"observedGeneration": -1}


def test_unknown_fields_are_dropped_but_not_from_an_outcome():
    step = {"name": "plan", "job": "j", "startedAt": "2026-01-01T00:00:00Z", "outcome": {"new": {"x": [1]}}}
    made = admit({**migration(other=1), "status": {"steps": [{**step, "other": 1}], "other": 1}, "other": 1})
    assert "other" not in {**made, **made["spec"], **made["status"]}
    assert made["status"]["steps"] == [step]


def test_a_time_is_checked():
    status = {"plannedAt": "yesterday"}
    with pytest.raises(RefusedError, match="date-time"):
        admit({**migration(), "status": status})


def test_what_is_admitted_shares_nothing_with_what_was_given():
    given = config_map(data={"a": "x"}, binaryData={"b": base64.b64encode(b"\0").decode()})
    made = admit(given)
    given["data"]["a"] = "changed"
    assert made["data"] == {"a": "x"}
