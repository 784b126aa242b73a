"""Slots and those who wait for them, without any I/O."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pilotlight.edge.dispatch import FINISHING_S, Dispatch, Slot
from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_pb2 import WebFunction, WebTask


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(scenario: Callable[[Dispatch, Clock], Awaitable[None]], max_waiting: int = 10) -> list[tuple[str, bool]]:
    """Play with a dispatch; returns what it said about changes."""
    changes: list[tuple[str, bool]] = []

    async def play() -> None:
        clock = Clock()
        await scenario(Dispatch(max_waiting, lambda *change: changes.append(change), clock), clock)

    asyncio.run(play())
    return changes


def function(*slots: int, max_waiting: int = 0) -> WebFunction:
    tasks = [WebTask(task_id=f"ta-{number}", slots=count) for number, count in enumerate(slots, 1)]
    return WebFunction(function_id="fu", tasks=tasks, max_waiting=max_waiting)


async def turn() -> None:
    await asyncio.sleep(0)


def names(slots: list[Slot]) -> list[str]:
    return [slot.task.task_id for slot in slots]


def test_the_task_with_the_fewest_requests_comes_first() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        dispatch.set_function(function(3, 2))
        slots = [await dispatch.acquire("fu") for _ in range(5)]
        assert names(slots) == ["ta-1", "ta-2", "ta-1", "ta-2", "ta-1"]
        assert dict(dispatch.load("fu").running) == {"ta-1": 3, "ta-2": 2}
        slots[1].release()
        slots[1].release()  # once is enough
        assert dispatch.load("fu").running["ta-2"] == 1

    run(scenario)


def test_who_waits_is_served_in_order_and_may_leave() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        waiting = [asyncio.ensure_future(dispatch.acquire("fu")) for _ in range(4)]
        await turn()
        assert dispatch.load("fu").waiting == 4
        waiting[1].cancel()
        await turn()
        await turn()
        assert dispatch.load("fu").waiting == 3
        dispatch.set_function(function(2))
        await turn()
        assert [task.done() for task in waiting] == [True, True, True, False]
        waiting[0].result().release()
        await turn()
        assert waiting[3].done()

    assert run(scenario)[0] == ("fu", True)  # the first who waits is told at once


def test_a_slot_for_somebody_who_has_just_left_is_not_lost() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        waiting = asyncio.ensure_future(dispatch.acquire("fu"))
        await turn()
        dispatch.set_function(function(1))
        waiting.cancel()  # in the same turn in which it got one
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not dispatch.load("fu").running

    run(scenario)


def test_a_full_queue_refuses() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        dispatch.set_function(function(max_waiting=1))
        dispatch.queue("fu")
        with pytest.raises(Refusal) as refused:
            dispatch.queue("fu")
        assert refused.value.status == 429

    run(scenario)


def test_a_task_that_leaves_keeps_its_requests_and_gets_no_more() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        dispatch.set_function(function(1))
        slot = await dispatch.acquire("fu")
        dispatch.set_function(function())
        assert dict(dispatch.load("fu").running) == {"ta-1": 1}
        ticket = dispatch.queue("fu")
        slot.release()
        assert not ticket.done() and not dispatch.load("fu").running
        dispatch.set_function(function(1))
        assert ticket.done()

    run(scenario)


def test_failing_and_dropping_tell_those_who_wait() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        tickets = [dispatch.queue("fu"), dispatch.queue("fu")]
        dispatch.fail_waiting("fu", Refusal(500, "could not start"))
        assert [ticket.exception() is not None for ticket in tickets] == [True, True]
        last = dispatch.queue("fu")
        dispatch.drop_function("fu")
        error = last.exception()
        assert isinstance(error, Refusal) and error.status == 404
        assert dispatch.loads() == []
        dispatch.fail_waiting("unknown", Refusal(500, "x"))

    run(scenario)


def test_who_waits_for_a_slot_that_is_free_in_a_moment_is_no_demand_yet() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        dispatch.set_function(function(1))
        slot = await dispatch.acquire("fu")
        slot.finishing()
        dispatch.queue("fu")
        assert dispatch.load("fu").waiting == 0 and dispatch.hides_waiting("fu")
        dispatch.queue("fu")
        assert dispatch.load("fu").waiting == 1
        clock.now_s += FINISHING_S
        assert dispatch.load("fu").waiting == 2 and not dispatch.hides_waiting("fu")

    assert all(not is_urgent for _, is_urgent in run(scenario))


def test_what_the_server_no_longer_names_is_dropped_but_not_those_who_wait() -> None:
    async def scenario(dispatch: Dispatch, clock: Clock) -> None:
        dispatch.set_function(function(1))
        slot = await dispatch.acquire("fu")
        ticket = dispatch.queue("fu")
        dispatch.keep_only(set())
        slot.release()
        assert not ticket.done() and dispatch.load("fu").waiting == 1

    run(scenario)
