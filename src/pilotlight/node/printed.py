"""The end of what a container printed, for whoever asks why it died.

Invariant: however much it prints, no more than twice TAIL_BYTES of it are kept.
"""

from collections import deque

TAIL_BYTES = 4096
TAIL_LINES = 20


class Tail:
    """The last lines."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size_bytes = 0

    def add(self, data: bytes) -> None:
        """The next output, in whole lines as far as they are known."""
        data = data[-TAIL_BYTES:]
        self._chunks.append(data)
        self._size_bytes += len(data)
        while self._size_bytes - len(self._chunks[0]) >= TAIL_BYTES:
            self._size_bytes -= len(self._chunks.popleft())

    def lines(self) -> list[str]:
        """At most TAIL_LINES lines of TAIL_BYTES in all, with their line ends."""
        text = b"".join(self._chunks)[-TAIL_BYTES:].decode(errors="replace")
        return text.splitlines(keepends=True)[-TAIL_LINES:]
