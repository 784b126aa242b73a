"""What of the requests goes into the audit log: an observer between a request's way in and its handler.

A handler that is no action is left as it is, so that calls pay nothing.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.const import Handler

from pilotlight.control.audit import Audit
from pilotlight.control.tokens import Tokens
from pilotlight.core import errors
from pilotlight.core.audit import ACTIONS, changes_nothing, object_of
from pilotlight.rpc.framework import Caller, Run, status_of
from pilotlight.wire import platform_pb2


class AuditObserver:
    """Observes the ModalClient service of a listener."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def observe(self, name: str, run: Run) -> Run:
        """See `framework.Observer`."""
        if name not in ACTIONS:
            return run

        async def audited(caller: Caller, request: Message) -> Message:
            if changes_nothing(request):
                return await run(caller, request)
            reply: Message | None = None
            outcome = Status.OK.name
            try:
                reply = await run(caller, request)
                return reply
            except BaseException as error:
                outcome = _outcome(error)
                raise
            finally:
                self._record(caller, name, object_of(name, request, reply), outcome)

        return audited

    def refused(self, name: str, caller: Caller) -> None:
        """See `framework.Observer`."""
        self._record(caller, name, "", Status.PERMISSION_DENIED.name)

    def _record(self, caller: Caller, action: str, about: str, outcome: str) -> None:
        actor = caller.task_id or caller.token_id
        self._audit.record(actor=actor, address=caller.address, action=action, about=about, outcome=outcome)


def observed_control(audit: Audit, mapping: Mapping[str, Handler]) -> dict[str, Handler]:
    """The handlers of our own Control service, as those that are written down."""
    return {path: _control(audit, path.rpartition("/")[2], handler) for path, handler in mapping.items()}


def _control(audit: Audit, name: str, handler: Handler) -> Handler:
    if name not in ACTIONS:
        return handler

    async def serve(stream: Any) -> None:
        seen = _Seen(stream)
        outcome = Status.OK.name
        try:
            await handler.func(seen)  # pyright: ignore[reportArgumentType]
        except BaseException as error:
            outcome = Status.OK.name if seen.reply is not None else _outcome(error)  # what was answered was done
            raise
        finally:
            if seen.request is not None and not changes_nothing(seen.request):
                about = object_of(name, seen.request, seen.reply)
                audit.record(actor="", address="", action=name, about=about, outcome=outcome)

    return handler._replace(func=serve)


class _Seen:
    """A stream whose messages are remembered."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.request: Any = None
        self.reply: Any = None

    async def recv_message(self) -> Any:
        self.request = await self._stream.recv_message()
        return self.request

    async def send_message(self, message: Any) -> None:
        self.reply = message
        await self._stream.send_message(message)


def _outcome(error: BaseException) -> str:
    """The name of the status that the caller is answered."""
    if isinstance(error, GRPCError):
        return error.status.name
    if isinstance(error, errors.PilotlightError):
        return status_of(error).name
    return (Status.CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else Status.INTERNAL).name


class AuditControl:
    """The method of the Control service that shows the log."""

    _audit: Audit
    _tokens: Tokens

    async def Audit(self, stream: Any) -> None:
        request = await stream.recv_message()
        events = await self._audit.events(
            since=request.since, after_id=request.after_id, limit=request.limit, wait_s=request.wait_s
        )
        reply = platform_pb2.AuditReply()
        for event in events:
            reply.events.add(
                event_id=event.event_id,
                at=event.at,
                actor=event.actor,
                actor_name=self._tokens.name_of(event.actor) if event.actor else "",
                address=event.address,
                action=event.action,
                object=event.object,
                outcome=event.outcome,
            )
        await stream.send_message(reply)
