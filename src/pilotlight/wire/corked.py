"""A transport that sends what is written in one turn of the event loop at once.

A gRPC reply is written in three pieces (headers, message, trailers). Sent one by one each costs a system call here, and wakes the
reader up to find that there is nothing to do yet.
"""

import asyncio
from typing import Any


class Corked:
    """Wraps a transport: writes are joined until the loop's next turn. All else is the transport's own."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send with all else that is written in this turn."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        """Send what was written, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
