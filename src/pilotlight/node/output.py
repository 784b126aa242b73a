"""What a container prints: bytes of its stdout and stderr, handed on in whole lines with the time of their arrival.

Owns one invariant: bytes of one descriptor are handed on once and in order, the last before the end of the container is reported;
at most MAX_LINE_BYTES wait for the end of their line.
"""

import asyncio
import contextlib
import os
import time

from pilotlight.core.containers import OnOutput

MAX_LINE_BYTES = 64 * 1024
DRAIN_TIMEOUT_S = 1.0  # after the container's end, for what is left in its pipes


class LineSplitter:
    """Cuts a stream of bytes into runs that end with a line."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """All whole lines so far, or everything once an unfinished line is longer than MAX_LINE_BYTES; maybe nothing."""
        data = self._held + data
        end = data.rfind(b"\n") + 1
        if len(data) - end >= MAX_LINE_BYTES:
            end = len(data)
        self._held = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """What never got its line end."""
        held, self._held = self._held, b""
        return held


class OutputPipe:
    """One descriptor's pipe: the write end is for the container, the read end is watched by the event loop."""

    def __init__(self, fd: int, on_output: OnOutput) -> None:
        self._read, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read, False)
        self._fd, self._on_output, self._lines = fd, on_output, LineSplitter()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._held = False
        self._loop.add_reader(self._read, self._on_readable)

    def close_write_end(self) -> None:
        """The container has it now."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def hold(self, held: bool) -> None:
        """Read nothing for now, or read on. What is in the pipe stays there, and whoever writes more waits. Safe to repeat."""
        if self._read < 0 or self._ended.done():
            return
        self._held = held
        if held:
            self._loop.remove_reader(self._read)
        else:
            self._loop.add_reader(self._read, self._on_readable)

    def read_now(self) -> None:
        """Hand on the whole lines that are in the pipe before the event loop sees them; nothing while it is held."""
        if self._read >= 0 and not self._held and not self._ended.done():
            self._on_readable()

    def _on_readable(self) -> None:
        try:
            data = os.read(self._read, MAX_LINE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._read)
            if not self._ended.done():
                self._ended.set_result(None)
        self._hand_on(self._lines.feed(data) if data else self._lines.rest())

    def _hand_on(self, data: bytes) -> None:
        if data:
            self._on_output(self._fd, data, time.time_ns())

    async def drain(self) -> None:
        """Wait until nobody has the write end any more and all is handed on; then close. Safe to repeat."""
        self.close_write_end()
        self.hold(False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await asyncio.shield(self._ended)
        if self._read >= 0:
            self._loop.remove_reader(self._read)
            self._hand_on(self._lines.rest())
            os.close(self._read)
            self._read = -1
