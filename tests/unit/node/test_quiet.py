"""When no container begins."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from pilotlight.node.quiet import BEGINNING_S, Quiet

LONG_S = 60.0


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, LONG_S / 2))


def test_nobody_waits_where_nothing_begins() -> None:
    run(Quiet().wait(LONG_S))


def test_it_is_quiet_when_all_have_begun() -> None:
    async def check() -> None:
        quiet = Quiet()
        quiet.begins("one")
        quiet.begins("two")
        waiting = asyncio.create_task(quiet.wait(LONG_S))
        quiet.has_begun("one")
        quiet.has_begun("one")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        quiet.has_begun("two")
        await waiting

    run(check())


def test_one_that_never_answers_is_not_waited_for_long() -> None:
    async def check() -> None:
        quiet = Quiet()
        quiet.begins("one")
        begun = asyncio.get_running_loop().time()
        await quiet.wait(LONG_S)
        assert asyncio.get_running_loop().time() - begun >= BEGINNING_S
        quiet.has_begun("one")
        await quiet.wait(LONG_S)

    run(check())


def test_what_begins_for_ever_puts_nothing_off_for_ever() -> None:
    async def check() -> None:
        quiet = Quiet()

        async def begin() -> None:
            for number in range(1_000_000):
                quiet.begins(str(number))
                await asyncio.sleep(0.01)

        beginning = asyncio.create_task(begin())
        await asyncio.sleep(0)
        await quiet.wait(0.2)
        beginning.cancel()

    run(check())
