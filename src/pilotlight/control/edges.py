"""The edges that are connected, and the way of commands to them. Commands that are ready at the same time travel in one message."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from pilotlight.wire import platform_pb2

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class EdgeSession:
    """One connected edge. `loads` is what it said last of each function that has requests there."""

    loads: dict[str, platform_pb2.WebLoad] = field(default_factory=dict)
    outgoing: list[platform_pb2.EdgeCommand] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def send(self, command: platform_pb2.EdgeCommand) -> None:
        """Send a command with the next message, which leaves at once."""
        self.outgoing.append(command)
        self.wake.set()

    async def next_message(self) -> platform_pb2.ToEdge | None:
        """All that is ready to be sent, or None once the session is closed."""
        while True:
            await self.wake.wait()
            if self.closed:
                return None
            self.wake.clear()
            if self.outgoing:
                commands, self.outgoing = self.outgoing, []
                return platform_pb2.ToEdge(commands=commands)

    def close(self) -> None:
        self.closed = True
        self.wake.set()


class Edges:
    """All connected edges. Lives on the event loop's thread."""

    def __init__(self) -> None:
        self._sessions: list[EdgeSession] = []

    def __iter__(self) -> Iterator[EdgeSession]:
        return iter(list(self._sessions))

    def add(self, session: EdgeSession) -> None:
        self._sessions.append(session)
        log.info("edge_connected", edges=len(self._sessions))

    def remove(self, session: EdgeSession) -> None:
        self._sessions.remove(session)
        log.info("edge_disconnected", edges=len(self._sessions))

    def send(self, command: platform_pb2.EdgeCommand) -> None:
        """Tell all edges."""
        for session in self._sessions:
            session.send(command)
