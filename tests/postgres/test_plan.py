"""Planning against a real database: what is read, and that nothing is written."""

from pathlib import Path

import psycopg
import pytest

from godwit.contract.environment import DATABASE_URI_VAR
from godwit.contract.outcome import PlanOutcome
from godwit.contract.policy import Environment, Policy
from godwit.contract.reasons import CATALOGUE, Kind, Reason
from godwit.contract.request import Connection, Direction, Format, PlanInput
from godwit.engine import journal, ownership
from godwit.engine.errors import StepFailed
from godwit.engine.formats import prisma
from godwit.engine.plan import effective_policy, plan_verb
from godwit.engine.session import Session, open_session
from godwit.engine.source import read_source
from godwit.engine.uri import parse_target

SAMPLES = read_source(Path(__file__).parents[2] / "migrations", Format.PRISMA)
DEVELOPMENT = Policy(environment=Environment.DEVELOPMENT)


def open_on(uri: str, *, writing: bool = False) -> Session:
    target = parse_target(Connection(), {DATABASE_URI_VAR: uri})
    return open_session(target, Connection(), application_name="test", expected=None, writing=writing)


def plan(uri: str, source=SAMPLES, **verb) -> tuple[PlanOutcome, dict]:
    with open_on(uri) as session:
        return plan_verb(session, source, PlanInput(**({"policy": DEVELOPMENT} | verb)))


def apply_samples(database, count: int) -> None:
    """As psql and Prisma would: scripts by themselves, rows as they end up."""
    with open_on(database.uri, writing=True) as session:
        prisma.ensure_table(session)
        for migration in SAMPLES.migrations[:count]:
            database.psql(migration.up.text)
            session.execute(
                "INSERT INTO _prisma_migrations"
                " (id, checksum, migration_name, finished_at, applied_steps_count)"
                " VALUES (gen_random_uuid()::text, %s, %s, clock_timestamp(), 1)",
                [migration.up.checksum, migration.name],
            )


def test_a_plan_writes_nothing_and_tells_all_of_it(database):
    before = database.dump(without=())
    outcome, document = plan(database.uri)
    assert database.dump(without=()) == before
    assert (outcome.direction, outcome.pending, outcome.journal_head) == (Direction.UP, 5, 0)
    assert outcome.target == SAMPLES.migrations[-1].name
    assert [m["name"] for m in document["migrations"]] == [m.name for m in SAMPLES.migrations]
    assert document["migrations"][0]["statements"][0]["sql"].startswith("CREATE")
    assert sum(len(m["statements"]) for m in document["migrations"]) == outcome.statements


def test_what_prisma_applied_is_not_pending(database):
    apply_samples(database, 3)
    outcome, _ = plan(database.uri)
    assert (outcome.applied, outcome.current) == (3, SAMPLES.migrations[2].name)
    assert outcome.pending_names == tuple(m.name for m in SAMPLES.migrations[3:])


def test_a_lower_target_goes_down_by_the_sources_files(database):
    apply_samples(database, 3)
    outcome, document = plan(database.uri, target=SAMPLES.migrations[0].name)
    assert (outcome.direction, outcome.destructive) == (Direction.DOWN, True)
    assert [m["name"] for m in document["migrations"]] == [m.name for m in SAMPLES.migrations[2:0:-1]]


def test_a_refused_plan_carries_outcome_and_document(database):
    database.psql("CREATE TABLE stranger ()")
    with pytest.raises(StepFailed) as raised:
        plan(database.uri)
    failed = raised.value
    assert (failed.failure.reason, failed.outcome.findings.errors) == (Reason.HISTORY_MISSING, 1)
    assert "none" in failed.failure.standing
    assert failed.document["plan"] == failed.outcome.plan


def test_an_invalid_index_is_a_warning(database):
    database.psql("CREATE TABLE a (x int); INSERT INTO a VALUES (1), (1)")
    with open_on(database.uri, writing=True) as session:
        prisma.ensure_table(session)
    with open_on(database.uri, writing=True) as session, pytest.raises(psycopg.errors.UniqueViolation):
        session.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON a (x)")
    database.psql("CREATE TABLE p (x int) PARTITION BY LIST (x); CREATE INDEX waiting ON ONLY p (x)")
    outcome, _ = plan(database.uri)
    assert [(f.reason, f.message) for f in outcome.findings.first] == [
        (Reason.INVALID_INDEX, "The index broken is INVALID.")
    ]


def test_the_stricter_of_stamp_and_request_counts(database):
    with open_on(database.uri, writing=True) as session:
        assert effective_policy(session, DEVELOPMENT) == DEVELOPMENT
        with session.conn.transaction():
            journal.ensure(session)
            ownership.write_stamp(session, Environment.PRODUCTION)
        assert effective_policy(session, DEVELOPMENT).environment is Environment.PRODUCTION
        first, _ = plan_verb(session, SAMPLES, PlanInput(policy=DEVELOPMENT))
        strict, _ = plan_verb(session, SAMPLES, PlanInput(policy=Policy()))
        assert first.plan == strict.plan


def test_a_history_that_may_not_be_read_is_a_missing_right(database, role):
    apply_samples(database, 1)
    with pytest.raises(StepFailed) as raised:
        plan(database.uri_as(role("stranger")))
    assert raised.value.failure.reason is Reason.PERMISSION_DENIED
    assert "_prisma_migrations" in raised.value.failure.message


def test_a_history_that_somebody_locks_is_waited_for(database):
    apply_samples(database, 1)
    with psycopg.connect(database.uri) as other:
        other.execute("LOCK TABLE _prisma_migrations")
        with pytest.raises(StepFailed) as raised:
            plan(database.uri)
    assert raised.value.failure.reason is Reason.TABLE_LOCKED
    assert CATALOGUE[Reason.TABLE_LOCKED].kind is Kind.WAITING
