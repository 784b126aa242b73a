"""Which container takes a request, and who waits until one has room.

Invariants: a task never has more requests than slots; who waits for a function is served in the order of arrival; `on_load` is
called whenever the numbers of a function have changed.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import structlog

from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_pb2 import WebFunction, WebLoad, WebTask

log = structlog.get_logger()

SUSPEND_S = 0.5  # for which a task that refused a request, or could not be reached, is asked no more
FINISHING_S = 0.05  # in which a container usually says that it is done, after the last of its response

OnLoad = Callable[[str, bool], None]


@dataclass(slots=True, eq=False)
class Task:
    """A container that takes requests, as the server described it, and how many it has from here."""

    task_id: str
    node_address: str
    address: str
    slots: int
    running: int = 0
    is_suspended: bool = False

    def has_room(self) -> bool:
        return self.running < self.slots and not self.is_suspended


@dataclass(slots=True, eq=False)
class Function:
    """The containers of a function, those it had that still have requests, and who waits."""

    function_id: str
    max_waiting: int
    is_known: bool = False  # to the server
    tasks: dict[str, Task] = field(default_factory=dict[str, Task])
    leaving: dict[str, Task] = field(default_factory=dict[str, Task])
    waiting: OrderedDict["Ticket", None] = field(default_factory=OrderedDict)
    finishing: dict["Slot", float] = field(default_factory=dict["Slot", float])  # since when

    def is_idle(self) -> bool:
        return not (self.is_known or self.tasks or self.leaving or self.waiting)


Ticket = asyncio.Future["Slot"]


class Slot:
    """A container's room for one request, until it is released."""

    __slots__ = ("_dispatch", "function", "is_released", "task")

    def __init__(self, dispatch: "Dispatch", function: Function, task: Task) -> None:
        self._dispatch = dispatch
        self.function = function
        self.task = task
        self.is_released = False

    def finishing(self) -> None:
        """The response is through: the slot will be free in a moment, so who waits needs no other container."""
        self.function.finishing[self] = self._dispatch.clock()

    def release(self, *, suspend: bool = False) -> None:
        """Give the room back; once. `suspend`: the container didn't take the request, others should not be sent there now."""
        if not self.is_released:
            self.is_released = True
            self._dispatch.released(self, suspend)


class Dispatch:
    """The functions that have containers here, or requests that wait."""

    def __init__(self, max_waiting: int, on_load: OnLoad, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_waiting = max_waiting
        self._on_load = on_load
        self.clock = clock
        self._functions: dict[str, Function] = {}

    # ---- requests ----

    def queue(self, function_id: str) -> Ticket:
        """A place in the queue: a future with a slot, done at once where there is room; raises Refusal (429) if the queue is full.

        Cancelling it gives the place up. It fails with Refusal when the function's containers can't start.
        """
        function = self._functions.get(function_id) or self._added(function_id)
        ticket: Ticket = asyncio.get_running_loop().create_future()
        if not function.waiting and (task := _with_most_room(function.tasks.values())) is not None:
            ticket.set_result(self._taken(function, task))
            return ticket
        if len(function.waiting) >= function.max_waiting:
            raise Refusal(429, f"{len(function.waiting)} requests wait for this function already; try again later", [RETRY_SOON])
        function.waiting[ticket] = None
        ticket.add_done_callback(lambda done: self._left(function, done))
        self._on_load(function_id, len(function.waiting) == 1 and not function.finishing)
        return ticket

    def take_now(self, function_id: str) -> Slot | None:
        """A slot that is free now, where nobody waits for one."""
        function = self._functions.get(function_id)
        if function is None or function.waiting or (task := _with_most_room(function.tasks.values())) is None:
            return None
        return self._taken(function, task)

    async def acquire(self, function_id: str) -> Slot:
        """A slot, as soon as there is one; raises Refusal. If the caller is cancelled the slot is given back."""
        ticket = self.queue(function_id)
        try:
            return await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                ticket.result().release()
            raise

    def released(self, slot: Slot, suspend: bool) -> None:
        """Called by the slot."""
        function, task = slot.function, slot.task
        task.running -= 1
        function.finishing.pop(slot, None)
        if not task.running:
            function.leaving.pop(task.task_id, None)
        if suspend:
            self._suspend(function, task)
        self._serve(function)
        self._on_load(function.function_id, False)
        self._forget_if_idle(function)

    # ---- what the server says ----

    def set_function(self, told: WebFunction) -> None:
        """Take over the containers of a function; those that are not named get no more requests."""
        function = self._functions.get(told.function_id) or self._added(told.function_id)
        function.is_known = True
        function.max_waiting = told.max_waiting or self._max_waiting
        self._set_tasks(function, told.tasks)

    def drop_function(self, function_id: str) -> None:
        """It exists no more: who waits is told so, what runs ends by itself."""
        if (function := self._functions.get(function_id)) is not None:
            function.is_known = False
            self._set_tasks(function, ())
            self.fail_waiting(function_id, Refusal(404, "this function has been stopped while the request waited for a container"))
            self._forget_if_idle(function)

    def fail_waiting(self, function_id: str, refusal: Refusal) -> None:
        """All who wait get this answer."""
        function = self._functions.get(function_id)
        while function is not None and function.waiting:
            ticket, _ = function.waiting.popitem(last=False)
            if not ticket.done():
                ticket.set_exception(refusal)
                ticket.exception()  # whoever asked may have left
        self._on_load(function_id, False)
        if function is not None:
            self._forget_if_idle(function)

    def keep_only(self, function_ids: Collection[str]) -> None:
        """Drop all others but those that somebody waits for: the server may not have heard of these."""
        for function in list(self._functions.values()):
            if function.function_id not in function_ids:
                function.is_known = False
                self._set_tasks(function, ())

    # ---- what the server is told ----

    def load(self, function_id: str) -> WebLoad:
        """The numbers of a function, without those who wait for a container that is done in a moment."""
        function = self._functions.get(function_id)
        if function is None:
            return WebLoad(function_id=function_id)
        running = {task.task_id: task.running for task in _all(function) if task.running}
        return WebLoad(function_id=function_id, waiting=self._in_need(function), running=running)

    def loads(self) -> list[WebLoad]:
        """Those of all functions with any."""
        return [self.load(function_id) for function_id, function in self._functions.items() if _is_busy(function)]

    def hides_waiting(self, function_id: str) -> bool:
        """Whether `load` left out some who wait, so that it has to be said again in FINISHING_S."""
        function = self._functions.get(function_id)
        return function is not None and self._in_need(function) < len(function.waiting)

    def _in_need(self, function: Function) -> int:
        if not function.waiting or not function.finishing:
            return len(function.waiting)
        recent = self.clock() - FINISHING_S
        return max(0, len(function.waiting) - sum(since > recent for since in function.finishing.values()))

    # ---- within ----

    def _added(self, function_id: str) -> Function:
        function = self._functions[function_id] = Function(function_id, self._max_waiting)
        return function

    def _set_tasks(self, function: Function, tasks: Iterable[WebTask]) -> None:
        known = function.leaving | function.tasks
        function.tasks = {task.task_id: _renewed(known.pop(task.task_id, None), task) for task in tasks}
        function.leaving = {task_id: task for task_id, task in known.items() if task.running}
        self._serve(function)
        self._forget_if_idle(function)

    def _taken(self, function: Function, task: Task) -> Slot:
        task.running += 1
        self._on_load(function.function_id, False)
        return Slot(self, function, task)

    def _serve(self, function: Function) -> None:
        while function.waiting and (task := _with_most_room(function.tasks.values())) is not None:
            ticket, _ = function.waiting.popitem(last=False)
            if not ticket.done():
                ticket.set_result(self._taken(function, task))

    def _left(self, function: Function, ticket: Ticket) -> None:
        if ticket.cancelled() and function.waiting.pop(ticket, self) is not self:
            self._on_load(function.function_id, False)
            self._forget_if_idle(function)

    def _suspend(self, function: Function, task: Task) -> None:
        if not task.is_suspended:
            log.info("task_suspended", task_id=task.task_id)
            task.is_suspended = True
            asyncio.get_running_loop().call_later(SUSPEND_S, self._resume, function, task)

    def _resume(self, function: Function, task: Task) -> None:
        task.is_suspended = False
        self._serve(function)

    def _forget_if_idle(self, function: Function) -> None:
        if function.is_idle() and self._functions.get(function.function_id) is function:
            del self._functions[function.function_id]


RETRY_SOON = (b"retry-after", b"1")


def _with_most_room(tasks: Iterable[Task]) -> Task | None:
    best = None
    for task in tasks:
        if task.has_room() and (best is None or task.running < best.running):
            best = task
            if not task.running:
                break
    return best


def _renewed(known: Task | None, told: WebTask) -> Task:
    if known is None:
        return Task(told.task_id, told.node_address, told.address, told.slots)
    known.node_address, known.address, known.slots = told.node_address, told.address, told.slots
    return known


def _all(function: Function) -> Iterable[Task]:
    return (*function.tasks.values(), *function.leaving.values())


def _is_busy(function: Function) -> bool:
    return bool(function.waiting) or any(task.running for task in _all(function))
