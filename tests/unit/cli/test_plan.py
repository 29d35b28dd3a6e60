"""`godwit plan`: the plan from the status and its document, and what is said where there is none."""

import base64
import gzip
import json

import pytest

from godwit.cli.plan import document_of, outdated, render

DOCUMENT = {
    "direction": "Up",
    "findings": [
        {"severity": "Warning", "reason": "OutOfOrder", "message": "It is old.", "migration": "b", "line": 3}
    ],
    "migrations": [
        {
            "name": "a",
            "mode": "Whole",
            "destructive": False,
            "down": True,
            "statements": [{"sql": "CREATE TABLE x ()"}, {"sql": "CREATE TABLE y ();"}],
        },
        {
            "name": "b",
            "mode": "StatementWise",
            "destructive": True,
            "down": False,
            "statements": [{"sql": "DROP INDEX CONCURRENTLY z"}],
        },
    ],
}
LINE = json.dumps({"event": "document", "document": DOCUMENT})


def migration(*, pending=2, direction="Up", **plan):
    ref = {"plan": "p" * 64, "content": "c" * 64, "direction": direction, "target": "b"} if pending else None
    counts = {"errors": 0, "warnings": 1, "infos": 0, "first": DOCUMENT["findings"]}
    told = {
        "madeAt": "2026-03-02T12:00:00Z",
        "statements": 3,
        "findings": counts if pending else {},
        "rungs": [
            {"rung": "Transaction", "possible": True},
            {"rung": "Undo", "possible": False, "why": "nothing is alone"},
        ],
        "document": "shop-plan-1",
        "pendingNames": ["a", "b"],
        **({"ref": ref} if ref else {}),
        **plan,
    }
    return {
        "metadata": {"name": "shop", "namespace": "books"},
        "status": {"current": "" if pending else "b", "pending": pending, "plan": told},
    }


@pytest.mark.parametrize(
    ("config_map", "expected"),
    [
        pytest.param({"data": {"plan.json": LINE}}, DOCUMENT, id="as text"),
        pytest.param(
            {"binaryData": {"plan.json.gz": base64.b64encode(gzip.compress(LINE.encode())).decode()}},
            DOCUMENT,
            id="compressed",
        ),
        pytest.param(None, None, id="no ConfigMap"),
        pytest.param({}, None, id="an empty one"),
        pytest.param({"data": {"plan.json": "{"}}, None, id="broken text"),
        pytest.param({"binaryData": {"plan.json.gz": "aGk="}}, None, id="broken bytes"),
        pytest.param({"data": {"plan.json": "[]"}}, None, id="something else"),
    ],
)
def test_the_document_of_a_plan(config_map, expected):
    assert document_of(config_map) == expected


def test_a_plan_with_its_sql():
    assert render(migration(destructive=True), DOCUMENT).splitlines() == [
        "DatabaseMigration books/shop, planned 2026-03-02T12:00:00Z",
        "2 migrations to apply, 3 statements: from an empty history to b",
        "plan pppppppppppp, content cccccccccccc",
        "It drops, truncates, rewrites or deletes what existed before.",
        "Findings:",
        "  Warning OutOfOrder: b line 3: It is old.",
        "Ways back:",
        "  Transaction yes",
        "  Undo        no  nothing is alone",
        "",
        "-- 1 of 2: a (2 statements, in one transaction)",
        "CREATE TABLE x ();",
        "CREATE TABLE y ();",
        "",
        "-- 2 of 2: b (1 statement, each by itself, outside one transaction, destructive, no down.sql)",
        "DROP INDEX CONCURRENTLY z;",
    ]


def test_a_plan_that_goes_down_says_so():
    assert "2 migrations to take back" in render(migration(direction="Down"), DOCUMENT)


def test_without_the_document_it_says_what_is_missing_and_names_the_migrations():
    text = render(migration(), None)

    assert "there is no ConfigMap shop-plan-1 with the plan" in text
    assert text.endswith("  a\n  b")


def test_findings_that_the_status_has_no_room_for_are_counted():
    counts = {"errors": 0, "warnings": 30, "infos": 0, "first": DOCUMENT["findings"]}

    assert "... and 29 more" in render(migration(findings=counts), None)


@pytest.mark.parametrize("document", [DOCUMENT | {"findings": []}, DOCUMENT], ids=["planned so", "has run"])
def test_nothing_pending(document):
    assert render(migration(pending=0), document).splitlines() == [
        "DatabaseMigration books/shop, planned 2026-03-02T12:00:00Z",
        "Nothing is pending: the database is at b.",
        "Findings: none",
    ]


def standing(status, reason, *, moving=False, generation=1, seen=1, **more):
    conditions = [{"type": "Ready", "status": status, "reason": reason, "message": "As it is."}]
    conditions += [{"type": "Reconciling", "status": "True"}] if moving else []
    found = migration()
    found["metadata"]["generation"] = generation
    found["status"] |= {"observedGeneration": seen, "conditions": conditions, **more}
    return found


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(standing("True", "UpToDate"), "", id="nothing is pending"),
        pytest.param(standing("False", "Suspended"), "", id="suspended"),
        pytest.param(standing("Unknown", "Pending", moving=True), "", id="about to run"),
        pytest.param(
            standing("False", "DatabaseBusy", moving=True, activeRun="shop-1"), "", id="its run waits"
        ),
        pytest.param(standing("False", "MigrationFailed"), "", id="its run failed"),
        pytest.param(standing("Unknown", "Planning", moving=True), "As it is.", id="it is planned anew"),
        pytest.param(
            standing("False", "SourceMissing", moving=True), "As it is.", id="it cannot be planned anew yet"
        ),
        pytest.param(
            standing("True", "UpToDate", generation=2),
            "The operator has not looked at generation 2 yet.",
            id="the spec has changed since",
        ),
    ],
)
def test_the_plan_of_an_earlier_spec_or_source_says_so(found, expected):
    assert outdated(found) == expected
