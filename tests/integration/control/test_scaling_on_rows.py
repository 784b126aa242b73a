"""Who gets a container when, what becomes of those for whom there is no place, and how apps end: over real rows."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from heart import ASYNC, MAP, FakeNode, Heart, beat
from modal_proto import api_pb2

from pilotlight.control.idle_pools import IDLE_POOL_S, IdlePools
from pilotlight.control.live import LiveTask
from pilotlight.core.scaling import DEFAULT_SCALEDOWN_WINDOW_S
from pilotlight.core.tasks import TaskState
from pilotlight.loops.scale import STARTS_PER_PASS
from pilotlight.wire import platform_pb2

Result = api_pb2.GenericResult
GPU = api_pb2.Resources(gpu_config=api_pb2.GPUConfig(gpu_type="H100", count=1))
LARGE = api_pb2.Resources(memory_mb=9_000)


class Scaler:
    """Passes of the loop that starts and ends containers, on a clock that a test moves."""

    def __init__(self, heart: Heart, node: FakeNode) -> None:
        self._heart = heart
        self._node = node
        self.ahead_s = 0.0
        self._loop = heart.server.scale_loop(lambda: asyncio.get_running_loop().time() + self.ahead_s)

    async def run(self) -> list[str]:
        """One pass; returns the functions of the containers that were started, in order."""
        await self._loop.run_once()
        while self._loop._starting:
            await asyncio.wait(self._loop._starting)
        return [self.task(command.task_id).pool.function.tag for command in self._node.commands("start_task")]

    def task(self, task_id: str) -> LiveTask:
        task = self._heart.server.tasks.get(task_id)
        assert task is not None
        return task

    def of(self, name: str, state: TaskState | None = None) -> list[LiveTask]:
        tasks = [task for task in self._heart.server.tasks.all() if task.pool.function.tag == name]
        return [task for task in tasks if state in (None, task.state)]

    def ready(self, tasks: Sequence[LiveTask]) -> None:
        for task in tasks:
            self._heart.server.tasks.ready(task.task_id)


async def begin(heart: Heart) -> tuple[FakeNode, Scaler]:
    node = FakeNode(heart)
    await node.connect()
    return node, Scaler(heart, node)


def test_a_first_container_does_not_wait_for_the_crowd_of_another(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        crowd, single = await heart.define("crowd"), await heart.define("single")
        await heart.call(crowd, count=100, kind=MAP, key="1")
        begun = await scaler.run()
        assert set(begun) == {"crowd"} and len(begun) >= node.session.max_starting
        await heart.call(single, key="2")
        assert await scaler.run() == ["single"]  # although as many start as may
        scaler.ready(scaler.of("crowd", TaskState.STARTING)[:3])
        assert await scaler.run() == ["crowd"] * 2  # the first one counts, too

    beat(tmp_path, scenario)


def test_who_waits_does_not_wait_for_the_end_of_a_container_that_is_used_up(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        function_id = await heart.define("once", single_use_containers=True, autoscaler_settings={"max_containers": 2})
        for key in "12":
            await heart.call(function_id, key=key)
            assert await scaler.run() == ["once"]
            [task] = scaler.of("once", TaskState.STARTING)
            scaler.ready([task])
            await node.answer(task, next(iter(task.held)))
        await heart.call(function_id, key="3")
        assert await scaler.run() == []  # there may be two, and both are still there
        await node.exit(scaler.of("once")[0], 0)
        assert await scaler.run() == ["once"]

    beat(tmp_path, scenario)


def test_room_is_shared_out_one_container_each(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        node.session.max_containers = 6
        names = ("a", "b", "c")
        for name in names:
            await heart.call(await heart.define(name), count=50, kind=MAP, key=name)
        assert sorted(await scaler.run()) == sorted(names * 2)
        assert await scaler.run() == []
        await node.exit(scaler.of("b")[0], reason="stopped")
        assert await scaler.run() == ["b"]  # who has the fewest

    beat(tmp_path, scenario)


@pytest.mark.parametrize("patience_s", [0.0, 300.0])
def test_what_no_node_can_ever_run_fails_in_time_with_the_reason(tmp_path: Path, patience_s: float) -> None:
    async def scenario(heart: Heart) -> None:
        heart.settings = heart.settings.model_copy(update={"reject_unplaceable": not patience_s})
        await heart.restart()
        _, scaler = await begin(heart)
        function_id = await heart.define("f", resources=GPU)
        call = await heart.call(function_id)
        pool = await heart.pool(function_id)
        assert await scaler.run() == []
        if patience_s:
            assert pool.why_waiting == "needs 1×H100, this platform has no GPU" and len(pool.queue) == 1
            assert [row["why"] for row in heart.server.overview.document()["waiting"]] == [pool.why_waiting]
            scaler.ahead_s = patience_s
            heart.server.pools.touch(pool)
            await scaler.run()
        outputs = await heart.outputs(call.call_id, timeout_s=50)
        result = outputs.items[0].result
        assert result.status == Result.GENERIC_STATUS_INIT_FAILURE
        assert result.exception == "Function 'f' can't run here: it needs 1×H100, this platform has no GPU."

    beat(tmp_path, scenario)


def test_what_waits_for_its_turn_does_not_fail(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        first, second = await heart.define("first", resources=LARGE), await heart.define("second", resources=LARGE)
        await heart.call(first, key="1")
        assert await scaler.run() == ["first"]
        await heart.call(second, key="2")
        await scaler.run()
        scaler.ahead_s = 10_000.0
        pool = await heart.pool(second)
        heart.server.pools.touch(pool)
        assert await scaler.run() == []
        assert len(pool.queue) == 1 and "1 containers are running" in pool.why_waiting
        await node.exit(scaler.of("first")[0], 0, "stopped")
        assert "second" in await scaler.run()

    beat(tmp_path, scenario)


def test_a_workspace_has_no_more_containers_than_it_may(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        heart.settings = heart.settings.model_copy(update={"max_containers": 2})
        await heart.restart()
        _, scaler = await begin(heart)
        function_id = await heart.define("f")
        await heart.call(function_id, count=5, kind=MAP)
        assert await scaler.run() == ["f", "f"]
        pool = await heart.pool(function_id)
        assert pool.why_waiting == "2 of at most 2 containers of this workspace run (max_containers)"

    beat(tmp_path, scenario)


def test_places_are_accounted_for_through_all_that_happens(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        function_id = await heart.define("f")
        await heart.call(function_id, count=4, kind=MAP)
        await scaler.run()
        first, second, third, fourth = scaler.of("f")
        scaler.ready([first])
        heart.server.tasks.stop(second, "test")
        heart.server.tasks.drain(third, "test")
        [view] = heart.server.tasks.occupancy.views()
        assert (view.containers, view.starting, view.used_memory_mib) == (4, 1, 4 * 128)
        await node.exit(second, reason="stopped")
        await node.exit(fourth)
        [view] = heart.server.tasks.occupancy.views()
        assert (view.containers, view.starting, view.used_milli_cpu) == (2, 0, 2 * 125)
        await heart.restart()
        assert heart.server.tasks.occupancy.views() == []
        again = FakeNode(heart)
        await again.connect()  # it has lost them all
        [view] = heart.server.tasks.occupancy.views()
        assert (view.containers, view.starting, view.used_memory_mib, view.used_milli_cpu) == (0, 0, 0, 0)

    beat(tmp_path, scenario)


def test_a_stopped_app_tells_all_its_containers_before_it_waits_for_anything(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, _ = await begin(heart)
        function_id = await heart.define("f")
        tasks = [await node.ready(function_id) for _ in range(3)]
        heart.server.tasks.stop(tasks[0], "it was stopped")  # with all the time that its function gives it
        node.commands("stop_task")
        pool = await heart.pool(function_id)
        stopping = asyncio.create_task(heart.server.apps.stop(pool.function.app_id, "test", 0.5))
        while not (told := node.commands("stop_task")):  # noqa: ASYNC110 - turns of the loop, not time
            await asyncio.sleep(0)
        assert {(command.task_id, command.grace_ms) for command in told} == {(task.task_id, 500) for task in tasks}
        await stopping

    beat(tmp_path, scenario)


def test_a_rollover_replaces_what_runs_with_the_same(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, _ = await begin(heart)
        function_id = await heart.define("f", timeout_secs=77)
        pool = await heart.pool(function_id)
        apps, app_id = heart.server.apps, pool.function.app_id
        deploy = api_pb2.AppPublishRequest(
            app_id=app_id,
            app_state=api_pb2.APP_STATE_DEPLOYED,
            name="deployed",
            function_ids={"f": function_id},
            definition_ids={function_id: pool.function.definition_id},
        )
        await apps.publish(deploy, "test", "1.6.4")
        task = await node.ready(function_id)
        publication = await apps.rollover(app_id, "test")
        assert publication.version == 2 and task.is_outdated
        assert [command.task_id for command in node.commands("drain")] == [task.task_id]
        assert pool.definition.timeout_secs == 77 and not (await node.start(function_id)).is_outdated

    beat(tmp_path, scenario)


def test_parameter_sets_that_nobody_uses_leave_the_memory_and_come_back(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, _ = await begin(heart)
        server = heart.server
        idle_pools = IdlePools(pools=server.pools, calls=server.calls, functions=server.functions, autoscalers=server.autoscalers)
        base_id = await heart.define("f")
        bound_id, _ = await server.functions.bind(api_pb2.FunctionBindParamsRequest(function_id=base_id, serialized_params=b"x"))
        pool, base = await heart.pool(bound_id), await heart.pool(base_id)
        task = await node.ready(bound_id)
        await heart.call(bound_id, invocation=ASYNC)
        for there in server.pools:
            there.used_at -= IDLE_POOL_S + 1
        assert await idle_pools.collect() == 0  # it works
        await node.answer(task, next(iter(task.held)))
        assert await idle_pools.collect() == 0  # it has a container
        await node.exit(task, 0, "stopped")
        assert await idle_pools.collect() == 1
        assert server.pools.find(bound_id) is None and server.pools.find(base_id) is base
        call = await heart.call(bound_id, key="again")
        assert call.pool is not pool and await heart.pool(bound_id) is call.pool

    beat(tmp_path, scenario)


def test_idle_containers_end_for_those_who_wait_for_their_room(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        idle, other = await heart.define("idle", resources=LARGE), await heart.define("other", resources=LARGE)
        call = await heart.call(idle, key="1")
        await scaler.run()
        [task] = scaler.of("idle")
        scaler.ready([task])
        await heart.call(other, key="2")
        assert await scaler.run() == [] and not node.commands("drain")  # it works
        await node.answer(task, next(iter(task.held)))
        assert not call.unfinished
        assert await scaler.run() == []
        assert [command.task_id for command in node.commands("drain")] == [task.task_id]
        assert await scaler.run() == [] and not node.commands("drain")  # once is enough
        await node.exit(task, 0, "exited")
        assert await scaler.run() == ["other"]

    beat(tmp_path, scenario)


def test_an_idle_container_ends_where_a_workspace_may_have_no_more(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        heart.settings = heart.settings.model_copy(update={"max_containers": 1})
        await heart.restart()
        node, scaler = await begin(heart)
        task = await node.ready(await heart.define("idle"))
        node.commands("start_task")
        await heart.call(await heart.define("other"), key="2")
        assert await scaler.run() == []
        assert [command.task_id for command in node.commands("drain")] == [task.task_id]
        await node.exit(task, 0, "exited")
        assert await scaler.run() == ["other"]

    beat(tmp_path, scenario)


def test_containers_that_were_idle_when_the_server_died_end_all_the_same(tmp_path: Path) -> None:
    """Nothing else may ever happen in their pool: no input waits, and none that they hold will end."""

    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define("idle")
        idle = [(await node.ready(function_id)).task_id, (await node.start(function_id)).task_id]  # one was ready meanwhile
        await heart.restart()
        await node.connect([platform_pb2.HeldTask(task_id=task_id, ready=True) for task_id in idle])
        scaler = Scaler(heart, node)
        assert await scaler.run() == [] and not node.commands("drain")
        assert (await heart.pool(function_id)).watched  # they will be thought over in time
        scaler.ahead_s = DEFAULT_SCALEDOWN_WINDOW_S
        heart.server.pools.touch(await heart.pool(function_id))
        await scaler.run()
        assert sorted(command.task_id for command in node.commands("drain")) == sorted(idle)

    beat(tmp_path, scenario)


def test_a_container_that_is_kept_warm_keeps_its_room(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        warm = await heart.define("warm", resources=LARGE, autoscaler_settings={"min_containers": 1})
        assert await scaler.run() == ["warm"]
        scaler.ready(scaler.of("warm"))
        await heart.call(await heart.define("other", resources=LARGE), key="2")
        assert await scaler.run() == [] and not node.commands("drain")
        assert len((await heart.pool(warm)).live_tasks()) == 1

    beat(tmp_path, scenario)


def test_after_a_hundred_starts_others_have_their_turn(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, scaler = await begin(heart)
        node.session.milli_cpu, node.session.memory_mib, node.session.max_containers = 200_000, 200_000, 500
        function_id = await heart.define("f", concurrency_limit=150)
        await heart.call(function_id, count=150, kind=MAP)
        heart.server.pools.changed.clear()
        assert len(await scaler.run()) == STARTS_PER_PASS
        assert heart.server.pools.changed.is_set()
        assert len(await scaler.run()) == 150 - STARTS_PER_PASS

    beat(tmp_path, scenario)
