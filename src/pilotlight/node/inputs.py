"""The inputs of one container: delivered by the server, handed out to the container, answered by it.

Invariant: an input that was delivered is held until its output is stored, and handed out at most once. What is held when the
container ends is what the server gives to another.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modal_proto import api_pb2

from pilotlight.wire import platform_pb2
from pilotlight.wire.raw import length_delimited

_INPUTS_FIELD = api_pb2.FunctionGetInputsResponse.DESCRIPTOR.fields_by_name["inputs"].number
KILL_SWITCH = api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)]).SerializeToString()

Batch = tuple[platform_pb2.Lease, ...]


@dataclass(slots=True)
class Running:
    """An input that the container works on; `deadline` is on the clock that `take` was given."""

    attempt: int
    deadline: float
    call_id: str


class Inputs:
    """What one container has been given."""

    def __init__(self, *, batched: bool, timeout_s: float) -> None:
        self._batched = batched
        self._timeout_s = timeout_s
        self._queue: deque[Batch] = deque()
        self._queued: dict[str, int] = {}  # attempt, by input id
        self._running: dict[str, Running] = {}  # in the order of their deadlines, as all have the same time
        self._answered: dict[str, int] = {}  # attempt, by input id: sent up, not stored yet
        self._anew: dict[str, platform_pb2.Lease] = {}  # delivered again once they were answered
        self._waiters: set[asyncio.Future[None]] = set()
        self._draining = False
        self._closed = False

    # ---- from the server ----

    def deliver(self, leases: Sequence[platform_pb2.Lease]) -> None:
        """Take in inputs: together for a batched function, else one by one. Those that are here already change nothing.

        One that was answered runs anew once that is settled: the server had dropped the output when it gave the input again.
        """
        self._anew.update((lease.input_id, lease) for lease in leases if self._answered.get(lease.input_id) == lease.attempt)
        fresh = [lease for lease in leases if not self.holds(lease.input_id, lease.attempt)]
        if not fresh:
            return
        self._queued.update((lease.input_id, lease.attempt) for lease in fresh)
        if self._batched:
            self._queue.append(tuple(fresh))
        else:
            self._queue.extend((lease,) for lease in fresh)
        self._wake()

    def drain(self) -> None:
        """Hand out what was delivered, and then tell the container to end."""
        self._draining = True
        self._wake()

    def close(self) -> None:
        """Hand out nothing more: tell the container to end."""
        self._closed = True
        self._wake()

    # ---- to the container ----

    async def take(self) -> Batch | None:
        """Wait for the next inputs; None means that the container is to end. The caller says `start` at once."""
        while True:
            if self._closed or (self._draining and not self._queue):
                return None
            if self._queue:
                return self._queue.popleft()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def start(self, batch: Batch, now: float) -> None:
        """The container has these."""
        deadline = now + self._timeout_s
        for lease in batch:
            self._queued.pop(lease.input_id, None)
            self._running[lease.input_id] = Running(lease.attempt, deadline, lease.call_id)

    def hand_back(self, batch: Batch) -> None:
        """The container never got these after all."""
        for lease in batch:
            self._running.pop(lease.input_id, None)
            self._queued[lease.input_id] = lease.attempt
        self._queue.appendleft(batch)
        self._wake()

    # ---- from the container ----

    def answer(self, input_ids: Iterable[str]) -> None:
        """Outputs of these are on their way up: their time no longer runs."""
        for input_id in input_ids:
            if (running := self._running.pop(input_id, None)) is not None:
                self._answered[input_id] = running.attempt

    def forget(self, attempts: Iterable[tuple[str, int]]) -> None:
        """The outputs of these attempts are stored; a later attempt at the same input goes on."""
        for input_id, attempt in attempts:
            if self._answered.get(input_id) == attempt:
                del self._answered[input_id]
                if (lease := self._anew.pop(input_id, None)) is not None:
                    self.deliver([lease])
            if (running := self._running.get(input_id)) is not None and running.attempt == attempt:
                del self._running[input_id]

    def withdraw(self, input_ids: Iterable[str]) -> list[tuple[str, int]]:
        """Take back those that the container has not seen yet; returns their ids and attempts. They are held until forgotten."""
        wanted = self._queued.keys() & set(input_ids)
        if not wanted:
            return []
        found = [(input_id, self._queued.pop(input_id)) for input_id in wanted]
        kept: deque[Batch] = deque()
        for batch in self._queue:
            if rest := tuple(lease for lease in batch if lease.input_id not in wanted):
                kept.append(rest)
        self._queue = kept
        self._answered.update(found)
        return found

    def surrender(self, input_ids: Iterable[str]) -> list[str]:
        """Give up those that the container has not seen yet: they are held no longer."""
        given_up = self.withdraw(input_ids)
        self.forget(given_up)
        return [input_id for input_id, _ in given_up]

    # ---- looking ----

    def holds(self, input_id: str, attempt: int) -> bool:
        """Whether this attempt was delivered and its output is not stored yet."""
        running = self._running.get(input_id)
        known = (running.attempt if running is not None else None, self._queued.get(input_id), self._answered.get(input_id))
        return attempt in known

    def is_running(self, input_id: str) -> bool:
        return input_id in self._running

    def works_on(self, call_id: str) -> bool:
        """Whether an input of this call is running."""
        return any(running.call_id == call_id for running in self._running.values())

    @property
    def is_leaving(self) -> bool:
        """Whether nothing more is to be delivered."""
        return self._draining or self._closed

    @property
    def has_more(self) -> bool:
        """Whether the container finds its next input here at once."""
        return bool(self._queue)

    @property
    def busy(self) -> bool:
        """Whether the container works on something."""
        return bool(self._running)

    def whose(self) -> tuple[str, str]:
        """The call and the input that the container works on; each is empty where there are several, or none."""
        calls = {running.call_id for running in self._running.values()}
        call_id = next(iter(calls)) if len(calls) == 1 else ""
        return call_id, next(iter(self._running)) if len(self._running) == 1 else ""

    @property
    def next_deadline(self) -> float | None:
        """When the first running input has had its time."""
        return next((running.deadline for running in self._running.values()), None)

    def overdue(self, now: float) -> list[str]:
        """Running inputs that have had their time."""
        return [input_id for input_id, running in self._running.items() if running.deadline <= now]

    def held(self) -> list[platform_pb2.HeldInput]:
        """All that was delivered and has no stored output."""
        running = {input_id: running.attempt for input_id, running in self._running.items()}
        found = self._answered | self._queued | running  # of two attempts the later counts
        return [platform_pb2.HeldInput(input_id=input_id, attempt=attempt) for input_id, attempt in found.items()]

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def reply_with(batch: Batch) -> bytes:
    """The serialized FunctionGetInputsResponse that holds these, whose items are serialized already."""
    return b"".join(length_delimited(_INPUTS_FIELD, lease.item) for lease in batch)
