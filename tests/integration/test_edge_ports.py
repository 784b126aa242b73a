"""The relay of bytes to ports of containers, on real sockets, with servers and clients of all kinds."""

import asyncio
import hashlib
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httptools
import pytest
import uvloop
from support.relayed_edge import HOST, RelayedEdge, relayed_edge, upstream
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pilotlight.edge.ports import protocol
from pilotlight.edge.refusals import Refusal
from pilotlight.wire.platform_pb2 import ProxyToken

LIMIT_S = 60
MIB = 1 << 20
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await work

    return uvloop.run(limited())


@dataclass
class Message:
    """A request or response as a strict parser reads it."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    is_over: bool = False
    has_head: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_over = True

    def __getitem__(self, name: str) -> str:
        (value,) = [value for key, value in self.headers if key == name]
        return value

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.headers)


class Caller:
    """A client's connection to the edge."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self, method: str = "GET") -> Message:
        """The next response; raises IncompleteReadError where it is cut off."""
        message = Message()
        parser = httptools.HttpResponseParser(message)
        head = await self.reader.readuntil(b"\r\n\r\n")
        parser.feed_data(head)
        message.status = parser.get_status_code()
        if method == "HEAD" or message.is_over:
            return message
        if "content-length" in message:
            parser.feed_data(await self.reader.readexactly(int(message["content-length"])))
        elif "transfer-encoding" in message:
            while not message.is_over:
                if not (data := await self.reader.readuntil(b"\r\n")):
                    break
                size = int(data, 16)
                parser.feed_data(data + await self.reader.readexactly(size + 2))
        else:
            message.body, message.is_over = await self.reader.read(), True
        assert message.is_over
        return message

    async def ask(self, raw: bytes, method: str = "GET") -> Message:
        self.writer.write(raw)
        return await self.answer(method)


async def call(edge: RelayedEdge) -> Caller:
    return Caller(*await edge.connect())


def get(path: str = "/", *lines: str, method: str = "GET", host: str = HOST) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


async def read_request(reader: Reader) -> Message:
    """A whole request, by a strict parser of its own."""
    message = Message()
    parser = httptools.HttpRequestParser(message)
    while not message.is_over:
        data = await reader.read(1 << 16)
        if not data:
            raise asyncio.IncompleteReadError(b"", None)
        parser.feed_data(data)
    return message


def answering(response: bytes, *, keep: bool = True) -> Callable[[Reader, Writer], Awaitable[None]]:
    """A server that reads whole requests and answers each with these bytes."""

    async def handle(reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            writer.write(response)
            await writer.drain()
            if not keep:
                return

    return handle


class Recording:
    """A server that answers 200 "hello" and keeps what it was sent."""

    def __init__(self, response: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") -> None:
        self.response = response
        self.requests: list[Message] = []
        self.raw = b""
        self.connections = 0

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        while True:
            message = Message()
            parser = httptools.HttpRequestParser(message)
            while not message.is_over:
                data = await reader.read(1 << 16)
                if not data:
                    return
                self.raw += data
                parser.feed_data(data)
            self.requests.append(message)
            writer.write(self.response)
            await writer.drain()


def with_server(
    handler: Callable[[Reader, Writer], Awaitable[None]], test: Callable[[RelayedEdge], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """Run a test with an edge before a server in a "container"; afterwards no slot may be taken."""

    async def work() -> None:
        async with upstream(handler) as port, relayed_edge(**options) as edge:
            edge.lead_to(port)
            await test(edge)
            await edge.until(lambda: not edge.has_slots_taken())

    run(work())


# ---- the ways in which a response may end ----


def test_requests_on_one_connection_are_routed_one_by_one_over_one_connection_to_the_container() -> None:
    server = Recording()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for _ in range(3):
            answer = await caller.ask(get("/a%2Fb?x=1", "X-Own: yes"))
            assert (answer.status, answer.body) == (200, b"hello")
            assert answer["x-request-id"].startswith("fc-") and answer["x-request-id"] == answer["modal-function-call-id"]
        assert (await caller.ask(get("/page", host="other.example"))).body == b"edge /page "
        assert (await caller.ask(get())).body == b"hello"
        assert server.connections == 1
        assert server.raw.startswith(b"GET /a%2Fb?x=1 HTTP/1.1\r\n")
        assert server.requests[0]["x-own"] == "yes" and server.requests[0]["host"] == HOST
        record = await edge.request_ended()
        assert (record.status, record.path, record.bytes_out, record.call_id) == (200, "/a%2Fb", 5, record.call_id)

    with_server(server, test)


def test_chunked_responses_keep_their_boundaries_and_the_connection() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n"

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for _ in range(2):
            answer = await caller.ask(get())
            assert answer.body == b"abcde" and "x-trailer" not in answer

    with_server(answering(chunked), test)


def test_a_body_that_ends_with_its_connection_becomes_chunked() -> None:
    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for _ in range(2):
            answer = await caller.ask(get())
            assert answer.body == b"all of it" and answer["transfer-encoding"] == "chunked"

    with_server(answering(b"HTTP/1.1 200 OK\r\n\r\nall of it", keep=False), test)


def test_an_old_client_gets_a_plain_body_and_the_end_of_its_connection() -> None:
    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(f"GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n".encode())
        raw = await caller.reader.read()
        head, _, body = raw.partition(b"\r\n\r\n")
        assert body == b"abc" and b"transfer-encoding" not in head and b"connection: close" in head

    with_server(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), test)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_responses_without_a_body_end_with_their_head(status: str) -> None:
    length = "Content-Length: 5\r\n" if status.startswith("304") else ""

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for _ in range(2):
            answer = await caller.ask(get())
            assert answer.status == int(status[:3]) and not answer.body

    with_server(answering(f"HTTP/1.1 {status}\r\n{length}ETag: x\r\n\r\n".encode()), test)


def test_head_has_the_length_and_no_body() -> None:
    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for _ in range(2):
            answer = await caller.ask(get(method="HEAD"), "HEAD")
            assert answer["content-length"] == "5"
        assert not caller.reader._buffer  # type: ignore[attr-defined]

    with_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), test)


def test_repeated_and_binary_headers_pass_and_those_of_one_connection_do_not() -> None:
    response = (
        b"HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-Bin: \xe9\r\nKeep-Alive: 5\r\n"
        b"Connection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n"
    )
    server = Recording(response)

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(get("/", "X-Bin: é", "TE: trailers", "Connection: X-Mine, Host", "X-Mine: 1", "Keep-Alive: 3"))
        raw = await caller.reader.readuntil(b"\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 200 Fine\r\n") and raw.count(b"set-cookie: ") == 2 and b"x-bin: \xe9\r\n" in raw
        assert b"hop" not in raw and b"keep-alive" not in raw
        assert b"x-bin: \xc3\xa9\r\n" in server.raw.lower()
        assert not any(name in server.requests[0] for name in ("te", "x-mine", "keep-alive", "connection"))
        assert server.requests[0]["host"] == HOST

    with_server(server, test)


def test_events_arrive_one_by_one_as_they_are_sent() -> None:
    async def events(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(3):
            writer.write(b"data: %d\n\n" % number)
            await go_on.wait()
            go_on.clear()

    async def test(edge: RelayedEdge) -> None:
        nonlocal go_on
        go_on = asyncio.Event()
        caller = await call(edge)
        caller.writer.write(get())
        await caller.reader.readuntil(b"\r\n\r\n")
        for number in range(3):
            size = int(await caller.reader.readline(), 16)
            assert (await caller.reader.readexactly(size + 2)) == b"data: %d\n\n\r\n" % number
            go_on.set()

    go_on: asyncio.Event
    with_server(events, test)


def test_hints_and_continue_pass_to_those_who_know_them() -> None:
    async def hesitant(reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)
        await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert (await caller.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n")
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = await caller.ask(b"body")
        assert answer.body == b"body"

    with_server(hesitant, test)


def test_after_a_refused_expectation_the_connection_ends() -> None:
    async def refusing(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        answer = await caller.ask(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert answer.status == 417 and answer["connection"] == "close"

    with_server(refusing, test)


# ---- bodies of requests ----


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bodies_arrive_whole_and_once(framing: str) -> None:
    server = Recording()
    body = bytes(range(256)) * 4096

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for _ in range(2):
            if framing == "length":
                caller.writer.write(get("/", f"Content-Length: {len(body)}", method="POST") + body)
            else:
                caller.writer.write(get("/", "Transfer-Encoding: chunked", method="POST"))
                for start in range(0, len(body), 100_000):
                    piece = body[start : start + 100_000]
                    caller.writer.write(b"%X;ext\r\n%b\r\n" % (len(piece), piece))
                caller.writer.write(b"0\r\nTrailer-Field: x\r\n\r\n")
            assert (await caller.answer()).body == b"hello"
        assert [hashlib.sha256(request.body).digest() for request in server.requests] == [hashlib.sha256(body).digest()] * 2
        assert "trailer-field" not in server.requests[0]
        assert (await edge.request_ended()).bytes_in == len(body)

    with_server(server, test)


def test_an_answer_before_the_end_of_the_body_is_passed_on_and_the_connection_goes_on() -> None:
    async def early(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
        await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        answer = await caller.ask(get("/", f"Content-Length: {MIB}", method="POST") + b"x" * 1000)
        assert (answer.status, answer.body) == (413, b"no!")
        caller.writer.write(b"x" * (MIB - 1000))
        assert (await caller.ask(get("/next", host="other.example"))).body == b"edge /next "

    with_server(early, test)


def test_offers_of_http2_are_ignored_and_their_bodies_stay_bodies() -> None:
    server = Recording()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    hidden = get("/hidden")

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for framing, sent in (
            (f"Content-Length: {len(hidden)}", hidden),
            ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)),
            ("X-None: 1", b""),
        ):
            for host, expected in ((HOST, b"hello"), ("other.example", b"edge /up " + (hidden if sent else b""))):
                answer = await caller.ask(get("/up", framing, *offer, method="POST", host=host) + sent)
                assert answer.body == expected
        assert [request.body for request in server.requests] == [hidden, hidden, b""]
        assert "upgrade" not in server.requests[0] and "http2-settings" not in server.requests[0]

    with_server(server, test)


def test_requests_sent_ahead_are_answered_in_order() -> None:
    async def echoing(reader: Reader, writer: Writer) -> None:
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            if path == b"/slow":
                await asyncio.sleep(0.05)  # so that an answer out of turn would be first
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
            await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(get("/slow") + get("/a", host="other.example") + get("/b") + get("/slow") + get("/c"))
        assert [(await caller.answer()).body for _ in range(5)] == [b"/slow", b"edge /a ", b"/b", b"/slow", b"/c"]

    with_server(echoing, test)


# ---- WebSockets and other tunnels ----


def test_websockets_are_tunnels_with_what_both_sides_say() -> None:
    async def work() -> None:
        async def echo(connection: ServerConnection) -> None:
            assert connection.request and connection.request.headers["X-Forwarded-Host"].startswith(HOST)
            async for message in connection:
                await connection.send(message)

        async with serve(echo, "127.0.0.1", 0, max_size=None) as server, relayed_edge() as edge:
            edge.lead_to(server.sockets[0].getsockname()[1])
            uri = f"ws://{HOST}:{edge.port}/socket"
            async with connect(uri, host="127.0.0.1", port=edge.port, max_size=None, proxy=None, compression=None) as connection:
                assert connection.response and connection.response.headers["x-request-id"].startswith("fc-")
                for message in ("text", b"bytes", b"x" * (3 * MIB)):
                    await connection.send(message)
                    assert await connection.recv() == message
                assert edge.has_slots_taken()
            record = await edge.request_ended()
            assert record.status == 101 and record.bytes_in > 3 * MIB and record.bytes_out > 3 * MIB
            await edge.until(lambda: not edge.has_slots_taken())

    run(work())


def test_a_container_that_dies_ends_its_websockets() -> None:
    async def dying(reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: websocket" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nab")
        await reader.readexactly(3)
        writer.transport.abort()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(get("/", "Upgrade: websocket", "Connection: Upgrade"))
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101") and await caller.reader.readexactly(2) == b"ab"
        caller.writer.write(b"123")
        assert await caller.reader.read() == b""

    with_server(dying, test)


def test_a_refused_websocket_is_an_ordinary_answer() -> None:
    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        answer = await caller.ask(get("/", "Upgrade: websocket", "Connection: Upgrade"))
        assert (answer.status, answer.body, answer["connection"]) == (403, b"no", "close")

    async def refusing(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()

    with_server(refusing, test)


def test_a_switch_that_nobody_asked_for_is_refused() -> None:
    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        answer = await caller.ask(get(method="POST"))
        assert answer.status == 502

    with_server(answering(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"), test)


# ---- who came from where, and who may come ----


def test_forwarded_headers_are_believed_of_proxies_on_this_machine_only() -> None:
    server = Recording()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        await caller.ask(get("/", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example"))
        request = server.requests[0]
        assert request["x-forwarded-for"] == "198.51.100.7, 127.0.0.1"
        assert (request["x-forwarded-proto"], request["x-forwarded-host"]) == ("https", "shop.example")
        await caller.ask(get())
        request = server.requests[1]
        assert (request["x-forwarded-for"], request["x-forwarded-proto"]) == ("127.0.0.1", "http")
        assert request["x-request-id"].startswith("fc-")

    with_server(server, test)


def test_secrets_of_the_door_do_not_reach_the_container() -> None:
    server = Recording()

    async def test(edge: RelayedEdge) -> None:
        route = edge.routes.find(HOST)
        assert route is not None
        route.requires_proxy_auth = True
        secret_hash = hashlib.sha256(b"ws-secret").hexdigest()
        edge.proxy_auth.set([ProxyToken(token_id="wk-1", secret_hash=secret_hash)])
        caller = await call(edge)
        refused = await caller.ask(get())
        assert refused.status == 401 and not server.requests
        allowed = await caller.ask(get("/", "Modal-Key: wk-1", "Modal-Secret: ws-secret", "Authorization: Bearer x"))
        assert allowed.status == 200
        assert "modal-secret" not in server.requests[0] and "modal-key" not in server.requests[0]
        assert server.requests[0]["authorization"] == "Bearer x"

    with_server(server, test)


def test_refusals_end_the_connection_only_if_a_body_is_still_to_come() -> None:
    async def test(edge: RelayedEdge) -> None:
        route = edge.routes.find(HOST)
        assert route is not None
        route.stopped = True
        caller = await call(edge)
        assert (await caller.ask(get())).status == 404
        answer = await caller.ask(get("/", "Content-Length: 100", method="POST"))
        assert answer.status == 404 and answer["connection"] == "close"

    with_server(Recording(), test)


def test_bodies_over_the_limit_are_refused_unread() -> None:
    server = Recording()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        answer = await caller.ask(get("/", f"Content-Length: {(4 << 30) + 1}", method="PUT"))
        assert answer.status == 413 and not server.requests

    with_server(server, test)


# ---- waiting for a container ----


def test_a_request_waits_for_a_container_with_what_was_read_of_its_body() -> None:
    server = Recording()
    body = b"y" * (8 * MIB)

    async def work() -> None:
        async with upstream(server) as port, relayed_edge() as edge:
            edge.lead_to(port)
            edge.have_tasks({})
            caller = await call(edge)
            caller.writer.write(get("/", f"Content-Length: {len(body)}", method="POST") + body)
            await edge.until(lambda: edge.dispatch.load("fu-1").waiting == 1)
            edge.have_tasks({"ta-1": "127.0.0.1"})
            assert (await caller.answer()).body == b"hello"
            assert server.requests[0].body == body
            await edge.until(lambda: not edge.has_slots_taken())

    run(work())


def test_a_client_that_leaves_while_it_waits_gives_up_its_place() -> None:
    async def test(edge: RelayedEdge) -> None:
        edge.have_tasks({})
        caller = await call(edge)
        caller.writer.write(get())
        await edge.until(lambda: edge.dispatch.load("fu-1").waiting == 1)
        caller.writer.close()
        assert (await edge.request_ended()).status == 499
        await edge.until(lambda: edge.dispatch.load("fu-1").waiting == 0)

    with_server(Recording(), test)


def test_who_waits_is_told_when_containers_cannot_start() -> None:
    async def test(edge: RelayedEdge) -> None:
        edge.have_tasks({})
        caller = await call(edge)
        caller.writer.write(get())
        await edge.until(lambda: edge.dispatch.load("fu-1").waiting == 1)
        edge.dispatch.fail_waiting("fu-1", Refusal(500, "could not start: ImportError"))
        answer = await caller.answer()
        assert (answer.status, answer.body) == (500, b"could not start: ImportError\n")

    with_server(Recording(), test)


def test_a_get_that_waits_long_is_sent_to_wait_on_and_the_container_sees_nothing_of_it() -> None:
    server = Recording()

    async def test(edge: RelayedEdge) -> None:
        edge.have_tasks({})
        caller = await call(edge)
        answer = await caller.ask(get("/page?a=1"))
        location = answer["location"]
        assert answer.status == 303 and location.startswith("/page?a=1&__modal_function_call_id=fc-")
        again = await caller.ask(get(location))
        assert again.status == 303 and again["location"] == location
        edge.have_tasks({"ta-1": "127.0.0.1"})
        while (answer := await caller.ask(get(location))).status == 303:
            pass
        assert answer.body == b"hello"
        assert server.raw.startswith(b"GET /page?a=1 HTTP/1.1\r\n")

    with_server(server, test, redirect_after_s=0.05)


def test_slots_bound_how_many_requests_a_container_has() -> None:
    at_once = most = 0

    async def counting(reader: Reader, writer: Writer) -> None:
        nonlocal at_once, most
        while True:
            await reader.readuntil(b"\r\n\r\n")
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)  # long enough for others to come, if they could
            at_once -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    async def work() -> None:
        async with upstream(counting) as port, relayed_edge() as edge:
            edge.lead_to(port, slots=2)
            callers = [await call(edge) for _ in range(8)]
            answers = await asyncio.gather(*(caller.ask(get()) for caller in callers))
            assert [answer.status for answer in answers] == [200] * 8
            assert most == 2

    run(work())


# ---- what breaks ----


def test_a_container_that_dies_before_it_answers_is_replaced_for_requests_that_can_be_repeated() -> None:
    deaths = 0

    async def dying(reader: Reader, writer: Writer) -> None:
        nonlocal deaths
        await reader.readuntil(b"\r\n\r\n")
        deaths += 1
        if deaths == 1:
            writer.transport.abort()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        nonlocal deaths
        assert (await (await call(edge)).ask(get())).body == b"ok"
        deaths = 0
        answer = await (await call(edge)).ask(get("/", method="POST"))
        assert answer.status == 502 and deaths == 1
        assert [(await edge.request_ended()).status for _ in range(2)] == [200, 502]

    with_server(dying, test)


def test_a_container_whose_port_is_gone_is_left_for_another() -> None:
    server = Recording()

    async def work() -> None:
        async with upstream(server) as port, relayed_edge() as edge:
            edge.lead_to(port)
            # 127.0.0.2 is this machine too, but nobody listens there.
            edge.have_tasks({"ta-gone": "127.0.0.2", "ta-here": "127.0.0.1"})
            for _ in range(4):
                answer = await (await call(edge)).ask(get("/", "Content-Length: 2", method="POST") + b"ab")
                assert answer.body == b"hello"
            edge.have_tasks({"ta-gone": "127.0.0.2", "ta-gone-2": "127.0.0.3", "ta-gone-3": "127.0.0.4"})
            answer = await (await call(edge)).ask(get())
            assert answer.status == 502 and b"can't be reached" in answer.body

    run(work())


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_response_that_is_cut_off_is_seen_to_be(framing: bytes) -> None:
    async def cutting(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello")
        await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        with pytest.raises(asyncio.IncompleteReadError):
            await (await call(edge)).ask(get())

    with_server(cutting, test)


def test_a_client_that_dies_while_it_sends_breaks_the_request_off() -> None:
    cut_off: asyncio.Event

    async def reading(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        try:
            while await reader.read(1 << 16):
                pass
        finally:
            cut_off.set()

    begun: asyncio.Event

    async def test(edge: RelayedEdge) -> None:
        nonlocal cut_off, begun
        cut_off, begun = asyncio.Event(), asyncio.Event()
        caller = await call(edge)
        caller.writer.write(get("/", f"Content-Length: {MIB}", method="POST") + b"x" * 1000)
        await begun.wait()
        caller.writer.transport.abort()
        await cut_off.wait()
        assert (await edge.request_ended()).status == 499

    with_server(reading, test)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcd",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (70 << 10) + b"\r\n\r\n",
    ],
)
def test_a_container_that_speaks_no_proper_http_is_a_bad_gateway(response: bytes) -> None:
    async def test(edge: RelayedEdge) -> None:
        answer = await (await call(edge)).ask(get(method="POST"))
        assert answer.status == 502

    with_server(answering(response, keep=False), test)


def test_what_a_container_adds_to_its_response_reaches_nobody() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        for _ in range(3):
            assert (await caller.ask(get())).body == b"ok"
        for _ in range(2):
            assert (await caller.ask(get(method="HEAD"), "HEAD")).status == 200
        assert (await caller.ask(get("/x", host="other.example"))).body == b"edge /x "

    with_server(answering(response + b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npoisond"), test)


def test_slow_readers_cost_no_memory() -> None:
    total = 256 * MIB

    async def pouring(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        block = bytes(MIB)
        for _ in range(total // MIB):
            writer.write(block)
            await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        reader, writer = await edge.connect()
        writer.write(get())
        await reader.readuntil(b"\r\n\r\n")
        tracemalloc.start()
        left = total
        while left:
            left -= len(data := await reader.read(1 << 20))
            assert data
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16 * MIB

    with_server(pouring, test)


def test_slow_containers_cost_no_memory() -> None:
    total = 256 * MIB
    received = 0

    async def sipping(reader: Reader, writer: Writer) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        while received < total:
            received += len(await reader.read(1 << 18))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        tracemalloc.start()
        caller.writer.write(get("/", f"Content-Length: {total}", method="POST"))
        block = bytes(MIB)
        for _ in range(total // MIB):
            caller.writer.write(block)
            await caller.writer.drain()
        assert (await caller.answer()).status == 200
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16 * MIB

    with_server(sipping, test)


# ---- what could be read in two ways ----

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (400, get("/", "Content-Length: 4", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n"),
        (400, get("/", "Transfer-Encoding: chunked", "Content-Length: 4", method="POST") + b"0\r\n\r\n"),
        (400, get("/", "Content-Length: 3", "Content-Length: 3", method="POST") + b"abc"),
        (400, get("/", "Content-Length: 3, 3", method="POST") + b"abc"),
        (400, get("/", "Content-Length: +3", method="POST") + b"abc"),
        (400, get("/", "Content-Length : 3", method="POST") + b"abc"),
        (400, get("/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n"),
        (501, get("/", "Transfer-Encoding: xchunked", method="POST") + b"0\r\n\r\n"),
        (501, get("/", "Transfer-Encoding: gzip, chunked", method="POST") + b"0\r\n\r\n"),
        (400, get("/").replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n"),
        (400, f"GET / HTTP/1.1\nHost: {HOST}\n\n".encode()),
        (400, f"GET / HTTP/1.1\r\nHost: {HOST}\nX: y\r\n\r\n".encode()),
        (400, get("/", "X: a\r\n folded")),
        (400, get("/", "X: a\x00b")),
        (400, get("/", "X\x7f: a")),
        (400, get("/", f"Host: {HOST}")),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, get("/", host="a b")),
        (400, get("/", host=HOST + "/../x")),
        (400, get("/", "Transfer-Encoding: chunked", method="POST") + b"1\na\n0\n\n"),
        (400, get("/", "Transfer-Encoding: chunked", method="POST") + b"-1\r\na\r\n0\r\n\r\n"),
        (405, f"CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()),
        (505, get("/").replace(b"1.1", b"2.0")),
        (400, get("/", "Upgrade: websocket", "Connection: upgrade", "Content-Length: 5", method="POST") + b"hello"),
        (431, get("/", "X: " + "x" * (65 << 10))),
        (431, get("/" + "x" * (65 << 10))),
        (431, b"GET / HTTP/1.1\r\nX: " + b"x" * (130 << 10)),
    ],
)
def test_ambiguous_requests_are_refused_and_nothing_after_them_is_read(status: int, raw: bytes) -> None:
    server = Recording()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(raw + SMUGGLED)
        answers = await caller.reader.read()
        if b"chunked" in raw and not answers:  # its head was fine, so it was under way
            assert not any(request.is_over for request in server.requests)
            return
        assert answers.startswith(b"HTTP/1.1 %d " % status) and answers.count(b"content-length: ") == 1
        assert b"smuggled" not in server.raw

    with_server(server, test)


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nX: y", SMUGGLED + b"GET / HTTP/1.1\r\n"])
def test_a_head_that_never_ends_takes_no_connection_for_ever(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_LIMIT_S", 1.0)

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(begun)
        answers = await caller.reader.read()
        assert answers.count(b"HTTP/1.1 408 ") == bool(begun)
        assert answers.count(b"HTTP/1.1 200 ") == begun.startswith(SMUGGLED)

    with_server(Recording(), test)


def test_the_time_of_a_head_is_not_that_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_LIMIT_S", 1.5)

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        caller.writer.write(get("/", "Content-Length: 2", method="POST") + b"a")
        await asyncio.sleep(1.7)  # longer than a head may take
        caller.writer.write(b"b")
        assert (await caller.answer()).body == b"hello"
        await asyncio.sleep(1.7)
        assert (await caller.ask(get("/"))).body == b"hello"

    with_server(Recording(), test)


def test_a_url_as_target_decides_the_host() -> None:
    server = Recording()

    async def test(edge: RelayedEdge) -> None:
        caller = await call(edge)
        raw = f"GET http://{HOST}/path?q HTTP/1.1\r\nHost: other.example\r\n\r\n".encode()
        assert (await caller.ask(raw)).body == b"hello"
        assert server.raw.startswith(b"GET /path?q HTTP/1.1\r\nhost: " + HOST.encode())

    with_server(server, test)


def test_websocket_clients_are_told_when_the_edge_ends() -> None:
    async def work() -> None:
        async def quiet(connection: ServerConnection) -> None:
            await connection.wait_closed()

        async with serve(quiet, "127.0.0.1", 0) as server:
            async with relayed_edge() as edge:
                edge.lead_to(server.sockets[0].getsockname()[1])
                uri = f"ws://{HOST}:{edge.port}/"
                connection = await connect(uri, host="127.0.0.1", port=edge.port, proxy=None)
            with pytest.raises(ConnectionClosed):
                await connection.recv()

    run(work())
