"""Child: an edge that makes function calls of web requests, and a server that passes them to one container, in one process.

No routes, no checks, no ids to speak of, no slots, no second process: what a platform in Python, on uvicorn, grpclib and uvloop,
can't go below while the stock client serves the app.
"""

import argparse
import asyncio
import itertools
import pickle
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any

import uvicorn
import uvloop
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Cardinality, Handler
from modal_proto import api_pb2

from bench.processes import say
from pilotlight.wire.listening import Server

HEARTBEAT_HOLD_S = 14.0
UPLOAD_CHUNK_BYTES = 1 << 20
TOLD = ("type", "http_version", "method", "scheme", "path", "query_string", "headers", "client")


@dataclass(slots=True)
class Call:
    """A web request: uvicorn's channel, and what is done once the container has ended it."""

    receive: Any
    send: Any
    ended: asyncio.Event


class NullWeb:
    """The ASGI app in front, and the handlers that the container asks, by the names of their RPCs."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._calls: dict[str, Call] = {}
        self._inputs: deque[api_pb2.FunctionGetInputsItem] = deque()
        self._idle: asyncio.Future[None] | None = None
        self.is_polled = asyncio.Event()

    def __mapping__(self) -> dict[str, Handler]:
        service = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
        mapping: dict[str, Handler] = {}
        for method in service.methods:
            if handle := getattr(self, method.name, None):
                kind = Cardinality.UNARY_STREAM if method.server_streaming else Cardinality.UNARY_UNARY
                types = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
                mapping[f"/{service.full_name}/{method.name}"] = Handler(handle, kind, *types)
        return mapping

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        call_id = f"fc-{next(self._numbers)}"
        call = self._calls[call_id] = Call(receive, send, asyncio.Event())
        arguments = pickle.dumps((({name: scope[name] for name in TOLD},), {}))
        function_input = api_pb2.FunctionInput(args=arguments, data_format=api_pb2.DATA_FORMAT_PICKLE)
        self._inputs.append(api_pb2.FunctionGetInputsItem(input_id=call_id, function_call_id=call_id, input=function_input))
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        await call.ended.wait()
        del self._calls[call_id]

    # ---- what the container asks ----

    async def ContainerHello(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(Empty())

    async def ContainerHeartbeat(self, stream: Any) -> None:
        await stream.recv_message()
        await asyncio.sleep(HEARTBEAT_HOLD_S)
        await stream.send_message(api_pb2.ContainerHeartbeatResponse())

    async def TaskResult(self, stream: Any) -> None:
        request: api_pb2.TaskResultRequest = await stream.recv_message()
        raise RuntimeError(f"the container failed: {request.result.exception} {request.result.traceback}")

    async def FunctionGetInputs(self, stream: Any) -> None:
        await stream.recv_message()
        self.is_polled.set()
        while not self._inputs:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        await stream.send_message(api_pb2.FunctionGetInputsResponse(inputs=[self._inputs.popleft()]))

    async def FunctionCallGetDataIn(self, stream: Any) -> None:
        request: api_pb2.FunctionCallGetDataRequest = await stream.recv_message()
        call = self._calls[request.function_call_id]
        for index in itertools.count(1):
            body, more = await _some_of_body(call)
            await stream.send_message(_chunk(index, body, more))
            if not more:
                break
        await call.ended.wait()  # a stream that ends is opened anew

    async def FunctionCallPutDataOut(self, stream: Any) -> None:
        request: api_pb2.FunctionCallPutDataRequest = await stream.recv_message()
        call = self._calls[request.function_call_id]
        for chunk in request.data_chunks:
            if chunk.data_format == api_pb2.DATA_FORMAT_ASGI:
                await _pass_on(api_pb2.Asgi.FromString(chunk.data), call)
        await stream.send_message(Empty())

    async def FunctionPutOutputs(self, stream: Any) -> None:
        request: api_pb2.FunctionPutOutputsRequest = await stream.recv_message()
        for item in request.outputs:
            self._calls[item.input_id].ended.set()
        await stream.send_message(Empty())


async def _some_of_body(call: Call) -> tuple[bytes, bool]:
    pieces: list[bytes] = []
    size, more = 0, True
    while more and size < UPLOAD_CHUNK_BYTES:
        message = await call.receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        more = message.get("more_body", False)
    return b"".join(pieces), more


def _chunk(index: int, body: bytes, more: bool) -> Message:
    message = api_pb2.Asgi(http_request=api_pb2.Asgi.HttpRequest(body=body, more_body=more))
    return api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, index=index, data=message.SerializeToString())


async def _pass_on(message: api_pb2.Asgi, call: Call) -> None:
    if message.HasField("http_response_start"):
        start = message.http_response_start
        headers = list(zip(start.headers[::2], start.headers[1::2], strict=True))
        await call.send({"type": "http.response.start", "status": start.status, "headers": headers})
    else:
        part = message.http_response_body
        await call.send({"type": "http.response.body", "body": part.body, "more_body": part.more_body})


async def serve(socket_path: str) -> None:
    """Listen for HTTP on a free port, for the container on a unix socket; tell the port, then that the container waits."""
    web = NullWeb()
    server = Server([web])
    await server.start(path=socket_path)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options: dict[str, Any] = {"http": "httptools", "ws": "none", "interface": "asgi3", "lifespan": "off"}
    configuration = uvicorn.Config(web, access_log=False, log_level="warning", proxy_headers=False, **options)
    serving = asyncio.ensure_future(uvicorn.Server(configuration).serve(sockets=[listener]))
    say(port=listener.getsockname()[1])
    await web.is_polled.wait()
    say(is_polled=True)
    await serving


def main() -> None:
    """The command line of this child."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    uvloop.run(serve(parser.parse_args().socket))


if __name__ == "__main__":
    main()
