"""Connections to the ports of containers: kept open between requests, one request at a time on each.

Owns the rule that a connection is used again only if both messages of its last request ended where they should.
"""

import asyncio
from collections import defaultdict
from typing import Protocol, cast

import httptools

from pilotlight.edge.ports.heads import MAX_HEAD_BYTES, BadHead, Framing, Headers, read_response, size_of

CONNECT_TIMEOUT_S = 10.0
# Servers close idle connections after 2 s (gunicorn) or more; a request sent just then would be lost.
IDLE_S = 1.0
MAX_IDLE = 64  # connections kept open to one port
WRITE_BUFFER_BYTES = 512 << 10
_FOREVER = 1 << 62  # bytes of a body that ends with its connection

Address = tuple[str, int]


class Listener(Protocol):
    """Who is told what comes from a container, in order: heads (1xx first), body, and one of ended, lost, switched."""

    method: bytes

    def response_head(self, status: int, reason: bytes, headers: Headers, framing: Framing) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def flush(self) -> None:
        """All that came at once has been told."""

    def response_ended(self) -> None: ...
    def response_lost(self, why: str) -> None:
        """The connection, or the sense of what came over it, broke before the response had ended."""

    def tunnel_data(self, data: bytes) -> None: ...
    def tunnel_ended(self) -> None: ...
    def pause_upload(self) -> None: ...
    def resume_upload(self) -> None: ...


class Connection(asyncio.Protocol):
    """One connection to a container's port."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self.is_open = False
        self.idle_since = 0.0
        self._fresh_parser()

    def _fresh_parser(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._in_head = True
        self._head_bytes = 0
        self._plain_left = 0  # bytes of a body that need no parser
        self._headers: Headers = []
        self._reason = b""
        self._framing = Framing.NONE
        self._is_over = False
        self.keeps = False
        self._is_tunnel = False
        self._is_parser_done = False

    def begin(self, listener: Listener) -> None:
        """Send a request from now on, and tell the listener of the response."""
        self.listener = listener
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without being called so
        self.is_open = True
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        listener, self.listener = self.listener, None
        if listener is None:
            return
        if self._is_tunnel:
            listener.tunnel_ended()
        elif self._framing is Framing.CLOSE and not self._in_head and exc is None:
            listener.response_ended()
        else:
            listener.response_lost(str(exc) if exc else "it closed the connection")

    def pause_writing(self) -> None:
        if self.listener is not None:
            self.listener.pause_upload()

    def resume_writing(self) -> None:
        if self.listener is not None:
            self.listener.resume_upload()

    def data_received(self, data: bytes) -> None:
        listener = self.listener
        if listener is None:  # nothing was asked
            self.transport.abort()
        elif self._is_tunnel:
            listener.tunnel_data(data)
        elif self._plain_left:
            self._plain(listener, data)
            listener.flush()
        else:
            self._parse(listener, data)
            listener.flush()

    def _plain(self, listener: Listener, data: bytes) -> None:
        self._plain_left -= len(data)
        if self._plain_left < 0:
            self.keeps = False
            data = data[: self._plain_left]
            self._plain_left = 0
        listener.response_body(data)
        if not self._plain_left:
            self._over()

    def _parse(self, listener: Listener, data: bytes) -> None:
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(listener, data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if not self._is_over:
                self._broken(str(error.__context__ or error))
                return
            self.keeps = False  # more than one response: the first is whole
        if self._is_over:
            self._over()
        elif self._in_head:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._broken(f"the head of its response is longer than {MAX_HEAD_BYTES} bytes")
        elif self._framing is Framing.LENGTH:
            self._plain_left = self._length_left
        elif self._framing is Framing.CLOSE:
            self._plain_left = _FOREVER

    def _broken(self, why: str) -> None:
        listener, self.listener = self.listener, None
        self.transport.abort()
        if listener is not None:
            listener.response_lost(why)

    def _switch(self, listener: Listener, rest: bytes) -> None:
        if not self._is_tunnel:
            self._broken("it changed the protocol unasked")
        elif rest:
            listener.tunnel_data(rest)

    def _over(self) -> None:
        listener, self.listener = self.listener, None
        if self._is_parser_done:
            self._is_over = self._is_parser_done = False
        else:
            keeps = self.keeps
            self._fresh_parser()
            self.keeps = keeps
        if listener is not None:
            listener.response_ended()

    # What the parser calls, within feed_data.

    def on_message_begin(self) -> None:
        if self._is_over:
            raise BadHead(502, "it sent a response that nobody asked for")
        self._headers, self._reason, self._in_head = [], b"", True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        listener = self.listener
        assert listener is not None
        if self._head_bytes > MAX_HEAD_BYTES and size_of(self._headers) > MAX_HEAD_BYTES:
            raise BadHead(502, f"the head of its response is longer than {MAX_HEAD_BYTES} bytes")
        status = self._parser.get_status_code()
        self._framing, self._length_left = read_response(status, self._parser.get_http_version(), self._headers, listener.method)
        self._in_head = False
        is_last = status >= 200
        if is_last:
            self.keeps = self._parser.should_keep_alive()
        self._is_tunnel = status == 101
        listener.response_head(status, self._reason, self._headers, self._framing)
        if is_last and self._framing is Framing.NONE:
            self._is_over = True  # the parser may think otherwise: it does not know of HEAD
        elif is_last and self._framing is Framing.LENGTH and not self._length_left:
            self._is_over = True
        self._head_bytes = 0

    def on_body(self, data: bytes) -> None:
        if self._is_over:
            self.keeps = False
            return
        if self._framing is Framing.LENGTH:
            self._length_left -= len(data)
        assert self.listener is not None
        self.listener.response_body(data)

    def on_message_complete(self) -> None:
        if self._framing is Framing.NONE and not self._is_over:  # 1xx
            self._in_head = True
        else:
            self._is_over = self._is_parser_done = True


class Pool:
    """Idle connections by address. To be closed at the end."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._idle: dict[Address, list[Connection]] = defaultdict(list)
        self._sweep: asyncio.TimerHandle | None = None

    def take_idle(self, address: Address) -> Connection | None:
        """A connection that was kept, if there is one."""
        kept = self._idle.get(address)
        while kept:
            connection = kept.pop()
            if connection.is_open and not connection.transport.is_closing():
                return connection
        return None

    async def take(self, address: Address) -> Connection:
        """A connection that nobody uses. Raises OSError where none can be made."""
        if kept := self.take_idle(address):
            return kept
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, made = await self._loop.create_connection(Connection, *address)
        except TimeoutError as error:
            raise OSError(f"{address[0]}:{address[1]} did not answer within {CONNECT_TIMEOUT_S:g} s") from error
        return made

    def give_back(self, address: Address, connection: Connection, *, is_clean: bool) -> None:
        """Keep it for the next request if it is `is_clean` (both messages ended) and the container agreed, else close it."""
        connection.listener = None
        kept = self._idle[address]
        if not is_clean or not connection.keeps or not connection.is_open or len(kept) >= MAX_IDLE:
            connection.transport.abort()
            return
        connection.idle_since = self._loop.time()
        connection.transport.resume_reading()
        kept.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_s, self._close_idle)

    def close(self) -> None:
        """Close what is idle."""
        if self._sweep is not None:
            self._sweep.cancel()
        for kept in self._idle.values():
            for connection in kept:
                connection.transport.abort()
        self._idle.clear()

    def _close_idle(self) -> None:
        self._sweep = None
        oldest = self._loop.time() - self._idle_s
        for address, kept in list(self._idle.items()):
            for connection in kept:
                if connection.idle_since <= oldest:
                    connection.transport.abort()
            kept[:] = [connection for connection in kept if connection.idle_since > oldest and connection.is_open]
            if not kept:
                del self._idle[address]
        if self._idle:
            self._sweep = self._loop.call_later(self._idle_s, self._close_idle)
