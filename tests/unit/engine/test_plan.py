"""What leads from a history to a target, a sentence per case."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.contract.identity import DatabaseIdentity
from godwit.contract.outcome import Rung, Severity
from godwit.contract.policy import Environment, Policy
from godwit.contract.reasons import Reason
from godwit.contract.request import Direction, Format
from godwit.engine.formats.prisma_folder import checksum
from godwit.engine.model import History, HistoryRow, Migration, Mode, Plan, Script, Source, state_digest
from godwit.engine.plan import make_plan

HERE = DatabaseIdentity(system_identifier="7", database_oid=16384, name="shop")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DEVELOPMENT = Policy(environment=Environment.DEVELOPMENT)


def script(path: str, sql: str) -> Script:
    return Script(path, sql.encode(), checksum(sql.encode()))


def migration(name: str, up: str = "", down: str | None = "") -> Migration:
    table = f"t_{name.replace(' ', '_')}"
    return Migration(
        name,
        script(f"{name}/migration.sql", up or f"CREATE TABLE {table} (x int);"),
        None if down is None else script(f"{name}/down.sql", down or f"DROP TABLE {table};"),
    )


def source(*migrations: Migration | str) -> Source:
    return Source(Format.PRISMA, tuple(m if isinstance(m, Migration) else migration(m) for m in migrations))


def row(of: Migration | str, minute: int = 0, **changes) -> HistoryRow:
    of = of if isinstance(of, Migration) else migration(of)
    at = EPOCH + timedelta(minutes=minute)
    made = HistoryRow(f"id-{of.name}-{minute}", of.name, of.up.checksum, at, at, applied_steps=1)
    return replace(made, **changes)


def history(*rows: HistoryRow | str, **fields) -> History:
    made = tuple(r if isinstance(r, HistoryRow) else row(r, i) for i, r in enumerate(rows))
    return History("public", **({"exists": True, "rows": made} | fields))


EMPTY = History("public", exists=False)


def plan(src: Source, hist: History = EMPTY, kept=None, **options) -> Plan:
    return make_plan(src, hist, kept or {}, **({"identity": HERE, "policy": DEVELOPMENT} | options))


def reasons(made: Plan, severity: Severity = Severity.ERROR) -> list[Reason]:
    return [f.reason for f in made.findings if f.severity is severity]


def names(made: Plan) -> list[str]:
    return [step.name for step in made.steps]


def test_an_empty_database_gets_everything_in_order():
    made = plan(source("1", "2", "3"))
    assert (made.direction, names(made), made.refusal) == (Direction.UP, ["1", "2", "3"], None)
    outcome = made.outcome
    assert (outcome.current, outcome.target, outcome.applied, outcome.pending) == ("", "3", 0, 3)
    assert (outcome.statements, outcome.transactional, outcome.destructive) == (3, True, False)
    assert [step.down.text for step in made.steps] == [
        "DROP TABLE t_1;",
        "DROP TABLE t_2;",
        "DROP TABLE t_3;",
    ]


def test_only_what_is_pending_is_planned():
    made = plan(source("1", "2", "3"), history("1"))
    assert (names(made), made.outcome.current, made.outcome.target) == (["2", "3"], "1", "3")


def test_with_nothing_pending_there_is_no_direction_and_the_state_stays():
    made = plan(source("1", "2"), history("1", "2"))
    assert (made.direction, made.steps, made.outcome.pending, made.outcome.rungs) == (None, (), 0, ())
    assert made.outcome.from_state == made.outcome.to_state


def test_a_named_target_is_the_last_that_is_applied():
    made = plan(source("1", "2", "3"), history("1"), target="2")
    assert (names(made), made.outcome.target) == (["2"], "2")
    assert plan(source("1", "2", "3"), history("1", "2"), target="2").direction is None


def test_an_unknown_target_is_refused():
    made = plan(source("1"), history("1"), target="nope")
    assert (reasons(made), made.direction) == ([Reason.TARGET_NOT_FOUND], None)
    assert made.findings[0].message.endswith("newest is named 1.")


def test_a_lower_target_goes_down_newest_application_first():
    # 2 was applied after 3
    hist = history(row("1", 0), row("3", 1), row("2", 2))
    made = plan(source("1", "2", "3"), hist, target="1")
    assert (made.direction, names(made)) == (Direction.DOWN, ["2", "3"])
    assert [s.run.script.text for s in made.steps] == ["DROP TABLE t_2;", "DROP TABLE t_3;"]
    assert made.expected == {"1": migration("1").up.checksum}
    assert (made.outcome.current, made.outcome.target) == ("3", "1")


def test_the_journals_down_wins_over_the_sources():
    kept = {"2": script("2/down.sql", "DROP TABLE as_applied;")}
    made = plan(source("1", "2"), history("1", "2"), kept, target="1")
    assert made.steps[0].run.script.text == "DROP TABLE as_applied;"


def test_what_the_source_lost_is_taken_back_by_the_journal():
    kept = {"2": script("2/down.sql", "DROP TABLE t_2;")}
    made = plan(source("1"), history("1", "2"), kept, target="1")
    assert (made.refusal, names(made), made.steps[0].up_destructive) == (None, ["2"], True)


def test_what_neither_source_nor_journal_can_take_back_is_refused():
    assert reasons(plan(source("1"), history("1", "2"), target="1")) == [Reason.DOWN_MISSING]
    without = source("1", migration("2", down=None))
    assert reasons(plan(without, history("1", "2"), target="1")) == [Reason.DOWN_MISSING]


def test_an_empty_down_is_no_way_back_from_a_file_that_does_something():
    src = source("1", migration("2", down="-- to do"), migration("3", up="-- nothing", down="-- nothing"))
    hist = history("1", row(src.migrations[1], 1), row(src.migrations[2], 2))
    made = plan(src, hist, target="1")
    assert [(f.reason, f.migration) for f in made.findings if f.severity == "Error"] == [
        (Reason.DOWN_MISSING, "2")
    ]


def test_a_down_that_does_not_parse_is_refused_when_it_is_needed():
    src = source("1", migration("2", down="DROP TABEL t;"))
    assert reasons(plan(src, history("1", row(src.migrations[1], 1)), target="1")) == [Reason.SQL_INVALID]


def test_a_pending_migrations_unusable_down_is_a_warning_and_is_not_kept():
    made = plan(source(migration("1", down="DROP TABEL t;")))
    assert (made.refusal, reasons(made, Severity.WARNING)) == (None, [Reason.SQL_INVALID])
    assert made.steps[0].down is None
    assert not rung(made, Rung.DOWN).possible


def test_older_pending_ones_wait_while_something_is_taken_back():
    made = plan(source("1", "2", "3"), history("1", "3"), target="2")
    assert (made.direction, names(made), made.outcome.target) == (Direction.DOWN, ["3"], "1")


def test_production_goes_down_only_where_that_is_allowed():
    production = Policy(environment=Environment.PRODUCTION)
    hist = history("1", "2", "3")
    made = plan(source("1", "2", "3"), hist, target="1", policy=production)
    assert reasons(made) == [Reason.DOWNGRADE_FORBIDDEN]
    assert "3 would be taken back, and 1 more" in made.refusal.message
    allowed = production.model_copy(update={"allow_downgrade": True})
    assert plan(source("1", "2", "3"), hist, target="1", policy=allowed).refusal is None


def test_elsewhere_a_lower_target_is_enough():
    staging = Policy(environment=Environment.STAGING)
    assert plan(source("1", "2"), history("1", "2"), target="1", policy=staging).refusal is None


def test_a_migration_that_was_edited_after_it_was_applied_is_refused():
    made = plan(source(migration("1", up="CREATE TABLE other ();"), "2"), history("1"))
    assert reasons(made) == [Reason.EDITED_MIGRATION]
    assert made.refusal.migration == "1"


def test_other_line_ends_are_no_edit():
    unix = migration("1", up="CREATE TABLE a (\n);")
    windows = migration("1", up="CREATE TABLE a (\r\n);")
    assert plan(source(windows), history(row(unix))).refusal is None
    assert plan(source(unix), history(row(windows))).refusal is None


def test_an_edited_migration_that_goes_down_by_the_journal_is_only_warned_of():
    src = source("1", migration("2", up="CREATE TABLE other ();"))
    kept = {"2": script("2/down.sql", "DROP TABLE t_2;")}
    made = plan(src, history("1", "2"), kept, target="1")
    assert (made.refusal, made.steps[0].up_destructive) == (None, True)
    assert Reason.EDITED_MIGRATION in reasons(made, Severity.WARNING)


def test_an_edited_migration_is_not_taken_back_by_its_edited_down():
    src = source("1", migration("2", up="CREATE TABLE other ();"))
    made = plan(src, history("1", "2"), target="1")
    assert reasons(made) == [Reason.EDITED_MIGRATION, Reason.DOWN_MISSING]


def test_a_migration_that_the_source_lost_is_refused_and_never_taken_back_unasked():
    made = plan(source("1"), history("1", "2"))
    assert (reasons(made), made.direction) == ([Reason.MISSING_ON_DISK], None)
    assert made.refusal.migration == "2"


def test_a_failed_migration_that_nobody_resolved_is_refused():
    failed = row("2", 1, finished_at=None, logs="boom")
    made = plan(source("1", "2"), history(row("1"), failed))
    assert reasons(made) == [Reason.FAILED_EARLIER]
    assert "2026-01-01 00:01:00" in made.refusal.message


def test_a_rolled_back_migration_is_pending_again():
    gone = row("2", 1, finished_at=None, rolled_back_at=EPOCH)
    assert names(plan(source("1", "2"), history(row("1"), gone))) == ["2"]


def test_tables_without_a_history_are_refused():
    made = plan(source("1"), History("shop", exists=False, unmanaged_tables=True))
    assert reasons(made) == [Reason.HISTORY_MISSING]
    assert "shop" in made.refusal.message


def test_an_older_pending_migration_is_applied_with_a_warning():
    made = plan(source("1", "2", "3"), history("1", "3"))
    assert (names(made), made.refusal) == (["2"], None)
    assert [(f.reason, f.migration) for f in made.findings] == [(Reason.OUT_OF_ORDER, "2")]
    assert made.outcome.target == "3"


def test_a_file_that_does_not_parse_is_refused_with_its_line():
    made = plan(source("1", migration("2", up="SELECT 1;\nSELEC 2;")))
    assert (made.refusal.reason, made.refusal.migration, made.refusal.line) == (Reason.SQL_INVALID, "2", 2)
    assert made.outcome.pending == 2


def test_errors_come_first_and_the_first_of_them_refuses():
    src = source(migration("1", up="UPDATE a SET b = 1;"), migration("2", up="SELEC;"))
    made = plan(src)
    assert [f.reason for f in made.findings] == [Reason.SQL_INVALID, Reason.DATA_WOULD_BE_LOST]
    assert (made.outcome.findings.errors, made.outcome.findings.warnings) == (1, 1)


def test_a_setting_that_outlives_its_migration_is_warned_of():
    for sql in ("SET lock_timeout = 0;", "RESET ALL;", "SELECT set_config('search_path', '', false);"):
        assert reasons(plan(source(migration("1", up=sql))), Severity.WARNING) == [Reason.SESSION_CHANGED], (
            sql
        )
    for sql in (
        "SET LOCAL lock_timeout = 0;",
        "SET CONSTRAINTS ALL DEFERRED;",
        "SELECT set_config('a.b', '', true);",
    ):
        assert plan(source(migration("1", up=sql))).findings == (), sql


def rung(made: Plan, which: Rung):
    return next(r for r in made.outcome.rungs if r.rung is which)


def test_ways_back_of_a_transactional_plan_with_downs():
    made = plan(source("1", "2"))
    assert [(r.rung, r.possible) for r in made.outcome.rungs] == [
        (Rung.TRANSACTION, True),
        (Rung.UNDO, False),
        (Rung.DOWN, True),
        (Rung.RESTORE, False),
    ]


def test_ways_back_of_an_index_built_concurrently():
    made = plan(source(migration("1", up="CREATE INDEX CONCURRENTLY i ON a (b);", down=None)))
    assert not made.outcome.transactional
    assert [(r.rung, r.possible) for r in made.outcome.rungs] == [
        (Rung.TRANSACTION, False),
        (Rung.UNDO, True),
        (Rung.DOWN, False),
        (Rung.RESTORE, False),
    ]
    assert "1 has no usable down.sql" in rung(made, Rung.DOWN).why


def test_what_a_procedure_leaves_half_done_cannot_be_undone():
    assert not rung(plan(source(migration("1", up="CALL p();"))), Rung.UNDO).possible
    assert not rung(plan(source(migration("1", up="VACUUM a;"))), Rung.UNDO).possible


def test_a_down_is_no_way_back_from_destruction_unless_its_loss_is_consented_to():
    src = source(migration("1", up="ALTER TABLE a DROP COLUMN b;", down="ALTER TABLE a ADD COLUMN b int;"))
    assert not rung(plan(src), Rung.DOWN).possible
    consented = DEVELOPMENT.model_copy(update={"allow_data_loss": True})
    assert rung(plan(src, policy=consented), Rung.DOWN).possible
    assert rung(plan(src, policy=consented), Rung.RESTORE).possible
    hindered = rung(plan(src, policy=consented, restore_obstacles=["it has subscriptions"]), Rung.RESTORE)
    assert (hindered.possible, hindered.why) == (False, "it has subscriptions")
    assert plan(src).steps[0].up_destructive


def test_content_is_equal_across_environments_and_the_plan_is_not():
    base = plan(source("1", "2"))
    other = HERE.model_copy(update={"database_oid": 1})
    moved = HERE.model_copy(update={"host": "elsewhere", "port": 1, "name": "renamed"})
    stricter = Policy(environment=Environment.PRODUCTION)
    for different in (plan(source("1", "2"), identity=other), plan(source("1", "2"), policy=stricter)):
        assert different.outcome.content == base.outcome.content
        assert different.outcome.plan != base.outcome.plan
    assert plan(source("1", "2"), identity=moved).outcome.plan == base.outcome.plan


@pytest.mark.parametrize(
    "other",
    [
        source("1"),
        source("1", migration("2", up="SELECT 2;")),
        source("1", migration("2", down=None)),
        source("1", migration("2", down="DROP TABLE IF EXISTS t_2;")),
        source("1", "2", "3"),
    ],
)
def test_other_files_are_other_content(other):
    assert plan(other).outcome.content != plan(source("1", "2")).outcome.content


def test_what_a_plan_says_it_reaches_is_the_state_that_the_history_then_has():
    src = source("1", "2", "3")
    for before, target in ((("1",), "Latest"), (("1", "2", "3"), "1"), (("2",), "3"), (("1", "3"), "2")):
        made = plan(src, history(*before), target=target)
        left = (
            [n for n in before if n not in names(made)]
            if made.direction is Direction.DOWN
            else [*before, *names(made)]
        )
        assert made.outcome.to_state == history(*left).state
        assert made.outcome.to_state == state_digest(made.expected)


def test_planned_again_with_its_own_target_a_plan_comes_out_the_same():
    src = source("1", "2", "3")
    for before, target in (
        (("1",), "Latest"),
        (("1", "2", "3"), "1"),
        (("2",), "1"),
        (("1", "3"), "2"),
        ((), "2"),
    ):
        first = plan(src, history(*before), target=target)
        again = plan(src, history(*before), target=first.outcome.target, journal_head=9)
        assert again.outcome.plan == first.outcome.plan


def test_concurrently_in_company_is_refused_in_production_only():
    src = source(migration("1", up="CREATE INDEX CONCURRENTLY i ON a (b); SELECT 1;"))
    assert plan(src).refusal is None
    assert plan(src).steps[0].run.mode is Mode.STATEMENT_WISE
    assert reasons(plan(src, policy=Policy())) == [Reason.STATEMENT_REFUSED]


def test_five_thousand_migrations_are_planned_quickly():
    src = source(*(f"{i:014}_step" for i in range(5_000)))
    rows = history(*(row(m, i) for i, m in enumerate(src.migrations)))
    started = time.process_time()
    assert plan(src).outcome.pending == 5_000
    assert plan(src, rows).direction is None
    assert time.process_time() - started < 3


NAMES = [f"{i}" for i in range(1, 7)]


@given(
    on_disk=st.sets(st.sampled_from(NAMES), min_size=1),
    applied=st.permutations(NAMES).flatmap(lambda p: st.integers(0, 6).map(lambda n: p[:n])),
    target=st.sampled_from(["Latest", *NAMES]),
    journalled=st.sets(st.sampled_from(NAMES)),
)
def test_whatever_the_history_a_plan_is_refused_or_leads_to_its_target(on_disk, applied, target, journalled):
    src = source(*sorted(on_disk))
    kept = {n: script(f"{n}/down.sql", f"DROP TABLE t_{n};") for n in journalled}
    hist = history(*applied)
    made = plan(src, hist, kept, target=target)
    assert made.outcome.plan == plan(src, hist, kept, target=target).outcome.plan
    if made.refusal:
        return
    # Nothing runs twice, nothing unknown runs, and only a named target takes anything back.
    assert len(names(made)) == len(set(names(made)))
    now = list(applied)
    for name in names(made):
        if made.direction is Direction.DOWN:
            assert target != "Latest"
            assert name == next(n for n in reversed(now) if n > target), "the newest application goes first"
            now.remove(name)
        else:
            assert name in on_disk
            assert name not in now
            now.append(name)
    assert history(*now).state == made.outcome.to_state
    after = plan(src, history(*now), kept, target=target)
    if after.refusal is None and made.direction is not Direction.DOWN:
        assert after.direction is None
