"""Random migration folders whose every statement leaves evidence: whether it ran, and how often.

They work on the schema `proof`, which stands in the database beforehand (PROOF): a table with rows to index,
a tally to which every change of data adds a row, an enum, partitions, procedures.
"""

from dataclasses import dataclass

from hypothesis import strategies as st

PLACES = 16
"""How many columns, old indexes and partitions there are: no two statements share one."""

# One message, and so one transaction.
PROOF = f"""
DROP SCHEMA IF EXISTS public, proof, godwit CASCADE;
CREATE SCHEMA public;
CREATE SCHEMA proof;
CREATE TABLE proof.tally (what text NOT NULL);
CREATE TABLE proof.items (id int, same int DEFAULT 0,
    {", ".join(f"c{n} int DEFAULT 0" for n in range(PLACES))});
INSERT INTO proof.items (id) SELECT generate_series(1, 200);
{"".join(f"CREATE INDEX old_{n} ON proof.items (c{n}, id);" for n in range(PLACES))}
CREATE TYPE proof.mood AS ENUM ('calm');
CREATE TABLE proof.parts (id int) PARTITION BY LIST (id);
{"".join(f"CREATE TABLE proof.part_{n} PARTITION OF proof.parts FOR VALUES IN ({n});" for n in range(PLACES))}
CREATE PROCEDURE proof.note(what text) LANGUAGE plpgsql AS 'BEGIN INSERT INTO proof.tally VALUES (what); END';
CREATE PROCEDURE proof.note_and_commit(what text) LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO proof.tally VALUES (what); COMMIT; END';
"""


@dataclass(frozen=True)
class Line:
    """One statement. *evidence*: SQL that is true when it is done, false when not; empty where none is left.

    `unknowable`: it commits by itself, so that nobody can tell after a crash how far it came.
    """

    sql: str
    evidence: str = ""
    back: "Line | None" = None
    fails: bool = False
    unknowable: bool = False


def _tally(what: str) -> str:
    return f"(SELECT count(*) = 1 FROM proof.tally WHERE what = '{what}')"


def _gone(evidence: str) -> str:
    return f"NOT {evidence}"


def _data(key: str) -> Line:
    back = Line(f"INSERT INTO proof.tally VALUES ('back {key}')", _tally(f"back {key}"))
    return Line(f"INSERT INTO proof.tally VALUES ('{key}')", _tally(key), back)


def _table(key: str) -> Line:
    there = f"(to_regclass('public.{key}') IS NOT NULL)"
    return Line(f"CREATE TABLE {key} (id int, v text)", there, Line(f"DROP TABLE {key}", _gone(there)))


def _column(key: str) -> Line:
    there = (
        f"EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'proof.items'::regclass AND attname = '{key}')"
    )
    back = Line(f"ALTER TABLE proof.items DROP COLUMN {key}", _gone(there))
    return Line(f"ALTER TABLE proof.items ADD COLUMN {key} int DEFAULT 1", there, back)


def _value(key: str) -> Line:
    there = f"EXISTS (SELECT FROM pg_enum WHERE enumlabel = '{key}')"
    return Line(f"ALTER TYPE proof.mood ADD VALUE '{key}'", there, _data(key).back)


def _valid(name: str) -> str:
    return f"EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('proof.{name}') AND indisvalid)"


def _index(key: str, number: int) -> Line:
    back = Line(f"DROP INDEX CONCURRENTLY proof.{key}", f"(to_regclass('proof.{key}') IS NULL)")
    return Line(f"CREATE INDEX CONCURRENTLY {key} ON proof.items (c{number})", _valid(key), back)


def _unnamed_index(_: str, number: int) -> Line:
    name = f"items_c{number}_idx"
    back = Line(f"DROP INDEX proof.{name}", f"(to_regclass('proof.{name}') IS NULL)")
    return Line(f"CREATE INDEX CONCURRENTLY ON proof.items (c{number})", _valid(name), back)


def _drop_index(_: str, number: int) -> Line:
    gone = f"(to_regclass('proof.old_{number}') IS NULL)"
    back = Line(f"CREATE INDEX old_{number} ON proof.items (c{number}, id)", _valid(f"old_{number}"))
    return Line(f"DROP INDEX CONCURRENTLY proof.old_{number}", gone, back)


def _detach(_: str, number: int) -> Line:
    attached = f"EXISTS (SELECT FROM pg_inherits WHERE inhrelid = 'proof.part_{number}'::regclass)"
    back = Line(
        f"ALTER TABLE proof.parts ATTACH PARTITION proof.part_{number} FOR VALUES IN ({number})", attached
    )
    return Line(
        f"ALTER TABLE proof.parts DETACH PARTITION proof.part_{number} CONCURRENTLY", _gone(attached), back
    )


def _reindex(_: str, number: int) -> Line:
    return Line(f"REINDEX INDEX CONCURRENTLY proof.old_{number}")


def _vacuum(_: str, __: int) -> Line:
    return Line("VACUUM proof.items")


def _slow(_: str) -> Line:
    """Long enough for the next attempt to meet the server process of one that was killed."""
    return Line("SELECT pg_sleep(0.2)")


def _setting(_: str) -> Line:
    return Line("SET work_mem = '5MB'")


IN_TRANSACTION = (_data, _data, _data, _table, _table, _column, _value, _slow)
OUTSIDE = (_index, _unnamed_index, _drop_index, _detach, _reindex, _vacuum)
FAILURES = (
    Line("SELECT 1 / 0", fails=True),
    Line("INSERT INTO proof.nowhere VALUES (1)", fails=True),
)
FAILURES_OUTSIDE = (
    *FAILURES,
    Line("CREATE UNIQUE INDEX CONCURRENTLY failing ON proof.items (same)", fails=True),
    Line("CREATE UNIQUE INDEX CONCURRENTLY ON proof.items (same)", fails=True),
)


@dataclass(frozen=True)
class Migration:
    """One migration: the statements of its way there and, where it has one, of its way back."""

    name: str
    up: tuple[Line, ...]
    down: tuple[Line, ...] | None
    whole: bool
    """Whether its way there runs in one transaction with its history row."""
    wrapped: bool = False

    @property
    def up_sql(self) -> str:
        return _script(self.up, wrapped=self.wrapped)

    @property
    def down_sql(self) -> str | None:
        return None if self.down is None else _script(self.down, wrapped=False)

    @property
    def down_whole(self) -> bool:
        """Whether its way back runs in one transaction."""
        return not any("CONCURRENTLY" in line.sql for line in self.down or ())


def _script(lines: tuple[Line, ...], *, wrapped: bool) -> str:
    text = "".join(f"{line.sql};\n" for line in lines)
    return f"BEGIN;\n{text}COMMIT;\n" if wrapped else text


SHAPES = ("whole", "whole", "wrapped", "mixed", "mixed", "mixed", "block")
SHAPES_IN_TRANSACTION = ("whole", "whole", "wrapped")


@st.composite
def folders(draw: st.DrawFn, *, shapes: tuple[str, ...]) -> tuple[Migration, ...]:
    """One to four migrations of these *shapes*; at most one of them fails, and nothing runs after it."""
    count = draw(st.sampled_from((1, 2, 2, 3, 3, 4)))
    failing = draw(st.sampled_from((None, None, None, count - 1, 0)))
    places = iter(range(PLACES))
    return tuple(
        draw(_migration(f"m{number}", places, shapes, fails=number == failing)) for number in range(count)
    )


@st.composite
def _migration(draw: st.DrawFn, key: str, places, shapes: tuple[str, ...], *, fails: bool) -> Migration:
    shape = draw(st.sampled_from(shapes))
    if shape == "block" and not fails:
        up = (draw(_block(f"{key}_s0")),)
        whole = not up[0].unknowable
    else:
        up, whole = draw(_lines(key, places, outside=shape == "mixed", fails=fails)), shape != "mixed"
    ways_back = tuple(line.back for line in reversed(up) if line.back)
    down = ways_back if ways_back and draw(st.integers(0, 5)) else None
    return Migration(f"{key}_migration", up, down, whole, wrapped=shape == "wrapped")


@st.composite
def _lines(draw: st.DrawFn, key: str, places, *, outside: bool, fails: bool) -> tuple[Line, ...]:
    count = draw(st.integers(2 if outside else 1, 4))
    lines: list[Line] = []
    # At least one statement outside a transaction makes a file one that runs statement by statement.
    must = draw(st.integers(0, count - 1)) if outside else -1
    for number in range(count):
        if number == must or (outside and draw(st.integers(0, 2)) == 0):
            lines.append(draw(st.sampled_from(OUTSIDE))(f"{key}_s{number}", next(places)))
        elif outside and draw(st.integers(0, 5)) == 0:
            lines.append(_setting(key))
        else:
            lines.append(draw(st.sampled_from(IN_TRANSACTION))(f"{key}_s{number}"))
    if fails:
        failure = draw(st.sampled_from(FAILURES_OUTSIDE if outside else FAILURES))
        lines.insert(draw(st.integers(0, len(lines))), failure)
    return tuple(lines)


@st.composite
def _block(draw: st.DrawFn, key: str) -> Line:
    """A DO or CALL in a file of its own; some commit by themselves."""
    note = f"INSERT INTO proof.tally VALUES ('{key}')"
    sql, unknowable = draw(
        st.sampled_from(
            (
                (f"DO $$ BEGIN {note}; END $$", False),
                (f"DO $$ BEGIN {note}; COMMIT; END $$", True),
                (f"CALL proof.note('{key}')", False),
                (f"CALL proof.note_and_commit('{key}')", True),
            )
        )
    )
    return Line(sql, _tally(key), _data(key).back, unknowable=unknowable)
