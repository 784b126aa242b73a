"""Short inputs are given to containers ahead of their turn, and come back if what is before them turns out to be long."""

import asyncio
from pathlib import Path

import pytest
from heart import MAP, FakeNode, Heart, beat

from pilotlight.control.live import MOST_AHEAD
from pilotlight.core.retries import DEATHS_LIMIT
from pilotlight.wire import platform_pb2


async def busy(heart: Heart, count: int):
    """A node with one container that has shown to be quick, and a map of which it has the first inputs."""
    node = FakeNode(heart)
    await node.connect()
    function_id = await heart.define()
    task = await node.ready(function_id)
    await heart.call(function_id, key="first")
    [[(input_id, _)]] = await node.next_delivered()
    await node.answer(task, input_id, took_s=0.0)
    call = await heart.call(function_id, count=count, kind=MAP, key="map")
    return node, task, call, function_id


def test_short_inputs_come_many_at_a_time(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, task, call, _ = await busy(heart, 30)
        messages = 0
        while call.unfinished:
            for message in await node.next_delivered():
                messages += 1
                assert len(task.held) <= 1 + MOST_AHEAD
                for input_id, _ in message:
                    await node.answer(task, input_id, took_s=0.0)
        assert messages < 15

    beat(tmp_path, scenario)


def test_two_containers_share_what_there_is(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, first, _, function_id = await busy(heart, 0)
        second = await node.ready(function_id)
        await heart.call(function_id, count=6, kind=MAP, key="shared")
        await node.next_delivered()
        assert (len(first.held), len(second.held)) == (3, 3)

    beat(tmp_path, scenario)


def test_what_waits_behind_a_long_input_goes_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight.control.pools.RECALL_AFTER_S", 0.02)

    async def scenario(heart: Heart) -> None:
        node, task, _, function_id = await busy(heart, 4)
        held = list(task.held)
        assert len(held) == 4
        while not (recalls := node.commands("recall")):
            node.session.wake.clear()
            async with asyncio.timeout(25):
                await node.session.wake.wait()
        assert list(recalls[0].input_ids) == held[1:]
        node.commands("deliver")
        other = await node.ready(function_id)
        returned = platform_pb2.InputsReturned(task_id=task.task_id, input_ids=held[1:])
        await heart.server.tasks.returned(returned)
        assert list(task.held) == held[:1]
        assert next(iter(other.held)) == held[1]

    beat(tmp_path, scenario)


def test_a_death_counts_against_the_input_that_ran(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, task, call, function_id = await busy(heart, 3)
        killer = next(iter(task.held))
        for _ in range(DEATHS_LIMIT):
            assert next(iter(task.held)) == killer
            await node.exit(task)
            if killer in {item.input_id for item in call.unfinished.values()}:
                task = await node.ready(function_id)
        left = list(call.unfinished.values())
        assert killer not in {item.input_id for item in left}
        assert [item.deaths for item in left] == [0, 0]

    beat(tmp_path, scenario)
