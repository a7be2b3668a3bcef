from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from freehold.warden.slots import Slots


class Crowd:
    """Tasks that want in, stay until told, and are seen inside in the order in which they came in."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.inside: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *numbers: int) -> None:
        for number in numbers:
            self.leave[number] = asyncio.Event()
            self.tasks[number] = asyncio.create_task(self._stay(number))
        await settle()

    async def go(self, number: int) -> None:
        self.leave[number].set()
        await settle()

    async def _stay(self, number: int) -> None:
        async with self.slots:
            self.inside.append(number)
            try:
                await self.leave[number].wait()
            finally:
                self.inside.remove(number)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 5))

    run.__name__ = test.__name__
    return run


@in_loop
async def test_no_more_than_the_limit_are_inside_and_the_first_comes_first() -> None:
    crowd = Crowd(Slots(2))
    await crowd.come(1, 2, 3, 4)
    assert crowd.inside == [1, 2]
    await crowd.go(1)
    assert crowd.inside == [2, 3]


@in_loop
async def test_a_raised_limit_lets_in_and_a_lowered_one_waits_until_enough_have_left() -> None:
    crowd = Crowd(Slots(1))
    await crowd.come(1, 2, 3)
    crowd.slots.set_limit(3)
    await settle()
    assert crowd.inside == [1, 2, 3]
    crowd.slots.set_limit(1)
    await crowd.come(4)
    await crowd.go(1)
    await crowd.go(2)
    assert crowd.inside == [3]
    await crowd.go(3)
    assert crowd.inside == [4]


@in_loop
async def test_whoever_is_cancelled_while_waiting_takes_no_slot() -> None:
    crowd = Crowd(Slots(1))
    await crowd.come(1, 2, 3)
    crowd.tasks[2].cancel()
    await crowd.go(1)
    assert crowd.inside == [3]
    # Let in and cancelled in the same step.
    await crowd.come(4, 5)
    crowd.slots.set_limit(2)
    crowd.tasks[4].cancel()
    await settle()
    assert crowd.inside == [3, 5]
    await crowd.go(3)
    crowd.slots.set_limit(1)
    # Cancelled first, and passed over before it knows.
    await crowd.come(6)
    crowd.tasks[6].cancel()
    await crowd.go(5)
    await crowd.come(7)
    assert crowd.inside == [7]
