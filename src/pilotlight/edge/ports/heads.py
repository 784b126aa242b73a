"""Heads of requests and responses (RFC 9112): what is refused, and what is sent on in their place. No I/O.

Names of headers are lower case throughout; values are the bytes that were sent.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

from pilotlight.edge.proxy_auth import KEY_HEADER, credentials
from pilotlight.edge.refusals import Refusal

Headers = list[tuple[bytes, bytes]]

MAX_HEAD_BYTES = 64 << 10  # request line and headers
MAX_LENGTH_DIGITS = 18  # of a Content-Length

# RFC 9110, 7.6.1: they concern one connection only. Host, framing and Upgrade are written anew where they are due.
_OF_ONE_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_TELLING = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"))
_FORWARDED = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"))
_OURS = frozenset((b"x-request-id", b"modal-function-call-id"))  # of the edge alone
# Connection may not name these: a client could have them taken out on the way to whoever relies on them.
_NEVER_NAMED = _FORWARDED | _OURS | {b"host", b"content-length", b"content-type", b"authorization", b"cookie"}
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BODILESS = (204, 304)
_UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\n"


class BadHead(Exception):
    """A head that is refused: `status` says with what, the text says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Framing(Enum):
    """How the end of a body is told."""

    NONE = "no body"
    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "the end of the connection"


def size_of(headers: Headers) -> int:
    """Bytes of the headers as they are written."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request as it came. `target` is as in its first line; `host` in lower case with its port, empty in old HTTP/1.0."""

    method: bytes
    target: bytes
    version: str
    headers: Headers
    host: str
    framing: Framing
    length: int  # bytes of its body, where framing is LENGTH
    is_websocket: bool

    @property
    def may_repeat(self) -> bool:
        """Whether it can be sent again when nobody knows if it was acted upon: a safe method, and no body (RFC 9110, 9.2)."""
        return self.method in (b"GET", b"HEAD", b"OPTIONS") and (self.framing is Framing.NONE or not self.length)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request: its address; how it came; whether it is a proxy of ours, whose word on where it has it from counts."""

    address: str
    scheme: str  # "http" or "https"
    is_trusted: bool


def read_request(method: bytes, target: bytes, version: str, headers: Headers) -> RequestHead:
    """Judge a request's head. Raises BadHead where others might read it in another way than we do."""
    if version not in ("1.0", "1.1"):
        raise BadHead(505, f"HTTP/{version} is not spoken here; use HTTP/1.1")
    if method == b"CONNECT":
        raise BadHead(405, "CONNECT is for proxies, which this is not")
    told = _told(headers)
    framing, length = _request_framing(version, told)
    hosts = told.get(b"host", [])
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadHead(400, f"a request has one Host header, this one has {len(hosts)}")
    host = hosts[0] if hosts else b""
    if target[:1] != b"/":
        target, host = _without_authority(target, host)
    if host and not _HOST.fullmatch(host):
        raise BadHead(400, "the Host header is not a host name with an optional port")
    is_websocket = _asks_for_websocket(told)
    if is_websocket and (version == "1.0" or framing is Framing.CHUNKED or length):
        raise BadHead(400, "a WebSocket begins with an HTTP/1.1 request without a body")
    return RequestHead(method, target, version, headers, host.decode("ascii").lower(), framing, length, is_websocket)


def _told(headers: Headers) -> dict[bytes, list[bytes]]:
    """The values of those headers that decide something here."""
    told: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _TELLING:
            told.setdefault(name, []).append(value)
    return told


def _request_framing(version: str, told: dict[bytes, list[bytes]]) -> tuple[Framing, int]:
    lengths, codings = told.get(b"content-length", []), told.get(b"transfer-encoding", [])
    if codings:
        if lengths or len(codings) > 1 or version == "1.0":
            raise BadHead(400, "the end of the body is ambiguous: send one Transfer-Encoding or one Content-Length")
        if codings[0].strip().lower() != b"chunked":
            raise BadHead(501, "a body may be sent chunked, but in no other transfer coding")
        return Framing.CHUNKED, 0
    if not lengths:
        return Framing.NONE, 0
    return Framing.LENGTH, _length(lengths)


def _length(values: list[bytes]) -> int:
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > MAX_LENGTH_DIGITS:
        raise BadHead(400, "Content-Length must be there once, and be a number of bytes")
    return int(values[0])


def _without_authority(target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """The path and the host of `http://host/path` (RFC 9112, 3.2.2: it overrules the Host header); `*` stays."""
    if target == b"*":
        return target, host
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        raise BadHead(400, "the request's target is neither a path nor a URL")
    end = next((i for i, byte in enumerate(rest) if byte in b"/?#"), len(rest))
    if not end:
        raise BadHead(400, "the request's target is a URL without a host")
    path = rest[end:]
    return (path if path.startswith(b"/") else b"/" + path), rest[:end]


def _tokens(value: bytes) -> Iterable[bytes]:
    return (token.strip().lower() for token in value.split(b","))


def _asks_for_websocket(told: dict[bytes, list[bytes]]) -> bool:
    asked = any(b"websocket" in _tokens(value) for value in told.get(b"upgrade", ()))
    return asked and any(b"upgrade" in _tokens(value) for value in told.get(b"connection", ()))


def _dropped(headers: Headers) -> frozenset[bytes]:
    named = [value for name, value in headers if name == b"connection"]
    if not named:
        return _OF_ONE_CONNECTION
    return _OF_ONE_CONNECTION | (frozenset(token for value in named for token in _tokens(value)) - _NEVER_NAMED)


def request_bytes(request: RequestHead, peer: Peer, request_id: str, *, hides_proxy_auth: bool = True) -> bytes:
    """The head that the container gets: HTTP/1.1, one framing, and where the request came from in X-Forwarded-*."""
    dropped = _dropped(request.headers) | _OURS | _FORWARDED | {b"host", b"content-length"}
    if hides_proxy_auth:
        dropped |= {KEY_HEADER} | credentials(dict(request.headers))
    if request.version == "1.0":
        dropped |= {b"expect"}  # such a client knows no 100 Continue
    if not peer.is_trusted:
        dropped |= {b"forwarded"}
    lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (request.method, request.target, request.host.encode())]
    lines += [b"%b: %b\r\n" % header for header in request.headers if header[0] not in dropped]
    if request.framing is Framing.LENGTH:
        lines.append(b"content-length: %d\r\n" % request.length)
    elif request.framing is Framing.CHUNKED:
        lines.append(b"transfer-encoding: chunked\r\n")
    if request.is_websocket:
        lines.append(_UPGRADE)
    lines.append(_whence(request, peer))
    lines.append(b"x-request-id: %b\r\n\r\n" % request_id.encode())
    return b"".join(lines)


def _whence(request: RequestHead, peer: Peer) -> bytes:
    said = {name: value for name, value in request.headers if name in _FORWARDED} if peer.is_trusted else {}
    chain = said.get(b"x-forwarded-for")
    address = peer.address.encode()
    return b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n" % (
        chain + b", " + address if chain else address,
        said.get(b"x-forwarded-proto") or peer.scheme.encode(),
        said.get(b"x-forwarded-host") or request.host.encode(),
    )


def read_response(status: int, version: str, headers: Headers, method: bytes) -> tuple[Framing, int]:
    """How a container's response to such a request ends (RFC 9112, 6.3). Raises BadHead (502) where that can't be told."""
    if method == b"HEAD" or status in _BODILESS or 100 <= status < 200:
        return Framing.NONE, 0
    told = _told(headers)
    lengths, codings = told.get(b"content-length", []), told.get(b"transfer-encoding", [])
    if codings:
        if lengths or len(codings) > 1 or codings[0].strip().lower() != b"chunked" or version == "1.0":
            raise BadHead(502, "the container's response has a framing that can't be relied on")
        return Framing.CHUNKED, 0
    if not lengths:
        return Framing.CLOSE, 0
    try:
        return Framing.LENGTH, _length(lengths)
    except BadHead as error:
        raise BadHead(502, "the container's response has a bad Content-Length") from error


def response_bytes(
    status: int, reason: bytes, headers: Headers, framing: Framing, request_id: str, *, is_chunked: bool, keeps: bool
) -> bytes:
    """The head that the client gets. `is_chunked`: its body is sent in chunks; `keeps`: the connection stays open after it."""
    dropped = _dropped(headers) | _OURS
    if framing in (Framing.CHUNKED, Framing.CLOSE):
        dropped |= {b"content-length"}
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    if is_chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    if status == 101:
        lines.append(_UPGRADE)
    elif not keeps:
        lines.append(b"connection: close\r\n")
    if status >= 200 or status == 101:
        lines.append(b"x-request-id: %b\r\nmodal-function-call-id: %b\r\n" % (request_id.encode(), request_id.encode()))
    lines.append(b"\r\n")
    return b"".join(lines)


def own_response(refusal: Refusal, extra: Headers = [], *, is_head: bool, keeps: bool) -> bytes:  # noqa: B006 - never changed
    """A whole response of the edge's own, in plain text."""
    status, headers, body = refusal.response(extra)
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b\r\n" % header for header in headers if keeps or header[0] != b"connection"]
    if not keeps:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    if not is_head:
        lines.append(body)
    return b"".join(lines)
