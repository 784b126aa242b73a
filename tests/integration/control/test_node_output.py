"""Output of containers on its way to the disk: nothing is lost, nothing comes twice, whoever dies meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from heart import FakeNode, Heart, beat

from pilotlight.control import output_log
from pilotlight.control.output_log import Filter
from pilotlight.store import output as rows
from pilotlight.wire import platform_pb2


def batch(number: int, task_id: str) -> platform_pb2.LogBatch:
    line = platform_pb2.LogLine(task_id=task_id, file_descriptor=1, data=f"{number}\n", at_ns=10**18 + number)
    return platform_pb2.LogBatch(lines=[line], number=number)


async def connect(heart: Heart, epoch: str = "one", held: str = "") -> FakeNode:
    node = FakeNode(heart)
    await node.connect([platform_pb2.HeldTask(task_id=held, ready=True)] if held else [])
    node.session.log_epoch = epoch
    return node


async def kept(heart: Heart, app_id: str) -> list[str]:
    batches = await heart.server.output_log.fetch(Filter(app_id, file_descriptor=1), None, None, 0)
    return [item.data for found in batches for item in found.items]


def confirmed(node: FakeNode) -> list[int]:
    return [stored.number for stored in node.commands("logs_stored")]


def test_a_batch_is_confirmed_when_it_is_on_disk_and_taken_once(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connect(heart)
        task = await node.ready(await heart.define())
        app_id = task.pool.function.app_id
        heart.server.node_output.take(node.session, batch(1, task.task_id))
        assert confirmed(node) == []
        await heart.server.output_log.settled()
        assert confirmed(node) == [1]
        heart.server.node_output.take(node.session, batch(1, task.task_id))
        assert confirmed(node) == [1]  # told again: the first word may have been lost
        assert await kept(heart, app_id) == ["1\n"]

    beat(tmp_path, scenario)


def test_what_the_last_server_wrote_and_could_not_confirm_is_not_doubled(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connect(heart)
        task = await node.ready(await heart.define())
        app_id = task.pool.function.app_id
        for number in (1, 2):
            heart.server.node_output.take(node.session, batch(number, task.task_id))
        await heart.restart()
        node = await connect(heart, held=task.task_id)
        for number in (1, 2, 3):
            heart.server.node_output.take(node.session, batch(number, task.task_id))
        assert await kept(heart, app_id) == ["1\n", "2\n", "3\n"]
        assert confirmed(node)[-1] == 3

    beat(tmp_path, scenario)


def test_another_agent_begins_its_numbers_anew(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connect(heart)
        task = await node.ready(await heart.define())
        heart.server.node_output.take(node.session, batch(1, task.task_id))
        node = await connect(heart, "two", held=task.task_id)
        heart.server.node_output.take(node.session, batch(1, task.task_id))
        assert await kept(heart, task.pool.function.app_id) == ["1\n", "1\n"]

    beat(tmp_path, scenario)


def test_a_disk_that_takes_nothing_for_a_while_costs_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connect(heart)
        task = await node.ready(await heart.define())
        app_id = task.pool.function.app_id
        real = rows.insert_lines

        def full(*_: Any) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(rows, "insert_lines", full)
        monkeypatch.setattr(output_log, "RETRY_S", 0.05)
        for number in (1, 2):
            heart.server.node_output.take(node.session, batch(number, task.task_id))
            await heart.server.output_log.settled()
        assert confirmed(node) == []
        assert await kept(heart, app_id) == []  # reading goes on
        monkeypatch.setattr(rows, "insert_lines", real)
        async with asyncio.timeout(25):
            found: list[int] = []
            while not found and (message := await node.session.next_message()) is not None:  # the node is told other things, too
                found = [command.logs_stored.number for command in message.commands if command.HasField("logs_stored")]
        assert found == [2]
        assert await kept(heart, app_id) == ["1\n", "2\n"]

    beat(tmp_path, scenario)


def test_an_end_waits_for_the_last_words(tmp_path: Path) -> None:
    """Else the next server would know the task no more, and its lines would be of nobody's interest."""

    async def scenario(heart: Heart) -> None:
        node = await connect(heart)
        task = await node.ready(await heart.define())
        heart.server.node_output.take(node.session, batch(1, task.task_id))
        ending = asyncio.ensure_future(
            heart.server.node_output.exited(platform_pb2.TaskExited(task_id=task.task_id, reason="stopped"))
        )
        await asyncio.sleep(0)
        assert heart.server.tasks.get(task.task_id) is task
        await ending
        assert confirmed(node) == [1]
        assert heart.server.tasks.get(task.task_id) is None

    beat(tmp_path, scenario)


def test_words_of_ours_that_are_no_text_hold_up_no_others(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connect(heart)
        task = await node.ready(await heart.define())
        app_id = task.pool.function.app_id
        heart.server.output_log.say(app_id, task.pool.function_id, task.task_id, "half a \ud800 pair\n")
        heart.server.node_output.take(node.session, batch(1, task.task_id))
        assert await kept(heart, app_id) == ["1\n"]
        assert confirmed(node) == [1]

    beat(tmp_path, scenario)


def test_a_fault_in_writing_lines_is_told_and_holds_up_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connect(heart)
        task = await node.ready(await heart.define())
        real = rows.insert_lines

        def faulty(*_: Any) -> None:
            raise TypeError("a fault of ours")

        monkeypatch.setattr(rows, "insert_lines", faulty)
        heart.server.node_output.take(node.session, batch(1, task.task_id))
        await heart.server.output_log.settled()
        monkeypatch.setattr(rows, "insert_lines", real)
        heart.server.node_output.take(node.session, batch(2, task.task_id))
        assert await kept(heart, task.pool.function.app_id) == ["2\n"]
        assert confirmed(node)[-1] == 2

    beat(tmp_path, scenario)
