"""Calls from acceptance to output, over a real database."""

import asyncio
from pathlib import Path

import pytest
from heart import ASYNC, MAP, FakeNode, Heart, Result, beat, put_item
from modal_proto import api_pb2

from pilotlight.control import streams
from pilotlight.control.calls import input_id_of
from pilotlight.control.live import LiveCall
from pilotlight.control.outputs import OutputReader
from pilotlight.core import errors, retries
from pilotlight.core.inputs import InputState
from pilotlight.store import calls as rows


def test_an_output_reaches_the_caller_and_the_disk(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id)
        [[(input_id, attempt)]] = node.delivered()
        waiting = asyncio.ensure_future(heart.outputs(call.call_id, timeout_s=50))
        assert await node.answer(task, input_id, attempt) == ""
        found = await waiting
        assert [item.result.data for item in found.items] == [input_id.encode()]
        assert found.unfinished == 0
        await heart.restart()
        assert [item.input_id for item in (await heart.outputs(call.call_id)).items] == [input_id]

    beat(tmp_path, scenario)


def test_the_same_call_again_is_the_same_call(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id = await heart.define()
        first, again = await heart.call(function_id), await heart.call(function_id)
        other = await heart.call(function_id, key="other")
        assert first is again and other is not first
        assert len((await heart.pool(function_id)).queue) == 2

    beat(tmp_path, scenario)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_call_that_is_repeated_after_its_end_does_not_run_again(tmp_path: Path, restarted: bool) -> None:
    """The reply to the first request was lost, the function was quick."""

    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id, invocation=ASYNC)
        [[(input_id, _)]] = node.delivered()
        await node.answer(task, input_id)
        if restarted:
            await heart.restart()
        again = await heart.call(function_id, invocation=ASYNC, repeated=True)
        assert again.call_id == call.call_id
        assert not again.unfinished and not again.pool.queue
        assert len((await heart.outputs(call.call_id)).items) == 1

    beat(tmp_path, scenario)


def test_an_index_is_accepted_once(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        function_id = await heart.define()
        call = await heart.call(function_id, count=0, kind=MAP)
        await heart.server.calls.put_inputs(call.call_id, [put_item(0), put_item(1)])
        accepted = await heart.server.calls.put_inputs(call.call_id, [put_item(1), put_item(2)])
        assert [item.input_id for item in accepted] == [input_id_of(call.call_id, 1), input_id_of(call.call_id, 2)]
        assert [item.idx for item in call.pool.queue] == [0, 1, 2]
        assert (await heart.outputs(call.call_id)).unfinished == 3

    beat(tmp_path, scenario)


def test_outputs_of_what_a_container_does_not_hold_are_ignored(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id, count=1)
        holder, stranger = await node.ready(function_id), await node.ready(function_id)
        [[(input_id, _)]] = node.delivered()
        assert input_id in holder.held
        await node.answer(stranger, input_id)
        await node.answer(holder, input_id, attempt=7)
        assert not (await heart.outputs(call.call_id)).items
        await node.answer(holder, input_id)
        assert len((await heart.outputs(call.call_id)).items) == 1

    beat(tmp_path, scenario)


def test_an_output_that_could_not_be_stored_is_taken_when_it_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id, invocation=ASYNC)
        [[(input_id, _)]] = node.delivered()
        real = rows.insert_outputs

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(rows, "insert_outputs", full)
        assert "could not store" in await node.answer(task, input_id)
        assert not (await heart.outputs(call.call_id)).items
        monkeypatch.setattr(rows, "insert_outputs", real)
        assert await node.answer(task, input_id) == ""
        found = await heart.outputs(call.call_id)
        assert len(found.items) == 1 and found.unfinished == 0
        assert not task.held

    beat(tmp_path, scenario)


def test_who_waits_is_woken_by_an_output_that_came_while_the_disk_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call_id = (await heart.call(function_id)).call_id
        await heart.restart()
        await node.connect()
        task = await node.ready(function_id)
        [[(input_id, _)]] = await node.next_delivered()
        read = OutputReader._from_disk

        async def read_then_miss(self: OutputReader, *arguments: object) -> object:
            found = await read(self, *arguments)  # type: ignore[arg-type]
            monkeypatch.setattr(OutputReader, "_from_disk", read)
            await node.answer(task, input_id)
            return found

        monkeypatch.setattr(OutputReader, "_from_disk", read_then_miss)
        async with asyncio.timeout(25):
            assert len((await heart.outputs(call_id, timeout_s=50)).items) == 1

    beat(tmp_path, scenario)


def test_the_server_drives_the_retries_of_a_spawned_call(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(retry_policy={"retries": 2, "initial_delay_ms": 1, "backoff_coefficient": 1})
        task = await node.ready(function_id)
        call = await heart.call(function_id, invocation=ASYNC)
        for attempt in range(3):
            delivered = await node.next_delivered()
            assert delivered == [[(input_id_of(call.call_id, 0), attempt)]]
            await node.answer(task, delivered[0][0][0], attempt, Result.GENERIC_STATUS_FAILURE)
        [item] = (await heart.outputs(call.call_id)).items
        assert item.retry_count == 2
        assert item.result.status == Result.GENERIC_STATUS_FAILURE

    beat(tmp_path, scenario)


def test_a_caller_that_waits_drives_its_own_retries(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(retry_policy={"retries": 2, "initial_delay_ms": 1})
        task = await node.ready(function_id)
        call = await heart.call(function_id)
        input_id = input_id_of(call.call_id, 0)
        node.delivered()
        await node.answer(task, input_id, 0, Result.GENERIC_STATUS_FAILURE)
        first = await heart.outputs(call.call_id)
        assert first.items[0].result.status == Result.GENERIC_STATUS_FAILURE
        wish = [(0, put_item(0).input, 1)]
        await heart.server.calls.retry(call.call_id, wish)
        await heart.server.calls.retry(call.call_id, wish)  # the same request again
        assert node.delivered() == [[(input_id, 1)]]
        await node.answer(task, input_id, 1)
        second = await heart.outputs(call.call_id, after=first.last_seq)
        assert [item.retry_count for item in second.items] == [1]

    beat(tmp_path, scenario)


def test_cancelling_ends_what_waits_and_interrupts_what_runs(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id, count=3, kind=MAP)
        [[(running, _)]] = node.delivered()
        await heart.server.calls.cancel(call.call_id)
        await heart.server.calls.cancel(call.call_id)
        assert {item.idx for item in (await heart.outputs(call.call_id)).items} == {1, 2}
        assert [list(command.input_ids) for command in node.commands("cancel")] == [[running], [running]]
        await node.answer(task, running, 0, Result.GENERIC_STATUS_TERMINATED)
        found = await heart.outputs(call.call_id)
        assert found.unfinished == 0
        assert all(item.result.status == Result.GENERIC_STATUS_TERMINATED and item.result.exception for item in found.items)
        with pytest.raises(errors.WrongState):
            await heart.server.calls.put_inputs(call.call_id, [put_item(9)])

    beat(tmp_path, scenario)


def test_cancelling_with_containers_does_not_wait_for_them(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        await node.ready(function_id)
        call = await heart.call(function_id)
        await heart.server.calls.cancel(call.call_id, terminate_containers=True)
        assert (await heart.outputs(call.call_id)).unfinished == 0
        assert [command.force for command in node.commands("stop_task")] == [True]

    beat(tmp_path, scenario)


def test_an_input_that_kills_its_containers_fails_with_the_last_words(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id)
        for death in range(retries.DEATHS_LIMIT):
            assert not (await heart.outputs(call.call_id)).items, death
            await node.exit(await node.ready(function_id), last_lines=["Segmentation fault\n"])
        [item] = (await heart.outputs(call.call_id)).items
        assert item.result.status == Result.GENERIC_STATUS_FAILURE
        assert "exit code 137" in item.result.exception and "Segmentation fault" in item.result.exception

    beat(tmp_path, scenario)


def test_a_stop_that_was_asked_for_is_nobodys_fault(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id)
        for _ in range(retries.DEATHS_LIMIT + 1):
            task = await node.ready(function_id)
            heart.server.tasks.stop(task, "test")
            await node.exit(task, reason="stopped")
        [item] = call.unfinished.values()
        assert item.deaths == 0 and item.state is InputState.QUEUED
        assert list(call.pool.queue) == [item]

    beat(tmp_path, scenario)


def test_what_can_not_start_is_tried_thrice_and_then_fails_what_waits(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id, invocation=ASYNC)
        for attempt in range(1, retries.STARTUP_FAILURES_LIMIT + 1):
            assert call.unfinished, attempt
            await node.exit(await node.start(function_id), exit_code=1, reason="setup_failed", message="no such layer")
        [item] = (await heart.outputs(call.call_id)).items
        assert item.result.status == Result.GENERIC_STATUS_INIT_FAILURE
        assert "no such layer" in item.result.exception

    beat(tmp_path, scenario)


def test_what_can_never_start_is_not_tried_again(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id, invocation=ASYNC)
        await node.exit(await node.start(function_id), exit_code=1, reason="cannot_run", message="Image im-1 has no Python.")
        [item] = (await heart.outputs(call.call_id)).items
        assert item.result.status == Result.GENERIC_STATUS_INIT_FAILURE
        assert item.result.exception.endswith("could not start: Image im-1 has no Python.")

    beat(tmp_path, scenario)


@pytest.mark.parametrize(
    ("limit_mib", "words"),
    [
        (256, "it used more memory than its limit of 256 MiB (peak 255 MiB) and was killed"),
        (0, "the containers of its node had used all memory that there is for them"),
    ],
)
def test_an_input_that_needs_too_much_memory_fails_with_the_limit_and_the_peak(tmp_path: Path, limit_mib: int, words: str) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id, invocation=ASYNC)
        for _ in range(retries.DEATHS_LIMIT):
            task = await node.ready(function_id)
            await node.exit(task, reason="oom", peak_memory_bytes=255 << 20, memory_limit_mib=limit_mib)
        [item] = (await heart.outputs(call.call_id)).items
        assert words in item.result.exception

    beat(tmp_path, scenario)


def test_an_app_that_stops_ends_its_calls(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id, count=2, kind=MAP)
        await heart.server.apps.stop(call.pool.function.app_id, "a test wants it")
        found = await heart.outputs(call.call_id)
        assert found.unfinished == 0
        assert all("a test wants it" in item.result.exception for item in found.items)
        assert len(node.commands("stop_task")) == 1
        await node.exit(task, reason="stopped")
        assert not list(heart.server.pools) and heart.server.calls.live_counts() == (0, 0)
        for _ in range(2):
            with pytest.raises(errors.WrongState, match="has stopped"):
                await heart.call(function_id, key="another")
            assert not list(heart.server.pools)
            await heart.restart()

    beat(tmp_path, scenario)


def test_memory_of_waiting_payloads_is_accounted_for_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight.control.calls.PAYLOAD_MEMORY_BYTES", 10)

    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        call = await heart.call(function_id, count=20, kind=MAP)
        assert all(item.payload is None for item in call.unfinished.values())
        assert heart.server.pools.payload_bytes == 0
        task = await node.ready(function_id)
        while call.unfinished:
            for message in await node.next_delivered():
                for input_id, _ in message:
                    await node.answer(task, input_id)
        assert heart.server.pools.payload_bytes == 0

    beat(tmp_path, scenario)


async def _failing_after(heart: Heart, node: FakeNode, yielded: int) -> LiveCall:
    """A call of a generator, a method of a class for all that its definition says, that has yielded so much and then failed."""
    function_id = await heart.define()
    task = await node.ready(function_id)
    call = await heart.call(function_id)
    [[(input_id, _)]] = await node.next_delivered()
    chunks = [api_pb2.DataChunk(index=number) for number in range(1, yielded + 1)]
    await heart.server.calls.streams.put(call.call_id, chunks)
    await node.answer(task, input_id, status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE)
    return call


def test_the_failure_of_a_generator_waits_until_what_it_yielded_was_handed_on(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        call = await _failing_after(heart, node, yielded=3)
        waiting = asyncio.ensure_future(heart.outputs(call.call_id, timeout_s=50))
        reading = heart.server.calls.streams.read(call.call_id, 0)  # a slow client: it asks when all is over
        assert [chunk.index async for chunk in reading] == [1, 2, 3]
        await asyncio.sleep(0.05)
        assert not waiting.done()
        begun = asyncio.get_running_loop().time()
        again = asyncio.ensure_future(anext(heart.server.calls.streams.read(call.call_id, 3), None))
        assert len((await waiting).items) == 1
        assert asyncio.get_running_loop().time() - begun < streams.ABSENCE_S / 2
        assert await again is None

    beat(tmp_path, scenario)


def test_the_failure_of_a_generator_waits_longer_than_one_poll_for_who_is_slow(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        call = await _failing_after(heart, node, yielded=2)
        reading = heart.server.calls.streams.read(call.call_id, 0)
        assert (await anext(reading)).index == 1
        assert (await heart.outputs(call.call_id, timeout_s=0.05)).items == []
        assert [chunk.index async for chunk in reading] == [2]
        again = asyncio.ensure_future(anext(heart.server.calls.streams.read(call.call_id, 2), None))
        assert len((await heart.outputs(call.call_id, timeout_s=50)).items) == 1
        assert await again is None

    beat(tmp_path, scenario)


def test_the_failure_of_a_generator_waits_for_nobody_where_nobody_iterates(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        call = await _failing_after(heart, node, yielded=2)
        assert len((await heart.outputs(call.call_id, timeout_s=50)).items) == 1  # its reader has gone, or never was
        assert len((await heart.outputs(call.call_id, timeout_s=0)).items) == 1  # who only looks

    beat(tmp_path, scenario)


def test_what_a_generator_yields_comes_in_order_until_its_call_is_over(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id)
        yielded = heart.server.calls.streams
        reading = yielded.read(call.call_id, 0)
        chunks = [api_pb2.DataChunk(index=number, data=str(number).encode()) for number in (1, 2, 3)]
        await yielded.put(call.call_id, [chunks[1], chunks[0]])
        await yielded.put(call.call_id, [chunks[0]])
        assert [(await anext(reading)).index for _ in range(2)] == [1, 2]
        third = asyncio.ensure_future(anext(reading))
        await yielded.put(call.call_id, [chunks[2]])
        assert (await third).data == b"3"
        end = asyncio.ensure_future(anext(reading, None))
        [[(input_id, _)]] = node.delivered()
        await node.answer(task, input_id)
        assert await end is None
        assert [chunk.index async for chunk in yielded.read(call.call_id, 1)] == [2, 3]

    beat(tmp_path, scenario)


def test_a_map_whose_caller_is_gone_leaves_memory_and_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id, kind=MAP)
        [[(input_id, _)]] = node.delivered()
        monkeypatch.setattr("pilotlight.control.calls.IDLE_MAP_S", -1.0)
        assert await heart.server.calls.forget_idle_maps() == 0
        await node.answer(task, input_id)
        monkeypatch.setattr("pilotlight.control.calls.IDLE_MAP_S", 600.0)
        assert await heart.server.calls.forget_idle_maps() == 0
        monkeypatch.setattr("pilotlight.control.calls.IDLE_MAP_S", -1.0)
        assert await heart.server.calls.forget_idle_maps() == 1
        assert heart.server.calls.live_counts() == (0, 0)
        assert len((await heart.outputs(call.call_id)).items) == 1
        await heart.server.calls.put_inputs(call.call_id, [put_item(0), put_item(1)])
        assert node.delivered() == [[(input_id_of(call.call_id, 1), 0)]]

    beat(tmp_path, scenario)


def test_attempts_that_a_client_does_not_count_are_told_apart(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        task = await node.ready(function_id)
        call = await heart.call(function_id)
        [[(input_id, first)]] = await node.next_delivered()
        await node.answer(task, input_id, status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE)
        await heart.server.calls.retry(call.call_id, [(0, api_pb2.FunctionInput(), 0)])
        [[(again, second)]] = await node.next_delivered()
        assert (again, first, second) == (input_id, 0, 1)

    beat(tmp_path, scenario)


def test_nothing_is_accepted_for_an_app_that_is_stopping(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define()
        await node.ready(function_id)
        (await heart.pool(function_id)).closed = True
        with pytest.raises(errors.WrongState, match="has stopped"):
            await heart.call(function_id, key="late")

    beat(tmp_path, scenario)
