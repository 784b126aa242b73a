"""What the server is to be told, while it waits for its turn on the stream.

Invariant: an event leaves once, in order within its lane, and returns to its place if the stream broke under it; output of
containers is kept until the server has it on disk, and what of it is here stays near FULL_BYTES, because whoever adds to it is told
when to stop reading.

Two lanes: *urgent* (outputs, readiness, time-outs) overtakes *orderly* (what containers print, builds, ends), so that a flood of
prints delays no result, and an end never overtakes the last words before it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pilotlight.node.sent_lines import SentLines
from pilotlight.wire import platform_pb2

FULL_BYTES = 4 * 1024 * 1024  # of container output that is not on the server's disk: beyond it nobody reads more from the pipes
EMPTY_ENOUGH_BYTES = 1024 * 1024
MESSAGE_BYTES = 32 * 1024 * 1024  # of outputs in one message
MESSAGE_LOG_BYTES = 512 * 1024  # of container output in one message
LOG_LINGER_S = 0.02  # for lines that have no other company
SOON_S = 0.003  # for outputs of a container that is busy with the next input
END_KEPT_S = 10.0  # an end that was sent is sent again if the stream breaks within this time

NodeEvent = platform_pb2.NodeEvent


@dataclass(slots=True)
class Departed:
    """A container that has ended, until the server surely knows."""

    held: platform_pb2.HeldTask
    events: Sequence[NodeEvent]
    sent_at: float | None = None


class Outbox:
    """Events for the server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._urgent: list[NodeEvent] = []
        self._orderly: deque[NodeEvent | platform_pb2.LogLine] = deque()
        self._log_bytes = 0
        self._sent = SentLines()
        self._departed: dict[str, Departed] = {}
        self._wake = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None
        self._listeners: set[Callable[[bool], None]] = set()
        self.full = False
        self.closed = False

    # ---- putting in ----

    def urgent(self, event: NodeEvent) -> None:
        self._urgent.append(event)
        self._wake.set()

    def soon(self, event: NodeEvent) -> None:
        """Send after SOON_S at the latest, with what comes until then."""
        self._urgent.append(event)
        self._linger_for(SOON_S)

    def repeat(self, event: NodeEvent) -> None:
        """Send again what may have been lost, unless it has not left yet."""
        if not any(waiting is event for waiting in self._urgent):
            self.urgent(event)

    def orderly(self, event: NodeEvent) -> None:
        self._orderly.append(event)
        self._wake.set()

    def log(self, line: platform_pb2.LogLine) -> None:
        """Output of a container; may wait LOG_LINGER_S for company."""
        self._orderly.append(line)
        self._log_bytes += len(line.data)
        self._linger_for(LOG_LINGER_S)
        if not self.full and self._log_bytes + self._sent.size_bytes > FULL_BYTES:
            self._tell(full=True)

    def depart(self, held: platform_pb2.HeldTask, events: Sequence[NodeEvent]) -> None:
        """A container has ended: the last event is its TaskExited; those before it were sent, and may have to be repeated."""
        self._forget_old()
        del held.gpu_uuids[:]  # they are free: its processes are gone
        self._departed[held.task_id] = Departed(held, events)
        self.orderly(events[-1])

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Have `listener` called with True when too much output waits, and with False when there is room again."""
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[bool], None]) -> None:
        self._listeners.discard(listener)

    # ---- output of containers ----

    @property
    def log_epoch(self) -> str:
        """Within which numbers of batches count."""
        return self._sent.epoch

    def logs_stored(self, number: int) -> None:
        """The server has the batch of this number, and all before it, on disk."""
        self._sent.settle(number)
        self._tell_if_empty_enough()

    # ---- taking out ----

    async def wait(self) -> None:
        """Until there is something to send, or nothing will come any more."""
        await self._wake.wait()

    def close(self) -> None:
        """Nothing more will be put in."""
        self.closed = True
        self._wake.set()

    def take(self) -> list[NodeEvent]:
        """What goes into the next message; lines in a row share a LogBatch."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        events = self._take_urgent()
        lines: list[platform_pb2.LogLine] = []
        taken_bytes = 0
        while self._orderly and taken_bytes < MESSAGE_LOG_BYTES:
            entry = self._orderly.popleft()
            if isinstance(entry, platform_pb2.LogLine):
                lines.append(entry)
                taken_bytes += len(entry.data)
                continue
            if lines:
                events.append(self._sent.add(lines))
                lines = []
            events.append(entry)
            if entry.HasField("task_exited") and (departed := self._departed.get(entry.task_exited.task_id)) is not None:
                departed.sent_at = self._clock()
        if lines:
            events.append(self._sent.add(lines))
        self._log_bytes -= taken_bytes
        if not self._orderly and not self._urgent and not self.closed:
            self._wake.clear()
        self._tell_if_empty_enough()
        return events

    def _take_urgent(self) -> list[NodeEvent]:
        size_bytes = 0
        for number, event in enumerate(self._urgent):
            size_bytes += event.ByteSize()
            if number and size_bytes > MESSAGE_BYTES:
                events, self._urgent = self._urgent[:number], self._urgent[number:]
                return events
        events, self._urgent = self._urgent, []
        return events

    # ---- when the stream breaks ----

    def put_back(self, events: Sequence[NodeEvent]) -> None:
        """These never left. Outputs and lines return by `renew`; of inputs that were returned the next hello speaks."""
        for event in reversed(events):
            match event.WhichOneof("event"):
                case "outputs" | "inputs_returned" | "logs" | None:
                    continue
                case "task_exited" | "build_progress" | "build_finished":
                    self._orderly.appendleft(event)
                    if (departed := self._departed.get(event.task_exited.task_id)) is not None:
                        departed.sent_at = None
                case _:
                    self._urgent.insert(0, event)
        if self._urgent or self._orderly:
            self._wake.set()

    def departed(self) -> list[platform_pb2.HeldTask]:
        """Containers that have ended and whose end the server may not know: a hello names them as if they still ran."""
        self._forget_old()
        return [departed.held for departed in self._departed.values()]

    def renew(self, unknown: Sequence[str]) -> None:
        """The stream is back: send again the lines that are not confirmed, and ends that may have been lost; not of tasks that the
        server does not know.

        Outputs that wait are dropped: whoever sent them sends again all that is not confirmed.
        """
        self._urgent = [event for event in self._urgent if not (event.HasField("outputs") or event.HasField("inputs_returned"))]
        self._orderly = deque(
            entry for entry in self._orderly if isinstance(entry, platform_pb2.LogLine) or not entry.HasField("logs")
        )
        self._orderly.extendleft(reversed(self._sent.unconfirmed()))
        if self._orderly:
            self._wake.set()
        for task_id in unknown:
            self._departed.pop(task_id, None)
        for departed in self._departed.values():
            for event in departed.events[:-1]:
                self.repeat(event)
            if departed.sent_at is not None:
                departed.sent_at = None
                self.orderly(departed.events[-1])

    def _forget_old(self) -> None:
        horizon = self._clock() - END_KEPT_S
        self._departed = {
            task_id: departed
            for task_id, departed in self._departed.items()
            if departed.sent_at is None or departed.sent_at > horizon
        }

    def _linger_for(self, delay_s: float) -> None:
        if self._wake.is_set():
            return
        loop = asyncio.get_running_loop()
        if self._linger is not None:
            if self._linger.when() <= loop.time() + delay_s:
                return
            self._linger.cancel()
        self._linger = loop.call_later(delay_s, self._stop_lingering)

    def _stop_lingering(self) -> None:
        self._linger = None
        self._wake.set()

    def _tell_if_empty_enough(self) -> None:
        if self.full and self._log_bytes + self._sent.size_bytes < EMPTY_ENOUGH_BYTES:
            self._tell(full=False)

    def _tell(self, *, full: bool) -> None:
        self.full = full
        for listener in tuple(self._listeners):
            listener(full)
