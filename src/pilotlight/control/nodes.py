"""The nodes that are connected, and the way of commands to them.

Commands to one node keep their order; those that are ready at the same time travel in one message.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from pilotlight.control.gpus import Gpus
from pilotlight.core import errors
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

ALONG_S = 0.01  # how long a confirmation waits for a command to travel with
MESSAGE_BYTES = 32 * 1024 * 1024  # of commands in one message
STARTING_PER_CPU = 2  # containers that may start at once, per CPU of the node: more only delays all of them


@dataclass(slots=True, eq=False)
class NodeSession:
    """One connected node agent."""

    node_id: str
    name: str
    milli_cpu: int
    memory_mib: int
    edge_base_url: str
    max_containers: int
    web_address: str = ""  # where edges reach its containers
    labels: dict[str, str] = field(default_factory=dict)
    gpus: Sequence[platform_pb2.GpuDevice] = ()
    builds: Sequence[platform_pb2.HeldBuild] = ()  # that it had when it came
    templates: Sequence[platform_pb2.Template] = ()
    log_epoch: str = ""  # within which it numbers batches of output
    outgoing: list[platform_pb2.NodeCommand] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    along: asyncio.TimerHandle | None = None
    closed: bool = False

    @property
    def max_starting(self) -> int:
        return max(2, STARTING_PER_CPU * self.milli_cpu // 1000)

    def send(self, command: platform_pb2.NodeCommand) -> None:
        """Send a command with the next message, which leaves at once."""
        self.outgoing.append(command)
        self.wake.set()

    def send_along(self, command: platform_pb2.NodeCommand) -> None:
        """Send a command that nobody waits for: with the next message, or after a short while."""
        self.outgoing.append(command)
        if self.along is None and not self.wake.is_set():
            self.along = asyncio.get_running_loop().call_later(ALONG_S, self.wake.set)

    async def next_message(self) -> platform_pb2.ToNode | None:
        """All that is ready to be sent, or None once the session is closed."""
        while True:
            await self.wake.wait()
            if self.closed:
                return None
            self.wake.clear()
            if self.along is not None:
                self.along.cancel()
                self.along = None
            if self.outgoing:
                return platform_pb2.ToNode(commands=self._next_commands())

    def _next_commands(self) -> list[platform_pb2.NodeCommand]:
        """As many as one message should hold; what is left goes with the next."""
        size_bytes = 0
        for number, command in enumerate(self.outgoing):
            size_bytes += command.ByteSize()
            if number and size_bytes > MESSAGE_BYTES:
                commands, self.outgoing = self.outgoing[:number], self.outgoing[number:]
                self.wake.set()
                return commands
        commands, self.outgoing = self.outgoing, []
        return commands

    def close(self) -> None:
        self.closed = True
        self.wake.set()


class Nodes:
    """All connected nodes, by id."""

    def __init__(self) -> None:
        self._sessions: dict[str, NodeSession] = {}
        self.gpus = Gpus()
        self.cordoned: set[str] = set()  # ids of nodes that take nothing new, connected or not
        self.connected = asyncio.Event()

    def add(self, session: NodeSession) -> None:
        """Take in a node; an older stream of the same node is closed."""
        if (older := self._sessions.get(session.node_id)) is not None:
            older.close()
        self._sessions[session.node_id] = session
        self.gpus.join(session.node_id, session.gpus)
        for build in session.builds:
            self.gpus.keep(build.build_id, session.node_id, build.gpu_uuids)
        self.connected.set()
        log.info("node_connected", node_id=session.node_id, name=session.name)

    def remove(self, session: NodeSession) -> bool:
        """Forget a node whose stream has ended; False if a newer stream of it has taken over."""
        if self._sessions.get(session.node_id) is not session:
            return False
        del self._sessions[session.node_id]
        self.gpus.leave(session.node_id)
        if not self._sessions:
            self.connected.clear()
        log.warning("node_disconnected", node_id=session.node_id, name=session.name)
        return True

    def get(self, node_id: str) -> NodeSession | None:
        return self._sessions.get(node_id)

    def all(self) -> list[NodeSession]:
        return list(self._sessions.values())

    def any(self) -> NodeSession:
        """A node to build an image on. Raises Busy where there is none."""
        if not self._sessions:
            raise errors.Busy("No node is connected; `pilotlight status` shows why, `pilotlight logs node` has its last words.")
        for session in self._sessions.values():
            if session.node_id not in self.cordoned:
                return session
        raise errors.Busy("All nodes are drained; `pilotlight node undrain` lets one take work again.")

    def send(self, node_id: str, command: platform_pb2.NodeCommand) -> None:
        """Send a command; to a node that is gone it is dropped (its tasks are given up elsewhere)."""
        if (session := self._sessions.get(node_id)) is not None:
            session.send(command)

    def send_along(self, node_id: str, command: platform_pb2.NodeCommand) -> None:
        """Send a command that nobody waits for."""
        if (session := self._sessions.get(node_id)) is not None:
            session.send_along(command)
