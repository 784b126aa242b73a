"""Requests whose clients were sent to wait on."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilotlight.edge.exchange import Exchange, Left
from pilotlight.edge.refusals import Refusal
from pilotlight.edge.waiting import Waiting


class FakeExchange:
    """Begins when told so; knows whether it was left and closed."""

    def __init__(self, call_id: str = "fc-1") -> None:
        self.entry = SimpleNamespace(call_id=call_id, route=SimpleNamespace(function_id="fu"))
        self.go_on, self.closed = asyncio.Event(), asyncio.Event()
        self.is_left = False
        self.begins = 0

    async def begin(self) -> None:
        self.begins += 1
        await self.go_on.wait()
        if self.is_left:
            raise Left

    def leave(self) -> None:
        self.is_left = True
        self.go_on.set()

    async def close(self) -> None:
        self.closed.set()


def parked(waiting: Waiting) -> tuple[FakeExchange, Exchange]:
    fake = FakeExchange()
    exchange = cast(Exchange, cast(Any, fake))
    waiting.park(exchange)
    return fake, exchange


def test_a_request_goes_on_and_is_found_by_its_id() -> None:
    async def play() -> None:
        waiting = Waiting()
        fake, exchange = parked(waiting)
        found, begun = waiting.take("fc-1", "fu")
        assert found is exchange and not begun.done()
        waiting.park(exchange)  # the one who came has been sent on again
        fake.go_on.set()
        found, again = waiting.take("fc-1", "fu")
        await again
        assert again is begun and fake.begins == 1
        waiting.remove(found)
        with pytest.raises(Refusal):
            waiting.take("fc-1", "fu")
        await waiting.close()

    asyncio.run(play())


def test_only_one_may_wait_and_only_at_its_own_function() -> None:
    async def play() -> None:
        waiting = Waiting()
        parked(waiting)
        with pytest.raises(Refusal) as elsewhere:
            waiting.take("fc-1", "fu-other")
        waiting.take("fc-1", "fu")
        with pytest.raises(Refusal) as second:
            waiting.take("fc-1", "fu")
        assert (elsewhere.value.status, second.value.status) == (404, 409)
        await waiting.close()

    asyncio.run(play())


def test_a_request_that_nobody_comes_for_is_broken_off() -> None:
    async def play() -> None:
        waiting = Waiting(nobody_for_s=0.0)
        fake, _ = parked(waiting)
        async with asyncio.timeout(60):
            await fake.closed.wait()
        assert fake.is_left
        with pytest.raises(Refusal):
            waiting.take("fc-1", "fu")
        await waiting.close()

    asyncio.run(play())
