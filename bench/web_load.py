"""The load on a web app, the same for whoever serves it: plain sockets, so that the answers cost next to nothing here."""

import json
import selectors
import socket
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from bench.processes import Failed

SILENCE_S = 120.0
BLOCK_BYTES = 1 << 20
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Site:
    """Where the app is: an address, and its name there."""

    port: int
    host: str
    address: str = "127.0.0.1"

    def head(self, method: str, path: str, body_bytes: int = 0) -> bytes:
        """The head of a request."""
        length = f"content-length: {body_bytes}\r\n" if body_bytes else ""
        return f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\n{length}\r\n".encode()

    @contextmanager
    def connection(self) -> Generator[socket.socket, None, None]:
        """A connection that sends small requests at once."""
        with socket.create_connection((self.address, self.port), SILENCE_S) as channel:
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield channel


class _Response:
    """One response as it comes. `size` is its body's, -1 before its head is whole."""

    def __init__(self) -> None:
        self._head = b""
        self.size = -1
        self.received = 0
        self.body = b""

    def feed(self, data: bytes) -> bool:
        """Take in what came; returns whether the response is whole; raises Failed for any but 200."""
        if self.size < 0:
            self._head += data
            head, found, data = self._head.partition(HEAD_END)
            if not found and data == b"":
                return False
            self.size = _size_of(head)
        self.received += len(data)
        if self.size < BLOCK_BYTES:
            self.body += data
        return self.received >= self.size


def _size_of(head: bytes) -> int:
    first, *lines = head.split(b"\r\n")
    if b" 200 " not in first:
        hint = ": start the platform with PILOTLIGHT_WEB_RATE_LIMIT=0" if b" 429 " in first else ""
        raise Failed(f"the app answered {first.decode('latin-1')!r}{hint}")
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise Failed("the app's response has no content-length")


def fetch(site: Site, path: str) -> dict[str, Any]:
    """The JSON at a path."""
    with site.connection() as channel:
        channel.sendall(site.head("GET", path))
        response = _Response()
        while not response.feed(_received(channel)):
            pass
    return json.loads(response.body)


def first_bytes_ms(site: Site, seconds: float) -> list[float]:
    """`GET /` on one connection, each as soon as the one before is answered: times to the first byte of each response."""
    found: list[float] = []
    request, ends = site.head("GET", "/"), time.perf_counter() + seconds
    with site.connection() as channel:
        while (began := time.perf_counter()) < ends:
            channel.sendall(request)
            response, data = _Response(), _received(channel)
            found.append((time.perf_counter() - began) * 1000)
            while not response.feed(data):
                data = _received(channel)
    return found


def answered(site: Site, connections: int, seconds: float) -> int:
    """`GET /` on so many connections, one request at a time on each: how many responses came within the time.

    What is under way at the end is waited for, so that it does not burden what is measured next.
    """
    request, count = site.head("GET", "/"), 0
    with ExitStack() as stack, selectors.DefaultSelector() as ready:
        pending: dict[socket.socket, _Response] = {}
        ends = time.perf_counter() + seconds
        for _ in range(connections):
            channel = stack.enter_context(site.connection())
            ready.register(channel, selectors.EVENT_READ)
            pending[channel] = _Response()
            channel.sendall(request)
        while pending:
            events = ready.select(SILENCE_S)
            if not events:
                raise Failed(f"no answer for {SILENCE_S:g} s")
            for key, _ in events:
                channel: Any = key.fileobj
                if not pending[channel].feed(_received(channel)):
                    continue
                if time.perf_counter() < ends:
                    count += 1
                    pending[channel] = _Response()
                    channel.sendall(request)
                else:
                    del pending[channel]
    return count


def upload(site: Site, size_bytes: int) -> float:
    """One request with such a body: its bytes per second, until the answer is there."""
    block = bytes(BLOCK_BYTES)
    with site.connection() as channel:
        began = time.perf_counter()
        channel.sendall(site.head("POST", "/", size_bytes))
        for sent in range(0, size_bytes, BLOCK_BYTES):
            channel.sendall(memoryview(block)[: size_bytes - sent])
        response = _Response()
        while not response.feed(_received(channel)):
            pass
        elapsed_s = time.perf_counter() - began
    if int(response.body) != size_bytes:
        raise Failed(f"{size_bytes} bytes were sent, and the app got {int(response.body)}")
    return size_bytes / elapsed_s


def download(site: Site, size_bytes: int) -> float:
    """One response with such a body: its bytes per second."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with site.connection() as channel:
        began = time.perf_counter()
        channel.sendall(site.head("GET", f"/bytes/{size_bytes}"))
        response = _Response()
        is_whole = response.feed(_received(channel))
        while not is_whole:
            if response.size < 0:
                is_whole = response.feed(_received(channel))
                continue
            count = channel.recv_into(buffer)
            if not count:
                raise Failed(f"the connection ended after {response.received} of {size_bytes} bytes")
            response.received += count
            is_whole = response.received >= response.size
        elapsed_s = time.perf_counter() - began
    if response.received != size_bytes:
        raise Failed(f"{size_bytes} bytes were asked for, and {response.received} came")
    return size_bytes / elapsed_s


def _received(channel: socket.socket) -> bytes:
    data = channel.recv(1 << 16)
    if not data:
        raise Failed("the connection ended before its response")
    return data
