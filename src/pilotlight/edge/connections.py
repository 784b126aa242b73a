"""Connections to nodes: each carries one request at a time, and is used again when both ends are through with it."""

from collections import defaultdict
from pathlib import Path

from pilotlight.core.errors import InvalidInput
from pilotlight.wire.frames import Frames, connect
from pilotlight.wire.platform_pb2 import FromTask

IDLE_CONNECTIONS = 256  # kept for each node
UNREAD_BYTES = 1 << 20  # of a response whose client reads slowly; then the container has to wait

TaskFrames = Frames[FromTask]


class NodeConnections:
    """Those that are free, by the address of their node."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, list[TaskFrames]] = defaultdict(list)

    async def take(self, address: str) -> TaskFrames:
        """A connection to a node, the one used last if there is one; raises OSError, InvalidInput."""
        idle = self._idle[address]
        while idle:
            frames = idle.pop()
            if not frames.closed.done():
                return frames
        scheme, _, path = address.partition(":")
        if scheme != "unix":
            raise InvalidInput(f"the node address {address!r} is of no kind that this edge knows; it knows unix:PATH")
        return await connect(Path(path), FromTask, UNREAD_BYTES)

    def give_back(self, address: str, frames: TaskFrames) -> None:
        """It is free for the next request."""
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
