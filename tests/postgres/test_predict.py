"""A plan that is sure to hold locks for longer than allowed is refused, and no other."""

import re
import time

import psycopg
import pytest
from waiting import until_answered

from godwit.contract.policy import TransactionMode
from godwit.contract.reasons import Reason
from godwit.engine.errors import StepFailed

ROWS = 80_000
BIG = f"""
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE big (id int NOT NULL, n int, s varchar(10), at timestamptz);
INSERT INTO big SELECT g, g, 'x', now() FROM generate_series(1, {ROWS}) g;
INSERT INTO other SELECT g FROM generate_series(1, {ROWS}) g;
ANALYZE big, other;
"""
# 80,000 rows take at least 1.2 ms to be looked at, 4.8 ms to get into an index, 8 ms to be rewritten.
IMPATIENT = {"max_lock_hold_ms": 1}

INDEX = "CREATE INDEX big_n ON big (n);"

REFUSED = {
    "another type": "ALTER TABLE big ALTER n TYPE bigint;",
    "another type by an expression": "ALTER TABLE big ALTER n TYPE text USING n::text;",
    "a column of serial": "ALTER TABLE big ADD k bigserial;",
    "an identity": "ALTER TABLE big ADD k int GENERATED ALWAYS AS IDENTITY;",
    "a stored column": "ALTER TABLE big ADD k int GENERATED ALWAYS AS (n * 2) STORED;",
    "a volatile default": "ALTER TABLE big ADD k uuid DEFAULT gen_random_uuid();",
    "a volatile default within": "ALTER TABLE public.big ADD k float8 DEFAULT 1 + random() * 2;",
    "SET NOT NULL": "ALTER TABLE big ALTER n SET NOT NULL;",
    "a CHECK": "ALTER TABLE big ADD CONSTRAINT c CHECK (n > 0);",
    "a foreign key": "ALTER TABLE big ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES other;",
    "a unique constraint": "ALTER TABLE big ADD CONSTRAINT u UNIQUE (n);",
    "a primary key": "ALTER TABLE big ADD PRIMARY KEY (id);",
    "an index": INDEX,
    "VALIDATE behind ADD": (
        "ALTER TABLE big ADD CONSTRAINT c CHECK (n > 0) NOT VALID;\nALTER TABLE big VALIDATE CONSTRAINT c;"
    ),
    "VACUUM FULL": "VACUUM FULL big;",
    "after an insertion": f"INSERT INTO big (id) VALUES (0);\n{INDEX}",
}

ACCEPTED = {
    "CONCURRENTLY": "CREATE INDEX CONCURRENTLY big_n ON big (n);",
    "NOT VALID": "ALTER TABLE big ADD CONSTRAINT c CHECK (n > 0) NOT VALID;",
    "a foreign key that is not validated": (
        "ALTER TABLE big ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES other NOT VALID;"
    ),
    "a plain column": "ALTER TABLE big ADD k int;",
    "a constant default": "ALTER TABLE big ADD k int NOT NULL DEFAULT 7;",
    "a stable default": "ALTER TABLE big ADD k timestamptz DEFAULT now();",
    "a longer varchar": "ALTER TABLE big ALTER s TYPE varchar(20);",
    "a type that is stored alike": "ALTER TABLE big ALTER s TYPE text;",
    "the same instants": "ALTER TABLE big ALTER at TYPE timestamp;",
    "NOT NULL already": "ALTER TABLE big ALTER id SET NOT NULL;",
    "an index that is there": "CREATE INDEX IF NOT EXISTS other_pkey ON big (n);",
    "what comes after emptying": f"TRUNCATE big;\n{INDEX}",
    "what comes after deleting": f"DELETE FROM big;\n{INDEX}",
    "a table of the plan itself": f"ALTER TABLE big RENAME TO old;\nCREATE TABLE big (n int);\n{INDEX}",
    "what nobody can see through": f"DO $$ BEGIN EXECUTE 'TRUNCATE big'; END $$;\n{INDEX}",
    "a copy of its name": f"DROP TABLE big;\nSELECT 1 AS n INTO big;\n{INDEX}",
    "a temporary copy": "SELECT 1 AS n INTO TEMP big;\nALTER TABLE big ALTER n TYPE bigint;",
    "another schema": f"SET LOCAL search_path = pg_temp;\nCREATE TABLE big (n int);\n{INDEX}",
    "a table that is not there": "ALTER TABLE IF EXISTS nowhere ALTER n SET NOT NULL;",
    "a column that is dropped": "ALTER TABLE big DROP COLUMN n;",
}


@pytest.fixture
def big(project):
    project.write("001_big", BIG)
    project.deploy()
    return project


def refused(project, **changes):
    with pytest.raises(StepFailed) as caught:
        project.planned(policy=project.policy(**(IMPATIENT | changes)))
    return caught.value


def least(failure) -> float:
    return float(re.search(r"at least ([0-9.e-]+) s", failure.message)[1])


def taken(project, sql: str) -> float:
    """Seconds that it takes; it is rolled back where it can be."""
    with psycopg.connect(project.uri, autocommit=True) as session:
        if "VACUUM" not in sql:
            session.execute("BEGIN")
        begun = time.monotonic()
        session.execute(sql.encode())
        seconds = time.monotonic() - begun
        session.execute("ROLLBACK" if "VACUUM" not in sql else "SELECT")
        return seconds


def test_work_on_a_whole_table_is_refused_and_takes_no_less_than_predicted(big):
    for name, sql in REFUSED.items():
        big.write("002_step", sql)
        failure = refused(big).failure
        assert (failure.reason, failure.migration) == (Reason.LOCK_HOLD_PREDICTED, "002_step"), name
        assert failure.line == sql.count("\n") + 1, name
        assert "maxLockHold is 0.001 s" in failure.message, name
        assert taken(big, sql) >= least(failure), name


def test_what_may_fit_is_not_refused(big):
    for name, sql in ACCEPTED.items():
        big.write("002_step", sql)
        findings = big.planned(policy=big.policy(**IMPATIENT)).findings
        assert findings.errors == 0, name


def test_what_fits_is_not_refused(big):
    big.write("002_step", REFUSED["another type"])
    assert big.deploy("u2").applied == 1


def test_an_empty_table_is_not_refused(project):
    project.write("001_big", "CREATE TABLE big (id int, n int);")
    project.deploy()
    for number, sql in enumerate(REFUSED.values()):
        if "other" not in sql:
            project.write(f"002_{number:02}", sql)
    project.planned(policy=project.policy(**IMPATIENT))


def test_tables_of_the_same_plan_do_not_count(project):
    project.write("001_big", BIG)
    project.write("002_step", REFUSED["another type"])
    project.planned(policy=project.policy(**IMPATIENT))


def test_a_check_of_an_earlier_migration_may_spare_the_scan(big):
    big.write("002_check", "ALTER TABLE public.big ADD CONSTRAINT c CHECK (n IS NOT NULL) NOT VALID;")
    big.write("003_validate", "ALTER TABLE big VALIDATE CONSTRAINT c;")
    big.write("004_not_null", "ALTER TABLE big ALTER n SET NOT NULL;")
    big.planned(policy=big.policy(**IMPATIENT))


def test_an_index_may_spare_a_foreign_key_the_scan(big):
    big.database.psql("CREATE INDEX big_n ON big (n)")
    big.write("002_step", REFUSED["a foreign key"])
    big.planned(policy=big.policy(**IMPATIENT))


def test_what_one_transaction_does_is_added_up(big):
    big.write("002_one", "ALTER TABLE big ADD CONSTRAINT c CHECK (n > 0);")
    big.write("003_two", "ALTER TABLE big ADD CONSTRAINT d CHECK (n > 1);")
    policy = {"max_lock_hold_ms": 2}
    big.planned(policy=big.policy(**policy))
    failure = refused(big, **policy, transaction=TransactionMode.BATCH).failure
    assert (failure.reason, failure.migration) == (Reason.LOCK_HOLD_PREDICTED, "002_one")


def test_a_table_that_somebody_has_locked_is_planned_for_all_the_same(big):
    big.write("002_step", REFUSED["another type"])
    with psycopg.connect(big.uri) as other:
        other.execute("LOCK TABLE big")
        assert refused(big).failure.reason is Reason.LOCK_HOLD_PREDICTED


def test_the_message_names_the_way_out(big):
    big.write("002_step", REFUSED["an index"])
    failure = refused(big).failure
    assert "CREATE INDEX on big (" in failure.message
    assert failure.message.endswith("Build the index CONCURRENTLY, in a file of its own.")
    assert "maxLockHold" in failure.reason.advice.next


def test_a_table_that_has_grown_makes_no_other_plan_and_surprises_nobody_under_the_lock(big):
    big.database.psql("CREATE TABLE kept AS TABLE big; TRUNCATE big")
    big.write("002_step", REFUSED["another type"])
    policy = big.policy(**IMPATIENT)
    small = big.plan(policy=policy)
    big.database.psql("INSERT INTO big TABLE kept; ANALYZE big")
    until_answered(big, "SELECT pg_stat_get_live_tuples('big'::regclass) > 0", "t")  # told later before 15
    assert refused(big).outcome.plan == small.plan
    reason = None
    try:
        big.apply("u2", plan=small, policy=policy)
    except StepFailed as failed:
        reason = failed.failure.reason
    assert reason is not Reason.LOCK_HOLD_PREDICTED  # but cut off, if somebody notices in time
