"""What the streams of nodes and of edges have in common: a token comes first, then events one way and commands the other."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog
from google.protobuf.message import Message

from pilotlight.core import errors
from pilotlight.rpc.authentication import check_node_token
from pilotlight.wire.platform_pb2 import Refused

log = structlog.get_logger()

Event_co = TypeVar("Event_co", covariant=True)
Event = TypeVar("Event")


class Told(Protocol[Event_co]):
    """A frame that the other side sends."""

    @property
    def events(self) -> Sequence[Event_co]: ...


class Stream(Protocol[Event_co]):
    """Frames, as `wire.frames.Frames` are."""

    async def receive(self) -> Told[Event_co] | None:
        """The next frame, None at the end."""
        ...

    async def send(self, message: Message, /) -> None: ...

    def close(self) -> None: ...


class Session(Protocol):
    """Who is at the other side, and what is to be sent there."""

    closed: bool

    async def next_message(self) -> Message | None:
        """The next frame, None once the session is closed."""
        ...

    def close(self) -> None: ...


async def is_ours(token: str, node_token: bytes, refuse: Callable[[Refused], Awaitable[None]]) -> bool:
    """Whether the other side has the token that processes of this platform share; one that has not is told so."""
    try:
        check_node_token(token, node_token)
    except errors.BadCredentials as error:
        await refuse(Refused(why=str(error)))
        return False
    return True


async def converse(session: Session, frames: Stream[Event], events: Sequence[Event], handle: Callable[[Event], None]) -> None:
    """Handle these events and all that follow, and send what the session has to say, until one of the two sides closes."""
    writer = asyncio.get_running_loop().create_task(_write(session, frames))
    try:
        while True:
            for event in events:
                handle(event)
            message = await frames.receive()
            if message is None or session.closed:
                return
            events = message.events
    finally:
        session.close()
        await writer


async def _write(session: Session, frames: Stream[object]) -> None:
    try:
        while (message := await session.next_message()) is not None:
            await frames.send(message)
    except ConnectionError as error:
        log.info("stream_broken", of=type(session).__name__, error=str(error))
    finally:
        session.close()
        frames.close()
