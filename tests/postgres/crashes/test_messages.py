"""How often a step asks the server for each migration: the way there and back is most of what one costs."""

from godwit.contract.policy import Environment, Policy

from .folders import Line, Migration
from .stage import apply_verbs

POLICY = Policy(environment=Environment.DEVELOPMENT)


def requests_for(beds, sql: str, count: int) -> int:
    """Of the connection that migrates, for *count* migrations of *sql*, whose {} is each one's number."""
    migrations = tuple(
        Migration(f"m{number:02}_migration", (Line(sql.format(number)),), None, whole=True)
        for number in range(count)
    )
    with beds.stages(migrations) as (stage, _):
        ended = stage.step(apply_verbs(stage.plan(POLICY), POLICY), "u1")
        assert ended.outcome is not None
        assert ended.outcome.failure is None
        return len(ended.requests[0])


def each(beds, sql: str) -> float:
    """What one more migration adds."""
    return (requests_for(beds, sql, 12) - requests_for(beds, sql, 4)) / 8


def test_a_migration_is_three_messages(beds):
    assert each(beds, "CREATE TABLE new_{} (id int)") == 3


def test_one_that_keeps_others_out_looks_at_their_locks_first(beds):
    assert each(beds, "ALTER TABLE proof.items ADD COLUMN more_{} int") == 4
