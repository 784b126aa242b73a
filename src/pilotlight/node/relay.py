"""Calls of containers that only the server can answer, passed on unread.

Invariant: what the server learns of the caller's identity is what this node says, never what the container claims.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from grpclib.client import Channel
from grpclib.client import Stream as ClientStream
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from modal_proto import api_pb2

from pilotlight.config import Settings
from pilotlight.node.link import NODE_TOKEN_HEADER, node_token
from pilotlight.wire.listening import CONFIGURATION
from pilotlight.wire.raw import RawCodec, RawStatusDetails

TASK_HEADER = "x-pilotlight-task-id"
EDGE_HEADER = "x-pilotlight-edge-url"
PASSED_PREFIX = "x-modal-"
PASSED = frozenset({"x-idempotency-key", "x-retry-attempt", "x-throttle-retry-attempt"})
# A container has none of these; one that sends them is not believed.
WITHHELD = frozenset({"x-modal-token-id", "x-modal-token-secret"})

SERVICE = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
METHODS = {f"/{SERVICE.full_name}/{method.name}": bool(method.server_streaming) for method in SERVICE.methods}

Serve = Callable[[Any], Awaitable[None]]


class Relay:
    """A connection to the server for the calls of all containers of this node."""

    def __init__(self, settings: Settings) -> None:
        self._channel = Channel(
            path=str(settings.inner_socket_path),
            codec=RawCodec(),
            status_details_codec=RawStatusDetails(),
            config=CONFIGURATION,
        )
        self._own = {NODE_TOKEN_HEADER: node_token(settings), EDGE_HEADER: settings.container_edge_url}

    def close(self) -> None:
        """End the connection and the calls on it."""
        self._channel.close()

    def handler(self, task_id: str, path: str) -> Handler | None:
        """What serves a method of the service on behalf of this task; None where there is no such method."""
        if (streaming := METHODS.get(path)) is None:
            return None
        identity = self._own | {TASK_HEADER: task_id}
        serve = self._stream(path, identity) if streaming else self._unary(path, identity)
        return Handler(serve, Cardinality.UNARY_STREAM if streaming else Cardinality.UNARY_UNARY, bytes, bytes)

    async def call(self, task_id: str, method: str, request: bytes, metadata: Mapping[str, Any]) -> bytes:
        """One unary call on behalf of a task; errors: GRPCError as the server gave it, UNAVAILABLE where it is away."""
        identity = self._own | {TASK_HEADER: task_id}
        return await self._call(f"/{SERVICE.full_name}/{method}", identity, request, metadata)

    async def stream(self, task_id: str, method: str, request: bytes, replies: Any) -> None:
        """One call on behalf of a task whose replies go, one by one, to the stream that asked; errors as for `call`."""
        identity = self._own | {TASK_HEADER: task_id}
        await self._pass_on(f"/{SERVICE.full_name}/{method}", identity, request, replies)

    async def _call(self, path: str, identity: Mapping[str, str], request: bytes, metadata: Mapping[str, Any]) -> bytes:
        try:
            async with self._open(path, Cardinality.UNARY_UNARY, identity, metadata) as upstream:
                await upstream.send_message(request, end=True)
                reply = await upstream.recv_message()
        except (StreamTerminatedError, OSError) as error:
            raise _server_is_away(path) from error
        if reply is None:
            raise _server_is_away(path)
        return reply

    def _unary(self, path: str, identity: Mapping[str, str]) -> Serve:
        async def serve(stream: Any) -> None:
            request = await stream.recv_message()
            if request is not None:
                await stream.send_message(await self._call(path, identity, request, stream.metadata))

        return serve

    def _stream(self, path: str, identity: Mapping[str, str]) -> Serve:
        async def serve(stream: Any) -> None:
            request = await stream.recv_message()
            if request is not None:
                await self._pass_on(path, identity, request, stream)

        return serve

    async def _pass_on(self, path: str, identity: Mapping[str, str], request: bytes, replies: Any) -> None:
        try:
            async with self._open(path, Cardinality.UNARY_STREAM, identity, replies.metadata) as upstream:
                await upstream.send_message(request, end=True)
                while (reply := await upstream.recv_message()) is not None:
                    await replies.send_message(reply)
        except (StreamTerminatedError, OSError) as error:
            raise _server_is_away(path) from error

    def _open(
        self, path: str, cardinality: Cardinality, identity: Mapping[str, str], metadata: Mapping[str, Any]
    ) -> "ClientStream[bytes, bytes]":
        return self._channel.request(path, cardinality, bytes, bytes, metadata={**_passed(metadata), **identity})


def _passed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in metadata.items()
        if (name in PASSED or name.startswith(PASSED_PREFIX)) and name not in WITHHELD
    }


def _server_is_away(path: str) -> GRPCError:
    method = path.rpartition("/")[2]
    return GRPCError(Status.UNAVAILABLE, f"{method}: the platform's server went away during the call; the client tries again.")
