"""GPUs over real rows, and a node that does what a test says: who gets which, when it is free again, what a restart knows."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heart import FakeNode, Heart, beat
from modal_proto import api_pb2

from pilotlight.control.live import LiveTask
from pilotlight.wire.platform_pb2 import BuildFinished, GpuDevice, GpuHealth, HeldBuild, HeldTask

T4, TWO_L4 = [GpuDevice(uuid="t", kind="T4", shares=1)], [GpuDevice(uuid=uuid, kind="L4", shares=1) for uuid in "ab"]


def resources(kind: str, count: int = 1) -> api_pb2.Resources:
    return api_pb2.Resources(gpu_config=api_pb2.GPUConfig(gpu_type=kind, count=count))


class Scaler:
    """Passes of the loop that starts and ends containers, on one node."""

    def __init__(self, heart: Heart, node: FakeNode) -> None:
        self._heart = heart
        self._node = node
        self._loop = heart.server.scale_loop(asyncio.get_running_loop().time)

    async def run(self) -> list[tuple[str, list[str]]]:
        """One pass; returns (function, uuids) of each container that was started."""
        await self._loop.run_once()
        while self._loop._starting:
            await asyncio.wait(self._loop._starting)
        commands = self._node.commands("start_task")
        return [(self.task(command.task_id).pool.function.tag, list(command.gpu_uuids)) for command in commands]

    def task(self, task_id: str) -> LiveTask:
        task = self._heart.server.tasks.get(task_id)
        assert task is not None
        return task

    def of(self, name: str) -> LiveTask:
        return next(task for task in self._heart.server.tasks.all() if task.pool.function.tag == name)


async def connected(heart: Heart, gpus: Sequence[GpuDevice], held: Sequence[HeldTask] = ()) -> FakeNode:
    node = FakeNode(heart, gpus=gpus)
    await node.connect(held)
    return node


async def why(heart: Heart, function_id: str) -> str:
    return (await heart.pool(function_id)).why_waiting


def test_a_gpu_is_free_again_when_its_containers_end_is_reported(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, TWO_L4)
        scaler = Scaler(heart, node)
        both, one = await heart.define("both", resources=resources("L4", 2)), await heart.define("one", resources=resources("L4"))
        await heart.call(both, key="1")
        assert await scaler.run() == [("both", ["a", "b"])]
        await heart.call(one, key="2")
        assert await scaler.run() == [] and await why(heart, one) == "needs 1×L4; 2 of 2 GPUs (L4) are busy"
        task = scaler.of("both")
        assert (await heart.server.tasks.row(task.task_id)).gpu_uuids == ["a", "b"]
        heart.server.tasks.stop(task, "test")
        assert await scaler.run() == []  # told to end is not ended
        heart.server.pools.changed.clear()
        await node.exit(task, 0, "stopped")
        assert heart.server.pools.changed.is_set()
        assert ("one", ["a"]) in await scaler.run()

    beat(tmp_path, scenario)


def test_a_restarted_server_knows_who_has_which_before_and_after_nodes_have_spoken(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, TWO_L4)
        function_id = await heart.define("f", resources=resources("L4"))
        await heart.call(function_id)
        [(_, uuids)] = await Scaler(heart, node).run()
        task_id = heart.server.tasks.all()[0].task_id
        await heart.restart()
        holding = heart.server.nodes.gpus.held_by(task_id)
        assert holding is not None and list(holding.uuids) == uuids == ["a"]
        await connected(heart, TWO_L4, [HeldTask(task_id=task_id, gpu_uuids=uuids)])
        assert heart.server.nodes.gpus.free("no-1") == {"L4": 1}
        assert [state.holders for state in heart.server.nodes.gpus.all()] == [(task_id,), ()]

    beat(tmp_path, scenario)


def test_a_container_that_nobody_knows_keeps_its_gpu_until_it_has_ended(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart, gpus=T4)
        assert await node.connect([HeldTask(task_id="ta-unknown", gpu_uuids=["t"])]) == ["ta-unknown"]
        function_id = await heart.define("f", resources=resources("T4"))
        await heart.call(function_id)
        scaler = Scaler(heart, node)
        assert await scaler.run() == []
        unknown: Any = type("Task", (), {"task_id": "ta-unknown"})
        await node.exit(unknown)
        assert await scaler.run() == [("f", ["t"])]

    beat(tmp_path, scenario)


def test_what_is_wanted_most_is_tried_first_and_the_rest_after_it(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, [*T4, *TWO_L4])
        scaler = Scaler(heart, node)
        ranked = [
            api_pb2.FunctionData.RankedFunction(rank=rank, function=api_pb2.Function(resources=resources(kind)))
            for rank, kind in enumerate(("B200", "T4", "L4"))
        ]
        function_id = await heart.define("f", ranked=ranked, max_inputs=1)
        await heart.call(function_id, 4, kind=api_pb2.FUNCTION_CALL_TYPE_MAP)
        assert sorted(await scaler.run()) == [("f", ["a"]), ("f", ["b"]), ("f", ["t"])]
        assert await why(heart, function_id) == "needs 1×T4 or 1×L4; 3 of 3 GPUs (L4, T4) are busy"
        await heart.restart()
        assert [need.gpu_config.gpu_type for need in (await heart.server.functions.get(function_id)).alternatives] == ["T4", "L4"]

    beat(tmp_path, scenario)


def test_a_kind_that_nobody_has_is_named_with_those_there_are(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, [*T4, *TWO_L4])
        function_id = await heart.define("f", resources=resources("H100", 8))
        await heart.call(function_id)
        assert await Scaler(heart, node).run() == []
        assert await why(heart, function_id) == "needs 8×H100, this platform has 2×L4, 1×T4"

    beat(tmp_path, scenario)


def test_a_failed_gpu_is_drained_said_so_and_given_to_nobody(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, T4)
        scaler = Scaler(heart, node)
        function_id = await heart.define("f", resources=resources("T4"))
        await heart.call(function_id)
        await scaler.run()
        task = scaler.of("f")
        heart.server.tasks.ready(task.task_id)
        said: list[str] = []
        heart.server.output_log.say = lambda app, function, task, text, *rest: said.append(text)  # type: ignore[method-assign]
        heart.server.gpu_tasks.failed("no-1", GpuHealth(uuid="t", problem="Xid 79"))
        assert [command.task_id for command in node.commands("drain")] == [task.task_id]
        assert said == [f"GPU t of container {task.task_id} failed: Xid 79. The container takes no more inputs.\n"]
        await node.exit(task, 0, "exited")
        await heart.call(function_id, key="again")
        assert await scaler.run() == [] and await why(heart, function_id) == "needs 1×T4, this platform has no GPU (1×T4 failed)"
        [shown] = heart.server.overview.document()["gpus"]
        assert (shown["state"], shown["used"]) == ("failed: Xid 79", 0)
        assert 'pilotlight_gpus_failed{kind="T4"} 1.0' in heart.server.overview.metrics()

    beat(tmp_path, scenario)


def test_an_idle_container_ends_when_others_wait_for_its_gpu(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, T4)
        scaler = Scaler(heart, node)
        idle, other = await heart.define("idle", resources=resources("T4")), await heart.define("other", resources=resources("T4"))
        call = await heart.call(idle, key="1")
        await scaler.run()
        task = scaler.of("idle")
        heart.server.tasks.ready(task.task_id)
        await heart.call(other, key="2")
        assert await scaler.run() == [] and not node.commands("drain")  # it works
        await node.answer(task, next(iter(task.held)))
        assert not call.unfinished
        assert await scaler.run() == []
        assert [command.task_id for command in node.commands("drain")] == [task.task_id]
        assert await scaler.run() == [] and not node.commands("drain")  # once is enough
        await node.exit(task, 0, "exited")
        assert await scaler.run() == [("other", ["t"])]

    beat(tmp_path, scenario)


def test_a_container_that_is_kept_warm_keeps_its_gpu(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, T4)
        scaler = Scaler(heart, node)
        warm = await heart.define("warm", resources=resources("T4"), autoscaler_settings={"min_containers": 1})
        heart.server.pools.touch(await heart.pool(warm))
        assert await scaler.run() == [("warm", ["t"])]
        heart.server.tasks.ready(scaler.of("warm").task_id)
        other = await heart.define("other", resources=resources("T4"))
        await heart.call(other)
        assert await scaler.run() == [] and not node.commands("drain")
        assert await why(heart, other) == "needs 1×T4; 1 of 1 GPUs (T4) are busy"

    beat(tmp_path, scenario)


def image(command: str) -> api_pb2.ImageGetOrCreateRequest:
    gpu = api_pb2.GPUConfig(gpu_type="T4", count=1)
    return api_pb2.ImageGetOrCreateRequest(image=api_pb2.Image(dockerfile_commands=["FROM base", command], gpu_config=gpu))


def test_builds_have_gpus_wait_for_them_and_give_them_back(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = await connected(heart, T4)
        images = heart.server.images
        first = (await images.get_or_create(image("RUN one"), "1.6.4", "")).image_id
        second = (await images.get_or_create(image("RUN two"), "1.6.4", "")).image_id
        [build] = node.commands("start_build")
        assert (build.build_id, list(build.gpu_uuids), build.gpu_kind) == (first, ["t"], "T4")
        assert heart.server.overview.document()["gpus"][0]["used_by"] == f"image build ({first})"
        assert {build.image_id: build.why_waiting for build in images.builds}[second] == "needs 1×T4; 1 of 1 GPUs (T4) are busy"
        await images.finished(BuildFinished(build_id=first, ok=True))
        while not (builds := node.commands("start_build")):
            node.session.wake.clear()
            await node.session.wake.wait()
        assert [(build.build_id, list(build.gpu_uuids)) for build in builds] == [(second, ["t"])]

        await heart.restart()
        again = FakeNode(heart, gpus=T4)
        again._builds = [HeldBuild(build_id=second, gpu_uuids=["t"])]
        await again.connect()
        [build] = again.commands("start_build")
        assert (build.build_id, list(build.gpu_uuids)) == (second, ["t"])

    beat(tmp_path, scenario)


def test_a_build_that_no_node_can_ever_do_fails_and_says_so(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        await connected(heart, TWO_L4)
        image_id = (await heart.server.images.get_or_create(image("RUN one"), "1.6.4", "")).image_id
        row = await heart.server.images.row(image_id)
        assert row.state == "failed" and "needs 1×T4, this platform has 2×L4" in row.error

    beat(tmp_path, scenario)
