"""The edge's HTTP protocol: uvicorn's, which leaves requests for ports of containers to the relay.

Owns the connection of a client: each request on it finds its own way, requests that were sent ahead wait in order, and what could
be read in two ways is refused before anybody reads it.
"""

import asyncio
from typing import Any, cast

import httptools

from pilotlight.core.forwarded import LOOPBACK
from pilotlight.edge.ports.exchange import Exchange, Relay
from pilotlight.edge.ports.heads import MAX_HEAD_BYTES, BadHead, Framing, Peer, RequestHead, own_response, read_request, size_of
from pilotlight.edge.protocol import HttpConnection
from pilotlight.edge.refusals import Refusal

LINGER_S = 2.0  # a client that is sending still gets an answer within this time; closed at once, the answer could be lost
HEAD_LIMIT_S = 60.0  # for the head of a request to come: of the first since the connection was made, of others since it began
WRITE_BUFFER_BYTES = 512 << 10


class PortsProtocol(HttpConnection):
    """One connection of a client."""

    relay: Relay  # set by `protocol_with`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._active: Exchange | None = None
        self._head: RequestHead | None = None
        self._in_head = False
        self._head_bytes = 0  # at most: what was fed with its beginning counts whole
        self._fed_bytes = 0
        self._plain_left = 0  # bytes of the newest request's body that need no parser
        self._length_left = 0
        self._is_tunnel = False
        self._is_deaf = False
        self._known_peer: Peer | None = None
        self._is_replayed = False  # the parser is being told a head that was already dealt with
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._expect_no_head()
        waiting = [cycle for cycle, _ in self.pipeline if isinstance(cycle, Exchange)]
        self.pipeline.clear()
        for exchange in (self._active, *waiting):
            if exchange is not None:
                exchange.client_lost()

    def shutdown(self) -> None:
        """The edge ends: requests under way may end first, tunnels would not."""
        if self._is_tunnel:
            self.transport.close()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._active is not None:
            self._active.pause_download()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._active is not None:
            self._active.resume_download()

    # ---- bytes ----

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        exchange = self._relayed
        if exchange is not None and self._is_tunnel:
            exchange.body(data)
        elif exchange is not None and self._plain_left:
            self._plain(exchange, data)
        else:
            self._parse(data)

    def _plain(self, exchange: Exchange, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if len(data) < self._plain_left:
            self._plain_left -= len(data)
            exchange.body(data)
            return
        left, self._plain_left = self._plain_left, 0
        self._fresh_parser()
        exchange.body(data if left == len(data) else data[:left])
        exchange.body_ended()
        if left < len(data):
            self._parse(data[left:])

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._fed_bytes = len(data)
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            why = (
                error.__context__ if isinstance(error.__context__, BadHead) else BadHead(400, f"not a valid HTTP request: {error}")
            )
            self._refuse(why)
            return
        if self._in_head:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_too_long())
            else:
                self._expect_head()
        elif self._relayed is not None and self._length_left:
            self._plain_left, self._length_left = self._length_left, 0

    def _fresh_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _upgraded(self, rest: bytes) -> None:
        """The parser stopped after a head that offers to change the protocol."""
        assert self._head is not None
        exchange = self._relayed
        if self._head.is_websocket and exchange is not None:
            self._is_tunnel = True
            if rest:
                exchange.body(rest)
        elif self._head.is_websocket and self._should_upgrade():
            self.handle_websocket_upgrade()
        else:
            # An offer that is not taken up (HTTP/2) is no more than a header: what follows is the body, if one was announced.
            self._fresh_parser()
            if framing := _framing_lines(self._head):
                self._is_replayed = True
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
                self._is_replayed = False
            if rest:
                self._parse(rest)

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_LIMIT_S, self._head_is_late)

    def _expect_no_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self._in_head and not self._is_deaf:
            self._refuse(BadHead(408, f"the request's line and headers did not come within {HEAD_LIMIT_S:g} s"))
        else:
            self.transport.close()

    def _refuse(self, error: BadHead) -> None:
        """Answer with an error, in its turn, and take nothing more."""
        self._is_deaf = True
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if self._in_head:  # the request under way was whole; it may still be answered
                return
            self.transport.close()
            return
        self.transport.write(own_response(Refusal(error.status, str(error)), is_head=False, keeps=False))
        self._linger()

    def _linger(self) -> None:
        """Say that this was all, but let the client finish what it sends."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    # ---- what the parser calls ----

    def on_message_begin(self) -> None:
        if not self._is_replayed:
            super().on_message_begin()
            self._in_head = True
            self._head_bytes = self._fed_bytes

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_replayed:
            return
        if self._head_bytes > MAX_HEAD_BYTES and len(self.url) + size_of(self.headers) > MAX_HEAD_BYTES:
            raise _too_long()
        version = self.parser.get_http_version()
        self._head = head = read_request(self.parser.get_method(), self.url, version, self.headers)
        self._in_head = False
        self._head_bytes = 0
        self._expect_no_head()
        if not self.relay.is_port(head):
            if head.target != self.url:  # what comes after us goes by the Host header: it must find the same host there
                others = [header for header in self.headers if header[0] != b"host"]
                self.headers[:] = [(b"host", head.host.encode()), *others]
            super().on_headers_complete()
            return
        self._length_left = head.length
        keeps = version == "1.1" and self.parser.should_keep_alive()
        self._queue(Exchange(self, head, self._peer(), self.relay, keep_alive=keeps))

    def _queue(self, exchange: Exchange) -> None:
        former: Any = self.cycle
        self.cycle = cast(Any, exchange)
        if former is None or former.response_complete:
            self._start_asgi_task(cast(Any, exchange), self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft(cast(Any, (exchange, self.app)))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Exchange):
            self._active = cycle
            cycle.start()
        else:
            self._active = None
            super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        exchange = self._relayed
        if exchange is None:
            super().on_body(body)
            return
        self._length_left -= len(body) if self._length_left else 0
        exchange.body(body)

    def on_message_complete(self) -> None:
        # Of a head that offers an upgrade the parser says so at its end, whatever was announced to follow.
        if not self._is_replayed and self.parser.should_upgrade() and self._head is not None and _framing_lines(self._head):
            return
        exchange = self._relayed
        if exchange is None:
            super().on_message_complete()
        elif self._head is not None and not self._head.is_websocket:
            exchange.body_ended()

    # ---- for the exchange ----

    @property
    def is_write_paused(self) -> bool:
        """Whether the client has to catch up first."""
        return self.flow.write_paused

    def pause_upload(self) -> None:
        """Read no more of the client for now."""
        self.flow.pause_reading()

    def resume_upload(self) -> None:
        """Read on, unless requests were sent ahead."""
        if not self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()

    def exchange_ended(self, *, keeps: bool, lingers: bool) -> None:
        """Go on to the next request, or close."""
        self._active = None
        if keeps:
            self.on_response_complete()
            return
        self._is_deaf = True
        if lingers:
            self.flow.resume_reading()
            self._linger()
        else:
            self.transport.close()

    @property
    def _relayed(self) -> Exchange | None:
        """The newest request, where it is one for the relay."""
        cycle: object = self.cycle
        return cycle if isinstance(cycle, Exchange) else None

    def _peer(self) -> Peer:
        if self._known_peer is None:
            address = self.client[0] if self.client else ""
            self._known_peer = Peer(address or "unknown", self.scheme or "http", not address or address in LOOPBACK)
        return self._known_peer


def _too_long() -> BadHead:
    return BadHead(431, f"the request's line and headers are longer than {MAX_HEAD_BYTES} bytes together")


def _framing_lines(head: RequestHead) -> bytes:
    """The headers that announce a body, as they would be written; empty where none follows."""
    if head.framing is Framing.CHUNKED:
        return b"transfer-encoding: chunked\r\n"
    return b"content-length: %d\r\n" % head.length if head.length else b""


def protocol_with(relay: Relay) -> type[PortsProtocol]:
    """The class for uvicorn's `http` setting, with these routes and containers."""
    return type("RelayingProtocol", (PortsProtocol,), {"relay": relay})
