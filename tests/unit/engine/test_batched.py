"""A statement is taken apart into ranges without another letter changed, or refused with the reason."""

import pytest

from godwit.contract.policy import Environment
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed
from godwit.engine.model import Mode, Script
from godwit.engine.statements import parse

QUOTED = """INSERT INTO b (x) SELECT y FROM "A" WHERE (y > 0 AND z
) AND "A".id > '1' AND "A".id <= '9'
ON CONFLICT DO NOTHING"""
ASKED = "-- godwit: batched by id size 10\n"


def parsed(sql):
    return parse(Script("1/migration.sql", sql.encode(), ""), Environment.PRODUCTION, migration="1")


def ranged(sql):
    script = parsed(sql)
    assert script.mode is Mode.BATCHED
    return script.batched.ranged("'1'", "'9'")


@pytest.mark.parametrize(
    ("sql", "made"),
    [
        ("UPDATE a SET x = 1;", "UPDATE a SET x = 1\nWHERE a.id > '1' AND a.id <= '9'"),
        ("UPDATE a AS t SET x = 1", "UPDATE a AS t SET x = 1\nWHERE t.id > '1' AND t.id <= '9'"),
        ("DELETE FROM s.a WHERE x OR y", "DELETE FROM s.a WHERE (x OR y\n) AND a.id > '1' AND a.id <= '9'"),
        ("DELETE FROM a WHERE x -- no\n", "DELETE FROM a WHERE (x -- no\n) AND a.id > '1' AND a.id <= '9'"),
        (
            "UPDATE a SET x = (SELECT max(y) FROM b WHERE b.z = a.z) WHERE x IN (SELECT 1 WHERE true)",
            (
                "UPDATE a SET x = (SELECT max(y) FROM b WHERE b.z = a.z) WHERE (x IN (SELECT 1 WHERE true)\n)"
                " AND a.id > '1' AND a.id <= '9'"
            ),
        ),
        (
            'INSERT INTO b (x) SELECT y FROM "A" WHERE y > 0 AND z ON CONFLICT DO NOTHING',
            QUOTED,
        ),
        (
            "INSERT INTO b SELECT y FROM a ON CONFLICT (x) DO NOTHING",
            "INSERT INTO b SELECT y FROM a\nWHERE a.id > '1' AND a.id <= '9'\nON CONFLICT (x) DO NOTHING",
        ),
    ],
)
def test_only_a_range_is_added(sql, made):
    assert ranged(ASKED + sql) == made


def test_the_first_range_has_no_lower_end():
    assert parsed(f"{ASKED}DELETE FROM a").batched.ranged("", "'9'") == "DELETE FROM a\nWHERE a.id <= '9'"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        (ASKED + "UPDATE a SET x = 1; SELECT 1", "a file of its own"),
        (ASKED + "BEGIN; UPDATE a SET x = 1; COMMIT", "a file of its own"),
        (ASKED, "a file of its own"),
        (ASKED + "ALTER TABLE a ADD x int", "only an UPDATE"),
        (ASKED + "INSERT INTO a VALUES (1)", "selects from a table"),
        (ASKED + "UPDATE a SET x = 1 RETURNING id", "RETURNING"),
        (ASKED + "WITH b AS (SELECT 1) DELETE FROM a", "WITH"),
        (ASKED + "UPDATE a SET id = id + 1", "its own key"),
        (ASKED + "UPDATE a SET x = (SELECT count(*) FROM a)", "it reads a, which it changes"),
        (ASKED + "INSERT INTO a SELECT id + 1 FROM a", "it reads a, which it changes"),
        (ASKED + "INSERT INTO b SELECT count(*) FROM a", "an aggregate"),
        (ASKED + "INSERT INTO b SELECT row_number() OVER () FROM a", "an aggregate"),
        (ASKED + "INSERT INTO b SELECT x FROM a GROUP BY x", "GROUP BY"),
        (ASKED + "INSERT INTO b SELECT DISTINCT x FROM a", "DISTINCT"),
        (ASKED + "INSERT INTO b SELECT x FROM a LIMIT 5", "LIMIT"),
        (ASKED + "INSERT INTO b SELECT x FROM a JOIN c ON true", "write TABLE.KEY"),
        (
            ASKED + "INSERT INTO b SELECT x FROM a ON CONFLICT (x) DO UPDATE SET x = 1",
            "ON CONFLICT DO UPDATE",
        ),
        ("-- godwit: batched by id\nUPDATE a SET x = 1", "write it as"),
        ("-- godwit: batch by id size 5\nUPDATE a SET x = 1", "write it as"),
        ("-- godwit: batched by id size many\nUPDATE a SET x = 1", "write it as"),
        ("-- godwit: batched by id size 0\nUPDATE a SET x = 1", "1 to 1000000 rows"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(sql, why):
    with pytest.raises(StepFailed) as raised:
        parsed(sql)
    assert raised.value.failure.reason is Reason.STATEMENT_REFUSED
    assert why in raised.value.failure.message
    assert raised.value.failure.line in {1, 2}


def test_the_words_in_a_string_ask_for_nothing():
    assert parsed("SELECT '\n-- godwit: batched by id size 5\n'").mode is Mode.WHOLE
