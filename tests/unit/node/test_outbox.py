"""What leaves a node, in which order, and what returns when the stream breaks."""

import asyncio
from collections.abc import Callable
from typing import Any

from pilotlight.node.outbox import END_KEPT_S, FULL_BYTES, MESSAGE_LOG_BYTES, NodeEvent, Outbox
from pilotlight.wire import platform_pb2


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def line(text: str, task_id: str = "ta-1") -> platform_pb2.LogLine:
    return platform_pb2.LogLine(task_id=task_id, file_descriptor=1, data=text)


def ready(task_id: str = "ta-1") -> NodeEvent:
    return NodeEvent(task_ready=platform_pb2.TaskReady(task_id=task_id))


def outputs(batch: int = 1) -> NodeEvent:
    return NodeEvent(outputs=platform_pb2.Outputs(task_id="ta-1", batch=batch))


def exited(task_id: str = "ta-1") -> NodeEvent:
    return NodeEvent(task_exited=platform_pb2.TaskExited(task_id=task_id))


def held(task_id: str = "ta-1") -> platform_pb2.HeldTask:
    return platform_pb2.HeldTask(task_id=task_id)


def kinds(events: list[NodeEvent]) -> list[Any]:
    return [event.WhichOneof("event") for event in events]


def with_outbox(check: Callable[[Outbox, Clock], None]) -> None:
    async def scenario() -> None:
        clock = Clock()
        check(Outbox(clock), clock)

    asyncio.run(scenario())


def test_urgent_things_overtake_output_and_an_end_never_overtakes_its_last_words() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        outbox.log(line("a\n"))
        outbox.log(line("b\n"))
        outbox.depart(held(), [exited()])
        outbox.log(line("c\n", "ta-2"))
        outbox.urgent(ready("ta-2"))
        events = outbox.take()
        assert kinds(events) == ["task_ready", "logs", "task_exited", "logs"]
        assert [entry.data for entry in events[1].logs.lines] == ["a\n", "b\n"]
        assert outbox.take() == []

    with_outbox(check)


def test_a_line_alone_waits_a_little_for_company() -> None:
    async def scenario() -> None:
        outbox = Outbox()
        outbox.log(line("a\n"))
        waiting = asyncio.get_running_loop().create_task(outbox.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        outbox.log(line("b\n"))
        async with asyncio.timeout(60):
            await waiting
        assert [entry.data for entry in outbox.take()[0].logs.lines] == ["a\n", "b\n"]

    asyncio.run(scenario())


def test_a_message_holds_a_bounded_part_of_a_flood() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        for _number in range(20):
            outbox.log(line("x" * 65_536))
        sizes = [sum(len(entry.data) for entry in outbox.take()[0].logs.lines) for _number in range(3)]
        assert sizes == [MESSAGE_LOG_BYTES, MESSAGE_LOG_BYTES, 20 * 65_536 - 2 * MESSAGE_LOG_BYTES]

    with_outbox(check)


def test_who_prints_is_held_while_too_much_waits() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        told: list[bool] = []
        outbox.listen(told.append)
        while not told:
            outbox.log(line("x" * 65_536))
        assert told == [True]
        assert outbox.full
        taken = 0
        while outbox.full:
            [batch] = outbox.take()
            taken += sum(len(entry.data) for entry in batch.logs.lines)
            outbox.logs_stored(batch.logs.number)
        assert told == [True, False]
        assert taken > FULL_BYTES / 2  # not on and off with each line

    with_outbox(check)


def test_what_did_not_leave_returns_to_its_place_except_outputs() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        outbox.log(line("a\n"))
        outbox.urgent(ready())
        outbox.urgent(outputs())
        events = outbox.take()
        outbox.log(line("b\n"))
        outbox.urgent(ready("ta-2"))
        outbox.put_back(events)
        outbox.renew([])
        again = outbox.take()
        assert kinds(again) == ["task_ready", "task_ready", "logs", "logs"]
        assert [event.task_ready.task_id for event in again[:2]] == ["ta-1", "ta-2"]
        assert [(entry.logs.number, entry.logs.lines[0].data) for entry in again[2:]] == [(1, "a\n"), (2, "b\n")]

    with_outbox(check)


def test_an_end_is_told_again_to_the_next_stream_with_what_came_before_it() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        answer = outputs()
        outbox.urgent(answer)
        outbox.depart(held(), [answer, exited()])
        assert kinds(outbox.take()) == ["outputs", "task_exited"]
        assert [task.task_id for task in outbox.departed()] == ["ta-1"]
        outbox.renew([])
        assert kinds(outbox.take()) == ["outputs", "task_exited"]

    with_outbox(check)


def test_an_end_that_has_not_left_is_told_once() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        answer = outputs()
        outbox.urgent(answer)
        outbox.depart(held(), [answer, exited()])
        outbox.renew([])
        assert kinds(outbox.take()) == ["outputs", "task_exited"]

    with_outbox(check)


def test_who_has_ended_has_no_gpus_any_more() -> None:
    async def scenario() -> None:
        outbox = Outbox()
        outbox.depart(platform_pb2.HeldTask(task_id="ta-1", gpu_uuids=["GPU-1"]), [exited()])
        [departed] = outbox.departed()
        assert departed.task_id == "ta-1" and not departed.gpu_uuids

    asyncio.run(scenario())


def test_an_end_is_forgotten_after_a_while_or_when_nobody_knows_the_task() -> None:
    def check(outbox: Outbox, clock: Clock) -> None:
        outbox.depart(held("ta-1"), [exited("ta-1")])
        outbox.depart(held("ta-2"), [exited("ta-2")])
        outbox.take()
        outbox.renew(["ta-1"])
        assert [event.task_exited.task_id for event in outbox.take()] == ["ta-2"]
        clock.now += END_KEPT_S + 1
        assert outbox.departed() == []
        outbox.renew([])
        assert outbox.take() == []

    with_outbox(check)


def test_outputs_that_waited_for_the_stream_are_not_doubled() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        answer = outputs()
        outbox.urgent(answer)
        outbox.renew([])
        outbox.repeat(answer)
        outbox.repeat(answer)
        assert kinds(outbox.take()) == ["outputs"]

    with_outbox(check)


def test_lines_are_sent_again_to_each_new_stream_until_they_are_on_the_servers_disk() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        for number in range(1, 4):
            outbox.log(line(f"{number}\n"))
            assert [event.logs.number for event in outbox.take()] == [number]
        outbox.logs_stored(1)
        outbox.depart(held(), [exited()])
        for _stream in range(2):
            outbox.renew([])
            events = outbox.take()
            assert kinds(events) == ["logs", "logs", "task_exited"]  # the end stays behind the last words
            assert [event.logs.number for event in events[:2]] == [2, 3]
        outbox.logs_stored(3)
        outbox.renew(["ta-1"])
        assert outbox.take() == []

    with_outbox(check)


def test_lines_that_wait_for_a_second_stream_are_not_doubled() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        outbox.log(line("a\n"))
        outbox.take()
        outbox.renew([])
        outbox.renew([])
        assert [event.logs.number for event in outbox.take()] == [1]

    with_outbox(check)


def test_lines_that_nobody_confirms_hold_who_prints() -> None:
    def check(outbox: Outbox, _: Clock) -> None:
        events: list[NodeEvent] = []
        while not outbox.full:
            outbox.log(line("x" * 65_536))
            events = outbox.take()
        outbox.logs_stored(events[-1].logs.number)
        assert not outbox.full

    with_outbox(check)
