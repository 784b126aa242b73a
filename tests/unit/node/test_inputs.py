"""Which inputs a container holds, runs, and has answered."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from modal_proto import api_pb2

from pilotlight.node.inputs import Batch, Inputs, reply_with
from pilotlight.wire import platform_pb2


def lease(number: int, attempt: int = 0) -> platform_pb2.Lease:
    item = api_pb2.FunctionGetInputsItem(input_id=f"in-{number}", retry_count=attempt)
    return platform_pb2.Lease(input_id=f"in-{number}", attempt=attempt, item=item.SerializeToString())


def ids(batch: Batch | None) -> list[str] | None:
    return None if batch is None else [entry.input_id for entry in batch]


def held(inputs: Inputs) -> list[str]:
    return sorted(entry.input_id for entry in inputs.held())


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_inputs_are_handed_out_one_by_one_in_order() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1), lease(2)])
        assert ids(await inputs.take()) == ["in-1"]
        assert ids(await inputs.take()) == ["in-2"]

    run(scenario())


def test_a_batch_stays_together() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=True, timeout_s=10)
        inputs.deliver([lease(1), lease(2)])
        inputs.deliver([lease(3)])
        assert ids(await inputs.take()) == ["in-1", "in-2"]
        assert ids(await inputs.take()) == ["in-3"]

    run(scenario())


def test_who_waits_is_woken_by_a_delivery_a_drain_or_a_close() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        for wake, expected in ((lambda: inputs.deliver([lease(1)]), ["in-1"]), (inputs.drain, None)):
            waiting = asyncio.get_running_loop().create_task(inputs.take())
            await asyncio.sleep(0)
            assert not waiting.done()
            wake()
            assert ids(await waiting) == expected

    run(scenario())


def test_a_drained_container_gets_what_was_delivered_and_a_closed_one_nothing() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1), lease(2)])
        inputs.drain()
        assert ids(await inputs.take()) == ["in-1"]
        inputs.close()
        assert await inputs.take() is None
        assert held(inputs) == ["in-1", "in-2"]

    run(scenario())


def test_an_input_is_held_until_its_output_is_stored() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1)])
        assert held(inputs) == ["in-1"]
        batch = await inputs.take()
        assert batch is not None
        inputs.start(batch, 100.0)
        assert (held(inputs), inputs.busy) == (["in-1"], True)
        inputs.answer(["in-1"])
        assert (held(inputs), inputs.busy) == (["in-1"], False)
        inputs.forget([("in-1", 0)])
        assert held(inputs) == []

    run(scenario())


def test_the_same_attempt_is_delivered_once_and_the_next_attempt_is_new() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1)])
        inputs.deliver([lease(1)])
        batch = await inputs.take()
        assert batch is not None
        inputs.start(batch, 0)
        inputs.deliver([lease(1)])
        assert inputs.holds("in-1", 0)
        assert not inputs.holds("in-1", 1)
        inputs.answer(["in-1"])
        inputs.forget([("in-1", 0)])
        inputs.deliver([lease(1, attempt=1)])
        assert ids(await inputs.take()) == ["in-1"]

    run(scenario())


def test_what_is_delivered_again_behind_its_output_begins_anew_if_that_is_only_settled() -> None:
    """The server had dropped that output, and waits for another: it says so only after it has given the input again."""

    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1)])
        inputs.start(await inputs.take() or (), now=0)
        inputs.deliver([lease(1)])
        assert not inputs.has_more  # its output is yet to come
        inputs.answer(["in-1"])
        inputs.deliver([lease(1)])
        assert not inputs.has_more  # the server may take that output after all
        inputs.forget([("in-1", 0)])
        assert inputs.has_more
        inputs.start(await inputs.take() or (), now=0)
        inputs.answer(["in-1"])
        inputs.forget([("in-1", 0)])
        assert not inputs.has_more and held(inputs) == []

    run(scenario())


def test_only_what_runs_can_be_late_and_an_answer_stops_the_clock() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1), lease(2), lease(3)])
        for now in (100.0, 105.0):
            batch = await inputs.take()
            assert batch is not None
            inputs.start(batch, now)
        assert inputs.next_deadline == 110.0
        assert inputs.overdue(109.9) == []
        assert inputs.overdue(110.0) == ["in-1"]
        inputs.answer(["in-1"])
        assert inputs.overdue(114.9) == []
        assert inputs.next_deadline == 115.0
        assert inputs.overdue(1e9) == ["in-2"]

    run(scenario())


def test_what_never_reached_the_container_is_first_in_line_again() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1), lease(2)])
        batch = await inputs.take()
        assert batch is not None
        inputs.start(batch, 0)
        inputs.hand_back(batch)
        assert not inputs.busy
        assert ids(await inputs.take()) == ["in-1"]

    run(scenario())


def test_only_what_the_container_has_not_seen_can_be_withdrawn() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=True, timeout_s=10)
        inputs.deliver([lease(1)])
        batch = await inputs.take()
        assert batch is not None
        inputs.start(batch, 0)
        inputs.deliver([lease(2), lease(3)])
        assert inputs.withdraw(["in-1", "in-2", "in-9"]) == [("in-2", 0)]
        assert held(inputs) == ["in-1", "in-2", "in-3"]  # until the server knows how it ended
        assert ids(await inputs.take()) == ["in-3"]

    run(scenario())


def test_a_reply_is_what_protobuf_would_have_made_of_it() -> None:
    long = platform_pb2.Lease(
        input_id="in-2", item=api_pb2.FunctionGetInputsItem(input_id="in-2", attempt_token="x" * 70_000).SerializeToString()
    )
    reply = api_pb2.FunctionGetInputsResponse.FromString(reply_with((lease(1), long)))
    assert [item.input_id for item in reply.inputs] == ["in-1", "in-2"]
    assert len(reply.inputs[1].attempt_token) == 70_000


def test_what_is_stored_of_one_attempt_leaves_the_next_alone() -> None:
    async def scenario() -> None:
        inputs = Inputs(batched=False, timeout_s=10)
        inputs.deliver([lease(1)])
        inputs.start(await inputs.take() or (), 0)
        inputs.answer(["in-1"])
        inputs.deliver([lease(1, 1)])
        inputs.start(await inputs.take() or (), 0)
        inputs.forget([("in-1", 0)])
        assert inputs.is_running("in-1")
        assert [(entry.input_id, entry.attempt) for entry in inputs.held()] == [("in-1", 1)]

    asyncio.run(scenario())
