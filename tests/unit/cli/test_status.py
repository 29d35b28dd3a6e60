"""`godwit status`: the verdict that scripts go by, and the table that people read."""

from datetime import UTC, datetime, timedelta

import pytest

from godwit.cli.status import Exit, report, verdict
from godwit.cli.table import age, table

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def migration(name="shop", *, seen=1, deleting=False, message="", **conditions):
    told = [
        {"type": kind, "status": status, "reason": "Because", "message": message}
        for kind, status in conditions.items()
    ]
    meta = {
        "name": name,
        "namespace": "default",
        "generation": 1,
        "creationTimestamp": "2026-03-02T11:59:30Z",
    }
    return {
        "kind": "DatabaseMigration",
        "metadata": meta | ({"deletionTimestamp": "2026-03-02T11:59:59Z"} if deleting else {}),
        "spec": {"databaseRef": {"name": "books"}},
        "status": {"observedGeneration": seen, "pending": 0, "conditions": told},
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(migration(Ready="True"), Exit.READY, id="ready"),
        pytest.param(migration(Ready="Unknown", Reconciling="True"), Exit.NOT_READY, id="at work"),
        pytest.param(migration(Ready="False", Reconciling="True"), Exit.NOT_READY, id="waiting"),
        pytest.param(migration(Ready="False"), Exit.NOT_READY, id="suspended"),
        pytest.param(migration(Ready="False", Stalled="True"), Exit.STALLED, id="stalled"),
        pytest.param(migration(seen=0, Ready="True"), Exit.NOT_READY, id="ready, but for an earlier spec"),
        pytest.param(migration(seen=0, Ready="False", Stalled="True"), Exit.NOT_READY, id="stalled, earlier"),
        pytest.param(migration(Ready="True", deleting=True), Exit.NOT_READY, id="being deleted"),
        pytest.param(migration(seen=-1), Exit.NOT_READY, id="not looked at yet"),
        pytest.param({"metadata": {"generation": 1}}, Exit.NOT_READY, id="without any status"),
    ],
)
def test_a_verdict(found, expected):
    assert verdict(found) is expected


def test_of_several_the_worst_counts_and_each_that_is_not_ready_says_why():
    text, worst = report(
        [
            migration("a", Ready="True"),
            migration("b", Ready="Unknown", message="A run is under way."),
            migration("c", Ready="False", Stalled="True", message="Line 4 is wrong."),
            migration("d", seen=0, Ready="True"),
        ],
        NOW,
    )

    assert worst is Exit.STALLED
    rows, *reasons = text.split("\n\n")
    assert [line.split()[0] for line in rows.splitlines()] == ["NAME", "a", "b", "c", "d"]
    assert reasons == [
        "b: A run is under way.",
        "c: Line 4 is wrong.",
        "d: the operator has not looked at generation 1 yet.",
    ]


PROGRESS = {
    "migration": "20260103_index",
    "number": 3,
    "total": 5,
    "statement": 2,
    "statements": 4,
    "phase": "building index: scanning table",
    "percent": 43,
    "at": "2026-03-02T11:59:56Z",
}


@pytest.mark.parametrize(
    ("status", "line"),
    [
        pytest.param(
            {"progress": PROGRESS},
            "\n  shop-7, 4s ago: migration 3 of 5 (20260103_index); statement 2 of 4; "
            "building index: scanning table, 43 %",
            id="it says how far it is",
        ),
        pytest.param({}, "", id="it has said nothing yet"),
        pytest.param({"progress": {**PROGRESS, "later": 1, "phase": "", "statement": 0}},
                     "\n  shop-7, 4s ago: migration 3 of 5 (20260103_index)",
                     id="a later version says more"),
    ],
)  # fmt: skip
def test_a_run_under_way_says_how_far_it_is(status, line):
    found = migration("shop", Ready="Unknown", Reconciling="True", message="A run is under way.")
    found["status"]["activeRun"] = "shop-7"
    run = {"kind": "MigrationRun", "metadata": {"name": "shop-7"}, "status": status}

    text, _ = report([found, migration("other", Ready="False", message="Waits.")], NOW, {"shop-7": run})

    assert text.split("\n\n")[1:] == [f"shop: A run is under way.{line}", "other: Waits."]


def test_a_run_that_cannot_be_read_is_left_out():
    found = migration("shop", Ready="Unknown", message="A run is under way.")
    found["status"]["activeRun"] = "shop-7"

    assert report([found], NOW)[0].endswith("\n\nshop: A run is under way.")


def test_a_table_has_the_columns_of_the_definition():
    head, row = table([migration(Ready="True")], NOW, with_kind=True).splitlines()

    assert head.split() == ["NAME", "DATABASE", "CURRENT", "TARGET", "PENDING", "READY", "REASON", "AGE"]
    assert row.split() == ["databasemigration.godwit.dev/shop", "books", "0", "True", "Because", "30s"]


def test_no_objects_make_no_table():
    assert table([], NOW) == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (600, "10m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 300, "3h5m"),
        (9 * 3600, "9h"),
        (50 * 3600, "2d2h"),
        (9 * 86400, "9d"),
        (800 * 86400, "2y"),
    ],
)
def test_an_age_is_written_as_kubectl_does(seconds, expected):
    assert age(NOW - timedelta(seconds=seconds), NOW) == expected
