"""What follows from one operation's journal rows: a sentence per case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from godwit.contract.base import digest
from godwit.engine.journal import Entry, Event
from godwit.engine.model import History, HistoryRow, Mode, ParsedScript, PlannedMigration, Script
from godwit.engine.operation import Own
from godwit.engine.rows import row_as_json
from godwit.engine.statementwise import progress_of

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def entry(event: Event, migration: str, *, verb: str = "Apply", number: int = 1, **more: Any) -> Entry:
    fields: dict[str, Any] = {
        "id": number, "at": NOON, "object": "o", "operation": "u", "spec_hash": "h", "step": "apply",
        "attempt": 1, "verb": verb, "event": event, "migration": migration, "checksum": "c",
        "statement": None, "down": None, "txid": 700 + number, "detail": {},
    }  # fmt: skip
    return Entry(**(fields | more))


def applied(migration: str, number: int = 1, *, destructive: bool = False, down: bool = True) -> Entry:
    script = Script(f"{migration}/down.sql", b"", digest(b"")) if down else None
    detail = {"row": f"row of {migration}", "destructive": destructive}
    return entry(Event.APPLIED, migration, number=number, down=script, detail=detail)


def row(name: str, minute: int) -> HistoryRow:
    at = NOON + timedelta(minutes=minute)
    return HistoryRow(f"row of {name}", name, "c", at, at)


def reverted(name: str, minute: int, number: int = 5) -> Entry:
    rows = [row_as_json(row(name, minute))]
    return entry(Event.REVERTED, name, verb="Revert", number=number, detail={"rows": rows})


def history(*rows: HistoryRow) -> History:
    return History("public", exists=True, rows=rows)


@pytest.mark.parametrize(
    ("entries", "now", "before"),
    [
        ((), ("a",), ["a"]),
        ((applied("b"),), ("a", "b"), ["a"]),
        ((entry(Event.STARTED, "b", detail={"row": "row of b"}),), ("a", "b"), ["a"]),
        ((reverted("b", 2),), ("a",), ["a", "b"]),
        ((reverted("a", 1),), ("b",), ["a", "b"]),
        ((applied("b"), reverted("b", 2)), ("a",), ["a"]),
    ],
    ids=[
        "it did nothing",
        "what it applied was not there before",
        "what it began was not there before",
        "what it took back was there before",
        "what it took back stood where it had stood",
        "what it applied and took back was not there before",
    ],
)
def test_the_history_before_the_operation(entries, now, before):
    minutes = {"a": 1, "b": 2}
    base = Own(entries).without(history(*(row(name, minutes[name]) for name in now)))
    assert [r.name for r in base.rows] == before
    assert [r.started_at for r in base.rows] == [NOON + timedelta(minutes=minutes[n]) for n in before]


@pytest.mark.parametrize(
    ("entries", "standing", "gone"),
    [
        ((applied("a"), applied("b", 2)), ["a", "b"], []),
        ((applied("a"), applied("b", 2), reverted("b", 2)), ["a"], ["b"]),
        ((reverted("a", 1), applied("a", 9)), ["a"], []),
        ((entry(Event.STARTED, "a"), entry(Event.STATEMENT, "a")), [], []),
    ],
    ids=["applied", "taken back", "taken back and applied again", "only begun"],
)
def test_what_stands_of_it(entries, standing, gone):
    own = Own(entries)
    assert list(own.applied) == standing
    assert list(own.reverted) == gone


@pytest.mark.parametrize(
    ("entries", "possible", "why"),
    [
        ((), False, "no migration of this run was committed"),
        ((applied("a"), applied("b", down=False)), False, "b has no down.sql"),
        ((applied("a", destructive=True),), False, "a destroyed or rewrote data"),
        ((applied("a"), applied("b")), True, "for the 2 committed, unless data was written"),
    ],
)
def test_whether_its_migrations_have_a_way_back(entries, possible, why):
    rung = Own(entries).down_rung()
    assert rung.possible is possible
    assert rung.why.startswith(why)


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ((), ""),
        ((entry(Event.STARTED, "a"), entry(Event.SENT, "a", statement=0)), "a"),
        ((entry(Event.STARTED, "a"), entry(Event.ABANDONED, "a")), ""),
        ((entry(Event.STARTED, "a"), applied("a")), ""),
        ((applied("a"), entry(Event.STARTED, "a", verb="Revert")), ""),
    ],
    ids=["nothing", "begun", "begun and abandoned", "begun and ended", "another verb's"],
)
def test_a_file_that_apply_left_half_done(entries, name):
    assert Own(entries).unfinished("Apply") == name


def planned(name: str = "a") -> PlannedMigration:
    script = Script(f"{name}/migration.sql", b"", "c")
    return PlannedMigration(name, "c", ParsedScript(script, Mode.STATEMENT_WISE, "", ()))


BEGUN = entry(Event.STARTED, "a", detail={"row": "r"})


@pytest.mark.parametrize(
    ("entries", "row_id", "done", "sent"),
    [
        ((), "", set(), {}),
        ((BEGUN,), "r", set(), {}),
        ((BEGUN, entry(Event.STATEMENT, "a", statement=0)), "r", {0}, {}),
        (
            (BEGUN, entry(Event.SENT, "a", statement=1, detail={"before": {"x": 1}})),
            "r",
            set(),
            {1: {"x": 1}},
        ),
        (
            (
                BEGUN,
                entry(Event.SENT, "a", statement=1, detail={"before": {}}),
                entry(Event.STATEMENT, "a", statement=1),
            ),
            "r",
            {1},
            {},
        ),
        (
            (
                BEGUN,
                entry(Event.SENT, "a", statement=1, detail={"before": {}}),
                entry(Event.UNDONE, "a", statement=1),
            ),
            "r",
            set(),
            {},
        ),
        ((BEGUN, entry(Event.STATEMENT, "a", statement=0), entry(Event.ABANDONED, "a")), "", set(), {}),
        ((BEGUN, entry(Event.STATEMENT, "b", statement=0)), "r", set(), {}),
        ((entry(Event.STARTED, "a", verb="Revert"),), "", set(), {}),
    ],
    ids=[
        "not begun",
        "begun",
        "one statement done",
        "one sent, and nothing heard of it",
        "sent and done",
        "sent, failed, undone",
        "abandoned: begins anew",
        "another migration's statement",
        "another verb's start",
    ],
)
def test_how_far_a_file_got(entries, row_id, done, sent):
    progress = progress_of(entries, planned(), "Apply")
    assert (progress.row_id, progress.done, progress.sent) == (row_id, done, sent)
