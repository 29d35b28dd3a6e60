"""What a database says after a crash: whether history, journal, catalog and data tell the same story."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .folders import Line, Migration
from .stage import Stage

# Every object of both schemas, with all that defines it, whatever its OID and age.
_CATALOG = """
SELECT 'column', a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull::text, pg_get_expr(d.adbin, d.adrelid)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace IN ('public'::regnamespace, 'proof'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'S')
   AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisvalid::text,
       i.indisready::text, i.indislive::text
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
 WHERE c.relnamespace IN ('public'::regnamespace, 'proof'::regnamespace)
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated::text, ''
  FROM pg_constraint WHERE connamespace IN ('public'::regnamespace, 'proof'::regnamespace)
UNION ALL
SELECT 'value', enumtypid::regtype::text, enumlabel,
       rank() OVER (PARTITION BY enumtypid ORDER BY enumsortorder)::text, '', '' FROM pg_enum
UNION ALL
SELECT 'partition', inhrelid::regclass::text, inhparent::regclass::text, inhdetachpending::text, '', ''
  FROM pg_inherits
UNION ALL
SELECT 'procedure', oid::regprocedure::text, prosrc, '', '', ''
  FROM pg_proc WHERE pronamespace = 'proof'::regnamespace
 ORDER BY 1, 2, 3, 4"""

_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1"


@dataclass(frozen=True)
class Row:
    """A row of the journal, as far as it is looked at here."""

    operation: str
    verb: str
    event: str
    migration: str
    statement: int | None
    history_row: str


@dataclass(frozen=True)
class Seen:
    """One look at a database in which nobody works."""

    finished: set[str]
    """Names of the migrations whose history row is finished and not rolled back."""
    unfinished: set[str]
    """Names of those whose row is neither finished nor rolled back."""
    journal: list[Row]
    invalid: list[str]
    evidence: dict[str, bool]

    def rows(self, migration: str, verb: str) -> list[Row]:
        """The journal's rows of one file since its last start; all of them where it never started."""
        rows = [r for r in self.journal if r.migration == migration and r.verb == verb]
        starts = [i for i, r in enumerate(rows) if r.event == "Started"]
        return rows[starts[-1] :] if starts else rows

    def applied(self) -> set[str]:
        """Migrations that stand by the journal's word."""
        last = {r.migration: r.event for r in self.journal if r.event in {"Applied", "Reverted"}}
        return {name for name, event in last.items() if event == "Applied"}


def look(stage: Stage, migrations: Sequence[Migration]) -> Seen:
    """Look at the database."""
    history, journal = "public._prisma_migrations", "godwit.journal"
    ((has_history, has_journal),) = stage.query(
        "SELECT to_regclass(%s) IS NOT NULL, to_regclass(%s) IS NOT NULL", history, journal
    )
    finished: set[str] = set()
    unfinished: set[str] = set()
    if has_history:
        for name, ended, back in stage.query(
            f"SELECT migration_name, finished_at, rolled_back_at FROM {history}"
        ):
            if back is None:
                (unfinished if ended is None else finished).add(name)
    rows = []
    if has_journal:
        rows = [
            Row(*row)
            for row in stage.query(
                "SELECT operation, verb, event, migration, statement, coalesce(detail ->> 'row', '') "
                f"FROM {journal} ORDER BY id"
            )
        ]
    asked = sorted({line.evidence for line in _lines(migrations) if line.evidence})
    answers = stage.query(f"SELECT {', '.join(asked)}")[0] if asked else ()
    return Seen(
        finished,
        unfinished,
        rows,
        [name for (name,) in stage.query(_INVALID)],
        dict(zip(asked, answers, strict=True)),
    )


def _lines(migrations: Iterable[Migration]) -> Iterable[Line]:
    for migration in migrations:
        yield from migration.up
        yield from migration.down or ()


def nobody_is_left(stage: Stage) -> None:
    """No session, lock, prepared transaction or fence is left in the database."""
    stage.quiet()
    assert stage.query("SELECT FROM pg_prepared_xacts WHERE database = current_database()") == []
    assert stage.query("SELECT datallowconn FROM pg_database WHERE datname = current_database()") == [(True,)]


def nothing_ran_twice(stage: Stage) -> None:
    """Every change of data left its one row in the tally, or none."""
    counts = Counter(what for (what,) in stage.query("SELECT what FROM proof.tally"))
    assert all(count == 1 for count in counts.values()), counts


def stories_agree(seen: Seen, migrations: Sequence[Migration], verb: str) -> None:
    """History, journal and catalog agree, and what is half done is named by the journal.

    *verb* is the one that was cut off: Apply, or Revert after a whole Apply.
    """
    assert seen.applied() == seen.finished
    named: list[Row] = []
    for migration in migrations:
        if verb == "Apply" or migration.name not in _applied_once(seen):
            done = migration.name in seen.finished
            lines, whole, way = migration.up, migration.whole, "Apply"
            if done:
                # A way back may have begun on it.
                pass
        else:
            done = migration.name not in seen.finished
            lines, whole, way = migration.down or (), migration.down_whole, "Revert"
        rows = seen.rows(migration.name, way)
        ran = {n for n, line in enumerate(lines) if line.evidence and seen.evidence[line.evidence]}
        could = {n for n, line in enumerate(lines) if line.evidence}
        if done:
            assert ran == could, f"{migration.name} counts as {way}, but only {ran} of {could} are there"
            continue
        if whole:
            assert not ran, f"{migration.name} does not count as {way}, but {ran} of it are there"
            continue
        started = bool(rows) and rows[0].event == "Started"
        recorded = {r.statement for r in rows if r.event == "Statement"}
        announced = _announced(rows)
        assert recorded & could <= ran, f"{migration.name}: {recorded} are recorded, {ran} are there"
        assert ran <= recorded | announced, f"{migration.name}: {ran} are there, {recorded} are recorded"
        assert started or not ran
        assert way == "Revert" or not ran or migration.name in seen.unfinished
        named += [r for r in rows if r.statement in announced]
    standing = {r.migration for r in seen.journal if r.event == "Started"} - _ended(seen)
    assert seen.unfinished <= standing, "a history row is unfinished, and no journal row says why"
    assert not seen.invalid or named, f"INVALID indexes that the journal does not name: {seen.invalid}"


def _applied_once(seen: Seen) -> set[str]:
    return {r.migration for r in seen.journal if r.event == "Applied"}


def _ended(seen: Seen) -> set[str]:
    last = {(r.migration, r.verb): r.event for r in seen.journal if r.migration and r.event != "Failed"}
    return {
        name for (name, verb), event in last.items() if verb == "Apply" and event in {"Applied", "Abandoned"}
    }


def _announced(rows: Iterable[Row]) -> set[int | None]:
    """Statements that were announced and of whose end nothing is known yet."""
    found: set[int | None] = set()
    for row in rows:
        match row.event:
            case "Sent":
                found.add(row.statement)
            case "Statement" | "Undone":
                found.discard(row.statement)
    return found


def unknowable(seen: Seen, migrations: Sequence[Migration], verb: str) -> str:
    """The migration that was cut off inside a statement of which nobody can tell how far it came, if any."""
    for migration in migrations:
        lines = migration.up if verb == "Apply" else migration.down or ()
        for number in _announced(seen.rows(migration.name, verb)):
            if number is not None and lines[number].unknowable:
                return migration.name
    return ""


def whole_state(stage: Stage) -> dict[str, Any]:
    """Everything that must come out the same, whatever happened on the way."""
    ((has_history, has_settings),) = stage.query(
        "SELECT to_regclass('public._prisma_migrations') IS NOT NULL, "
        "to_regclass('godwit.settings') IS NOT NULL"
    )
    return {
        "catalog": stage.query(_CATALOG),
        "tally": sorted(stage.query("SELECT what FROM proof.tally")),
        "history": sorted(
            set(
                stage.query(
                    "SELECT migration_name, checksum, finished_at IS NOT NULL, rolled_back_at IS NOT NULL, "
                    "applied_steps_count, coalesce(logs, '') FROM public._prisma_migrations"
                )
            )
        )
        if has_history
        else None,
        "invalid": stage.query(_INVALID),
        "claims": stage.query("SELECT key FROM godwit.settings WHERE key = 'activeOperation'")
        if has_settings
        else [],
    }
