"""A list that many ask for at once is asked for once more after all of them; no one gets an old answer."""

import asyncio

import pytest

from godwit.cluster.sharing import Shared


class World:
    """Answers with what was true when the question was put, as soon as it is let."""

    def __init__(self) -> None:
        self.truth = 0
        self.asked = 0
        self.let = asyncio.Event()

    async def ask(self, key: str) -> int:
        self.asked += 1
        seen = self.truth
        await self.let.wait()
        if key == "bad":
            raise OSError("no answer")
        return seen


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_come_while_it_is_asked_share_the_next_answer() -> None:
    world = World()
    shared = Shared(world.ask)
    first = asyncio.create_task(shared.get("runs"))
    await turn()
    world.truth = 1
    later = [asyncio.create_task(shared.get("runs")) for _ in range(10)]
    await turn()
    assert world.asked == 1
    world.let.set()
    assert await first == 0
    assert [await task for task in later] == [1] * 10
    assert world.asked == 2
    world.truth = 2
    assert await shared.get("runs") == 2
    assert world.asked == 3


async def test_another_question_does_not_wait() -> None:
    world = World()
    shared = Shared(world.ask)
    tasks = [asyncio.create_task(shared.get(key)) for key in ("runs", "backups")]
    await turn()
    assert world.asked == 2
    world.let.set()
    assert [await task for task in tasks] == [0, 0]


async def test_one_who_gives_up_takes_the_answer_from_nobody() -> None:
    world = World()
    shared = Shared(world.ask)
    first, second, third = (asyncio.create_task(shared.get("runs")) for _ in range(3))
    await turn()
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    world.let.set()
    assert await third == 0


async def test_a_failure_is_told_to_all_who_asked_and_to_nobody_after() -> None:
    world = World()
    shared = Shared(world.ask)
    tasks = [asyncio.create_task(shared.get("bad")) for _ in range(3)]
    await turn()
    world.let.set()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, OSError) for error in told)
    with pytest.raises(OSError, match="no answer"):
        await shared.get("bad")
    assert world.asked == 3
