"""One container's life, without a container."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from modal_proto import api_pb2

from pilotlight.core.containers import ContainerSpec, Exit, OnOutput
from pilotlight.core.errors import InvalidInput, NotFound, NotIsolated
from pilotlight.node.outbox import Outbox
from pilotlight.node.task import Task
from pilotlight.wire import platform_pb2

DEADLINE_S = 60


class Fakes:
    """The runtime, the container and the gateway of one task."""

    socket_path = Path("/nowhere")
    address = "10.128.0.7"
    pid = 1
    setup_ms: dict[str, float] = {}
    is_warm = False
    told_ns = 0

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.holds: list[bool] = []
        self.unread: list[bytes] = []  # what it has printed and nobody has read yet
        self.preparing = asyncio.Event()
        self.may_prepare = asyncio.Event()
        self.may_prepare.set()
        self.started = asyncio.Event()
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.refusal: Exception | None = None
        self.is_open = False
        self.print: OnOutput = lambda fd, data, at_ns: None

    async def prepare(self, request: platform_pb2.StartTask, socket: Path) -> ContainerSpec:
        self.preparing.set()
        await self.may_prepare.wait()
        if self.refusal:
            raise self.refusal
        return ContainerSpec(request.task_id, (), ())

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> "Fakes":
        self.print = on_output
        self.started.set()
        return self

    def signal(self, signum: int) -> None:
        self.signals.append(signum)
        if signum == signal.SIGKILL and not self.exit.done():
            self.end(137)

    def answered(self) -> None:
        self.has_answered = True

    def hold_output(self, held: bool) -> None:
        self.holds.append(held)

    def read_output(self) -> None:
        unread, self.unread = self.unread, []
        for text in unread:
            self.print(1, text, 1)

    async def wait(self) -> Exit:
        return await self.exit

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def end(self, code: int, *, oom: bool = False) -> None:
        self.exit.set_result(Exit(code, oom, 1024, 0.5))

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


Scenario = Callable[[Task, Fakes, Outbox], Awaitable[None]]


def run(scenario: Scenario, **fields: Any) -> platform_pb2.TaskExited:
    """Play; returns the report, of which there is exactly one."""

    async def play() -> platform_pb2.TaskExited:
        fakes, outbox = Fakes(), Outbox()
        request = platform_pb2.StartTask(task_id="ta-1", grace_period_s=60, **fields)
        task = Task(request, outbox, fakes, fakes.prepare)
        async with asyncio.timeout(DEADLINE_S):
            life = asyncio.get_running_loop().create_task(task.run(fakes))
            await scenario(task, fakes, outbox)
            await life
        assert not fakes.is_open
        ends: list[platform_pb2.TaskExited] = []
        while events := outbox.take():
            ends += [event.task_exited for event in events if event.HasField("task_exited")]
        assert len(ends) == 1
        return ends[0]

    return asyncio.run(play())


def lease(number: int, call_id: str = "") -> platform_pb2.Lease:
    return platform_pb2.Lease(input_id=f"in-{number}", item=b"", call_id=call_id)


def outputs(*numbers: int) -> bytes:
    items = [api_pb2.FunctionPutOutputsItem(input_id=f"in-{number}") for number in numbers]
    return api_pb2.FunctionPutOutputsRequest(outputs=items).SerializeToString()


def sent(outbox: Outbox, kind: str) -> list[Any]:
    return [getattr(event, kind) for event in outbox.take() if event.HasField(kind)]


async def begin(task: Task, fakes: Fakes, *numbers: int) -> None:
    """The container runs, has greeted, and works on these inputs."""
    await fakes.started.wait()
    task.greet()
    for number in numbers:
        task.deliver([[lease(number)]])
        await task.take_inputs()


def test_the_end_is_reported_with_its_last_words() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes, 1)
        fakes.print(1, b"so long\n", 1)
        fakes.end(3)

    end = run(scenario)
    assert (end.exit_code, end.reason, end.was_ready, list(end.last_lines)) == (3, "exited", True, ["so long\n"])
    assert (end.peak_memory_bytes, end.cpu_seconds) == (1024, 0.5)


def test_a_death_for_memory_is_called_so() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes)
        fakes.end(137, oom=True)

    assert run(scenario).reason == "oom"


def test_a_fault_of_ours_in_the_set_up_counts_as_a_start_that_failed() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        fakes.refusal = ExceptionGroup("of ours", [KeyError("x")])

    end = run(scenario)
    assert (end.reason, end.exit_code) == ("setup_failed", 1) and "pilotlight logs node" in end.message


def test_a_set_up_that_fails_says_why() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        fakes.refusal = NotFound("Image layer abc is not on this machine.")

    end = run(scenario)
    assert (end.reason, end.exit_code, end.message) == ("setup_failed", 1, "Image layer abc is not on this machine.")


def test_a_container_that_is_not_isolated_ends_with_a_reason_of_its_own() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        fakes.refusal = NotIsolated("It is in the host's net namespace.", faults=("it is in the host's net namespace",))

    end = run(scenario)
    assert (end.reason, end.exit_code, end.message) == ("not_isolated", 1, "It is in the host's net namespace.")


def test_a_set_up_that_can_never_succeed_says_so() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        fakes.refusal = InvalidInput("Image im-1 has no Python on its PATH.")

    end = run(scenario)
    assert (end.reason, end.exit_code, end.message) == ("cannot_run", 1, "Image im-1 has no Python on its PATH.")


def test_a_stop_that_is_repeated_to_a_new_stream_leaves_the_grace_as_it_is() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes)
        task.stop(30.0)
        timers = len(task._timers)  # pyright: ignore[reportPrivateUsage]
        task.stop()
        assert len(task._timers) == timers  # pyright: ignore[reportPrivateUsage]
        fakes.end(0)

    assert run(scenario).reason == "stopped"


def test_a_stop_during_set_up_ends_it_there() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        fakes.may_prepare.clear()
        await fakes.preparing.wait()
        task.stop()
        await task.ended.wait()
        assert not fakes.started.is_set()

    end = run(scenario)
    assert (end.reason, end.exit_code) == ("stopped", 137)


def test_a_stop_before_the_client_runs_kills_and_after_that_interrupts_only_what_works() -> None:
    async def before(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await fakes.started.wait()
        await asyncio.sleep(0)
        task.stop()
        assert fakes.signals == [signal.SIGKILL]

    async def busy(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes, 1)
        task.stop()
        assert fakes.signals == [signal.SIGINT]
        assert await task.take_inputs() is None
        fakes.end(0)

    async def idle(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes)
        waiting = asyncio.get_running_loop().create_task(task.take_inputs())
        await asyncio.sleep(0)
        task.stop()
        assert await waiting is None
        assert fakes.signals == []
        fakes.end(0)

    for scenario in (before, busy, idle):
        assert run(scenario).reason == "stopped"


def test_who_does_not_end_within_the_grace_is_killed() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes, 1)
        task.stop(grace_s=0.01)

    end = run(scenario)
    assert (end.reason, end.exit_code) == ("stopped", 137)


def test_an_input_that_is_late_is_reported_before_its_container_ends() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        task._inputs._timeout_s = 0.01  # pyright: ignore[reportPrivateUsage]
        await begin(task, fakes, 1)
        while not fakes.signals:
            await outbox.wait()
            if late := sent(outbox, "input_timed_out"):
                assert list(late[0].input_ids) == ["in-1"]
                assert fakes.signals == [signal.SIGINT]
        fakes.end(0)

    assert run(scenario, input_timeout_s=1).reason == "input_timeout"


def test_outputs_are_sent_once_held_until_stored_and_repeated_on_a_new_stream() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes, 1)
        await task.put_outputs(outputs(1))
        await task.put_outputs(outputs(1))  # the client tries again
        assert [event.batch for event in sent(outbox, "outputs")] == [1]
        assert [entry.input_id for entry in task.held().inputs] == ["in-1"]
        task.resend()
        assert [event.batch for event in sent(outbox, "outputs")] == [1]
        task.settle(1, "")
        assert not task.held().inputs
        await task.put_outputs(outputs(1))
        task.resend()
        assert sent(outbox, "outputs") == []
        fakes.end(0)

    run(scenario)


def test_a_cancellation_reaches_the_held_heartbeat_and_answers_for_what_was_not_begun() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes, 1)
        task.deliver([[lease(2)]])
        heartbeat = asyncio.get_running_loop().create_task(task.next_cancellation(60))
        await asyncio.sleep(0)
        task.cancel(["in-1", "in-2", "in-3"], 60)
        assert await heartbeat == ["in-1"]
        answered = api_pb2.FunctionPutOutputsRequest.FromString(sent(outbox, "outputs")[0].request).outputs
        assert [(item.input_id, item.result.status) for item in answered] == [
            ("in-2", api_pb2.GenericResult.GENERIC_STATUS_TERMINATED)
        ]
        assert await task.next_cancellation(0) == []
        fakes.end(1)  # as a synchronous @concurrent function does when one of its inputs is cancelled

    assert run(scenario).reason == "stopped"


def test_a_cancellation_between_heartbeats_waits_for_the_next() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes, 1)
        task.cancel(["in-1"], 60)
        assert await task.next_cancellation(60) == ["in-1"]
        await task.put_outputs(outputs(1))
        fakes.end(0)

    assert run(scenario).reason == "exited"


def test_a_container_that_was_drained_ends_as_asked() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes, 1)
        await task.put_outputs(outputs(1))
        task.drain()
        assert await task.take_inputs() is None
        fakes.end(0)

    assert run(scenario).reason == "stopped"


def test_a_failure_is_repeated_on_a_new_stream() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes)
        task.report_failure(b"why")
        assert [event.result for event in sent(outbox, "task_failure")] == [b"why"]
        task.resend()
        assert [event.result for event in sent(outbox, "task_failure")] == [b"why"]
        fakes.end(1)

    run(scenario)


def test_output_is_held_back_while_too_much_waits() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes)
        while not outbox.full:
            fakes.print(1, b"x" * 65_536, 1)
        assert fakes.holds == [True]
        while outbox.full:
            if not (events := outbox.take()):
                break  # all is on its way
            outbox.logs_stored(events[-1].logs.number)
        assert not outbox.full
        assert fakes.holds == [True, False]
        fakes.end(0)

    run(scenario)


def test_lines_are_of_the_input_that_ran_when_they_were_printed() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes)
        fakes.print(1, b"importing\n", 1)
        task.deliver([[lease(1, "fc-1")], [lease(2, "fc-1")], [lease(3, "fc-2")]])
        fakes.unread = [b"still before the first\n"]
        await task.take_inputs()
        fakes.print(1, b"of the first\n", 1)
        fakes.unread = [b"last words of the first\n"]
        await task.put_outputs(outputs(1))
        await task.take_inputs()
        await task.take_inputs()
        fakes.print(1, b"of two calls\n", 1)
        lines = [line for batch in sent(outbox, "logs") for line in batch.lines]
        assert [(line.data, line.call_id, line.input_id) for line in lines] == [
            ("importing\n", "", ""),
            ("still before the first\n", "", ""),
            ("of the first\n", "fc-1", "in-1"),
            ("last words of the first\n", "fc-1", "in-1"),
            ("of two calls\n", "", ""),
        ]
        fakes.end(0)

    run(scenario)


def test_lines_of_several_inputs_of_one_call_are_of_the_call() -> None:
    async def scenario(task: Task, fakes: Fakes, outbox: Outbox) -> None:
        await begin(task, fakes)
        task.deliver([[lease(1, "fc-1")], [lease(2, "fc-1")]])
        await task.take_inputs()
        await task.take_inputs()
        fakes.print(2, b"either\n", 1)
        lines = [line for batch in sent(outbox, "logs") for line in batch.lines]
        assert [(line.call_id, line.input_id) for line in lines] == [("fc-1", "")]
        fakes.end(0)

    run(scenario)
