"""Child: a server that keeps inputs and outputs in memory and passes them on, and does nothing else.

No tokens, no rows, no scheduling, no checks: what a platform in Python, on grpclib and uvloop, can't go below.
"""

import argparse
import asyncio
import itertools
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Cardinality, Handler
from grpclib.server import Server
from modal_proto import api_pb2

from bench.processes import say

HEARTBEAT_HOLD_S = 14.0


@dataclass
class Call:
    """One function call: what came in, what has come out."""

    accepted: int = 0
    lingers: bool = False
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class NullServer:
    """Handlers by the names of their RPCs: each takes a request, and returns a reply."""

    def __init__(self, containers: int, linger_s: float) -> None:
        self._linger_s = linger_s
        self._expected_containers = containers
        self._numbers = itertools.count(1)
        self._calls: dict[str, Call] = {}
        self._waiting_inputs: deque[api_pb2.FunctionGetInputsItem] = deque()
        self._idle_containers: deque[asyncio.Future[api_pb2.FunctionGetInputsItem]] = deque()
        self.all_idle = asyncio.Event()

    def __mapping__(self) -> dict[str, Handler]:
        service = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
        mapping: dict[str, Handler] = {}
        for method in service.methods:
            if handle := getattr(self, method.name, None):
                types = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
                mapping[f"/{service.full_name}/{method.name}"] = Handler(_answered_by(handle), Cardinality.UNARY_UNARY, *types)
        return mapping

    # ---- what the caller asks ----

    async def FunctionGet(self, request: api_pb2.FunctionGetRequest) -> Message:
        function = api_pb2.Function(function_name=request.object_tag)
        return api_pb2.FunctionGetResponse(
            function_id="fu-1",
            handle_metadata=api_pb2.FunctionHandleMetadata(
                function_name=request.object_tag, function_type=api_pb2.Function.FUNCTION_TYPE_FUNCTION
            ),
            function=api_pb2.FunctionData(ranked_functions=[api_pb2.FunctionData.RankedFunction(function=function)]),
        )

    async def FunctionMap(self, request: api_pb2.FunctionMapRequest) -> Message:
        call_id = f"fc-{next(self._numbers)}"
        self._calls[call_id] = Call(lingers=request.function_call_type == api_pb2.FUNCTION_CALL_TYPE_MAP)
        accepted = [self._accept(call_id, item) for item in request.pipelined_inputs]
        return api_pb2.FunctionMapResponse(function_call_id=call_id, pipelined_inputs=accepted)

    async def FunctionPutInputs(self, request: api_pb2.FunctionPutInputsRequest) -> Message:
        accepted = [self._accept(request.function_call_id, item) for item in request.inputs]
        return api_pb2.FunctionPutInputsResponse(inputs=accepted)

    async def FunctionGetOutputs(self, request: api_pb2.FunctionGetOutputsRequest) -> Message:
        call = self._calls[request.function_call_id]
        seen = int(request.last_entry_id.partition("-")[0] or 0)
        if len(call.outputs) == seen:
            call.changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(call.changed.wait(), request.timeout)
        if call.lingers and len(call.outputs) < call.accepted:
            await asyncio.sleep(self._linger_s)  # company for the first output: one reply then carries several
        unfinished = call.accepted - len(call.outputs)
        if request.clear_on_success and not unfinished:
            self._calls.pop(request.function_call_id, None)
        return api_pb2.FunctionGetOutputsResponse(
            outputs=call.outputs[seen:], last_entry_id=f"{len(call.outputs)}-0", num_unfinished_inputs=unfinished
        )

    # ---- what the containers ask ----

    async def ContainerHello(self, request: Message) -> Message:
        return Empty()

    async def ContainerHeartbeat(self, request: Message) -> Message:
        await asyncio.sleep(HEARTBEAT_HOLD_S)
        return api_pb2.ContainerHeartbeatResponse()

    async def TaskResult(self, request: api_pb2.TaskResultRequest) -> Message:
        print("a container failed:", request.result.exception, request.result.traceback, file=sys.stderr, flush=True)
        return Empty()

    async def FunctionGetInputs(self, request: Message) -> Message:
        if self._waiting_inputs:
            return api_pb2.FunctionGetInputsResponse(inputs=[self._waiting_inputs.popleft()])
        idle = asyncio.get_running_loop().create_future()
        self._idle_containers.append(idle)
        if len(self._idle_containers) == self._expected_containers:
            self.all_idle.set()
        return api_pb2.FunctionGetInputsResponse(inputs=[await idle])

    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest) -> Message:
        for item in request.outputs:
            call_id, _, index = item.input_id.rpartition("/")
            call = self._calls[call_id]
            call.outputs.append(
                api_pb2.FunctionGetOutputsItem(
                    idx=int(index), input_id=item.input_id, result=item.result, data_format=item.data_format
                )
            )
            call.changed.set()
        return Empty()

    def _accept(self, call_id: str, item: api_pb2.FunctionPutInputsItem) -> api_pb2.FunctionPutInputsResponseItem:
        input_id = f"{call_id}/{item.idx}"
        self._calls[call_id].accepted += 1
        handed_out = api_pb2.FunctionGetInputsItem(input_id=input_id, function_call_id=call_id, input=item.input)
        if self._idle_containers:
            self._idle_containers.popleft().set_result(handed_out)
        else:
            self._waiting_inputs.append(handed_out)
        return api_pb2.FunctionPutInputsResponseItem(idx=item.idx, input_id=input_id)


def _answered_by(handle: Callable[[Any], Awaitable[Message]]) -> Callable[[Any], Awaitable[None]]:
    async def serve(stream: Any) -> None:
        await stream.send_message(await handle(await stream.recv_message()))

    return serve


async def serve(options: argparse.Namespace) -> None:
    """Listen for the client on a free port, for containers on a unix socket; tell the port, then that all wait."""
    service = NullServer(options.containers, options.linger_ms / 1000)
    for_client, for_containers = Server([service]), Server([service])
    await for_containers.start(path=options.socket)
    await for_client.start("127.0.0.1", 0)
    assert for_client._server
    say(port=for_client._server.sockets[0].getsockname()[1])
    await service.all_idle.wait()
    say(all_idle=True)
    await for_client.wait_closed()


def main() -> None:
    """The command line of this child."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--containers", type=int, required=True)
    parser.add_argument("--linger-ms", type=float, required=True)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
