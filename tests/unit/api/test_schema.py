"""The schemas keep the rules that Kubernetes has for structural schemas, and say what the models say."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from godwit.api.common import ApiModel, Resource
from godwit.api.database import PostgresDatabase, rules
from godwit.api.kinds import KINDS
from godwit.api.migration import DatabaseMigration
from godwit.api.run import MigrationRun
from godwit.api.schema import Schema, object_schema, structural

# What JSONSchemaProps of apiextensions.k8s.io/v1 knows, as far as these definitions need it.
KNOWN = {
    *("description", "type", "format", "enum", "default", "pattern", "minLength", "maxLength", "minimum"),
    *("maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "required", "properties"),
    *("items", "additionalProperties", "anyOf"),
    *("x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    *("x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"),
}


def walk(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from walk(node[key], f"{path}[]")


VERIFIED = "verification included."

SCHEMAS = {name: object_schema(kind) for name, kind in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_is_structural(kind: str):
    for path, node in walk(SCHEMAS[kind], kind):
        assert structural_problems(node) == [], path


def structural_problems(node: Schema) -> list[str]:
    int_or_string = node.get("x-kubernetes-int-or-string", False)
    types = {"object", "array", "string", "integer", "number", "boolean"}
    union = [{"type": "integer"}, {"type": "string"}] if int_or_string else None
    checks = {
        "a key that Kubernetes does not know": set(node) <= KNOWN,
        "no type": ("type" not in node) if int_or_string else node.get("type") in types,
        "a union": node.get("anyOf") == union,
        "properties beside additionalProperties": not {"properties", "additionalProperties"} <= set(node),
        "a required field that it has not": set(node.get("required", [])) <= set(node.get("properties", {})),
        "an array of nothing": node.get("type") != "array" or "items" in node,
    }
    return [problem for problem, fine in checks.items() if not fine]


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_patterns_and_keys_are_ones_that_the_server_takes(kind: str):
    for path, node in walk(SCHEMAS[kind], kind):
        assert re.compile(node.get("pattern", ""))
        assert "(?" not in node.get("pattern", ""), f"{path}: RE2 knows no look-around"
        assert node.get("default", "") is not None, path
        assert "default" not in node or node["default"] in node.get("enum", [node["default"]]), path
        if node.get("x-kubernetes-list-type") == "map":
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path
        if node.get("x-kubernetes-list-type") == "set":
            assert node["items"]["type"] == "string", f"{path}: entries of a set are scalars"


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_gets_no_default_but_the_generation_that_nobody_has_seen(kind: str):
    status = SCHEMAS[kind]["properties"]["status"]
    found = {path: node["default"] for path, node in walk(status, "") if "default" in node}
    assert found == {"": {"observedGeneration": -1}, ".observedGeneration": -1}


def at(kind: type[Resource], path: str) -> Schema:
    node = SCHEMAS[kind.KIND]
    for name in path.split("."):
        node = node["items"] if name == "[]" else node["properties"][name]
    return node


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        pytest.param(
            PostgresDatabase,
            "spec.environment",
            {"type": "string", "enum": ["Development", "Staging", "Production"], "default": "Production"},
            id="an enum keeps its values and its default",
        ),
        pytest.param(
            DatabaseMigration,
            "spec.strategy",
            {"type": "object", "default": {}},
            id="an object's default is {}",
        ),
        pytest.param(
            DatabaseMigration,
            "spec.source.configMaps",
            {"type": "array", "minItems": 1, "maxItems": 64},
            id="an optional list is a plain list",
        ),
        pytest.param(
            MigrationRun,
            "status.conditions",
            {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
            id="conditions are merged by type",
        ),
        pytest.param(
            MigrationRun,
            "status.steps",
            {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            id="steps are merged by name",
        ),
        pytest.param(
            MigrationRun,
            "status.steps.[].outcome",
            {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            id="an outcome is kept as it came",
        ),
        pytest.param(
            MigrationRun,
            "status.failure.reason",
            {"type": "string", "description": "One of the reasons in docs/troubleshooting.md."},
            id="a reason is free text to the server: a newer controller may know more of them",
        ),
        pytest.param(
            MigrationRun,
            "spec.policy.lockTimeoutMs",
            {"type": "integer", "minimum": 1, "default": 2000},
            id="bounds of contract models hold too",
        ),
        pytest.param(
            MigrationRun,
            "spec.policy.maxLockHoldMs",
            {"description": "How long locks on tables that existed before may be held, " + VERIFIED},
            id="texts below fields of contract models become descriptions",
        ),
    ],
)
def test_what_the_model_says_is_in_the_schema(kind: type[Resource], path: str, expected: dict[str, Any]):
    node = at(kind, path)
    assert {key: node.get(key) for key in expected} == expected


def test_a_required_backup_gets_no_default_that_would_lack_its_volume():
    assert "default" not in at(PostgresDatabase, "spec.backup")


def test_rules_of_models_and_of_fields_are_carried_over():
    found = {
        rule["rule"]
        for schema in SCHEMAS.values()
        for _, node in walk(schema, "")
        for rule in node.get("x-kubernetes-validations", [])
    }
    assert {
        "self == oldSelf",
        "has(self.uriFrom) != has(self.parts)",
        "has(self.configMaps) != has(self.image)",
        "self == oldSelf || oldSelf == 'Development' || self == 'Production'",
        "!self.required || has(self.volume)",
    } <= found


def test_exclusive_bounds_become_flags():
    class Bounded(ApiModel):
        """Bounded."""

        share: Annotated[float, Field(gt=0, lt=1)] = 0.5

    assert structural(Bounded)["properties"]["share"] == {
        "type": "number",
        "default": 0.5,
        "exclusiveMinimum": True,
        "minimum": 0,
        "exclusiveMaximum": True,
        "maximum": 1,
    }


def test_a_union_is_refused_by_its_path():
    class Torn(ApiModel):
        """Torn."""

        model_config = rules(("true", "never"))
        either: int | str = 0

    with pytest.raises(ValueError, match=r"Torn\.either: a structural schema has no unions"):
        structural(Torn)
