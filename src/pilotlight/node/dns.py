"""The containers' resolver: answers for `*.localhost` itself and passes everything else to the host's resolvers.

Owns one invariant: whatever bytes arrive, the forwarder stays up; what can't be understood is dropped, what can't be answered in
time is answered with SERVFAIL. At most MAX_QUERIES are under way. It is needed because a container can't reach a resolver on the
host's loopback, and because names below `localhost` mean the platform's own address there. Sources: RFC 1035, 6761 (6.3), 7766.
"""

import asyncio
import contextlib
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import structlog

from pilotlight.core import errors

log = structlog.get_logger()

RESOLV_CONF = Path("/etc/resolv.conf")
PORT = 53
UPSTREAM_TIMEOUT_S = 2.0  # a container's own resolver gives up after 5 s
ATTEMPTS = 2
IDLE_TIMEOUT_S = 10.0
MAX_QUERIES = 1024
MAX_CONNECTIONS = 128
TTL_S = 60

_HEADER = struct.Struct("!HHHHHH")
_RESPONSE, _OPCODE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
_SERVER_FAILURE = 2
_A, _ANY, _INTERNET = 1, 255, 1
_POINTER_TO_QUESTION = 0xC00C
_MAX_LABEL = 63
_LOOPBACK = IPv4Address("127.0.0.1")


class MalformedQueryError(ValueError):
    """These bytes are not one DNS question."""


@dataclass(frozen=True)
class Question:
    """The one question of a query."""

    name: str  # lower case, no final dot
    kind: int
    end: int  # offset of what follows it in the packet


@dataclass(frozen=True)
class ResolvConf:
    """What the host's resolv.conf says."""

    nameservers: tuple[str, ...]
    search: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """Nameservers and search domains, the last `search` or `domain` line winning (resolv.conf(5))."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                ip_address(words[1].partition("%")[0])
                servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
    return ResolvConf(tuple(servers) or ("127.0.0.1",), search)


def read_resolv_conf(path: Path = RESOLV_CONF) -> ResolvConf:
    """What the host's file says now; a resolver on the loopback address if there is none."""
    try:
        return parse_resolv_conf(path.read_text(errors="replace"))
    except FileNotFoundError:
        return parse_resolv_conf("")


def read_question(packet: bytes) -> Question:
    """The question of a query packet. Raises MalformedQueryError."""
    if len(packet) < _HEADER.size:
        raise MalformedQueryError("shorter than a header")
    _, flags, questions, _, _, _ = _HEADER.unpack_from(packet)
    if flags & (_RESPONSE | _OPCODE) or questions != 1:
        raise MalformedQueryError("not a standard query with one question")
    labels: list[str] = []
    offset = _HEADER.size
    while True:
        if offset >= len(packet):
            raise MalformedQueryError("a name without end")
        length = packet[offset]
        offset += 1
        if length == 0:
            break
        if length > _MAX_LABEL or offset + length > len(packet):
            raise MalformedQueryError("a label that is too long")
        labels.append(packet[offset : offset + length].decode("latin-1").lower())
        offset += length
    if offset + 4 > len(packet):
        raise MalformedQueryError("a question without type")
    return Question(".".join(labels), struct.unpack_from("!H", packet, offset)[0], offset + 4)


def local_answer(packet: bytes, question: Question, address: IPv4Address) -> bytes | None:
    """The answer to a question about `localhost` or a name below it; None for all other names."""
    if question.name == "localhost":
        address = _LOOPBACK
    elif not question.name.endswith(".localhost"):
        return None
    record = b""
    if question.kind in (_A, _ANY):
        record = struct.pack("!HHHIH", _POINTER_TO_QUESTION, _A, _INTERNET, TTL_S, 4) + address.packed
    return _reply(packet, question, 0, record)


def server_failure(packet: bytes, question: Question) -> bytes:
    """The answer when nobody could be asked."""
    return _reply(packet, question, _SERVER_FAILURE, b"")


def _reply(packet: bytes, question: Question, code: int, record: bytes) -> bytes:
    identity, flags, *_ = _HEADER.unpack_from(packet)
    flags = _RESPONSE | (flags & _RECURSION_DESIRED) | _RECURSION_AVAILABLE | code
    return _HEADER.pack(identity, flags, 1, bool(record), 0, 0) + packet[_HEADER.size : question.end] + record


class Forwarder:
    """Listens on one address, UDP and TCP."""

    def __init__(self, address: IPv4Address, *, port: int = PORT, resolv_conf: Path = RESOLV_CONF) -> None:
        self._address, self._port, self._resolv_conf = address, port, resolv_conf
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._known: tuple[int, ResolvConf] = (-1, ResolvConf(("127.0.0.1",)))
        self._connections = 0

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        where = (str(self._address), self._port)
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Listener(self), local_addr=where)
            self._server = await asyncio.start_server(self._serve_connection, *where)
        except OSError as error:
            await self.close()
            raise errors.PilotlightError(
                f"The containers' DNS forwarder can't listen on {where[0]} port {self._port} ({error}). "
                "Another program holds it; find it with `ss -lntup`, or choose another PILOTLIGHT_NETWORK_SLOT."
            ) from error

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def upstream(self) -> ResolvConf:
        """What the host uses at this moment; the file is read again when it has changed."""
        with contextlib.suppress(FileNotFoundError):
            changed_ns = self._resolv_conf.stat().st_mtime_ns
            if changed_ns != self._known[0]:
                self._known = (changed_ns, read_resolv_conf(self._resolv_conf))
        return self._known[1]

    def on_packet(self, packet: bytes, sender: Any, transport: asyncio.DatagramTransport) -> None:
        """A query by UDP: answer at once, or begin to ask."""
        try:
            question = read_question(packet)
        except MalformedQueryError:
            return
        if (answer := local_answer(packet, question, self._address)) is not None:
            transport.sendto(answer, sender)
        elif len(self._tasks) < MAX_QUERIES:
            self._own(self._forward_packet(packet, question, sender, transport))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward_packet(self, packet: bytes, question: Question, sender: Any, transport: asyncio.DatagramTransport) -> None:
        for server in self.upstream().nameservers * ATTEMPTS:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(UPSTREAM_TIMEOUT_S):
                    answer = await _ask(packet, server)
                transport.sendto(answer, sender)
                return
        log.warning("dns.no_answer", nameservers=self.upstream().nameservers)
        transport.sendto(server_failure(packet, question), sender)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, MalformedQueryError):
                    while True:
                        async with asyncio.timeout(IDLE_TIMEOUT_S):
                            packet = await _read_framed(reader)
                        writer.write(_framed(await self._answer_by_stream(packet)))
                        await writer.drain()
        finally:
            self._connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer_by_stream(self, packet: bytes) -> bytes:
        question = read_question(packet)
        if (answer := local_answer(packet, question, self._address)) is not None:
            return answer
        for server in self.upstream().nameservers * ATTEMPTS:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(UPSTREAM_TIMEOUT_S):
                    return await _ask_by_stream(packet, server)
        return server_failure(packet, question)


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._transport is not None:
            self._forwarder.on_packet(data, addr, self._transport)


class _Exchange(asyncio.DatagramProtocol):
    """One query on a socket, and so a source port, of its own: a forged answer must guess both port and id."""

    def __init__(self, packet: bytes) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._packet = packet

    def connection_made(self, transport: Any) -> None:
        transport.sendto(self._packet)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if data[:2] == self._packet[:2] and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _ask(packet: bytes, server: str) -> bytes:
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(lambda: _Exchange(packet), remote_addr=(server, PORT))
    try:
        return await exchange.answer
    finally:
        transport.close()


async def _ask_by_stream(packet: bytes, server: str) -> bytes:
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        writer.write(_framed(packet))
        return await _read_framed(reader)
    finally:
        writer.close()


def _framed(packet: bytes) -> bytes:
    return len(packet).to_bytes(2, "big") + packet


async def _read_framed(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
