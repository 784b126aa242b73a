"""The first container of a function takes the input along to its start, and gives it to another that can begin sooner."""

from pathlib import Path

from heart import MAP, FakeNode, Heart, beat

from pilotlight.wire import platform_pb2


async def waiting(heart: Heart, count: int, **options: int) -> tuple[FakeNode, str]:
    """A node, and a function of which nothing runs, with that many inputs in its queue."""
    node = FakeNode(heart)
    await node.connect()
    function_id = await heart.define()
    await heart.call(function_id, count=count, **options)
    return node, function_id


def taken_along(command: platform_pb2.StartTask) -> list[str]:
    return [lease.input_id for first in command.first_inputs for lease in first.leases]


def test_what_the_first_container_takes_along_is_its_own(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, function_id = await waiting(heart, 2, kind=MAP)
        first, second = await node.start(function_id), await node.start(function_id)
        assert [taken_along(command) for command in node.commands("start_task")] == [list(first.held), []]
        assert len(first.held) == 1
        heart.server.tasks.ready(first.task_id)
        assert not node.commands("deliver")
        await node.answer(first, next(iter(first.held)))
        [[(input_id, _)]] = node.delivered()
        assert input_id in first.held and not second.held

    beat(tmp_path, scenario)


def test_it_goes_to_another_that_is_free_sooner(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, function_id = await waiting(heart, 1)
        slow = await node.start(function_id)
        quick = await node.ready(function_id)
        [input_id] = slow.held
        assert [list(recall.input_ids) for recall in node.commands("recall")] == [[input_id]]
        await heart.server.tasks.returned(platform_pb2.InputsReturned(task_id=slow.task_id, input_ids=[input_id]))
        assert list(quick.held) == [input_id] and not slow.held
        heart.server.tasks.ready(slow.task_id)
        await node.answer(quick, input_id)
        assert not node.commands("recall")

    beat(tmp_path, scenario)


def test_a_container_that_never_began_does_not_count_against_it(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, function_id = await waiting(heart, 1)
        task = await node.start(function_id)
        [item] = task.held.values()
        await node.exit(task)
        assert (item.deaths, item.task) == (0, None)
        assert list((await heart.pool(function_id)).queue) == [item]

    beat(tmp_path, scenario)
