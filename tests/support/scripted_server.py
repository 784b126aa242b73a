"""The server's side of a node's stream, played by a test: what the node sends is kept and waited for, commands are sent by hand."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

from pilotlight.config import Settings
from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Frames, Listener
from pilotlight.wire.listening import Server

DEADLINE_S = 60.0


class ScriptedServer:
    """Accepts one node at a time. `stores` tells whether outputs, and what containers print, are confirmed as they come."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.inner_socket_path
        self._nodes_path = settings.nodes_socket_path
        self._listener: Listener[platform_pb2.FromNode] | None = None
        self._server: Server | None = None
        self._stream: Any = None
        self._changed = asyncio.Event()
        self.hellos: list[platform_pb2.NodeHello] = []
        self.events: list[platform_pb2.NodeEvent] = []
        self.stores = True
        self.batches = 0  # of output, that were taken and confirmed
        self.metadata: dict[str, str] = {}  # of the last relayed call

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = Server([_Modal(self)])
        await self._server.start(path=str(self._path))
        self._nodes_path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self._nodes_path))
        listening.listen()
        self._listener = Listener(platform_pb2.FromNode, self._connect)
        await self._listener.start(listening)

    async def stop(self) -> None:
        """Go away as a process does that is killed: connections break, nothing is said."""
        assert self._server is not None
        self._server.close()
        self._server.abort()
        await self._server.wait_closed()
        assert self._listener is not None
        await self._listener.close()
        self._stream = None

    async def _connect(self, stream: Frames[platform_pb2.FromNode]) -> None:
        first = await stream.receive()
        assert first is not None
        self.hellos.append(first.events[0].hello)
        await stream.send(platform_pb2.ToNode(commands=[platform_pb2.NodeCommand(welcome=platform_pb2.Welcome())]))
        self._stream = stream
        self._note()
        while (message := await stream.receive()) is not None:
            for event in message.events:
                if event.WhichOneof("event") == "logs" and not await self._take(event.logs):
                    continue
                self.events.append(event)
                if event.HasField("outputs") and self.stores:
                    await self.confirm(event.outputs)
            self._note()

    async def _take(self, logs: platform_pb2.LogBatch) -> bool:
        """Confirm a batch of output as one that is on disk; False for one that came before."""
        is_new = logs.number > self.batches
        self.batches = max(self.batches, logs.number)
        if self.stores:
            await self.send(logs_stored=platform_pb2.LogsStored(number=self.batches))
        return is_new

    async def send(self, **command: Any) -> None:
        """`send(drain=DrainTask(…))`."""
        await self.until(lambda: self._stream is not None)
        await self._stream.send(platform_pb2.ToNode(commands=[platform_pb2.NodeCommand(**command)]))

    async def confirm(self, outputs: platform_pb2.Outputs, error: str = "") -> None:
        await self.send(outputs_stored=platform_pb2.OutputsStored(task_id=outputs.task_id, batch=outputs.batch, error=error))

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for what the node sends to make the condition true; returns what it returned."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def event(self, kind: str, number: int = 1) -> Any:
        """The so-manyth event of this kind, once it is there."""
        return await self.until(lambda: found[number - 1] if len(found := self.all(kind)) >= number else None)

    def all(self, kind: str) -> list[Any]:
        return [getattr(event, kind) for event in self.events if event.HasField(kind)]

    def printed(self, task_id: str) -> str:
        return "".join(line.data for batch in self.all("logs") for line in batch.lines if line.task_id == task_id)

    def items(self) -> list[api_pb2.FunctionPutOutputsItem]:
        """All outputs that came, repeated ones included."""
        requests = [api_pb2.FunctionPutOutputsRequest.FromString(outputs.request) for outputs in self.all("outputs")]
        return [item for request in requests for item in request.outputs]

    def _note(self) -> None:
        self._changed.set()


class _Modal:
    """Three RPCs to relay: one that answers, one that streams, one that refuses with details."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def __mapping__(self) -> dict[str, Handler]:
        service = "/modal.client.ModalClient/"
        unary, stream = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        return {
            f"{service}BlobGet": Handler(self._blob_get, unary, api_pb2.BlobGetRequest, api_pb2.BlobGetResponse),
            f"{service}AppGetLogs": Handler(self._logs, stream, api_pb2.AppGetLogsRequest, api_pb2.TaskLogsBatch),
            f"{service}DictLen": Handler(self._refuse, unary, api_pb2.DictLenRequest, api_pb2.DictLenResponse),
            f"{service}ContainerStop": Handler(self._stop, unary, api_pb2.ContainerStopRequest, Empty),
        }

    async def _blob_get(self, stream: Any) -> None:
        request = await stream.recv_message()
        self._server.metadata = dict(stream.metadata)
        await stream.send_message(api_pb2.BlobGetResponse(download_url=f"http://edge/{request.blob_id}"))

    async def _logs(self, stream: Any) -> None:
        await stream.recv_message()
        for number in range(3):
            await stream.send_message(api_pb2.TaskLogsBatch(entry_id=str(number)))

    async def _refuse(self, stream: Any) -> None:
        await stream.recv_message()
        raise GRPCError(Status.RESOURCE_EXHAUSTED, "too much", [api_pb2.RPCRetryPolicy(retry_after_secs=7)])

    async def _stop(self, stream: Any) -> None:
        await stream.recv_message()
        raise GRPCError(Status.UNIMPLEMENTED, "not here")
