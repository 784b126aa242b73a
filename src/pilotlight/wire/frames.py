"""Streams of our own messages between our processes: each message is its length (four bytes, network order) and bytes.

Both ends are ours, so nothing of HTTP/2 is needed here, and it would cost more than all the rest of a message's way
(docs/decisions/0009).
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar, cast

import structlog
from google.protobuf.message import DecodeError, Message

from pilotlight.wire.raw import field_header

log = structlog.get_logger()

Received = TypeVar("Received", bound=Message)

MAX_FRAME_BYTES = 256 * 1024 * 1024
UNREAD_BYTES = 32 * 1024 * 1024  # received and not yet taken: beyond it the other end has to wait
LAST_WORDS_S = 1.0  # for streams whose listener closes
WORTH_A_COPY_BYTES = 64 * 1024  # to be written in one piece
_HEADER = struct.Struct("!I")


class Frames(asyncio.Protocol, Generic[Received]):
    """One end of a stream. `receive` gives messages of one type, `send` takes any.

    `unread_bytes` may have come and wait for `receive`, besides what one read of the socket brings.
    """

    def __init__(
        self,
        received: type[Received],
        opened: Callable[["Frames[Received]"], None] | None = None,
        unread_bytes: int = UNREAD_BYTES,
    ) -> None:
        self._type = received
        self._opened = opened
        self._unread_limit = unread_bytes
        self._parts: list[bytes] = []  # of what has come and is no whole frame yet
        self._parts_bytes = 0
        self._wanted_bytes = _HEADER.size  # to go on with: joined only then, so that a large frame is copied once
        self._messages: deque[tuple[Received, int]] = deque()
        self._unread_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self.closed = asyncio.get_running_loop().create_future()

    async def receive(self) -> Received | None:
        """The next message, or None once the stream has ended."""
        while not self._messages:
            if self.closed.done():
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message, size = self._messages.popleft()
        self._unread_bytes -= size
        if not self._reading and self._unread_bytes <= self._unread_limit // 2 and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        return message

    async def send(self, message: Message) -> None:
        """Send a message, waiting while the other end reads too slowly. Raises ConnectionResetError on a stream that has ended."""
        await self.writable()
        self.write(message)

    async def send_field(self, number: int, value: bytes) -> None:
        """`send` a message of which only this field is set, bytes or a serialized message: large ones are not copied."""
        await self.writable()
        self.write_field(number, value)

    async def writable(self) -> None:
        """Wait while the other end reads too slowly; returns on a stream that has ended, too."""
        if not self._writable.is_set():
            await self._writable.wait()

    def write(self, message: Message, *, before: bytes = b"") -> None:
        """Send at once, however slowly the other end reads: for small messages. Raises ConnectionResetError as `send` does.

        `before`: what `framed` made of messages that go out before it, by the same system call.
        """
        self._write(message.SerializeToString(), b"", before)

    def write_field(self, number: int, value: bytes, *, before: bytes = b"") -> None:
        """`send_field`, at once; `before` as for `write`."""
        self._write(field_header(number, len(value)), value, before)

    def _write(self, begin: bytes, rest: bytes, before: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the stream has ended")
        size = len(begin) + len(rest)
        if size < WORTH_A_COPY_BYTES:
            self._transport.write(before + _HEADER.pack(size) + begin + rest)
        else:
            head = before + _HEADER.pack(size)
            self._transport.writelines((head + begin, rest) if rest else (head, begin))

    def end(self) -> None:
        """Send nothing more; the other end reads what was sent, and then ends the stream."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """End the stream once what was sent is through."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the stream at once, whether or not what was sent is through."""
        if self._transport is not None:
            self._transport.abort()

    # ---- called by the event loop ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        if self._opened is not None:
            self._opened(self)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._parts_bytes += len(data)
        if self._parts_bytes < self._wanted_bytes:
            return
        whole = memoryview(b"".join(self._parts) if len(self._parts) > 1 else data)
        taken = 0
        self._wanted_bytes = _HEADER.size
        while len(whole) - taken >= _HEADER.size:
            (size,) = _HEADER.unpack_from(whole, taken)
            if size > MAX_FRAME_BYTES:
                self._fail(f"a frame of {size} bytes; the limit is {MAX_FRAME_BYTES}")
                return
            begin, end = taken + _HEADER.size, taken + _HEADER.size + size
            if len(whole) < end:
                self._wanted_bytes = _HEADER.size + size
                break
            try:
                message = self._type.FromString(whole[begin:end])  # pyright: ignore[reportArgumentType] - any buffer will do
            except DecodeError as error:
                self._fail(f"a frame that is no {self._type.DESCRIPTOR.name}: {error}")
                return
            self._messages.append((message, size))
            self._unread_bytes += size
            taken = end
        self._parts = [bytes(whole[taken:])] if taken < len(whole) else []
        self._parts_bytes = len(whole) - taken
        if self._unread_bytes > self._unread_limit and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if self._messages:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        log.warning("stream_refused", cause=why)
        self.abort()


def framed(message: Message) -> bytes:
    """The bytes of a message as `write` sends it."""
    data = message.SerializeToString()
    return _HEADER.pack(len(data)) + data


async def connect(path: Path, received: type[Received], unread_bytes: int = UNREAD_BYTES) -> Frames[Received]:
    """Open a stream to the listener at a unix socket. Raises OSError."""
    make = lambda: Frames(received, None, unread_bytes)  # noqa: E731 - a factory of a generic class
    _, frames = await asyncio.get_running_loop().create_unix_connection(make, str(path))
    return frames


class Listener(Generic[Received]):
    """Accepts streams on a unix socket, and serves each by a task of its own until it ends."""

    def __init__(
        self,
        received: type[Received],
        serve: Callable[[Frames[Received]], Awaitable[None]],
        unread_bytes: int = UNREAD_BYTES,
    ) -> None:
        self._received = received
        self._serve = serve
        self._unread_bytes = unread_bytes
        self._server: asyncio.Server | None = None
        self._streams: dict[asyncio.Task[None], Frames[Received]] = {}

    async def start(self, listening: socket.socket) -> None:
        """Accept on a socket that listens already."""
        make = lambda: Frames(self._received, self._opened, self._unread_bytes)  # noqa: E731 - a factory of a generic class
        self._server = await asyncio.get_running_loop().create_unix_server(make, sock=listening)

    async def close(self) -> None:
        """Accept no more, end all streams, and wait for those who serve them; who does not read in time misses the rest."""
        if self._server is not None:
            self._server.close()
        for frames in self._streams.values():
            frames.close()
        if self._streams:
            await asyncio.wait(self._streams, timeout=LAST_WORDS_S)
        for frames in self._streams.values():
            frames.abort()
        if self._streams:
            await asyncio.wait(self._streams)

    def _opened(self, frames: Frames[Received]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(frames))
        self._streams[task] = frames
        task.add_done_callback(self._streams.pop)

    async def _run(self, frames: Frames[Received]) -> None:
        try:
            await self._serve(frames)
        except ConnectionError as error:
            log.info("stream_broken", cause=str(error))
        finally:
            frames.close()
