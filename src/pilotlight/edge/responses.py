"""An app's response on its way to the client: its own headers and bytes, in our framing.

Invariant: what the app says about the connection (RFC 9110, 7.6.1) does not get to the client, and what HTTP does not allow becomes
an error instead of a broken stream.
"""

import re
from collections.abc import Container, Iterable, Sequence

import structlog
from modal_proto import api_pb2
from starlette.types import Send

from pilotlight.edge.messages import Piece, pairs
from pilotlight.edge.records import Record
from pilotlight.edge.refusals import Header, Refusal, answer

log = structlog.get_logger()

OF_THE_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te", b"trailer")
)
WITHOUT_BODY = (204, 304)
CLIENT_LEFT = 499  # nobody reads it; it tells the metrics apart
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Broken(Exception):
    """The app's response can't be completed: the client's connection has to be broken off, so that it sees that."""


class Response:
    """One response. `ids` are the headers that each response gets."""

    def __init__(self, method: str, send: Send, record: Record) -> None:
        self._method = method
        self._send = send
        self._record = record
        self._has_body = True
        self.ids: Sequence[Header] = ()
        self.is_started = False
        self.is_complete = False

    async def pass_on(self, message: api_pb2.Asgi | Piece) -> None:
        """Send what the app said; raises Refusal for a head that is none, Broken for a body that does not fit its head."""
        if isinstance(message, Piece):
            await self._body(message)
            return
        kind = message.WhichOneof("type")
        if kind == "http_response_start":
            await self._start(message.http_response_start)
        elif kind == "http_response_body":
            await self._body(message.http_response_body)

    async def refuse(self, refusal: Refusal) -> None:
        """Send the edge's own answer as the whole response."""
        self.is_started = self.is_complete = True
        self._record.status = refusal.status
        self._record.bytes_out += await answer(self._send, refusal, self.ids)

    async def redirect(self, status: int, headers: Sequence[Header]) -> None:
        """Send a response without a body."""
        self.is_started = self.is_complete = True
        self._record.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.ids]})
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, start: api_pb2.Asgi.HttpResponseStart) -> None:
        if self.is_started:
            raise Broken("it began twice")
        status = start.status
        if not 200 <= status < 600:
            raise Refusal(502, f"the app answered with status {status}, which is none")
        headers = headers_of(start.headers, self.ids, OF_THE_CONNECTION)
        self._has_body = self._method != "HEAD" and status not in WITHOUT_BODY
        self._record.status = status
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, piece: api_pb2.Asgi.HttpResponseBody | Piece) -> None:
        if not self.is_started:
            raise Refusal(502, "the app sent a body before a status")
        if self.is_complete:
            return  # nothing can follow the end
        body = piece.body if self._has_body else b""
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": piece.more_body})
        except RuntimeError as error:  # uvicorn's: more or less of it than its content-length
            raise Broken(str(error)) from error
        self._record.bytes_out += len(body)
        self.is_complete = not piece.more_body


def headers_of(flat: Iterable[bytes], ids: Sequence[Header], not_its: Container[bytes]) -> list[Header]:
    """An app's headers, less those that are not its to set, with the ids that it did not set itself; raises Refusal."""
    headers = [header for header in pairs(flat) if header[0].lower() not in not_its]
    _check(headers)
    own = {name.lower() for name, _ in headers}
    return headers + [header for header in ids if header[0] not in own]


def _check(headers: Sequence[Header]) -> None:
    for name, value in headers:
        if not _NAME.fullmatch(name) or not is_value(value):
            raise Refusal(502, f"the app sent a header that HTTP does not allow: {name!r}")
        if name.lower() == b"content-length" and not value.isdigit():
            raise Refusal(502, f"the app sent a content-length that is no number: {value!r}")


def is_value(value: bytes) -> bool:
    """Whether HTTP allows this as the value of a header (RFC 9110, 5.5)."""
    return _BAD_VALUE.search(value) is None
