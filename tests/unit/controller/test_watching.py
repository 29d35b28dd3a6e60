"""How kopf is told to watch."""

import asyncio
from itertools import islice

import pytest

from godwit.api.kinds import KINDS
from godwit.cluster.port import UnavailableError
from godwit.controller import handlers
from godwit.controller.operator import until_served, while_watched

PART = {"MigrationRun", "PostgresDatabase"}


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


class Answers:
    """What the API server serves, one answer after the other."""

    def __init__(self, *answers: set[str] | UnavailableError) -> None:
        self.left = list(answers)

    async def __call__(self) -> set[str]:
        answer = self.left.pop(0)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer


async def test_an_install_that_is_half_through_is_waited_for():
    answers = Answers(set(), {"MigrationRun"}, PART, PART, set(KINDS))

    assert await until_served(answers, look=0, looks=3) is True
    assert answers.left == []


async def test_kinds_that_wait_for_what_is_held_are_served_without_those_that_are_gone():
    answers = Answers(PART | {"DatabaseMigration"}, PART, PART, PART)

    assert await until_served(answers, look=0, looks=3) is False
    assert answers.left == []


@pytest.mark.parametrize("between", [set(), UnavailableError("away")], ids=["none", "no answer"])
async def test_only_looks_in_a_row_count(between):
    answers = Answers(PART, PART, between, PART, PART, PART)

    assert await until_served(answers, look=0, looks=3) is False
    assert answers.left == []


async def test_without_any_kind_it_waits_on_and_says_so_once(capsys):
    assert await until_served(Answers(*[set()] * 50, set(KINDS)), look=0, looks=3) is True
    assert capsys.readouterr().out.count("waiting") == 1


async def test_who_began_with_a_part_of_the_kinds_ends_when_that_is_over_although_each_watch_goes_on():
    stop, answers = asyncio.Event(), [False, False, True]

    async def served() -> bool:
        return answers.pop(0)

    with pytest.raises(RuntimeError, match="the part of the kinds"):
        await asyncio.wait_for(while_watched(stop, served, whole=False, look=0.01), 10)
    assert stop.is_set()
    assert answers == []
