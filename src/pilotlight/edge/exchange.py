"""One request's conversation with a container, from the wait for one to the container's word that it has ended.

Invariants: at most one container gets the request, except where the first surely did nothing with it, or the request is safe to
repeat and nothing of a response had come. The slot is held until the container has ended the request. `begin` may be cancelled and
called again: it goes on where it was, so that a request outlives the HTTP request that brought it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError
from modal_proto import api_pb2

from pilotlight.core.errors import PilotlightError
from pilotlight.edge import messages
from pilotlight.edge.admission import Entry
from pilotlight.edge.blob_messages import messages_of_blob
from pilotlight.edge.connections import NodeConnections, TaskFrames
from pilotlight.edge.dispatch import Dispatch, Slot, Ticket
from pilotlight.edge.refusals import Refusal
from pilotlight.objects import Objects
from pilotlight.wire.frames import framed
from pilotlight.wire.platform_pb2 import FromTask, ToTask, WebEnded, WebOpen

log = structlog.get_logger()

DEATHS_LIMIT = 3  # containers that may die with a request before its client is told
_DATA_IN = ToTask.DESCRIPTOR.fields_by_name["data_in"].number
_TIMEOUT = api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT


class Left(Exception):
    """The client went away before a container had its request."""


class Incoming(Protocol):
    """What the client sends: the container gets `first` with the request itself, the rest when it has taken it."""

    is_repeatable: bool  # the request may be given to a second container even if the first had begun with it

    async def first(self) -> bytes:
        """The first chunk, the same each time; waits for nothing that the client may hold back."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether nothing follows the first chunk."""
        ...

    async def relay(self, put: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand over what follows the first chunk, until the client has sent all of it."""
        ...

    def goodbye(self) -> bytes:
        """The chunk that tells the app that its client has gone."""
        ...


@dataclass(frozen=True, slots=True)
class Containers:
    """What exchanges share: the way to containers, and to what these put aside."""

    dispatch: Dispatch
    connections: NodeConnections
    objects: Objects


class Exchange:
    """The conversation. `entry`, `task_id` and `waited_s` are for the books."""

    def __init__(self, entry: Entry, item: bytes, incoming: Incoming, containers: Containers) -> None:
        self.entry = entry
        self.task_id = ""
        self.waited_s = 0.0
        self.has_begun = False  # something of a response has come
        self._item = item
        self._incoming = incoming
        self._containers = containers
        self._asked_at = asyncio.get_running_loop().time()
        self._ticket: Ticket | None = None
        self._slot: Slot | None = None
        self._frames: TaskFrames | None = None
        self._is_open = False  # the request is with the node
        self._is_taken = False  # and with the container
        self._ended: WebEnded | None = None
        self._received: deque[messages.Chunk] = deque()
        self._next_index = 1
        self._blob: AsyncIterator[api_pb2.Asgi] | None = None
        self._relay: asyncio.Task[None] | None = None
        self._deaths = 0
        self._is_left = False

    # ---- for the client's side ----

    async def begin(self) -> None:
        """Until the app has said something, or ended without a word; raises Refusal, Left. See above about cancellation."""
        while not self.has_begun and self._ended is None:
            if self._slot is None:
                await self._find_slot()
            if not self._is_open and not await self._open():
                continue
            assert self._frames is not None
            self._heard(await self._frames.receive())

    async def next(self) -> api_pb2.Asgi | messages.Piece | None:
        """The app's next message; None when the container has ended the request, or died: `failure` tells."""
        while True:
            if self._blob is not None:
                message = await anext(self._blob, None)
                if message is not None:
                    return message
                self._blob = None
            while self._received:
                chunk = self._received.popleft()
                if chunk.data_blob_id:
                    self._blob = messages_of_blob(self._containers.objects, chunk.data_blob_id)
                    break
                try:
                    return messages.message_of(chunk.data)
                except DecodeError as error:
                    self._break_off(str(error))
            else:
                if self._ended is not None or not self._is_open or self._frames is None:
                    return None
                self._heard(await self._frames.receive())

    def failure(self) -> Refusal:
        """What to tell the client of an app that has ended without a response."""
        title, call_id = self.entry.route.title, self.entry.call_id
        if self._ended is None or not self._ended.result:
            return Refusal(502, f"the container of {title} died while it had the request {call_id}; its logs may say why")
        result = api_pb2.GenericResult.FromString(self._ended.result)
        if result.status == _TIMEOUT:
            return Refusal(504, f"{title} took longer than its timeout for the request {call_id}")
        return Refusal(500, f"{title} failed on the request {call_id}; its logs have the cause under this id")

    @property
    def has_succeeded(self) -> bool:
        """Whether the app has ended, and without an error."""
        if self._ended is None or not self._ended.result:
            return False
        return api_pb2.GenericResult.FromString(self._ended.result).status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS

    @property
    def is_taken(self) -> bool:
        """Whether a container has the request now."""
        return self._is_taken

    def finishing(self) -> None:
        """The response is through."""
        if self._slot is not None:
            self._slot.finishing()

    def leave(self, _: object = None) -> None:
        """The client has gone: the app is told, and a request that no container has got is given up."""
        if self._is_left or self._ended is not None:
            return
        self._is_left = True
        if self._ticket is not None and not self._ticket.done():
            self._ticket.cancel()
        elif self._is_open and self._frames is not None and not self._frames.closed.done():
            self._frames.write(ToTask(data_in=self._incoming.goodbye()))

    async def close(self) -> None:
        """Wait until the container has ended the request, and let go of all that was held for it."""
        try:
            while await self.next() is not None:
                pass
        finally:
            self._let_go()

    # ---- the way to a container ----

    async def _find_slot(self) -> None:
        if self._is_left:
            raise Left
        if self._ticket is None:
            self._ticket = self._containers.dispatch.queue(self.entry.function_id)
        if not self._ticket.done():
            await asyncio.wait((self._ticket,))
        ticket, self._ticket = self._ticket, None
        if ticket.cancelled():
            raise Left
        self._slot = ticket.result()
        self.task_id = self._slot.task.task_id
        self.waited_s = asyncio.get_running_loop().time() - self._asked_at

    async def _open(self) -> bool:
        """Hand the request to the slot's node; False where that can't be reached, and another slot is needed."""
        assert self._slot is not None
        task = self._slot.task
        chunk = await self._incoming.first()
        try:
            assert self._frames is None
            self._frames, before = await self._containers.connections.take(task.node_address)
            if self._is_left:
                raise Left
            call_id = self.entry.call_id
            opened = WebOpen(
                task_id=task.task_id,
                call_id=call_id,
                input_id=messages.input_id(call_id),
                item=self._item,
                is_whole=self._incoming.is_whole,
            )
            self._frames.write_field(_DATA_IN, chunk, before=before + framed(ToTask(open=opened)))
        except (OSError, PilotlightError) as error:
            log.warning("node_unreachable", node_address=task.node_address, task_id=task.task_id, cause=str(error))
            self._try_another()
            return False
        self._is_open = True
        return True

    def _try_another(self) -> None:
        """This container did not take the request."""
        assert self._slot is not None
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        self._slot.release(suspend=True)
        self._slot = None
        self._is_open = self._is_taken = False

    # ---- what the node says ----

    def _heard(self, message: FromTask | None) -> None:
        kind = message.WhichOneof("message") if message is not None else None
        if message is None:
            self._died(WebEnded(why="the connection to its node broke"), surely_untaken=False)
        elif kind == "data_out":
            self._take(message.data_out)
        elif kind == "taken":
            self._was_taken()
        elif kind == "ended":
            if message.ended.result:
                self._ended = message.ended
            else:
                self._died(message.ended, surely_untaken=not self._is_taken)
        elif kind == "refused":
            self._was_refused()

    def _take(self, data_out: bytes) -> None:
        try:
            chunks = list(messages.chunks_of(data_out))
        except DecodeError as error:
            self._break_off(str(error))
            return
        for chunk in chunks:
            if chunk.data_format != api_pb2.DATA_FORMAT_ASGI or chunk.index < self._next_index:
                continue  # no message of the app's, or one that was repeated
            if chunk.index > self._next_index:
                self._break_off(f"chunk {chunk.index} came where {self._next_index} was to come")
                return
            self._next_index += 1
            self._received.append(chunk)
        self.has_begun = self.has_begun or bool(self._received)

    def _was_taken(self) -> None:
        self._is_taken = True
        if not self._incoming.is_whole and self._relay is None:
            self._relay = asyncio.get_running_loop().create_task(self._relay_rest())

    def _was_refused(self) -> None:
        assert self._slot is not None and self._frames is not None
        self._containers.connections.give_back(self._slot.task.node_address, self._frames)
        self._frames = None
        self._try_another()

    def _died(self, ended: WebEnded, *, surely_untaken: bool) -> None:
        self._deaths += 1
        is_again = surely_untaken or self._incoming.is_repeatable
        log.info("container_lost", call_id=self.entry.call_id, task_id=self.task_id, cause=ended.why, is_tried_again=is_again)
        if self.has_begun or self._is_left or not is_again or self._deaths >= DEATHS_LIMIT:
            self._ended = ended
        else:
            self._try_another()

    async def _relay_rest(self) -> None:
        frames = self._frames
        assert frames is not None

        async def put(chunk: bytes) -> None:
            if self._ended is None and not self._is_left:
                await frames.send_field(_DATA_IN, chunk)

        try:
            await self._incoming.relay(put)
        except ConnectionResetError:
            return  # whoever reads from it learns the same
        except Refusal as refusal:
            log.info("request_broken_off", call_id=self.entry.call_id, cause=refusal.text)
            self.leave()

    def _break_off(self, why: str) -> None:
        log.error("output_broken", call_id=self.entry.call_id, task_id=self.task_id, cause=why)
        self._received.clear()
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        self._ended = WebEnded(why="its output is not whole")

    def _let_go(self) -> None:
        if self._relay is not None:
            self._relay.cancel()
        if self._ticket is not None:
            if self._ticket.done() and not self._ticket.cancelled() and self._ticket.exception() is None:
                self._ticket.result().release()
            self._ticket.cancel()
        if self._slot is None:
            return
        if self._frames is not None and self._ended is not None and not self._frames.closed.done():
            self._containers.connections.give_back(self._slot.task.node_address, self._frames)
        elif self._frames is not None:
            self._frames.close()
        self._slot.release(suspend=self._ended is not None and not self._ended.result)
