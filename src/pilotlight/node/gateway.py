"""The gRPC service that one container sees, on a socket of its own: who connects there is that container.

Invariant: the way of a warm call (FunctionGetInputs, FunctionPutOutputs) makes no call to the server: inputs come from what was
delivered, outputs go up the node's stream.
"""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

from pilotlight.config import Settings
from pilotlight.node.inputs import KILL_SWITCH, Batch, reply_with
from pilotlight.node.relay import SERVICE, Relay
from pilotlight.node.volumes import OPEN_FILES, VolumeDirectories
from pilotlight.node.web_requests import WebRequests
from pilotlight.wire.listening import Server
from pilotlight.wire.raw import RawCodec, RawStatusDetails, leading_string

HEARTBEAT_HOLD_S = 14.5  # the client gives up after 15.1 s and sleeps what is left of 15
MOST_UNDERWAY_BYTES = 256 << 20  # of messages from one container, as they come
MOST_CONNECTIONS = 64  # of one container: each takes a descriptor of ours, and all containers live of the same
EMPTY = b""
_METHOD_PREFIX = f"/{SERVICE.full_name}/"
_CALL_ID = api_pb2.FunctionCallPutDataRequest.DESCRIPTOR.fields_by_name["function_call_id"].number


class Served(Protocol):
    """The task behind a gateway."""

    task_id: str

    @property
    def pid(self) -> int:
        """Of the container's init; 0 while there is none."""
        ...

    web: WebRequests

    def greet(self) -> None:
        """The client runs, and is about to import the user's code."""
        ...

    async def take_inputs(self) -> Batch | None:
        """The next inputs, counted as handed out; None: the container is to end."""
        ...

    def hand_back(self, batch: Batch) -> None:
        """These did not reach the container."""
        ...

    def works_on(self, call_id: str) -> bool:
        """Whether the container has an input of this call."""
        ...

    async def put_outputs(self, request: bytes) -> None:
        """Keep a serialized FunctionPutOutputsRequest until it is stored; returns at once, unless too many wait for that."""
        ...

    async def next_cancellation(self, timeout_s: float) -> list[str]:
        """Inputs that the container is to give up; empty after the time-out."""
        ...

    def report_failure(self, result: bytes) -> None:
        """The container can't run: a serialized GenericResult says why."""
        ...

    def stop_fetching(self) -> None:
        """The container wants no more inputs."""
        ...

    def serve_port(self) -> None:
        """A server of its own (modal.Server) has run its enter hooks: it is ready once its port answers."""
        ...


class Gateway:
    """Listens for one container."""

    def __init__(self, settings: Settings, relay: Relay, task: Served, volumes: VolumeDirectories) -> None:
        self.socket_path = settings.gateway_dir / f"{task.task_id}.sock"
        self._relay = relay
        self._task = task
        self._volumes = volumes
        self._server = Server(
            [],
            codec=RawCodec(),
            status_details_codec=RawStatusDetails(),
            find_handler=self._find_handler,
            most_connections=MOST_CONNECTIONS,
            most_underway_bytes=MOST_UNDERWAY_BYTES,
        )
        # What is answered here; all else is passed on to the server.
        self._own: dict[str, Callable[[Any], Awaitable[None]]] = {
            "ContainerHello": self._hello,
            "ContainerHeartbeat": self._heartbeat,
            "ContainerServerLifecycleReady": self._server_ready,
            "ContainerStop": self._stop,
            "FunctionCallPutDataOut": self._put_data_out,
            "FunctionGetInputs": self._get_inputs,
            "FunctionPutOutputs": self._put_outputs,
            "FunctionGetDynamicConcurrency": self._get_dynamic_concurrency,
            "TaskResult": self._task_result,
            "VolumeCommit": self._volume_commit,
            "VolumeReload": self._volume_reload,
        }

    async def open(self) -> None:
        """Listen. The directory lets nobody list it, and the name of the socket is known to its container only."""
        self.socket_path.unlink(missing_ok=True)
        await self._server.start(path=str(self.socket_path))
        self.socket_path.chmod(0o666)

    async def close(self) -> None:
        """End what the container still asks, and remove the socket."""
        self._server.close()
        self._server.abort()
        await self._server.wait_closed()
        self.socket_path.unlink(missing_ok=True)

    def _find_handler(self, path: str) -> Handler | None:
        """Made when a container first asks: it uses a few of the hundreds of methods."""
        method = path.removeprefix(_METHOD_PREFIX)
        if method == "FunctionCallGetDataIn":
            return Handler(self._get_data_in, Cardinality.UNARY_STREAM, bytes, bytes)
        if (serve := self._own.get(method)) is not None:
            return Handler(serve, Cardinality.UNARY_UNARY, bytes, bytes)
        return self._relay.handler(self._task.task_id, path)

    async def _hello(self, stream: Any) -> None:
        await stream.recv_message()
        self._task.greet()
        await stream.send_message(EMPTY)

    async def _get_inputs(self, stream: Any) -> None:
        await stream.recv_message()
        batch = await self._task.take_inputs()
        if batch is None:
            await stream.send_message(KILL_SWITCH)
            return
        try:
            await stream.send_message(reply_with(batch))
        except BaseException:
            self._task.hand_back(batch)
            raise

    async def _put_outputs(self, stream: Any) -> None:
        await self._task.put_outputs(await stream.recv_message())
        await stream.send_message(EMPTY)

    async def _get_data_in(self, stream: Any) -> None:
        """What a client sends while its call runs: of a web request it is here, of any other call the server has it."""
        data = await stream.recv_message()
        request = api_pb2.FunctionCallGetDataRequest.FromString(data)
        web_request = self._task.web.of_call(request.function_call_id)
        if web_request is None:
            self._require_call(request.function_call_id)
            await self._relay.stream(self._task.task_id, "FunctionCallGetDataIn", data, stream)
            return
        async with contextlib.aclosing(web_request.chunks(request.last_index)) as chunks:
            async for chunk in chunks:
                await stream.send_message(chunk)

    async def _put_data_out(self, stream: Any) -> None:
        """The reply waits until the edge can take more, so that the program does."""
        data = await stream.recv_message()
        call_id = leading_string(data, _CALL_ID) or api_pb2.FunctionCallPutDataRequest.FromString(data).function_call_id
        if (web_request := self._task.web.of_call(call_id)) is not None:
            await web_request.put(data)
            await stream.send_message(EMPTY)
        else:
            # A message may name its call twice: what counts is what the server reads in it.
            self._require_call(api_pb2.FunctionCallPutDataRequest.FromString(data).function_call_id)
            reply = await self._relay.call(self._task.task_id, "FunctionCallPutDataOut", data, stream.metadata)
            await stream.send_message(reply)

    def _require_call(self, call_id: str) -> None:
        """Only who works on a call adds to what it yields, or reads what is sent to it."""
        if not self._task.works_on(call_id):
            raise GRPCError(
                Status.PERMISSION_DENIED,
                f"Container {self._task.task_id} does not work on function call {call_id}, and may not speak for it.",
            )

    async def _server_ready(self, stream: Any) -> None:
        await stream.recv_message()
        self._task.serve_port()
        await stream.send_message(EMPTY)

    async def _heartbeat(self, stream: Any) -> None:
        await stream.recv_message()
        reply = api_pb2.ContainerHeartbeatResponse()
        if input_ids := await self._task.next_cancellation(HEARTBEAT_HOLD_S):
            reply.cancel_input_event.input_ids.extend(input_ids)
        await stream.send_message(reply.SerializeToString())

    async def _task_result(self, stream: Any) -> None:
        request = api_pb2.TaskResultRequest.FromString(await stream.recv_message())
        self._task.report_failure(request.result.SerializeToString())
        await stream.send_message(EMPTY)

    async def _get_dynamic_concurrency(self, stream: Any) -> None:
        request = api_pb2.FunctionGetDynamicConcurrencyRequest.FromString(await stream.recv_message())
        reply = api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.target_concurrency)
        await stream.send_message(reply.SerializeToString())

    async def _volume_commit(self, stream: Any) -> None:
        """What was written on this machine reaches the disk here; the server counts the version, or says why there is none."""
        data = await stream.recv_message()
        volume_id = api_pb2.VolumeCommitRequest.FromString(data).volume_id
        reply = await self._relay.call(self._task.task_id, "VolumeCommit", data, stream.metadata)
        try:
            await self._volumes.sync(volume_id)
        except OSError as error:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Volume {volume_id} could not be synced: {error}.") from error
        await stream.send_message(reply)

    async def _volume_reload(self, stream: Any) -> None:
        """The server knows whether the container has the volume; only then is it worth a look at what its processes have open."""
        data = await stream.recv_message()
        volume_id = api_pb2.VolumeReloadRequest.FromString(data).volume_id
        reply = await self._relay.call(self._task.task_id, "VolumeReload", data, stream.metadata)
        if await self._volumes.has_open_files(volume_id, self._task.pid):
            raise GRPCError(Status.FAILED_PRECONDITION, OPEN_FILES)
        await stream.send_message(reply)

    async def _stop(self, stream: Any) -> None:
        data = await stream.recv_message()
        request = api_pb2.ContainerStopRequest.FromString(data)
        if request.graceful and request.task_id in ("", self._task.task_id):
            self._task.stop_fetching()
            # The server is to know, so that it sends no more; the container ends well even if it can't be told.
            with contextlib.suppress(GRPCError):
                await self._relay.call(self._task.task_id, "ContainerStop", data, stream.metadata)
            await stream.send_message(EMPTY)
        else:
            await stream.send_message(await self._relay.call(self._task.task_id, "ContainerStop", data, stream.metadata))


def prepare_directory(directory: Path) -> None:
    """Make the directory of the sockets, less what a former agent left in it."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)
    for leftover in directory.glob("*.sock"):
        leftover.unlink(missing_ok=True)
