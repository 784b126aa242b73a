"""The body of a request on its way to a container, in chunks: small ones as they come, a stream of many joined to large ones.

Memory: what uvicorn has read ahead, one chunk, and what the connection to the node holds.
"""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive

from pilotlight.edge import messages
from pilotlight.edge.admission import MAX_BODY_BYTES, Head, too_large
from pilotlight.edge.refusals import Refusal

JOIN_BYTES = 1 << 20  # to so many, about, are pieces joined
BULK_BYTES = 64 << 10  # a piece so large is likely one of many
LINGER_S = 0.005  # for which a piece of a stream of many waits for the next
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

Put = Callable[[bytes], Awaitable[None]]

_NO_BODY = messages.body_chunk(1, b"", more=False)


class Body:
    """A request's body, read by ASGI's `receive`. `size_bytes`: what has come of it; `refusal`: what was wrong with it."""

    def __init__(self, head: Head, receive: Receive) -> None:
        self._receive = receive
        self._has_any = head.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in head.headers
        self._first: bytes | None = None if self._has_any else _NO_BODY
        self._reading: asyncio.Task[Message] | None = None
        self._more = self._has_any
        self._index = 1
        self.is_repeatable = not self._has_any and head.method in SAFE_METHODS
        self.size_bytes = 0
        self.refusal: Refusal | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it is in the first chunk."""
        return not self._more

    async def first(self) -> bytes:
        """The first chunk: what has come already, if only nothing."""
        if self._first is None:
            if self._reading is None:
                self._reading = asyncio.ensure_future(_awaited(self._receive))
            await asyncio.sleep(0)  # one turn: what uvicorn has got is there then
            body = b""
            # That the client has gone is no end of a body: `relay` says it.
            if self._reading.done() and self._reading.result()["type"] != "http.disconnect":
                body, self._more = self._piece(self._reading.result())
                self._reading = None
            self._first = messages.body_chunk(1, body, self._more)
        return self._first

    async def relay(self, put: Put) -> None:
        """Hand over the rest, waiting for the client; raises Refusal if it is too much."""
        while self._more:
            message = await (self._reading or self._receive())
            self._reading = None
            if message["type"] == "http.disconnect":
                self._more = False
                return await put(self.goodbye())
            body, self._more = self._piece(message)
            if self._more and len(body) >= BULK_BYTES:
                body = await self._joined(body)
            self._index += 1
            await put(messages.body_chunk(self._index, body, self._more))
        return None

    def goodbye(self) -> bytes:
        """The client has gone."""
        self._index += 1
        return messages.goodbye(self._index, "http")

    def drop(self) -> None:
        """Read no more of it."""
        if self._reading is not None:
            self._reading.cancel()

    async def _joined(self, body: bytes) -> bytes:
        pieces, size = [body], len(body)
        try:
            async with asyncio.timeout(LINGER_S):
                while self._more and size < JOIN_BYTES:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        break  # `receive` will say it again
                    piece, self._more = self._piece(message)
                    pieces.append(piece)
                    size += len(piece)
        except TimeoutError:
            pass  # it was no stream after all, or a slow one
        return b"".join(pieces)

    def _piece(self, message: Message) -> tuple[bytes, bool]:
        body: bytes = message.get("body", b"")
        self.size_bytes += len(body)
        if self.size_bytes > MAX_BODY_BYTES:
            self.refusal = too_large(self.size_bytes)
            raise self.refusal
        return body, message.get("more_body", False)


async def _awaited(receive: Receive) -> Message:
    return await receive()
