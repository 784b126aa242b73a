"""Connections to nodes: each carries one request at a time, and is used again when both ends are through with it.

That this end is through is said together with the next request, by one system call: until then nobody waits for it.
"""

from collections import defaultdict
from pathlib import Path

from pilotlight.core.errors import InvalidInput
from pilotlight.wire.frames import Frames, connect, framed
from pilotlight.wire.platform_pb2 import FromTask, ToTask

IDLE_CONNECTIONS = 256  # kept for each node
UNREAD_BYTES = 1 << 20  # of a response whose client reads slowly; then the container has to wait
_CLOSE = framed(ToTask(close=True))

TaskFrames = Frames[FromTask]


class NodeConnections:
    """Those that are free, by the address of their node."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, list[TaskFrames]] = defaultdict(list)

    async def take(self, address: str) -> tuple[TaskFrames, bytes]:
        """A connection to a node, the one used last if there is one, and what is to go before the request on it.

        Raises OSError, InvalidInput.
        """
        idle = self._idle[address]
        while idle:
            frames = idle.pop()
            if not frames.closed.done():
                return frames, _CLOSE
        scheme, _, path = address.partition(":")
        if scheme != "unix":
            raise InvalidInput(f"the node address {address!r} is of no kind that this edge knows; it knows unix:PATH")
        return await connect(Path(path), FromTask, UNREAD_BYTES), b""

    def give_back(self, address: str, frames: TaskFrames) -> None:
        """Both ends are through with the request on it: it is free for the next."""
        idle = self._idle[address]
        if len(idle) < IDLE_CONNECTIONS and not frames.closed.done():
            idle.append(frames)
        else:
            frames.close()

    def close(self) -> None:
        """End those that are free."""
        for idle in self._idle.values():
            for frames in idle:
                frames.close()
        self._idle.clear()
