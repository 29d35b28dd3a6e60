"""The queue keeps what is due, and nothing of what was; a long line is not taken for a standstill."""

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

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
    assert sum(len(line) for line in queue._lines.values()) < 100
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


async def test_a_line_at_one_database_keeps_no_other_waiting():
    queue = WorkQueue(time.monotonic)
    queue.add(KEY, "shop")
    assert queue.take() == KEY
    queue.add(Key("MigrationRun", "shop", "shop-1"), "shop")
    due = Key("DatabaseMigration", "crm", "crm")
    began = time.monotonic()
    queue.add(due, "crm", after=0.05)
    assert queue.take() is None
    await queue.wait(longest=60.0)
    assert queue.take() == due
    assert 0.05 <= time.monotonic() - began < 30


def test_a_key_whose_database_is_another_by_now_is_served_once_and_with_that():
    clock = [0.0]
    queue = WorkQueue(lambda: clock[0])
    other = Key("MigrationRun", "shop", "shop-1")
    queue.add(KEY, "former", after=5)
    queue.add(KEY, "shop", after=5)
    queue.add(other, "shop", after=6)
    clock[0] = 10.0
    assert queue.take() == KEY
    assert queue.take() is None
    queue.done(KEY, after=None)
    assert queue.take() == other


def test_a_key_that_is_being_served_is_not_served_beside_itself():
    queue = WorkQueue(lambda: 0.0)
    queue.add(KEY, "former")
    assert queue.take() == KEY
    queue.add(KEY, "shop", after=5)
    assert queue.take() is None
    queue.done(KEY, after=None)
    assert queue.take() == KEY


def test_a_key_that_goes_to_another_database_while_it_is_served_waits_for_that():
    queue = WorkQueue(lambda: 0.0)
    queue.add(KEY, "former")
    assert queue.take() == KEY
    queue.add(KEY, "shop")
    other = Key("MigrationRun", "shop", "shop-1")
    queue.add(other, "shop")
    assert queue.take() == other
    queue.done(KEY, after=None)
    assert queue.take() is None
    queue.done(other, after=None)
    assert queue.take() == KEY


KEYS = [Key("MigrationRun", "shop", name) for name in "abcde"]
ACTS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(KEYS), st.sampled_from("xyz"), st.integers(0, 3)),
    st.tuples(st.just("forget"), st.sampled_from(KEYS)),
    st.tuples(st.just("take")),
    st.tuples(st.just("done"), st.integers(0, 4), st.none() | st.integers(0, 3)),
    st.tuples(st.just("pass"), st.integers(1, 3)),
)


@given(st.lists(ACTS, max_size=60))
def test_whatever_happens_each_key_is_served_when_it_is_due_and_one_at_a_time(acts):
    clock = [0.0]
    queue, due, group, busy = WorkQueue(lambda: clock[0]), {}, {}, {}
    for act, *how in acts:
        match act, how:
            case "add", [key, place, after]:
                queue.add(key, place, after=after)
                group[key] = place
                wanted = clock[0] + (after if busy.get(key, place) == place else 0)
                due[key] = min(due.get(key, wanted), wanted)
            case "forget", [key]:
                queue.forget(key)
                due.pop(key, None)
                group.pop(key, None)
            case "take", []:
                served = set(busy.values())
                ready = {k for k in due if due[k] <= clock[0] and k not in busy and group[k] not in served}
                taken = queue.take()
                assert (taken in ready) if ready else (taken is None)
                if taken is not None:
                    del due[taken]
                    busy[taken] = group[taken]
            case "done", [number, after] if busy:
                key = sorted(busy)[number % len(busy)]
                queue.done(key, after=after)
                del busy[key]
                if after is not None and key in group:
                    due[key] = min(due.get(key, clock[0] + after), clock[0] + after)
            case "pass", [seconds]:
                clock[0] += seconds
