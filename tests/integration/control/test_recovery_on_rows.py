"""What becomes of inputs and containers when the server or a node was away."""

from pathlib import Path

import pytest
from heart import ASYNC, MAP, FakeNode, Heart, Result, beat, put_item
from modal_proto import api_pb2
from sqlalchemy import Connection

from pilotlight.control.calls import input_id_of
from pilotlight.control.live import LiveTask
from pilotlight.core import errors
from pilotlight.core.inputs import InputState
from pilotlight.core.tasks import TaskState
from pilotlight.store import apps as store
from pilotlight.store import garbage
from pilotlight.wire import platform_pb2


def kept(task: LiveTask, *inputs: tuple[str, int], ready: bool = True) -> platform_pb2.HeldTask:
    held = [platform_pb2.HeldInput(input_id=input_id, attempt=attempt) for input_id, attempt in inputs]
    return platform_pb2.HeldTask(task_id=task.task_id, inputs=held, ready=ready)


def test_after_a_restart_a_node_keeps_what_it_holds_and_the_rest_is_queued(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        held = await heart.call(function_id, key="held")
        waiting = await heart.call(function_id, key="waiting")
        await heart.restart()
        pool = await heart.pool(function_id)
        assert not pool.queue  # the node may still hold them
        held_id, waiting_id = input_id_of(held.call_id, 0), input_id_of(waiting.call_id, 0)
        assert await node.connect([kept(task, (held_id, 0))]) == []
        assert [item.input_id for item in pool.queue] == [waiting_id]
        [restored] = pool.tasks.values()
        assert restored.state is TaskState.READY and list(restored.held) == [held_id]
        await node.answer(restored, held_id)
        assert len((await heart.outputs(held.call_id)).items) == 1
        assert await node.next_delivered() == [[(waiting_id, 0)]]

    beat(tmp_path, scenario)


def test_a_container_that_nobody_knows_is_to_end(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        assert await node.connect([platform_pb2.HeldTask(task_id="ta-stranger")]) == ["ta-stranger"]

    beat(tmp_path, scenario)


def test_a_node_without_its_containers_gives_their_inputs_back_unharmed(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        await node.ready(function_id)
        call = await heart.call(function_id)
        await node.leave()
        await node.connect([])  # its agent was started anew
        [item] = call.unfinished.values()
        assert item.state is InputState.QUEUED and item.deaths == 0 and list(call.pool.queue) == [item]
        assert not call.pool.tasks

    beat(tmp_path, scenario)


def test_a_node_that_stays_away_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight.control.recovery.NODE_GRACE_S", 0.0)

    async def scenario(heart: Heart) -> None:
        node, other = FakeNode(heart), FakeNode(heart, "no-2")
        await node.connect()
        await other.connect()
        function_id = await heart.define()
        await node.ready(function_id)
        call = await heart.call(function_id)
        await node.leave()
        rescue = await other.ready(function_id)
        [[(input_id, _)]] = await other.next_delivered()
        await other.answer(rescue, input_id)
        assert len((await heart.outputs(call.call_id)).items) == 1

    beat(tmp_path, scenario)


def test_what_was_sent_to_a_broken_stream_is_sent_again(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id)
        await node.leave()  # before the input had arrived
        await node.connect([kept(task)])
        assert node.delivered() == [[(input_id_of(call.call_id, 0), 0)]]

    beat(tmp_path, scenario)


def test_inputs_of_a_lost_container_reach_its_brother_on_the_node_that_is_back(tmp_path: Path) -> None:
    """What is handed out while a node joins must not be sent to its old stream, or to none."""

    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        lost = await node.ready(function_id)
        call = await heart.call(function_id)
        brother = await node.ready(function_id)
        await node.leave()
        await node.connect([kept(brother)])
        assert lost.state is TaskState.FINISHED
        assert node.delivered() == [[(input_id_of(call.call_id, 0), 0)]]

    beat(tmp_path, scenario)


def test_a_retry_that_waits_for_its_time_survives_a_restart(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(retry_policy={"retries": 1, "initial_delay_ms": 60_000})
        task = await node.ready(function_id)
        call = await heart.call(function_id, invocation=ASYNC)
        input_id = input_id_of(call.call_id, 0)
        await node.answer(task, input_id, 0, Result.GENERIC_STATUS_FAILURE)
        await heart.restart()
        await node.connect()
        task = await node.ready(function_id)
        assert await node.next_delivered() == [[(input_id, 1)]]
        await node.answer(task, input_id, 1)
        assert [item.retry_count for item in (await heart.outputs(call.call_id)).items] == [1]

    beat(tmp_path, scenario)


def test_a_cancelled_call_is_over_after_a_restart(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        await node.ready(function_id)
        call = await heart.call(function_id)
        await heart.server.calls.cancel(call.call_id)  # its container has not answered yet
        await heart.restart()
        found = await heart.outputs(call.call_id)
        assert found.unfinished == 0 and found.items[0].result.exception

    beat(tmp_path, scenario)


def test_a_map_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(max_concurrent_inputs=10)
        call = await heart.call(function_id, count=2, kind=MAP)
        task = await node.ready(function_id)
        [[(first, _), (second, _)]] = await node.next_delivered()
        await node.answer(task, first)
        await heart.restart()
        await node.connect([kept(task, (second, 0))])
        await heart.server.calls.put_inputs(call.call_id, [put_item(1), put_item(2)])
        [[(third, _)]] = await node.next_delivered()
        [task] = (await heart.pool(function_id)).tasks.values()
        await node.answer(task, third)
        await node.answer(task, second)
        found = await heart.outputs(call.call_id)
        assert [item.idx for item in found.items] == [0, 2, 1]
        assert found.unfinished == 0

    beat(tmp_path, scenario)


@pytest.mark.parametrize("gently", [True, False])
def test_a_container_that_was_told_to_end_is_told_again_by_the_next_server(tmp_path: Path, gently: bool) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        if gently:
            heart.server.tasks.drain(task, "idle")
        else:
            heart.server.tasks.stop(task, "its node is drained", grace_s=30.0)
        await heart.restart()
        await node.connect([kept(task)])
        [restored] = (await heart.pool(function_id)).tasks.values()
        assert (restored.state, restored.stop_reason) == (task.state, task.stop_reason)
        call = await heart.call(function_id)
        assert call.unfinished[0].state is InputState.QUEUED and not node.delivered()
        assert len(node.commands("drain" if gently else "stop_task")) == 1

    beat(tmp_path, scenario)


def test_what_an_app_was_asked_ends_with_it_even_if_the_server_died_meanwhile(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        calls = [await heart.call(function_id, key=key, invocation=ASYNC) for key in ("held", "waiting")]
        app_id = task.pool.function.app_id
        await heart.server.database.write(
            lambda connection: store.stop_app(connection, app_id, api_pb2.APP_STATE_STOPPED, 1.0, "a test wants it")
        )
        await heart.restart()
        for call in calls:
            found = await heart.outputs(call.call_id)
            [item] = found.items
            assert found.unfinished == 0
            assert item.result.status == Result.GENERIC_STATUS_TERMINATED
            assert item.result.exception == "App 'f' was stopped: a test wants it."
        await node.connect([kept(task, (input_id_of(calls[0].call_id, 0), 0))])
        assert [command.task_id for command in node.commands("stop_task")] == [task.task_id]
        restored = heart.server.tasks.get(task.task_id)
        assert restored is not None and restored.stop_reason == "its app has stopped"
        await node.exit(restored, reason="stopped")
        assert not list(heart.server.pools) and heart.server.calls.live_counts() == (0, 0)

    beat(tmp_path, scenario)


def test_an_old_call_of_a_stopped_app_takes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id = await heart.define()
        call = await heart.call(function_id, kind=MAP)
        await heart.server.apps.stop(call.pool.function.app_id, "a test wants it")
        await heart.restart()
        with pytest.raises(errors.WrongState, match="its app has stopped"):
            await heart.server.calls.put_inputs(call.call_id, [put_item(1)])
        with pytest.raises(errors.WrongState, match="its app has stopped"):
            await heart.server.calls.retry(call.call_id, [(0, put_item(0).input, 1)])
        assert not list(heart.server.pools)
        assert heart.server.functions.find(function_id) is None

    beat(tmp_path, scenario)


def test_an_input_whose_function_has_been_removed_keeps_no_server_from_starting(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        call = await heart.call(await heart.define("gone"))
        other = await heart.call(await heart.define("other"))

        def remove(connection: Connection) -> None:
            store.stop_app(connection, call.pool.function.app_id, api_pb2.APP_STATE_STOPPED, 1.0, "a test wants it")
            garbage.remove_functions_of_stopped_apps(connection, 2.0)

        await heart.server.database.write(remove)
        await heart.restart()
        assert [item.call.call_id for pool in heart.server.pools for item in pool.queue] == [other.call_id]

    beat(tmp_path, scenario)


def test_inputs_wait_for_a_node_whose_disk_is_full_however_often_a_start_fails(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id)
        pool = await heart.pool(function_id)
        for _ in range(5):
            await node.exit(await node.start(function_id), exit_code=1, reason="disk_full", message="The disk of the node is full.")
        await node.exit(await node.start(function_id), exit_code=1)  # one that is the function's own fault: it has more tries
        await node.exit(await node.start(function_id), exit_code=1, reason="disk_full", message="The disk of the node is full.")
        assert len(pool.queue) == 1 and not (await heart.outputs(call.call_id)).items
        assert "disk of the node is full" in str(heart.server.overview.document()["waiting"])
        task = await node.ready(function_id)
        [(input_id, attempt)] = node.delivered()[-1]
        assert not await node.answer(task, input_id, attempt)
        assert len((await heart.outputs(call.call_id)).items) == 1

    beat(tmp_path, scenario)
