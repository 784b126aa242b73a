"""One container from the server's request to the report of its end.

Invariant: each StartTask is followed by exactly one TaskExited, after the last line that the container printed; what it held until
then is in the hello of every new stream. Every wait on a container has a limit after which it is killed.
"""

import asyncio
import errno
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import structlog
from modal_proto import api_pb2

from pilotlight.core.containers import ContainerSpec, Exit, OnOutput, RunningContainer
from pilotlight.core.errors import DiskFull, InvalidInput, NotIsolated, PilotlightError
from pilotlight.node.answers import Answer, Answers
from pilotlight.node.inputs import Batch, Inputs
from pilotlight.node.outbox import Outbox
from pilotlight.node.ports import answering
from pilotlight.node.printed import Tail
from pilotlight.node.start_marks import StartMarks
from pilotlight.node.web_requests import WebRequests
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

TIMEOUT_GRACE_S = 1.0  # for a container whose input took too long: time for its exit hooks
HEARTBEAT_GAP_S = 5.5  # the longest time in which a container does not ask whether inputs were cancelled
SEND_AGAIN_S = 0.5  # after the server could not store outputs
TELL_AFTER_S = 0.05  # the line about a start is written when its first output has surely left
UNSTORED_ANSWERS = 64  # of one container, before it has to wait for the disk
SETUP_FAILED_CODE = 1
KILLED_CODE = 128 + signal.SIGKILL
FILE_DESCRIPTORS = {1: api_pb2.FILE_DESCRIPTOR_STDOUT, 2: api_pb2.FILE_DESCRIPTOR_STDERR}

NodeEvent = platform_pb2.NodeEvent


class TaskRuntime(Protocol):
    """What starts containers."""

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> RunningContainer:
        """Start the container; errors: a PilotlightError that says why it can't."""
        ...


class Surface(Protocol):
    """What a container talks to."""

    socket_path: Path

    async def open(self) -> None: ...

    async def close(self) -> None: ...


Prepare = Callable[[platform_pb2.StartTask, Path], Awaitable[ContainerSpec]]
"""Makes the container's specification, given the socket of its gateway."""


class Task:
    """One container. `run` carries it through; the other methods are what the server and the container ask meanwhile."""

    def __init__(self, request: platform_pb2.StartTask, outbox: Outbox, runtime: TaskRuntime, prepare: Prepare) -> None:
        self.task_id = request.task_id
        self.request = request
        self._marks = StartMarks()
        self._outbox = outbox
        self._runtime = runtime
        self._prepare = prepare
        self._loop = asyncio.get_running_loop()
        self._inputs = Inputs(batched=request.batch_max_size > 0, timeout_s=request.input_timeout_s or float("inf"))
        self._answers = Answers(request.task_id)
        self.web = WebRequests(request.task_id, self._inputs)
        self._tail = Tail()
        self._container: RunningContainer | None = None
        self._preparing: asyncio.Timeout | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._cancelled: set[str] = set()  # running inputs that were cancelled
        self._untold: list[str] = []  # of those, what the container has not been told yet
        self._heartbeats: set[asyncio.Future[None]] = set()
        self._lasting: list[NodeEvent] = []  # to be told again with the end, if need be
        self._reason = ""
        self._is_leaving = False  # it was told that there is no more for it
        self._is_interrupted = False
        self._was_asked_to_end = False
        self._has_greeted = False
        self._is_ready = False
        self._probe: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self.deliver([first.leases for first in request.first_inputs])

    # ---- life ----

    async def run(self, surface: Surface) -> None:
        """Start the container, wait for its end, report it, clear away its traces."""
        ended: Exit | None = None
        message = ""
        try:
            try:
                ended = await self._live(surface)
            except InvalidInput as error:
                self._reason = self._reason or "cannot_run"
                message = str(error)
            except NotIsolated as error:
                self._reason = self._reason or "not_isolated"
                message = str(error)
            except DiskFull as error:
                self._reason = self._reason or "disk_full"
                message = str(error)
            except PilotlightError as error:
                message = str(error)
            except OSError as error:
                self._reason = self._reason or ("disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "")
                message = f"Container {self.task_id} can't be set up on this machine: {error}. `pilotlight doctor` may know more."
            except Exception as error:  # a fault of ours must count as a failed start, or it would be tried for ever
                log.error("setup_crashed", task_id=self.task_id, exc_info=error)
                message = f"Setting up container {self.task_id} failed inside Pilotlight; `pilotlight logs node` has the cause."
        finally:
            self._cancel_timers()
            self._tell_start()
            self._report(ended, message)
            self.ended.set()
            await surface.close()

    async def _live(self, surface: Surface) -> Exit | None:
        """Returns how it ended; None where it was stopped before it began."""
        self._outbox.listen(self._on_pressure)
        try:
            async with asyncio.timeout(None) as self._preparing:
                await surface.open()
                spec = await self._prepare(self.request, surface.socket_path)
                self._marks.reach("prepared")
        except TimeoutError:
            return None  # `_end` ran out of patience, nothing else does
        finally:
            self._preparing = None
        container = await self._runtime.start(spec, self._on_output)
        self._container = container
        if container.told_ns:
            self._marks.reach("told", container.told_ns)
        self._marks.reach("started")
        if self._outbox.full:
            container.hold_output(True)
        if self._reason:
            container.signal(signal.SIGKILL)
        told = platform_pb2.TaskStarted(
            task_id=self.task_id, at_ns=time.time_ns(), address=container.address, warm=container.is_warm
        )
        self._outbox.urgent(NodeEvent(task_started=told))
        if startup_timeout_s := self._startup_timeout_s:
            self._later(startup_timeout_s, self._check_startup)
        return await container.wait()

    def _end_start(self) -> None:
        if self._container is not None:
            self._container.answered()
        self._tell_start()

    def _tell_start(self) -> None:
        self._marks.tell(self.task_id, self._container.setup_ms if self._container is not None else {})

    def _report(self, ended: Exit | None, message: str) -> None:
        self._outbox.unlisten(self._on_pressure)
        event = platform_pb2.TaskExited(
            task_id=self.task_id,
            reason=self._final_reason(ended, message),
            message=message,
            last_lines=self._tail.lines(),
            was_ready=self._is_ready,
            at_ns=time.time_ns(),
        )
        if ended is not None:
            event.exit_code, event.message = ended.code, ended.message
            event.peak_memory_bytes, event.cpu_seconds = ended.peak_memory_bytes, ended.cpu_seconds
            event.memory_limit_mib = self.request.memory_limit_mib
        else:
            event.exit_code = SETUP_FAILED_CODE if message else KILLED_CODE
        self._inputs.close()
        self.web.close(f"Container {self.task_id} ended: {event.reason}, exit code {event.exit_code}.")
        log.info("task_ended", task_id=self.task_id, reason=event.reason, exit_code=event.exit_code, message=message)
        before = (*self._lasting, *self._answers.unconfirmed())
        self._outbox.depart(self.held(), [*before, NodeEvent(task_exited=event)])

    def _final_reason(self, ended: Exit | None, message: str) -> str:
        if self._reason:
            return self._reason
        if ended is None:
            return "setup_failed" if message else "stopped"
        if ended.oom_killed:
            return "oom"
        # Cancelling one input of a synchronous @concurrent function ends the container; its other inputs are innocent.
        interrupted = any(self._inputs.is_running(input_id) for input_id in self._cancelled)
        return "stopped" if interrupted or (self._was_asked_to_end and not ended.code) else "exited"

    def held(self) -> platform_pb2.HeldTask:
        """What the server is told of this task when the stream begins anew."""
        inputs = [entry for entry in self._inputs.held() if entry.input_id not in self.web]
        gpus = self.request.gpu_uuids
        return platform_pb2.HeldTask(
            task_id=self.task_id, inputs=inputs, ready=self._is_ready, address=self._address, gpu_uuids=gpus
        )

    def resend(self) -> None:
        """The stream is new: send again what the server may not have got."""
        for event in (*self._lasting, *self._answers.unconfirmed()):
            self._outbox.repeat(event)

    # ---- what the server asks ----

    def deliver(self, batches: Iterable[Sequence[platform_pb2.Lease]]) -> None:
        """Inputs for the container."""
        for leases in batches:
            self._inputs.deliver(leases)

    def settle(self, batch: int, error: str) -> None:
        """The server's word on outputs. What it could not store is sent again."""
        if error:
            if (answer := self._answers.get(batch)) is not None:
                log.warning("outputs_not_stored", task_id=self.task_id, error=error, retry_in_s=SEND_AGAIN_S)
                event = answer.event
                self._later(SEND_AGAIN_S, lambda: self._outbox.urgent(event))
        elif (answer := self._answers.settle(batch)) is not None:
            self._inputs.forget(answer.key)
            self._cancelled.difference_update(answer.input_ids)

    def drain(self) -> None:
        """No more inputs: the container ends when it has done what it has."""
        self._was_asked_to_end = True
        self.web.refuse_waiting()
        self._inputs.drain()
        if self.request.HasField("server"):
            self._end("stopped", self._grace_s)

    def stop(self, grace_s: float | None = None) -> None:
        """End the container, after a grace (the function's own unless given) in which its exit hooks run; 0: at once."""
        if grace_s is None and self._reason:
            return  # said again to a new stream: the grace that it was given goes on
        self._end("stopped", self._grace_s if grace_s is None else grace_s)

    def cancel(self, input_ids: Sequence[str], grace_s: float) -> None:
        """Interrupt inputs; the container is killed if it has no output for one of them after the grace."""
        if unseen := self._inputs.withdraw(input_ids):
            self._answer_cancelled(unseen)
        running = [input_id for input_id in input_ids if self._inputs.is_running(input_id)]
        if not running:
            return
        self._cancelled.update(running)
        self._untold += running
        gap_s = 0.0 if self._heartbeats else HEARTBEAT_GAP_S
        for waiter in self._heartbeats:
            if not waiter.done():
                waiter.set_result(None)
        self._later(gap_s + grace_s, lambda: self._check_cancelled(running))

    def recall(self, input_ids: Sequence[str]) -> None:
        """Return inputs that the container has not come to."""
        if given_up := self._inputs.surrender(input_ids):
            returned = platform_pb2.InputsReturned(task_id=self.task_id, input_ids=given_up)
            self._outbox.urgent(NodeEvent(inputs_returned=returned))

    # ---- what the container asks ----

    @property
    def pid(self) -> int:
        """Of the container's init; 0 while there is none."""
        return self._container.pid if self._container is not None else 0

    def serve_port(self) -> None:
        """A server of its own (modal.Server) has run its enter hooks: it is ready once its port answers."""
        self._has_greeted = True
        if self.request.HasField("server") and self._probe is None:
            self._probe = self._loop.create_task(answering(self._address, self.request.server.port))
            self._probe.add_done_callback(self._on_answer)

    def greet(self) -> None:
        """The client runs, and is about to import the user's code."""
        self._has_greeted = True
        self._marks.reach("greeted")

    async def take_inputs(self) -> Batch | None:
        """The next inputs, counted as handed out; None: the container is to end."""
        self._marks.reach("asked")
        self._be_ready()
        batch = await self._inputs.take()
        if batch is not None:
            self._marks.reach("given")
            self._read_output()
            self._inputs.start(batch, self._loop.time())
            self.web.take(batch)
            self._watch_deadline()
        elif not self._is_leaving:
            self._is_leaving = True
            self._leave_in_time()
        return batch

    def works_on(self, call_id: str) -> bool:
        """Whether the container has an input of this call."""
        return self._inputs.works_on(call_id)

    def hand_back(self, batch: Batch) -> None:
        """These did not reach the container."""
        self._inputs.hand_back(batch)

    async def put_outputs(self, request: bytes) -> None:
        """Take a serialized FunctionPutOutputsRequest: it is kept here until it is stored, so the container may go on at once."""
        outputs: Sequence[api_pb2.FunctionPutOutputsItem] = api_pb2.FunctionPutOutputsRequest.FromString(request).outputs
        if self.web:
            self._read_output()
            outputs = self.web.end(outputs)
            if not outputs:
                return
            request = api_pb2.FunctionPutOutputsRequest(outputs=outputs).SerializeToString()
        key = frozenset((output.input_id, output.retry_count) for output in outputs)
        answer = self._answers.find(key)
        if answer is None:
            if not any(self._inputs.holds(input_id, attempt) for input_id, attempt in key):
                return  # stored before, or of nobody's interest any more
            answer = self._answer(key, request)
        if len(self._answers) > UNSTORED_ANSWERS:
            await asyncio.shield(answer.stored)

    async def next_cancellation(self, timeout_s: float) -> list[str]:
        """Running inputs that the container is to give up; empty after the time-out."""
        if not self._untold:
            waiter = self._loop.create_future()
            self._heartbeats.add(waiter)
            try:
                async with asyncio.timeout(timeout_s):
                    await waiter
            except TimeoutError:
                return []
            finally:
                self._heartbeats.discard(waiter)
        told, self._untold = self._untold, []
        return told

    def report_failure(self, result: bytes) -> None:
        """The container can't run: a serialized GenericResult says why."""
        event = NodeEvent(task_failure=platform_pb2.TaskFailure(task_id=self.task_id, result=result))
        self._lasting.append(event)
        self._outbox.urgent(event)

    def stop_fetching(self) -> None:
        """The container wants no more inputs."""
        self.drain()

    # ---- within ----

    @property
    def _address(self) -> str:
        return self._container.address if self._container is not None else ""

    @property
    def _grace_s(self) -> float:
        """Between the request to end and the kill; a server of its own has time for its last responses, and then for its hooks."""
        return self.request.grace_period_s + self.request.server.exit_grace_period_s

    @property
    def _startup_timeout_s(self) -> float:
        request = self.request
        return request.server.startup_timeout_s if request.HasField("server") else request.startup_timeout_s

    def _be_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            ready = platform_pb2.TaskReady(task_id=self.task_id, at_ns=time.time_ns(), address=self._address)
            self._outbox.urgent(NodeEvent(task_ready=ready))

    def _on_answer(self, probe: "asyncio.Task[None]") -> None:
        if not probe.cancelled():
            probe.result()
            self._be_ready()

    def _answer(self, key: frozenset[tuple[str, int]], request: bytes) -> Answer:
        answer = self._answers.add(key, request)
        self._read_output()
        self._inputs.answer(answer.input_ids)
        if self._inputs.has_more:
            self._outbox.soon(answer.event)  # the container has its next input already: its outputs may share a message
        else:
            self._outbox.urgent(answer.event)
        if self._marks.reach("answered"):
            self._later(TELL_AFTER_S, self._end_start)
        return answer

    def _answer_cancelled(self, unseen: Sequence[tuple[str, int]]) -> None:
        """The container never saw these, so it can't answer for them."""
        terminated = api_pb2.GenericResult(
            status=api_pb2.GenericResult.GENERIC_STATUS_TERMINATED, exception="The input was cancelled before it began."
        )
        outputs = [
            api_pb2.FunctionPutOutputsItem(input_id=input_id, retry_count=attempt, result=terminated, output_created_at=time.time())
            for input_id, attempt in unseen
        ]
        self._answer(frozenset(unseen), api_pb2.FunctionPutOutputsRequest(outputs=outputs).SerializeToString())

    def _leave_in_time(self) -> None:
        """The container was told that there is no more: from its last output on it has the grace for its exit hooks."""
        grace_s = self.request.grace_period_s
        self._later(grace_s, lambda: self._leave_in_time() if self._inputs.busy else self._end("stopped", 0))

    def _watch_deadline(self) -> None:
        """One timer for all running inputs: their deadlines come in the order in which they began."""
        if self._deadline_timer is not None or not self.request.input_timeout_s:
            return
        deadline = self._inputs.next_deadline
        if deadline is not None:
            self._deadline_timer = self._loop.call_at(deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._deadline_timer = None
        if overdue := self._inputs.overdue(self._loop.time()):
            if late := self.web.time_out(overdue, self.request.input_timeout_s):
                timed_out = platform_pb2.InputTimedOut(task_id=self.task_id, input_ids=late, timeout_s=self.request.input_timeout_s)
                event = NodeEvent(input_timed_out=timed_out)
                self._lasting.append(event)
                self._outbox.urgent(event)
            self._end("input_timeout", TIMEOUT_GRACE_S)
        else:
            self._watch_deadline()

    def _check_startup(self) -> None:
        if not self._is_ready:
            self._end("startup_timeout", 0)

    def _check_cancelled(self, input_ids: Sequence[str]) -> None:
        if any(self._inputs.is_running(input_id) for input_id in input_ids):
            self._end("stopped", 0)

    def _end(self, reason: str, grace_s: float) -> None:
        """Have the container end; the first reason is the one reported."""
        self._reason = self._reason or reason
        self.web.refuse_waiting()
        self._inputs.close()
        if self._container is None:
            if self._preparing is not None:
                self._preparing.reschedule(self._loop.time())
            return
        if grace_s <= 0 or not self._has_greeted:
            # Before the client runs there is nothing of the user's to end well, only a traceback to print.
            self._container.signal(signal.SIGKILL)
            return
        if self.request.HasField("server"):
            if not self._is_leaving:  # a second one would kill it: its handler is gone while the exit hooks run
                self._is_leaving = True
                self._container.signal(signal.SIGTERM)
            self._later(grace_s, lambda: self._end(reason, 0))
            return
        # One that waits for inputs gets its kill switch by the held request and leaves by itself; any other is interrupted,
        # which runs its exit hooks.
        if (self._inputs.busy or not self._is_ready) and not self._is_interrupted:
            self._is_interrupted = True  # a second one would interrupt its exit hooks
            self._container.signal(signal.SIGINT)
        self._later(grace_s, lambda: self._end(reason, 0))

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = self._loop.call_later(delay_s, fire)
        self._timers.add(handle)

    def _cancel_timers(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        for handle in (*self._timers, self._deadline_timer):
            if handle is not None:
                handle.cancel()
        self._timers.clear()

    # ---- output ----

    def _read_output(self) -> None:
        """What was printed until now is of the inputs that run now: read it before they change."""
        if self._container is not None:
            self._container.read_output()

    def _on_output(self, fd: int, data: bytes, at_ns: int) -> None:
        self._tail.add(data)
        call_id, input_id = self._inputs.whose()
        self._outbox.log(
            platform_pb2.LogLine(
                task_id=self.task_id,
                file_descriptor=FILE_DESCRIPTORS[fd],
                data=data.decode(errors="replace"),
                at_ns=at_ns,
                call_id=call_id,
                input_id=input_id,
            )
        )

    def _on_pressure(self, full: bool) -> None:
        """Too much output waits for the server, or no longer: leave it in the pipes, so that the container waits."""
        if self._container is not None:
            self._container.hold_output(full)
