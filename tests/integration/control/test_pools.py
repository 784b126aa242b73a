"""Which container gets which input, and when."""

from pathlib import Path

from heart import MAP, FakeNode, Heart, beat

from pilotlight.control.calls import input_id_of
from pilotlight.core.tasks import TaskState


def test_inputs_go_to_whoever_has_the_fewest(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(max_concurrent_inputs=3)
        tasks = [await node.ready(function_id) for _ in range(2)]
        call = await heart.call(function_id, count=7, kind=MAP)
        assert [len(task.held) for task in tasks] == [3, 3]
        assert [item.idx for item in call.pool.queue] == [6]

    beat(tmp_path, scenario)


def test_a_container_that_starts_or_drains_gets_nothing(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(max_concurrent_inputs=2)
        starting, draining = await node.start(function_id), await node.ready(function_id)
        heart.server.tasks.drain(draining, "test")
        call = await heart.call(function_id)
        assert not starting.held and not draining.held and len(call.pool.queue) == 1
        assert [command.task_id for command in node.commands("drain")] == [draining.task_id]

    beat(tmp_path, scenario)


def test_a_container_for_one_input_gets_one(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(single_use_containers=True)
        task = await node.ready(function_id)
        call = await heart.call(function_id, count=2, kind=MAP)
        [[(input_id, _)]] = node.delivered()
        await node.answer(task, input_id)
        assert node.delivered() == [] and len(call.pool.queue) == 1

    beat(tmp_path, scenario)


def test_a_full_batch_goes_at_once(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(batch_max_size=3, batch_linger_ms=60_000)
        await node.ready(function_id)
        call = await heart.call(function_id, count=4, kind=MAP)
        assert node.delivered() == [[(input_id_of(call.call_id, idx), 0) for idx in range(3)]]
        assert len(call.pool.queue) == 1

    beat(tmp_path, scenario)


def test_a_linger_that_is_over_a_little_early_is_over(tmp_path: Path) -> None:
    """Timers of the event loop are rounded: a call must not wait for ever because its timer found the time not quite there."""

    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(batch_max_size=3, batch_linger_ms=60_000)
        await node.ready(function_id)
        await heart.call(function_id)
        assert not node.delivered()
        heart.server.pools._linger_over(await heart.pool(function_id))
        assert [len(batch) for batch in node.delivered()] == [1]
        await heart.call(function_id, key="other")
        assert not node.delivered(), "the next one waits for company again"

    beat(tmp_path, scenario)


def test_who_is_free_late_takes_what_has_lingered(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(batch_max_size=3, batch_linger_ms=60_000)
        busy = await node.ready(function_id)
        await heart.call(function_id, count=3, key="first", kind=MAP)
        [inputs] = node.delivered()
        await heart.call(function_id)
        heart.server.pools._linger_over(await heart.pool(function_id))
        assert not node.delivered()
        for input_id, attempt in inputs:
            await node.answer(busy, input_id, attempt)
        assert [len(batch) for batch in node.delivered()] == [1]

    beat(tmp_path, scenario)


def test_a_small_batch_waits_for_company_and_then_goes(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(batch_max_size=3, batch_linger_ms=20)
        task = await node.ready(function_id)
        await heart.call(function_id, key="first")
        assert node.delivered() == []
        await heart.call(function_id, key="second")
        [batch] = await node.next_delivered()
        assert len(batch) == 2
        for input_id, attempt in batch:
            await node.answer(task, input_id, attempt)
        await heart.call(function_id, key="third")
        assert [len(batch) for batch in await node.next_delivered()] == [1]

    beat(tmp_path, scenario)


def test_a_batch_waits_for_a_container_that_has_room_for_all_of_it(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(batch_max_size=2, batch_linger_ms=0)
        task = await node.ready(function_id)
        await heart.call(function_id, count=4, kind=MAP)
        [batch] = node.delivered()
        await node.answer(task, batch[0][0])
        assert node.delivered() == []
        await node.answer(task, batch[1][0])
        assert [len(batch) for batch in node.delivered()] == [2]

    beat(tmp_path, scenario)


def test_what_is_given_back_is_next_in_turn(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(max_concurrent_inputs=2)
        task = await node.ready(function_id)
        call = await heart.call(function_id, count=4, kind=MAP)
        await node.exit(task)
        assert task.state is TaskState.FINISHED
        assert [item.idx for item in call.pool.queue] == [0, 1, 2, 3]

    beat(tmp_path, scenario)
