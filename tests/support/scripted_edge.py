"""The edge's side of web requests, played by a test: frames by hand on the node's socket."""

import asyncio
import pickle
from pathlib import Path
from typing import Any

from modal_proto import api_pb2

from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Frames, connect

DEADLINE_S = 60.0


class EdgeConnection:
    """One connection to a node; requests go over it one after the other."""

    def __init__(self, frames: Frames[platform_pb2.FromTask], task_id: str) -> None:
        self.frames = frames
        self._task_id = task_id
        self.call_id = ""
        self._sent = 0  # chunks
        self.taken = 0

    @classmethod
    async def open(cls, path: Path, task_id: str) -> "EdgeConnection":
        return cls(await connect(path, platform_pb2.FromTask, 1024 * 1024), task_id)

    async def begin(self, call_id: str, path: str = "/", *, method: str = "GET", kind: str = "http", **scope: Any) -> None:
        """Open a request, whose input has the id of its call but for the prefix."""
        self.call_id, self._sent, self.taken = call_id, 0, 0
        scheme = "ws" if kind == "websocket" else "http"
        scope = {
            "type": kind,
            "http_version": "1.1",
            "method": method,
            "scheme": scheme,
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"a.localhost")],
            "client": ("127.0.0.1", 1),
        } | scope
        function_input = api_pb2.FunctionInput(args=pickle.dumps(((scope,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
        input_id = call_id.replace("fc-", "in-")
        item = api_pb2.FunctionGetInputsItem(input_id=input_id, input=function_input, function_call_id=call_id)
        opened = platform_pb2.WebOpen(task_id=self._task_id, call_id=call_id, input_id=input_id, item=item.SerializeToString())
        await self.frames.send(platform_pb2.ToTask(open=opened))

    async def body(self, data: bytes = b"", *, more: bool = False) -> None:
        """A part of the request's body."""
        await self.say(http_request=api_pb2.Asgi.HttpRequest(body=data, more_body=more))

    async def say(self, **message: Any) -> None:
        """The next message to the program: `say(http_disconnect=…)`."""
        self._sent += 1
        asgi = api_pb2.Asgi(**message).SerializeToString()
        chunk = api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, index=self._sent, data=asgi)
        await self.frames.send(platform_pb2.ToTask(data_in=chunk.SerializeToString()))

    async def close(self) -> None:
        """No more data will come."""
        await self.frames.send(platform_pb2.ToTask(close=True))

    async def next(self) -> platform_pb2.FromTask:
        """The next frame, but for the word that the request was taken, which is counted."""
        async with asyncio.timeout(DEADLINE_S):
            while (message := await self.frames.receive()) is not None and message.HasField("taken"):
                self.taken += 1
        assert message is not None, "the node closed the connection"
        return message

    async def messages(self) -> list[api_pb2.Asgi]:
        """What the program says next, in one frame."""
        message = await self.next()
        assert message.HasField("data_out"), message
        request = api_pb2.FunctionCallPutDataRequest.FromString(message.data_out)
        assert request.function_call_id == self.call_id
        return [api_pb2.Asgi.FromString(chunk.data) for chunk in request.data_chunks]

    async def response(self) -> tuple[int, bytes]:
        """The whole of an HTTP response, and the request's good end after it."""
        status, body, more, index = 0, bytearray(), True, 0
        while (message := await self.next()).HasField("data_out"):
            for chunk in api_pb2.FunctionCallPutDataRequest.FromString(message.data_out).data_chunks:
                index += 1
                assert chunk.index == index
                asgi = api_pb2.Asgi.FromString(chunk.data)
                if asgi.HasField("http_response_start"):
                    status = asgi.http_response_start.status
                else:
                    assert more
                    body += asgi.http_response_body.body
                    more = asgi.http_response_body.more_body
        assert message.HasField("ended"), message
        result = api_pb2.GenericResult.FromString(message.ended.result)
        assert result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, message
        return status, bytes(body)

    async def get(self, call_id: str, path: str = "/", data: bytes = b"") -> tuple[int, bytes]:
        """A whole request."""
        await self.begin(call_id, path)
        await self.body(data)
        await self.close()
        return await self.response()
