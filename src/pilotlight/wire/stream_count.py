"""How many streams of a connection are open, without looking through all of them for each new one.

The library does that, so that a client with 10,000 requests that wait would make each further one cost a millisecond, to everybody.

Invariant: the count is never too low, and exact where it would forbid a stream.
"""

from typing import Any

SCAN_EVERY = 64  # streams opened, at least, between two looks at all; closed ones are forgotten then


class StreamCount:
    """Stands in for the counting of an h2 connection whose other end opens at most so many streams at a time."""

    def __init__(self, connection: Any, most: int) -> None:
        self._scan = connection._open_streams
        self._most = most
        self._count = 0  # when they were last looked through
        self._opened = 0  # since

    def __call__(self, remainder: int) -> int:
        """The streams that may be open, before another one is."""
        self._opened += 1
        at_most = self._count + self._opened
        if self._opened <= max(SCAN_EVERY, self._count) and at_most < self._most:
            return at_most
        self._count, self._opened = self._scan(remainder), 0
        return self._count
