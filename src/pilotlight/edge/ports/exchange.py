"""One request and its response, between a client's connection and a container's.

Owns the slot that the request was given, from admission to the end of both messages, and the bound on what is held of a body:
64 KiB while it waits for a container, the two transports' buffers afterwards.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

import structlog

from pilotlight.edge.admission import MAX_BODY_BYTES, Door, Entry, Head
from pilotlight.edge.dispatch import Dispatch, Slot
from pilotlight.edge.own_urls import OwnUrls
from pilotlight.edge.ports.heads import (
    BadHead,
    Framing,
    Headers,
    Peer,
    RequestHead,
    own_response,
    request_bytes,
    response_bytes,
)
from pilotlight.edge.ports.redirects import follow_up, without_call_id
from pilotlight.edge.ports.upstream import Address, Connection, Pool
from pilotlight.edge.records import Record, Records
from pilotlight.edge.refusals import Refusal
from pilotlight.edge.routes import Routes
from pilotlight.wire.platform_pb2 import WebRoute

HELD_BYTES = 64 << 10  # of a body whose container is not there yet
ATTEMPTS = 3
_CLIENT_LEFT = 499

log = structlog.get_logger()


class Client(Protocol):
    """The client's side of an exchange."""

    transport: asyncio.Transport

    @property
    def is_write_paused(self) -> bool: ...
    def pause_upload(self) -> None: ...
    def resume_upload(self) -> None: ...
    def exchange_ended(self, *, keeps: bool, lingers: bool) -> None:
        """The response is out. `lingers`: the client may still be sending what nobody reads."""


@dataclass(frozen=True)
class Relay:
    """What all exchanges share."""

    routes: Routes
    door: Door
    dispatch: Dispatch
    records: Records
    pool: Pool
    redirect_after_s: float  # 0: never
    urls: OwnUrls

    def is_port(self, request: RequestHead) -> bool:
        """Whether a request goes as bytes to a port of a container."""
        route = self.routes.find(request.host)
        if route is None or route.kind != WebRoute.PORT:
            return False
        path, _, query = request.target.partition(b"?")
        return not self.urls.has(request.method.decode("ascii"), unquote(path.decode("latin-1")), query)


class Exchange:
    """Relays one request. To uvicorn's protocol, whose queue of pipelined requests it stands in, it looks like one of its own."""

    def __init__(self, client: Client, request: RequestHead, peer: Peer, relay: Relay, *, keep_alive: bool) -> None:
        self.method = request.method
        # What uvicorn looks at and sets.
        self.keep_alive = keep_alive and not request.is_websocket
        self.response_complete = False
        self.disconnected = False
        self.message_event = asyncio.Event()

        self._client = client
        self._request = request
        self._peer = peer
        self._relay = relay
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._has_all = request.framing is Framing.NONE or (request.framing is Framing.LENGTH and not request.length)
        self._record = Record(request.method.decode("ascii"), request.target.partition(b"?")[0].decode("latin-1"))
        self._entry: Entry | None = None
        self._slot: Slot | None = None
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempts = 0
        self._status = 0
        self._is_chunked = False
        self._is_tunnel = False
        self._unwritten: list[bytes] = []  # of the response; written together, since each write costs a system call
        self._awaits_continue = any(name == b"expect" for name, _ in request.headers)

    def start(self) -> None:
        """Ask for a container; what comes of the body meanwhile is held."""
        try:
            if not self._started_at_once():
                self._task = asyncio.get_running_loop().create_task(self._run())
        except Refusal as refusal:
            self._answer(refusal)

    # ---- from the client ----

    def body(self, data: bytes) -> None:
        """A piece of the request's body or, for a WebSocket, of what follows its head."""
        self._record.bytes_in += len(data)
        if self.response_complete:
            return
        if self._record.bytes_in > MAX_BODY_BYTES and not self._request.is_websocket:
            self._give_up(413, f"the body is larger than {MAX_BODY_BYTES} bytes, the limit of a request")
        elif self._connection is None or (self._request.is_websocket and not self._is_tunnel):
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > HELD_BYTES:
                self._client.pause_upload()
        else:
            self._send_on(self._connection.transport, data)

    def body_ended(self) -> None:
        """The request is whole."""
        if self._has_all:
            return
        self._has_all = True
        if self._connection is not None and self._request.framing is Framing.CHUNKED:
            self._connection.transport.write(b"0\r\n\r\n")

    def client_lost(self) -> None:
        """The client has gone: so does the request."""
        if self._task is not None:
            self._task.cancel()
        if not self.response_complete:
            self.response_complete = True
            self._release(is_clean=False)
            self._close_record(self._status if self._is_tunnel else _CLIENT_LEFT)

    def pause_download(self) -> None:
        """The client reads more slowly than the container writes."""
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume_download(self) -> None:
        """It has caught up."""
        if self._connection is not None:
            self._connection.transport.resume_reading()

    # ---- to the container ----

    def _started_at_once(self) -> bool:
        """The usual way, without a task: a container has room, and there is a connection to it. Raises Refusal."""
        relay = self._relay
        entry = self._entry or relay.door.enter_now(self._head())
        if entry is None:
            return False
        self._entry = self._record.entry = entry
        slot = relay.dispatch.take_now(entry.function_id)
        if slot is None:
            return False
        connection = relay.pool.take_idle(self._address(slot))
        if connection is None:
            slot.release()
            return False
        self._attempts += 1
        self._slot = slot
        self._record.task_id = slot.task.task_id
        self._send(connection)
        return True

    def _head(self) -> Head:
        names = {name: value for name, value in self._request.headers if name != b"host"}
        names[b"host"] = self._request.host.encode()
        return Head(self._record.method, self._request.target.partition(b"?")[2], names)

    async def _run(self) -> None:
        try:
            if connection := await self._connected():
                self._send(connection)
        except Exception as error:
            log.error("web_relay_failed", host=self._request.host, exc_info=error)
            self._give_up(500, "the platform failed on this request; the edge's log has the cause")
        finally:
            self._task = None

    async def _connected(self) -> Connection | None:
        """A connection to a container that has a slot for this; None where the request was answered instead."""
        try:
            return await self._taken_in()
        except Refusal as refusal:
            self._answer(refusal)
            return None

    async def _taken_in(self) -> Connection:
        if self._entry is None:
            self._entry = self._record.entry = await self._relay.door.enter(self._head())
        why = ""
        while self._attempts < ATTEMPTS:
            self._attempts += 1
            slot = self._slot = await self._with_room(self._entry)
            self._record.task_id = slot.task.task_id
            try:
                return await self._relay.pool.take(self._address(slot))
            except OSError as error:
                why = str(error)
                self._slot = None
                slot.release(suspend=True)
        raise Refusal(502, f"the container's port can't be reached: {why}")

    async def _with_room(self, entry: Entry) -> Slot:
        """A container's slot; raises Refusal, also a 303 where the client had better wait by asking again."""
        began = time.perf_counter()
        acquiring = self._relay.dispatch.acquire(entry.function_id)
        try:
            if not self._request.may_repeat or self._request.is_websocket or not self._relay.redirect_after_s:
                return await acquiring  # a redirect would lose its body
            async with asyncio.timeout(self._relay.redirect_after_s):
                return await acquiring
        except TimeoutError as error:
            location = follow_up(self._request.target, entry.call_id.encode())
            raise Refusal(303, "its container is still starting", [(b"location", location)]) from error
        finally:
            self._record.waited_s += time.perf_counter() - began

    def _address(self, slot: Slot) -> Address:
        assert self._entry is not None
        return slot.task.address, self._entry.route.port

    def _send(self, connection: Connection) -> None:
        assert self._entry is not None
        self._connection = connection
        connection.begin(self)
        if self._client.is_write_paused:
            connection.transport.pause_reading()
        hides = self._entry.route.requires_proxy_auth
        head = request_bytes(without_call_id(self._request), self._peer, self._entry.call_id, hides_proxy_auth=hides)
        connection.transport.write(head)
        if self._request.is_websocket or (self._has_all and not self._held):
            if self._request.framing is Framing.CHUNKED:
                connection.transport.write(b"0\r\n\r\n")
            return
        held, self._held, self._held_bytes = self._held, [], 0
        for data in held:
            self._send_on(connection.transport, data)
        if self._has_all and self._request.framing is Framing.CHUNKED:
            connection.transport.write(b"0\r\n\r\n")
        self._client.resume_upload()

    def _send_on(self, transport: asyncio.Transport, data: bytes) -> None:
        if self._request.framing is Framing.CHUNKED:
            transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            transport.write(data)

    # ---- from the container ----

    def pause_upload(self) -> None:
        """The container reads more slowly than the client writes."""
        self._client.pause_upload()

    def resume_upload(self) -> None:
        """It has caught up."""
        self._client.resume_upload()

    def response_head(self, status: int, reason: bytes, headers: Headers, framing: Framing) -> None:
        """Pass a head on, or a 1xx if the client knows such. Raises BadHead for a switch that was not asked for."""
        is_new = self._request.version == "1.1"
        if status < 200:
            if status == 101 and not self._request.is_websocket:
                raise BadHead(502, "it changed the protocol unasked")
            if not is_new:
                return
            self._awaits_continue = False
        else:
            self._is_chunked = is_new and framing in (Framing.CHUNKED, Framing.CLOSE)
            # A client that still asks whether to send its body may or may not send it after this: what comes can't be told apart.
            ends_anyway = framing in (Framing.CHUNKED, Framing.CLOSE) and not is_new
            self.keep_alive = self.keep_alive and not ends_anyway and (self._has_all or not self._awaits_continue)
        head = response_bytes(
            status,
            reason,
            headers,
            framing,
            self._call_id,
            is_chunked=self._is_chunked and status >= 200,
            keeps=self.keep_alive or status < 200,
        )
        self._unwritten.append(head)
        if status >= 200 or status == 101:
            self._status = status
        if status == 101:
            self._open_tunnel()

    def response_body(self, data: bytes) -> None:
        """Pass a piece of its body on."""
        self._record.bytes_out += len(data)
        if self._is_chunked:
            self._unwritten += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._unwritten.append(data)

    def flush(self) -> None:
        """Write what was passed on."""
        pieces, self._unwritten = self._unwritten, []
        if len(pieces) == 1:
            self._client.transport.write(pieces[0])
        elif pieces:
            self._client.transport.writelines(pieces)

    def response_ended(self) -> None:
        """The response is whole."""
        if self._is_chunked:
            self._unwritten.append(b"0\r\n\r\n")
        self.flush()
        self._release(is_clean=self._has_all)
        self._end()

    def response_lost(self, why: str) -> None:
        """The container died, or spoke no HTTP: tried again if that can do no harm, else told."""
        if self.response_complete:
            return
        if self._status:
            log.info("web_response_broken", call_id=self._call_id, why=why)
            self._break_off()
        elif self._request.may_repeat and self._attempts < ATTEMPTS:
            self._release(is_clean=False)
            self.start()
        else:
            self._give_up(502, f"the container broke off before it answered: {why}")

    def tunnel_data(self, data: bytes) -> None:
        """Bytes from the container, after the protocol was switched."""
        self._record.bytes_out += len(data)
        self._client.transport.write(data)

    def tunnel_ended(self) -> None:
        """The container closed the tunnel."""
        self._break_off()

    def _open_tunnel(self) -> None:
        assert self._connection is not None
        self.flush()
        self._is_tunnel = True
        held, self._held, self._held_bytes = self._held, [], 0
        for data in held:
            self._connection.transport.write(data)
        self._client.resume_upload()

    # ---- the end ----

    @property
    def _call_id(self) -> str:
        return self._entry.call_id if self._entry else ""

    def _give_up(self, status: int, text: str) -> None:
        """Answer with an error if nothing was answered yet, else break off."""
        if self._status:
            self._break_off()
        else:
            self._release(is_clean=False)
            self._answer(Refusal(status, text))

    def _break_off(self) -> None:
        """End the client's connection before the end of the response, which is how it learns that there is more."""
        self.flush()
        self.response_complete = True
        self._release(is_clean=False)
        self._close_record(self._status)
        self._client.transport.close()

    def _answer(self, refusal: Refusal) -> None:
        self.keep_alive = self.keep_alive and self._has_all
        is_head = self.method == b"HEAD"
        extra = self._entry.headers if self._entry else []
        self._client.transport.write(own_response(refusal, extra, is_head=is_head, keeps=self.keep_alive))
        self._status = refusal.status
        self._record.bytes_out = 0 if is_head else len(refusal.text) + 1
        self._end()

    def _end(self) -> None:
        self.response_complete = True
        self._close_record(self._status)
        self._client.exchange_ended(keeps=self.keep_alive, lingers=not self._has_all)

    def _close_record(self, status: int) -> None:
        self._record.status = status
        self._relay.records.ended(self._record)

    def _release(self, *, is_clean: bool) -> None:
        """Let the connection and the slot go. Safe to repeat."""
        connection, self._connection = self._connection, None
        slot, self._slot = self._slot, None
        if slot is None:
            return
        if connection is not None and self._is_tunnel:
            connection.listener = None
            connection.transport.close()  # what was sent before still goes through
        elif connection is not None:
            self._relay.pool.give_back(self._address(slot), connection, is_clean=is_clean)
        slot.release()
