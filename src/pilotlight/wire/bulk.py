"""Large messages over HTTP/2, at the price of copying them.

The library builds each DATA frame as an object and checks it in several layers. That is right for small messages and dear for large
ones, which the other end may ask for in frames of 16 KiB. Here the frames of a large message are written straight behind each
other.

Invariant: the windows of flow control stand as if the library had sent the frames itself (RFC 9113, sections 5.2 and 6.1).
"""

import struct
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from grpclib import GRPCError, Status
from grpclib.protocol import Connection, Stream
from hyperframe.frame import Frame

LARGE_BYTES = 64 * 1024  # a message below is left to the library
BURST_BYTES = 512 * 1024  # in one write
COUNTED_BYTES = 4 * 1024  # a message below is not counted by those who count
FRAME_BYTES = 256 * 1024  # what we let the other end send in one frame
MAX_MESSAGE_BYTES = 128 << 20  # an entry of a dict may have 100 MiB
MAX_UNDERWAY_BYTES = 1 << 30  # of large messages of one connection, on their way in, or waiting to be taken
_underway: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()  # bytes of large messages, by connection
_DATA = b"\x00\x00"  # type of frame, no flags
_HEADER = struct.Struct("!BH2sI")  # 24 bits of length, type and flags, id of the stream


class BulkStream(Stream):
    """A stream that sends large messages in bursts, and takes none that are too large."""

    async def recv_data(self, size: int) -> bytes:
        """As the library's, which asks for a message by its announced size. Raises RESOURCE_EXHAUSTED."""
        if size > MAX_MESSAGE_BYTES:
            most = f"{MAX_MESSAGE_BYTES >> 20} MiB"
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, f"A message of {size >> 20} MiB was announced; Pilotlight takes up to {most} in one."
            )
        return await super().recv_data(size)

    async def send_data(self, data: bytes, end_stream: bool = False) -> None:
        """As the library's; a message that ends the stream, and the last frame of any, are its own."""
        sent = 0
        if len(data) >= LARGE_BYTES and not end_stream:
            sent = await self._send_bursts(memoryview(data))
        await super().send_data(data[sent:] if sent else data, end_stream)

    async def _send_bursts(self, data: memoryview) -> int:
        """Send all but less than a frame; returns how much. Less was sent if the stream is closed: to send more then tells why."""
        assert self.id is not None
        h2: Any = self._h2_connection
        sent = 0
        while True:
            await self.connection.write_ready.wait()
            stream = h2.streams.get(self.id)
            frame_bytes: int = h2.max_outbound_frame_size
            if stream is None or stream.closed or not self.closable or len(data) - sent <= frame_bytes:
                return sent
            size = min(h2.local_flow_control_window(self.id), BURST_BYTES, len(data) - sent - 1)
            if size <= 0:
                self.window_updated.clear()
                await self.window_updated.wait()
                continue
            self._transport.write(b"".join(_frames(data[sent : sent + size], self.id, frame_bytes)))
            stream.outbound_flow_control_window -= size
            h2.outbound_flow_control_window -= size
            sent += size
            self.connection.data_send_process()


class CarefulStream(BulkStream):
    """One of a client that is a stranger: its connection has only so much on the way, in or out."""

    async def recv_data(self, size: int) -> bytes:
        """As of BulkStream."""
        if size < LARGE_BYTES or size > MAX_MESSAGE_BYTES:
            return await super().recv_data(size)
        with self._underway(size):
            return await super().recv_data(size)

    async def send_data(self, data: bytes, end_stream: bool = False) -> None:
        """As of BulkStream; raises RESOURCE_EXHAUSTED too."""
        if len(data) < LARGE_BYTES:
            await super().send_data(data, end_stream)
            return
        with self._underway(len(data)):
            await super().send_data(data, end_stream)

    @contextmanager
    def _underway(self, size: int) -> Generator[None]:
        underway = _underway.get(self.connection, 0) + size
        if underway > MAX_UNDERWAY_BYTES:
            most = f"{MAX_UNDERWAY_BYTES >> 20} MiB"
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"Large messages of this connection that are on their way would have more than {most} together: "
                "send, or fetch, fewer at once.",
            )
        _underway[self.connection] = underway
        try:
            yield
        finally:
            _underway[self.connection] -= size


class Underway:
    """How much of messages that are coming in one listener holds, over all connections, and may."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0

    @contextmanager
    def take(self, size: int) -> Generator[None]:
        """Count a message while it comes; raises RESOURCE_EXHAUSTED."""
        if self._bytes + size > self._most_bytes:
            most = f"{self._most_bytes >> 20} MiB"
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, f"More than {most} of messages are on their way from here: send fewer at once."
            )
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size


class CountedStream(BulkStream):
    """One of a listener whose clients are together one stranger."""

    def __init__(self, underway: Underway, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted = underway

    async def recv_data(self, size: int) -> bytes:
        """As of BulkStream. Small messages, which are most, aren't counted."""
        if size < COUNTED_BYTES or size > MAX_MESSAGE_BYTES:
            return await super().recv_data(size)
        with self._counted.take(size):
            return await super().recv_data(size)


def _frames(data: memoryview, stream_id: int, frame_bytes: int) -> list[bytes | memoryview]:
    pieces: list[bytes | memoryview] = []
    for begin in range(0, len(data), frame_bytes):
        piece = data[begin : begin + frame_bytes]
        pieces += (_HEADER.pack(len(piece) >> 16, len(piece) & 0xFFFF, _DATA, stream_id), piece)
    return pieces


# The library describes each frame for its log, whether or not anyone reads that: flags, fields, and the data in hex.
Frame.__repr__ = object.__repr__
