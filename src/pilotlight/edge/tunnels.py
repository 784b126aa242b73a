"""Tunnels at the edge: bytes to ports of containers, by TLS under a name or raw at a port.

The name that a client asks for in its TLS handshake decides where its bytes go; one who asks for none of ours gets no connection.
Both directions are read no faster than they can be written.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import structlog

from pilotlight.core.hosts import host_name, label_of
from pilotlight.wire.platform_pb2 import EdgeEvent, SetTunnel, TunnelOpened
from pilotlight.wire.tls import Certificate

log = structlog.get_logger()

MAX_CONNECTIONS = 1_000  # of one tunnel at a time; more are closed at once
CONNECT_LIMIT_S = 10.0
HANDSHAKE_LIMIT_S = 10.0
CHUNK_BYTES = 256 * 1024
BACKLOG = 1024
H1, H2 = ("http/1.1",), ("h2", "http/1.1")


@dataclass(slots=True, eq=False)
class _Open:
    """An open tunnel and what goes on in it."""

    told: SetTunnel
    serving: asyncio.Task[None] | None = None
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def close(self) -> None:
        for task in (self.serving, *self.connections):
            if task is not None:
                task.cancel()


class Tunnels:
    """Those that the server told of. Lives on the event loop's thread."""

    def __init__(self, domain: str, raw_address: str, answer: Callable[[EdgeEvent], None]) -> None:
        """`raw_address`: the address of this machine at which raw ports listen."""
        self._domain = domain
        self._raw_address = raw_address
        self._answer = answer
        self._open: dict[str, _Open] = {}  # by label
        self._asked: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()  # labels, by handshake

    # ---- what the server tells ----

    def set(self, told: SetTunnel) -> None:
        """Open a tunnel and say so; one that is open already stays as it is, with its connections."""
        known = self._open.get(told.label)
        if known is None or known.told != told:
            self.drop(told.label)
            try:
                self._open[told.label] = self._opened(told)
            except OSError as error:
                self._say(told.label, f"port {told.raw_port} of {self._raw_address} can't be listened at ({error.strerror})")
                return
        self._say(told.label, "")

    def drop(self, label: str) -> None:
        """Close a tunnel and break its connections off; unknown ones are no error."""
        if (known := self._open.pop(label, None)) is not None:
            known.close()

    def keep_only(self, labels: Collection[str]) -> None:
        """Close all others."""
        for label in [label for label in self._open if label not in labels]:
            self.drop(label)

    def close(self) -> None:
        """Close all."""
        self.keep_only(())

    def _say(self, label: str, problem: str) -> None:
        self._answer(EdgeEvent(tunnel_opened=TunnelOpened(label=label, problem=problem)))

    def _opened(self, told: SetTunnel) -> _Open:
        opened = _Open(told)
        if told.raw_port:
            listener = _listen(self._raw_address, told.raw_port)
            opened.serving = asyncio.get_running_loop().create_task(self._serve_raw(opened, listener))
            opened.serving.add_done_callback(partial(self._served_raw, opened, listener))
        return opened

    def _served_raw(self, opened: _Open, listener: socket.socket, serving: asyncio.Task[None]) -> None:
        listener.close()
        if serving.cancelled() or (error := serving.exception()) is None:
            return
        told = opened.told
        log.error("tunnel_not_served", label=told.label, port=told.raw_port, exc_info=error)
        if self._open.get(told.label) is opened:
            self.drop(told.label)
            self._say(told.label, f"port {told.raw_port} of {self._raw_address} is not served any more ({error})")

    # ---- connections ----

    async def serve_tls(self, listener: socket.socket, certificate: Certificate) -> None:
        """Take connections by TLS, until cancelled."""
        context = certificate.by_name(self._protocols_of)
        server = await asyncio.start_server(
            self._take_tls, sock=listener, ssl=context, ssl_handshake_timeout=HANDSHAKE_LIMIT_S, limit=CHUNK_BYTES
        )
        await _until_cancelled(server)

    async def _serve_raw(self, opened: _Open, listener: socket.socket) -> None:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(opened, reader, writer)

        await _until_cancelled(await asyncio.start_server(take, sock=listener, limit=CHUNK_BYTES))

    def _protocols_of(self, handshake: ssl.SSLObject, name: str | None) -> tuple[str, ...] | None:
        label = label_of(host_name(name or ""), self._domain)
        known = self._open.get(label or "")
        if known is None:
            return None
        self._asked[handshake] = known.told.label
        return H2 if known.told.h2 else H1

    async def _take_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        label = self._asked.pop(writer.get_extra_info("ssl_object"), "")
        if (opened := self._open.get(label)) is None:  # closed since the handshake
            writer.transport.abort()
        else:
            await self._carry(opened, reader, writer)

    async def _carry(self, opened: _Open, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = opened.told
        if len(opened.connections) >= MAX_CONNECTIONS:
            log.warning("tunnel_full", label=told.label, connections=MAX_CONNECTIONS)
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        opened.connections.add(task)
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                inner_reader, inner_writer = await asyncio.open_connection(told.address, told.port, limit=CHUNK_BYTES)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, inner_writer))
                    group.create_task(_pump(inner_reader, writer))
                await _close(writer)
            finally:
                inner_writer.transport.abort()
        except* (OSError, TimeoutError) as errors:  # one side broke off, or nobody listens in the container: so does the other
            log.debug("tunnel_connection_broken", label=told.label, error=str(errors.exceptions[0]))
        finally:
            opened.connections.discard(task)
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes one way until their end, which is passed on. TLS has no half of a connection to close: there it ends all of it."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def _until_cancelled(server: asyncio.Server) -> None:
    try:
        await server.serve_forever()
    finally:
        server.close()


def _listen(address: str, port: int) -> socket.socket:
    """A listener that nobody else has; raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
