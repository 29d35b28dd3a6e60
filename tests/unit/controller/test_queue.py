"""The queue keeps what is due, and nothing of what was."""

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
