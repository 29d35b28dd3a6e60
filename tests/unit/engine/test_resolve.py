"""What a declaration on the history means, against what the history says: a sentence a case."""

from datetime import UTC, datetime, timedelta

import pytest

from godwit.contract.outcome import Severity
from godwit.contract.policy import Policy, Resolve, ResolveAs
from godwit.contract.reasons import Reason
from godwit.contract.request import Format
from godwit.engine.formats.prisma_folder import checksum
from godwit.engine.model import Declared, History, HistoryRow, Migration, Script, Source
from godwit.engine.resolve import due, resolved

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("1_a", "2_b", "3_c")


def script(name: str) -> Script:
    data = f"SELECT '{name}'".encode()
    return Script(f"{name}/migration.sql", data, checksum(data))


SOURCE = Source(Format.PRISMA, tuple(Migration(name, script(name)) for name in NAMES))


def row(name: str, state: str, minute: int = 0) -> HistoryRow:
    """applied, failed, rolled back (as Prisma leaves it), or undone (finished, and rolled back by hand)."""
    started = T0 + timedelta(minutes=minute)
    finished = started if state in {"applied", "undone"} else None
    rolled_back = started if state in {"rolled back", "undone"} else None
    return HistoryRow(f"{name} {state} {minute}", name, script(name).checksum, started, finished, rolled_back)


def history(*rows: HistoryRow, tables: bool = False) -> History:
    return History("public", exists=bool(rows), rows=rows, unmanaged_tables=tables)


def says(how: ResolveAs, name: str, requested_at: str = "") -> Policy:
    return Policy(resolve=(Resolve(migration=name, as_=how, requested_at=requested_at),))


APPLIED, ROLLED_BACK = ResolveAs.APPLIED, ResolveAs.ROLLED_BACK

EFFECTS = {
    "a failed one is marked as rolled back": (
        says(ROLLED_BACK, "2_b"),
        history(row("1_a", "applied"), row("2_b", "failed")),
        (["2_b failed 0"], []),
    ),
    "every failed row of the name is": (
        says(ROLLED_BACK, "2_b"),
        history(row("2_b", "failed", 1), row("2_b", "rolled back", 2), row("2_b", "failed", 3)),
        (["2_b failed 1", "2_b failed 3"], []),
    ),
    "one that was rolled back already holds": (
        says(ROLLED_BACK, "2_b"),
        history(row("2_b", "rolled back")),
        ([], []),
    ),
    "one that failed need not be in the source to be rolled back": (
        says(ROLLED_BACK, "9_z"),
        history(row("9_z", "failed")),
        (["9_z failed 0"], []),
    ),
    "one that never ran is marked as applied": (
        says(APPLIED, "1_a"),
        history(),
        ([], ["1_a"]),
    ),
    "a failed one is rolled back and marked as applied": (
        says(APPLIED, "2_b"),
        history(row("1_a", "applied"), row("2_b", "failed")),
        (["2_b failed 0"], ["2_b"]),
    ),
    "one that is applied already holds": (
        says(APPLIED, "1_a"),
        history(row("1_a", "applied")),
        ([], []),
    ),
    "a baseline marks all up to it where there are tables and no history": (
        Policy(baseline="2_b"),
        history(tables=True),
        ([], ["1_a", "2_b"]),
    ),
    "a baseline of what is applied already holds": (
        Policy(baseline="2_b"),
        history(row("1_a", "applied"), row("2_b", "applied")),
        ([], []),
    ),
    "a baseline of an empty schema is passed over": (
        Policy(baseline="2_b"),
        history(),
        ([], []),
    ),
    "the baseline comes first, and what it marks is applied for resolve": (
        Policy(baseline="1_a", resolve=(Resolve(migration="1_a", as_=APPLIED),)),
        history(tables=True),
        ([], ["1_a"]),
    ),
}


@pytest.mark.parametrize(("policy", "before", "effect"), EFFECTS.values(), ids=EFFECTS)
def test_effect(policy, before, effect):
    found, findings = due(policy, SOURCE, before, ())
    ids = [row_id for resolution in found for row_id in resolution.rolled_back]
    marked = [migration.name for resolution in found for migration in resolution.applied]
    assert (ids, marked) == effect
    assert not [f for f in findings if f.severity is Severity.ERROR]
    after = resolved(before, found)
    assert not [r for r in after.failed if r.id in ids]
    assert set(marked) <= {r.name for r in after.applied}
    assert due(policy, SOURCE, after, [r.declared for r in found]) == ((), [])


REFUSALS = {
    "Prisma's P3017": (says(APPLIED, "9_z"), history()),
    "Prisma's P3008": (says(APPLIED, "1_a"), history(row("1_a", "undone"))),
    "Prisma's P3011": (says(ROLLED_BACK, "1_a"), history()),
    "Prisma's P3012": (says(ROLLED_BACK, "1_a"), history(row("1_a", "applied"))),
    "baseline (Prisma's P3017)": (Policy(baseline="9_z"), history(tables=True)),
    "a baseline is for a database without a history": (
        Policy(baseline="2_b"),
        history(row("1_a", "applied")),
    ),
}


@pytest.mark.parametrize(("named", "case"), REFUSALS.items(), ids=REFUSALS)
def test_refusal(named, case):
    found, findings = due(*case[:1], SOURCE, case[1], ())
    assert found == ()
    assert [(f.severity, f.reason) for f in findings] == [(Severity.ERROR, Reason.RESOLVE_REFUSED)]
    assert named in findings[0].message


def test_what_was_carried_out_does_not_cover_a_later_failure_unless_it_is_asked_for_again():
    again = history(row("2_b", "rolled back", 1), row("2_b", "failed", 2))
    done = [Declared("RolledBack", "2_b", "")]
    assert due(says(ROLLED_BACK, "2_b"), SOURCE, again, done) == ((), [])
    (found,), _ = due(says(ROLLED_BACK, "2_b", "after the second try"), SOURCE, again, done)
    assert found.rolled_back == ("2_b failed 2",)
