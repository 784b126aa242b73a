"""The web requests of one container: what the edge sends of them waits here until the container asks for it.

Invariant: a request that was taken in is ended once, by the container's output, by its time or by the container's end, and nothing
of it is written to its connection after that. Of what has come of a request no more than UNREAD_BYTES and one chunk wait here: the
rest stays with the edge.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence

from google.protobuf.message import Message
from modal_proto import api_pb2

from pilotlight.node.inputs import Batch, Inputs
from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Frames, framed

UNREAD_BYTES = 1024 * 1024  # of one request's body, waiting for the container; as much again may wait in its connection
MAX_REQUESTS = 2000  # of one container that have not ended
DISCONNECTED_CODE = 1006  # RFC 6455: a WebSocket that ended without a close frame
FIRST_CHUNK_BYTES = 64  # a chunk that says merely that a WebSocket opens is smaller

_DATA_OUT = platform_pb2.FromTask.DESCRIPTOR.fields_by_name["data_out"].number
_TAKEN = platform_pb2.FromTask(taken=platform_pb2.WebTaken())
_TAKEN_FRAMED = framed(_TAKEN)

EdgeFrames = Frames[platform_pb2.ToTask]


class WebRequest:
    """One request: its connection on one side, the container on the other."""

    def __init__(self, opened: platform_pb2.WebOpen, frames: EdgeFrames) -> None:
        self.input_id = opened.input_id
        self.call_id = opened.call_id
        self.lease = platform_pb2.Lease(input_id=opened.input_id, item=opened.item, call_id=opened.call_id)
        self.is_taken = False
        self._is_whole = opened.is_whole
        self._unsaid = b""  # goes out with what is said next
        self._frames = frames
        self._chunks: deque[bytes] = deque()
        self._unread_bytes = 0
        self._handed_out = 0  # chunks: the index of the last, as they count from 1
        self._readers = 0
        self._is_websocket = False
        self._is_ended = False
        self._is_lost = False  # the edge gave it up, or a part of it is gone
        self._changed = asyncio.Event()

    # ---- from the edge ----

    async def feed(self, chunk: bytes) -> None:
        """Take in the next serialized DataChunk; waits while too much waits. What comes after the end is dropped."""
        if self._is_ended or self._is_lost:
            return
        if not self._chunks and not self._handed_out and len(chunk) < FIRST_CHUNK_BYTES:
            self._is_websocket = _opens_websocket(chunk)
        self._chunks.append(chunk)
        self._unread_bytes += len(chunk)
        self._wake()
        while self._unread_bytes > UNREAD_BYTES:
            await self._change()

    def lose(self) -> None:
        """The rest of it will not come: the container's program is told that its client has gone."""
        if not self._is_ended:
            self._is_lost = True
            self._forget_chunks()

    async def over(self) -> None:
        """Until it has ended, or was lost."""
        while not self._is_ended and not self._is_lost:
            await self._change()

    # ---- to the container ----

    async def chunks(self, last_index: int) -> AsyncGenerator[bytes]:
        """What comes of the request after the chunk that the container got last; ends with the input, not with the request.

        The container asks again when a stream broke: a chunk counts as handed out once the next is asked for, or it is named.
        """
        self._readers += 1
        reader = self._readers
        if last_index > self._handed_out and self._chunks:
            self._drop_first()
        elif last_index < self._handed_out:
            self.lose()
        is_told = False
        while reader == self._readers and not self._is_ended:
            if self._chunks:
                yield self._chunks[0]
                if reader == self._readers and self._chunks:
                    self._drop_first()
            elif self._is_lost and not is_told:
                is_told = True
                yield self._disconnect(max(self._handed_out, last_index) + 1)
            else:
                await self._change()

    def take(self) -> None:
        """The container has it: from now on its code may run."""
        self.is_taken = True
        if self._is_whole:
            self._unsaid = _TAKEN_FRAMED
        else:
            self._say(_TAKEN)

    # ---- from the container ----

    async def put(self, data: bytes) -> None:
        """Pass on a serialized FunctionCallPutDataRequest; waits while the edge reads too slowly. Nobody's output is dropped."""
        await self._frames.writable()
        if self._is_ended or self._is_lost:
            return
        with contextlib.suppress(ConnectionResetError):  # the edge has gone: its connection's end says so
            self._frames.write_field(_DATA_OUT, data, before=self._before())

    def end(self, result: bytes = b"", why: str = "") -> None:
        """It has a serialized GenericResult, or, without one, its container has died."""
        self._finish(platform_pb2.FromTask(ended=platform_pb2.WebEnded(result=result, why=why)))

    def refuse(self, why: str) -> None:
        """The container never got it, and will not."""
        self._finish(platform_pb2.FromTask(refused=platform_pb2.WebRefused(why=why)))

    # ---- within ----

    def _finish(self, last: Message) -> None:
        if not self._is_ended:
            self._say(last)
            self._is_ended = True
            self._forget_chunks()

    def _say(self, message: Message) -> None:
        if not self._is_ended and not self._is_lost:
            with contextlib.suppress(ConnectionResetError):  # nobody is left who wants to know
                self._frames.write(message, before=self._before())

    def _before(self) -> bytes:
        unsaid, self._unsaid = self._unsaid, b""
        return unsaid

    def _drop_first(self) -> None:
        self._unread_bytes -= len(self._chunks.popleft())
        self._handed_out += 1
        if self._unread_bytes <= UNREAD_BYTES:
            self._wake()

    def _forget_chunks(self) -> None:
        self._chunks.clear()
        self._unread_bytes = 0
        self._wake()

    def _disconnect(self, index: int) -> bytes:
        if self._is_websocket:
            message = api_pb2.Asgi(websocket_disconnect=api_pb2.Asgi.WebsocketDisconnect(code=DISCONNECTED_CODE))
        else:
            message = api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect())
        chunk = api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, index=index, data=message.SerializeToString())
        return chunk.SerializeToString()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()


class WebRequests:
    """Those of one container that have not ended: inputs that only this node knows, among the `inputs` of the server."""

    def __init__(self, task_id: str, inputs: Inputs) -> None:
        self._task_id = task_id
        self._inputs = inputs
        self._held: set[str] = set()  # ids of those among the inputs, even when they have ended for the edge
        self._by_input: dict[str, WebRequest] = {}
        self._by_call: dict[str, WebRequest] = {}

    def __contains__(self, input_id: str) -> bool:
        return input_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def of_call(self, call_id: str) -> WebRequest | None:
        return self._by_call.get(call_id)

    # ---- from the edge ----

    def admit(self, request: WebRequest) -> str:
        """Take a request in; returns why not, empty where it was."""
        if self._inputs.is_leaving:
            return self._full_stop()
        if len(self._held) >= MAX_REQUESTS:
            return f"Container {self._task_id} has {MAX_REQUESTS} requests already."
        self._by_input[request.input_id] = self._by_call[request.call_id] = request
        self._held.add(request.input_id)
        self._inputs.deliver([request.lease])
        return ""

    def abandon(self, request: WebRequest) -> None:
        """Nobody waits for it any more: take it back, or else tell the program; does nothing where it has ended."""
        if request.input_id in self._by_input:
            request.lose()
            if self._inputs.surrender([request.input_id]):
                self._held.discard(request.input_id)
                self._remove(request.input_id)

    # ---- from the container ----

    def take(self, batch: Batch) -> None:
        """The container has these; inputs of the server may be among them."""
        for lease in batch:
            if (request := self._by_input.get(lease.input_id)) is not None:
                request.take()

    def end(self, outputs: Iterable[api_pb2.FunctionPutOutputsItem]) -> list[api_pb2.FunctionPutOutputsItem]:
        """End those that have an output here; returns the outputs that the server is to have."""
        others: list[api_pb2.FunctionPutOutputsItem] = []
        for output in outputs:
            if output.input_id not in self._held:
                others.append(output)
                continue
            self._held.discard(output.input_id)
            self._inputs.forget([(output.input_id, 0)])
            if (request := self._remove(output.input_id)) is not None:
                request.end(output.result.SerializeToString())
        return others

    # ---- from the task ----

    def time_out(self, input_ids: Sequence[str], timeout_s: float) -> list[str]:
        """End those among these inputs, which have had their time but run on; returns the others."""
        result = api_pb2.GenericResult(
            status=api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT,
            exception=f"The request took longer than the function's timeout of {timeout_s:g} s.",
        ).SerializeToString()
        for input_id in input_ids:
            if (request := self._remove(input_id)) is not None:
                request.end(result)
        return [input_id for input_id in input_ids if input_id not in self._held]

    def refuse_waiting(self) -> None:
        """Those that the container has not got may go to another."""
        waiting = [input_id for input_id, request in self._by_input.items() if not request.is_taken]
        for input_id in self._inputs.surrender(waiting):
            self._held.discard(input_id)
            if (request := self._remove(input_id)) is not None:
                request.refuse(self._full_stop())

    def close(self, why: str) -> None:
        """The container has ended, and all of its requests with it."""
        self.refuse_waiting()
        for input_id in tuple(self._by_input):
            if (request := self._remove(input_id)) is not None:
                request.end(why=why)

    def _remove(self, input_id: str) -> WebRequest | None:
        request = self._by_input.pop(input_id, None)
        if request is not None:
            del self._by_call[request.call_id]
        return request

    def _full_stop(self) -> str:
        return f"Container {self._task_id} takes no more requests."


def _opens_websocket(chunk: bytes) -> bool:
    return api_pb2.Asgi.FromString(api_pb2.DataChunk.FromString(chunk).data).HasField("websocket_connect")
