"""How a method of the ModalClient service meets its handler.

A handler is a method, named as the RPC, of an object that is handed to `Service`: `async def AppCreate(self, caller, request)`
returns the reply; one of a streaming RPC is an async generator of replies. Whoever calls has been authenticated before the handler
runs, and what it raises becomes a gRPC status here and nowhere else.
"""

import inspect
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from modal_proto import api_pb2

from pilotlight.core import errors
from pilotlight.core.ids import TaskId
from pilotlight.core.rates import Paces
from pilotlight.rpc.features import feature_of
from pilotlight.wire.listening import watch_of

log = structlog.get_logger()

# Nothing more is read of a connection on which a token was wrong, and none was right: who guesses does so slowly. Behind a proxy
# one connection has the requests of many people: those of a stranger must not hold up the others.
REFUSED_HOLD_S = 1.0

STATUS: dict[type[errors.PilotlightError], Status] = {
    errors.InvalidInput: Status.INVALID_ARGUMENT,
    errors.BadCredentials: Status.UNAUTHENTICATED,
    errors.NotAllowed: Status.PERMISSION_DENIED,
    errors.NotFound: Status.NOT_FOUND,
    errors.AlreadyExists: Status.ALREADY_EXISTS,
    errors.WrongState: Status.FAILED_PRECONDITION,
    errors.LostRace: Status.ABORTED,
    errors.OverLimit: Status.RESOURCE_EXHAUSTED,
    errors.Busy: Status.UNAVAILABLE,
    errors.NotBuilt: Status.UNIMPLEMENTED,
}

Run = Callable[["Caller", Message], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as it was proved: a token on the public listener, a task on a node's."""

    token_id: str
    client_type: int
    client_version: str
    task_id: TaskId | None = None
    edge_base_url: str | None = None  # how this caller reaches the edge, where it differs from the public address
    idempotency_key: str = ""
    is_repeated: bool = False  # the client has asked before, under the same key
    address: str = ""  # of the other end of the connection; empty for a task


class Authenticator(Protocol):
    """Turns the metadata of a request into a Caller, or raises BadCredentials."""

    def __call__(self, metadata: Mapping[str, str]) -> Caller: ...


class Guard(Protocol):
    """Knows what containers may ask."""

    async def admit(self, name: str, task_id: str, request: Message, /) -> Any:
        """Let a request pass, or raise NotAllowed; what is returned, if anything, is handed to `keep` with the reply."""
        ...

    async def keep(self, admitted: Any, reply: Message, /) -> None:
        """What the reply names is the container's to use from now on."""
        ...


class Observer(Protocol):
    """Writes down what is asked for."""

    def observe(self, name: str, run: "Run", /) -> "Run":
        """The handler of a unary RPC, as one that is written down; one that is no action is left as it is."""
        ...

    def refused(self, name: str, caller: Caller, /) -> None:
        """A caller has asked for what it may not do."""
        ...


def status_of(error: errors.PilotlightError) -> Status:
    """The gRPC status of a domain error: that of its nearest listed class."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def _to_grpc(error: BaseException, method: str) -> GRPCError:
    if isinstance(error, GRPCError):
        return error
    if isinstance(error, errors.PilotlightError):
        log.debug("rpc_refused", method=method, error=type(error).__name__, message=str(error), **error.context)
        details = None
        if isinstance(error, errors.OverLimit) and error.retry_after_s is not None:
            details = [api_pb2.RPCRetryPolicy(retry_after_secs=error.retry_after_s)]
        return GRPCError(status_of(error), str(error), details)
    trace_id = secrets.token_hex(8)
    log.error("rpc_failed", method=method, trace_id=trace_id, exc_info=error)
    return GRPCError(Status.INTERNAL, f"{method} failed inside Pilotlight; `pilotlight logs server` has the cause under {trace_id}")


class Service:
    """The ModalClient service of one listener. One without a guard is for callers that may do everything."""

    def __init__(
        self,
        handlers: Iterable[object],
        authenticate: Authenticator,
        guard: Guard | None = None,
        observer: Observer | None = None,
        paces: Paces | None = None,
    ) -> None:
        self._authenticate = authenticate
        self._paces = paces
        self._guard = guard
        self._observer = observer
        self._handlers: dict[str, Callable[..., Any]] = {}
        self.built: set[str] = set()
        for group in handlers:
            for name, member in inspect.getmembers(group, callable):
                if name[0].isupper():
                    self._handlers[name] = member
                    self.built.add(name)

    def __mapping__(self) -> dict[str, Handler]:
        service = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
        mapping: dict[str, Handler] = {}
        for method in service.methods:
            run = self._handlers.get(method.name)
            if run is None:
                serve = self._refuse(method.name)
            elif method.server_streaming:
                serve = self._stream(method.name, run)
            else:
                serve = self._unary(method.name, run)
            cardinality = Cardinality.UNARY_STREAM if method.server_streaming else Cardinality.UNARY_UNARY
            mapping[f"/{service.full_name}/{method.name}"] = Handler(
                serve, cardinality, GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            )
        return mapping

    def _unary(self, name: str, run: Run) -> Callable[[Any], Awaitable[None]]:
        if self._observer is not None:
            run = self._observer.observe(name, run)

        async def serve(stream: Any) -> None:
            caller = self._accept(stream, name)
            request = await stream.recv_message()
            try:
                admitted = await self._admit(name, caller, request)
                reply = await run(caller, request)
                if admitted is not None and self._guard is not None:
                    await self._guard.keep(admitted, reply)
            except Exception as error:  # noqa: BLE001 - the one place where an error becomes a status
                raise _to_grpc(error, name) from None
            await stream.send_message(reply)

        return serve

    def _stream(self, name: str, run: Callable[[Caller, Message], AsyncGenerator[Message]]) -> Callable[[Any], Awaitable[None]]:
        async def serve(stream: Any) -> None:
            caller = self._accept(stream, name)
            request = await stream.recv_message()
            try:
                await self._admit(name, caller, request)
                replies = run(caller, request)
                try:
                    async for reply in replies:
                        await stream.send_message(reply)
                finally:
                    await replies.aclose()
            except Exception as error:  # noqa: BLE001 - the one place where an error becomes a status
                raise _to_grpc(error, name) from None

        return serve

    def _accept(self, stream: Any, name: str) -> Caller:
        """Who asks: known before anything of the request is read, but what came with its head."""
        watch = watch_of(stream)
        try:
            caller = self._authenticate(stream.metadata)
        except errors.PilotlightError as error:
            if watch is not None and not watch.is_proved and isinstance(error, errors.BadCredentials | errors.OverLimit):
                watch.hold(REFUSED_HOLD_S)
            raise _to_grpc(error, name) from None
        if watch is not None:
            watch.proved()
            if self._paces is not None and (ahead_s := self._paces.take(caller.token_id)):
                watch.hold(ahead_s)
        return caller

    async def _admit(self, name: str, caller: Caller, request: Message) -> Any:
        if caller.task_id is None:
            return None
        if self._guard is None:
            raise errors.NotAllowed(f"Containers are not served here ({name}).")
        try:
            return await self._guard.admit(name, caller.task_id, request)
        except errors.NotAllowed:
            if self._observer is not None:
                self._observer.refused(name, caller)
            raise

    def _refuse(self, name: str) -> Callable[[Any], Awaitable[None]]:
        async def serve(stream: Any) -> None:
            self._accept(stream, name)
            await stream.recv_message()
            try:
                raise errors.NotBuilt(
                    f"{name} is not built yet in Pilotlight: {feature_of(name)}. docs/compatibility.md lists what there is."
                )
            except errors.PilotlightError as error:
                raise _to_grpc(error, name) from None

        return serve
