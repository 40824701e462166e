"""Requests that wait for their turn outside of the engine: their order, their number, and those that leave."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from starlette.types import Message

from hwledger_omlx.serve.turns import Turns


class Client:
    """One that asks, and may leave."""

    def __init__(self, turns: Turns, name: str, came: list[str], model: str = "a") -> None:
        self.left = asyncio.Event()
        self.ends = asyncio.Event()
        self.has_come: bool | None = None
        self._turns, self._name, self._came, self._model = turns, name, came, model
        self.task = asyncio.ensure_future(self._ask())

    async def _ask(self) -> None:
        async with self._turns.turn(self._model, self._receive) as self.has_come:
            if self.has_come:
                self._came.append(self._name)
                await self.ends.wait()

    async def _receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def in_order() -> None:
    turns, came = Turns(2), list[str]()
    clients = [Client(turns, name, came) for name in "abcd"]
    other = Client(turns, "other", came, model="b")
    await settle()
    assert came == ["a", "b", "other"], "each model has places of its own"
    assert turns.waiting() == {"a": 2}
    clients[1].ends.set()
    await settle()
    assert came == ["a", "b", "other", "c"]
    assert turns.waiting() == {"a": 1}
    for client in (*clients, other):
        client.ends.set()
    await settle()
    assert came[-1] == "d"
    assert turns.waiting() == {}


async def leaving_while_waiting() -> None:
    turns, came = Turns(1), list[str]()
    first, second, third = (Client(turns, name, came) for name in "abc")
    await settle()
    second.left.set()
    await settle()
    assert second.task.done()
    assert second.has_come is False
    assert turns.waiting() == {"a": 1}
    first.ends.set()
    await settle()
    assert came == ["a", "c"]
    third.ends.set()
    await settle()


async def leaving_as_the_turn_comes() -> None:
    turns, came = Turns(1), list[str]()
    first, second, third = (Client(turns, name, came) for name in "abc")
    await settle()
    second.left.set()
    first.ends.set()
    await settle()
    assert second.has_come is False
    assert came == ["a", "c"], "the place that it had was the next one's"
    third.ends.set()
    await settle()


async def cancelled_as_the_turn_comes() -> None:
    for steps in range(12):
        turns, came = Turns(1), list[str]()
        first, second, third = (Client(turns, name, came) for name in "abc")
        await settle()
        first.ends.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        second.task.cancel()
        await settle()
        assert "c" in came, f"a place was lost when cancelled {steps} steps after it was free"
        third.ends.set()
        await settle()
        assert turns.waiting() == {}


@pytest.mark.parametrize(
    "story", [in_order, leaving_while_waiting, leaving_as_the_turn_comes, cancelled_as_the_turn_comes]
)
def test_turns(story: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))
