"""How far a step is: written into its log by one wing, read from its end by the other."""

import json
from datetime import UTC, datetime

import pytest

from godwit.contract.progress import RunProgress, last_progress
from godwit.engine.reporter import percent

AT = datetime(2026, 1, 1, tzinfo=UTC)


def line(**facts):
    told = RunProgress(at=AT, **facts)
    return json.dumps({"event": "progress", "message": str(told), "progress": told.to_json()})


@pytest.mark.parametrize(
    ("case", "lines", "number"),
    [
        ("the newest counts", [line(number=1), line(number=2)], 2),
        ("other lines after it do not matter", [line(number=3), '{"event": "lock.busy"}', "no JSON"], 3),
        ("a line that is cut off is passed over", [line(number=4), line(number=5)[:60]], 4),
        ("a line that only speaks of one is none", ['{"event": "x", "message": "\\"progress\\""}'], None),
        ("nor is one of another form", ['{"event": "progress", "progress": {"number": "many"}}'], None),
        ("an empty log says nothing", [], None),
    ],
)
def test_the_last_word_of_a_log(case, lines, number):
    found = last_progress(lines)
    assert (found and found.number) == number, case


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "migration 2 of 5 (b)"),
        ({"statement": 1, "statements": 3}, "migration 2 of 5 (b); statement 1 of 3"),
        ({"phase": "initializing"}, "migration 2 of 5 (b); initializing"),
        ({"phase": "building index", "percent": 40}, "migration 2 of 5 (b); building index, 40 %"),
        ({"replica_lag_seconds": 0.0}, "migration 2 of 5 (b)"),
        ({"replica_lag_seconds": 2.5}, "migration 2 of 5 (b); standbys 2.5 s behind"),
    ],
)
def test_in_words(facts, text):
    assert str(RunProgress(migration="b", number=2, total=5, at=AT, **facts)) == text


@pytest.mark.parametrize(
    ("phase", "counts", "share"),
    [
        ("building index: scanning table", (25, 100, 0, 0, 0, 0), 25),
        ("building index: loading tuples in tree", (0, 0, 1, 3, 0, 0), 33),
        ("waiting for old snapshots", (100, 100, 0, 0, 1, 4), 25),
        ("waiting for old snapshots", (100, 100, 0, 0, 0, 0), None),
        ("initializing", (0, 0, 0, 0, 0, 0), None),
        ("building index: scanning table", (101, 100, 0, 0, 0, 0), 100),
    ],
)
def test_the_share_of_a_phase(phase, counts, share):
    assert percent(phase, counts) == share
