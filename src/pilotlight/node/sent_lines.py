"""Output of containers that was sent and is not on the server's disk yet.

Invariant: batches are numbered 1, 2 … in the order in which they left, within one epoch: the life of this agent. A number that the
server confirms stands for all before it.
"""

import secrets
from collections import deque
from collections.abc import Sequence

from pilotlight.wire import platform_pb2

NodeEvent = platform_pb2.NodeEvent


class SentLines:
    """The batches that a new stream begins with."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.size_bytes = 0  # of what they say
        self._last = 0
        self._batches: deque[tuple[NodeEvent, int]] = deque()

    def add(self, lines: Sequence[platform_pb2.LogLine]) -> NodeEvent:
        """The event that carries these lines; it is kept until it is confirmed."""
        self._last += 1
        event = NodeEvent(logs=platform_pb2.LogBatch(lines=lines, number=self._last))
        size_bytes = sum(len(line.data) for line in lines)
        self._batches.append((event, size_bytes))
        self.size_bytes += size_bytes
        return event

    def settle(self, number: int) -> None:
        """The server has this batch, and all before it, on disk."""
        while self._batches and self._batches[0][0].logs.number <= number:
            self.size_bytes -= self._batches.popleft()[1]

    def unconfirmed(self) -> list[NodeEvent]:
        """In the order in which they left."""
        return [event for event, _ in self._batches]
