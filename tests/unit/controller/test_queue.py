"""The queue keeps what is due, and nothing of what was; a long line is not taken for a standstill."""

import asyncio

from godwit.cluster.local import LocalCluster
from godwit.controller.health import LAG_LIMIT, STUCK_AFTER, Health
from godwit.controller.loop import Controller
from godwit.controller.queue import Key, WorkQueue

KEY = Key("DatabaseMigration", "shop", "shop")
YEAR = 365 * 86_400.0


def test_a_key_that_is_woken_often_and_due_in_a_year_takes_no_more_room():
    time = 0.0
    queue = WorkQueue(lambda: time)
    for hour in range(8_760):
        time = hour * 3_600.0
        queue.add(KEY, "shop")
        assert queue.take() == KEY
        queue.done(KEY, after=YEAR - time)

    assert len(queue) == 1
    assert len(queue._heap) < 100
    time = YEAR
    assert queue.take() == KEY
    assert queue.take() is None


class Line:
    """A controller whose passes the test makes, in a time of its own, and what its probe says."""

    def __init__(self) -> None:
        self.time = 0.0
        controller = Controller(LocalCluster(), image="local", monotonic=lambda: self.time)
        self.queue = controller.queue
        self.health = Health(controller, asyncio.Event())

    def passes(self, number: int, seconds: float) -> str:
        """Make so many passes of that length; the last that the probe complained of."""
        why = ""
        for _ in range(number):
            key = self.queue.take()
            assert key is not None
            self.time += seconds
            why = self.health.why_not_live() or why
            self.queue.done(key, after=None)
        return why


def test_a_start_with_many_objects_of_one_database_is_no_standstill():
    line = Line()
    for number in range(600):
        line.queue.add(Key("DatabaseBackup", "shop", f"b{number}"), "shop")
    assert line.passes(600, 0.5) == ""
    assert line.queue.take() is None


def test_many_databases_that_wait_for_a_worker_are_no_standstill():
    line = Line()
    for number in range(600):
        line.queue.add(Key("DatabaseBackup", "shop", f"b{number}"), f"database {number}")
    assert line.passes(600, 0.5) == ""


def test_a_pass_that_does_not_end_while_others_wait_for_it_is_a_standstill():
    line = Line()
    for name in ("a", "b"):
        line.queue.add(Key("DatabaseBackup", "shop", name), "shop")
    assert "waiting" in line.passes(1, STUCK_AFTER + LAG_LIMIT)


def test_where_nothing_is_served_that_is_due_there_is_a_standstill():
    line = Line()
    line.queue.add(KEY, "shop", after=1_000)
    line.time = 1_000 + STUCK_AFTER
    assert line.health.why_not_live() == ""
    line.time += 1
    assert "waiting" in line.health.why_not_live()
