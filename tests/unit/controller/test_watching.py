"""How kopf is told to watch."""

import asyncio
from itertools import islice

import pytest

from godwit.controller import handlers
from godwit.controller.operator import while_watched


def test_a_watch_that_is_refused_is_tried_again_without_end():
    # A namespace that is gone answers 403 for ever; kopf ends the whole operator after the last of these.
    tries = list(islice(handlers.settings().networking.error_backoffs, 10_000))

    assert len(tries) == 10_000
    assert tries[0] == 1
    assert max(tries) == 30


async def test_a_watch_that_ends_ends_the_process_for_nothing_more_is_heard_of_its_kind():
    stop, gone, answers = asyncio.Event(), asyncio.Event(), [False, False, True]

    async def served() -> bool:  # two looks meet some of the kinds, the third one none, or all
        return answers.pop(0)

    watch = asyncio.create_task(gone.wait(), name="watcher for databasemigrations.v1alpha1.godwit.dev@shop")
    looking = asyncio.create_task(while_watched(stop, served, look=0.01))
    await asyncio.sleep(0)  # it has seen the watch

    gone.set()
    await watch

    with pytest.raises(RuntimeError, match="no longer served: watcher for databasemigrations"):
        await asyncio.wait_for(looking, 10)
    assert stop.is_set()
    assert answers == []


async def test_watches_that_end_because_the_process_is_told_to_are_no_failure():
    stop = asyncio.Event()

    async def served() -> bool:
        return True

    watch = asyncio.create_task(stop.wait(), name="watcher for jobs.v1.batch@shop")
    looking = asyncio.create_task(while_watched(stop, served, look=0.01))
    stop.set()
    await watch
    assert await asyncio.wait_for(looking, 10) is None
