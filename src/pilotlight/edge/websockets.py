"""WebSockets to functions that speak ASGI: messages both ways, for as long as both ends hold the connection.

A message is at most MAX_MESSAGE_BYTES long; uvicorn closes the connection on longer ones (RFC 6455: 1009).
"""

import asyncio

import structlog
from modal_proto import api_pb2
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from pilotlight.core.errors import PilotlightError
from pilotlight.edge import messages
from pilotlight.edge.admission import Door
from pilotlight.edge.bodies import Put
from pilotlight.edge.exchange import Containers, Exchange, Left
from pilotlight.edge.records import Record, Records
from pilotlight.edge.refusals import Header, Refusal
from pilotlight.edge.responses import CLIENT_LEFT, OF_THE_CONNECTION, headers_of, is_value
from pilotlight.edge.scopes import app_scope, head_of

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 2 << 20
NORMAL, FAILED = 1000, 1011  # RFC 6455, 7.4.1
SWITCHED = 101
NOT_THE_APPS = OF_THE_CONNECTION | {b"content-length"}  # of a handshake's answer, which has no body (RFC 9110, 8.6)


class WebSockets:
    """The bridge, as an ASGI app for scopes of type websocket."""

    def __init__(self, door: Door, containers: Containers, records: Records) -> None:
        self._door = door
        self._containers = containers
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = Record("GET", scope["path"])
        socket = _Socket(send, record)
        try:
            await self._serve(scope, receive, socket)
        except Refusal as refusal:
            await socket.refuse(refusal)
        except (Left, ClientDisconnected):
            record.status = record.status or CLIENT_LEFT
        finally:
            self._records.ended(record)

    async def _serve(self, scope: Scope, receive: Receive, socket: "_Socket") -> None:
        head = head_of(scope)
        entry = await self._door.enter(head)
        socket.record.entry = entry
        socket.ids = entry.headers
        events = _Events(receive)
        told = app_scope(scope, head, is_guarded=entry.route.requires_proxy_auth)
        exchange = Exchange(entry, messages.item(entry.call_id, told, entry.route.method_name), events, self._containers)
        reading = asyncio.get_running_loop().create_task(events.read(exchange))
        try:
            await self._converse(exchange, socket)
        except (Refusal, PilotlightError) as error:
            exchange.leave()  # its end may be far off: the client does not wait for it
            await socket.refuse(error if isinstance(error, Refusal) else _unreadable(scope, error))
        except ClientDisconnected:
            exchange.leave()
            raise
        finally:
            socket.record.task_id, socket.record.waited_s = exchange.task_id, exchange.waited_s
            socket.record.bytes_in = events.size_bytes
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await exchange.close()

    async def _converse(self, exchange: Exchange, socket: "_Socket") -> None:
        await exchange.begin()
        while (message := await exchange.next()) is not None:
            await socket.pass_on(message)
        if not socket.is_accepted:
            raise exchange.failure()
        await socket.end(NORMAL if exchange.has_succeeded else FAILED)


def _unreadable(scope: Scope, error: PilotlightError) -> Refusal:
    log.warning("websocket_broken_off", path=scope["path"], cause=str(error))
    return Refusal(502, "what the app sent can't be read")


class _Events:
    """What comes from the client, for the container."""

    is_repeatable = False
    is_whole = False

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._queue: asyncio.Queue[Message] = asyncio.Queue(1)
        self._index = 1
        self._code = 1006
        self.size_bytes = 0

    async def first(self) -> bytes:
        """That a connection is being opened."""
        return messages.event_chunk(1, api_pb2.Asgi(websocket_connect=api_pb2.Asgi.WebsocketConnect()))

    async def read(self, exchange: Exchange) -> None:
        """Take what comes, also while no container has the request: a client may leave meanwhile."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._code = event.get("code") or self._code
                if not exchange.is_taken:
                    exchange.leave()
                await self._queue.put(event)
                return
            if event["type"] == "websocket.receive":
                await self._queue.put(event)

    async def relay(self, put: Put) -> None:
        """Hand them over, up to the disconnection."""
        while True:
            event = await self._queue.get()
            if event["type"] == "websocket.disconnect":
                return await put(self.goodbye())
            self._index += 1
            await put(messages.event_chunk(self._index, api_pb2.Asgi(websocket_receive=self._received(event))))

    def _received(self, event: Message) -> api_pb2.Asgi.WebsocketReceive:
        if (data := event.get("bytes")) is not None:
            self.size_bytes += len(data)
            return api_pb2.Asgi.WebsocketReceive(bytes=data)
        self.size_bytes += len(event["text"])
        return api_pb2.Asgi.WebsocketReceive(text=event["text"])

    def goodbye(self) -> bytes:
        """The client has gone, by this code."""
        self._index += 1
        return messages.goodbye(self._index, "websocket", self._code)


class _Socket:
    """The client's side."""

    def __init__(self, send: Send, record: Record) -> None:
        self._send = send
        self.record = record
        self.ids: list[Header] = []
        self.is_accepted = False
        self.is_ended = False

    async def pass_on(self, message: api_pb2.Asgi | messages.Piece) -> None:
        """Send what the app said; raises ClientDisconnected, and Refusal for what can't be sent."""
        if isinstance(message, messages.Piece):
            return  # of a response, which a WebSocket has none of
        kind = message.WhichOneof("type")
        if self.is_ended:
            return
        if kind == "websocket_accept" and not self.is_accepted:
            await self._accept(message.websocket_accept)
        elif kind == "websocket_send" and self.is_accepted:
            await self._say(message.websocket_send)
        elif kind == "websocket_close":
            close = message.websocket_close
            await self.end(close.code if close.HasField("code") else NORMAL, close.reason)
        elif kind is not None and kind.startswith("http_response") and not self.is_accepted:
            # The runtime's own answer where the first message came too late.
            raise Refusal(500, "the app answered a WebSocket as if it were a plain request")

    async def refuse(self, refusal: Refusal) -> None:
        """Answer the handshake with an error, or close what was open."""
        if self.is_accepted:
            await self.end(FAILED, refusal.text[:100])
            return
        self.is_ended = True
        status, headers, body = refusal.response(self.ids)
        self.record.status = status
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def end(self, code: int, reason: str = "") -> None:
        """Close the connection; before it was accepted that is a 403."""
        if self.is_ended:
            return
        if not self.is_accepted:
            await self.refuse(Refusal(403, "the app does not take this WebSocket"))
            return
        self.is_ended = True
        self.record.status = SWITCHED
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _accept(self, accept: api_pb2.Asgi.WebsocketAccept) -> None:
        subprotocol = accept.subprotocol if accept.HasField("subprotocol") else None
        if subprotocol is not None and not is_value(subprotocol.encode()):
            raise Refusal(502, f"the app accepted a subprotocol that HTTP does not allow: {subprotocol!r}")
        headers = headers_of(accept.headers, self.ids, NOT_THE_APPS)
        self.is_accepted = True
        self.record.status = SWITCHED
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})

    async def _say(self, said: api_pb2.Asgi.WebsocketSend) -> None:
        if said.HasField("bytes"):
            self.record.bytes_out += len(said.bytes)
            await self._send({"type": "websocket.send", "bytes": said.bytes})
        else:
            self.record.bytes_out += len(said.text)
            await self._send({"type": "websocket.send", "text": said.text})
