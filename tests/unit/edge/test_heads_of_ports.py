"""Heads on their way to and from ports: whatever comes in, what goes out is one message, as a strict parser reads it."""

from urllib.parse import urljoin

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.edge.ports.heads import BadHead, Framing, Peer, read_request, read_response, request_bytes, response_bytes
from pilotlight.edge.ports.redirects import follow_up, without_call_id

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=20)
# What the parser before us lets through: no control characters but the tab.
VALUE = st.binary(max_size=30).map(
    lambda raw: bytes(byte for byte in raw if byte in (9, *range(32, 127), *range(128, 256))).strip()
)
NAMED = st.sampled_from(
    [
        *("connection", "transfer-encoding", "content-length", "host", "upgrade", "te", "trailer", "keep-alive", "expect"),
        *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-request-id", "modal-key", "modal-secret"),
    ]
)
TELLING = st.sampled_from([b"chunked", b"gzip", b"close", b"upgrade", b"websocket", b"3", b"0", b"host, x", b"a.localhost", b""])
HEADER = st.tuples(
    st.one_of(TOKEN, NAMED).map(lambda name: name.lower().encode()),
    st.one_of(VALUE, TELLING),
)
HEADERS = st.lists(HEADER, max_size=12)
TARGET = st.text("abc/%2F?&=._~-:@!$'()*+,;", max_size=40).map(lambda path: f"/{path}".encode())
METHOD = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"CONNECT"])


class Read:
    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.target = b""
        self.heads = 0
        self.body = b""
        self.messages = 0

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.messages += 1

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


@given(METHOD, TARGET, st.sampled_from(["1.0", "1.1", "2.0"]), HEADERS, st.booleans())
def test_a_request_is_refused_or_becomes_one_request_with_one_framing(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]], is_trusted: bool
) -> None:
    try:
        head = read_request(method, target, version, [*headers, (b"host", b"web.localhost")])
    except BadHead as error:
        assert error.status in (400, 405, 501, 505)
        return
    peer = Peer("203.0.113.9", "http", is_trusted)
    raw = request_bytes(head, peer, "fc-1")
    body = {Framing.LENGTH: b"x" * head.length, Framing.CHUNKED: b"1\r\nx\r\n0\r\n\r\n"}.get(head.framing, b"")
    read = Read()
    parser = httptools.HttpRequestParser(read)
    if head.is_websocket:
        with pytest.raises(httptools.HttpParserUpgrade):
            parser.feed_data(raw + body)
    else:
        parser.feed_data(raw + body)
    assert (read.heads, read.messages, parser.get_method(), read.target) == (1, 1, method, target)
    assert read.values(b"host") == [b"web.localhost"] and read.values(b"x-request-id") == [b"fc-1"]
    assert len(read.values(b"content-length")) + len(read.values(b"transfer-encoding")) == (head.framing is not Framing.NONE)
    assert len(read.values(b"x-forwarded-for")) == 1
    assert read.values(b"x-forwarded-for")[0].endswith(b"203.0.113.9")
    if not is_trusted:
        assert read.values(b"x-forwarded-for") == [b"203.0.113.9"] and not read.values(b"forwarded")
    assert not any(read.values(name) for name in (b"te", b"trailer", b"keep-alive", b"modal-key", b"modal-secret"))


@given(st.integers(200, 599), st.sampled_from(["1.0", "1.1"]), HEADERS, st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_a_response_is_refused_or_becomes_one_response(
    status: int, version: str, headers: list[tuple[bytes, bytes]], method: bytes, keeps: bool
) -> None:
    try:
        framing, length = read_response(status, version, headers, method)
    except BadHead as error:
        assert error.status == 502
        return
    is_chunked = framing in (Framing.CHUNKED, Framing.CLOSE)
    raw = response_bytes(status, b"Reason", headers, framing, "fc-1", is_chunked=is_chunked, keeps=keeps)
    if framing is Framing.NONE:
        assert raw.endswith(b"\r\n\r\n") and raw.count(b"\r\n\r\n") == 1 and b"\r\ntransfer-encoding:" not in raw
        return
    body = b"1\r\nx\r\n0\r\n\r\n" if is_chunked else b"x" * length
    read = Read()
    parser = httptools.HttpResponseParser(read)
    parser.feed_data(raw + body)
    assert (read.heads, read.messages, read.body) == (1, 1, b"x" if is_chunked else b"x" * length)
    assert parser.get_status_code() == status and read.values(b"x-request-id") == [b"fc-1"]
    assert len(read.values(b"content-length")) + len(read.values(b"transfer-encoding")) == 1


@given(TARGET)
def test_the_container_sees_nothing_of_the_id_under_which_a_client_waits(target: bytes) -> None:
    location = follow_up(target, b"fc-1")
    assert location.endswith(b"__modal_function_call_id=fc-1")
    assert follow_up(location, b"fc-2") == location
    head = read_request(b"GET", location, "1.1", [(b"host", b"a")])
    # An empty query, and empty parts of one, are all that may be lost.
    same = b"/." + target if target.startswith(b"//") else target
    assert without_call_id(head).target.rstrip(b"?&") == same.rstrip(b"?&")


def test_a_path_that_looks_like_a_host_leads_to_no_other_one() -> None:
    assert urljoin("http://a.example/", follow_up(b"//evil.example/x", b"fc-1").decode()).startswith("http://a.example/")


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        (b"http://a.example/x?y", b"b.example", (b"/x?y", "a.example")),
        (b"https://A.example:81", b"b.example", (b"/", "a.example:81")),
        (b"http://a.example?y", b"b.example", (b"/?y", "a.example")),
        (b"*", b"b.example", (b"*", "b.example")),
        (b"/x", b"B.Example:80", (b"/x", "b.example:80")),
        (b"/x", b"[::1]:80", (b"/x", "[::1]:80")),
    ],
)
def test_the_host_is_that_of_the_target_if_it_names_one(target: bytes, host: bytes, expected: tuple[bytes, str]) -> None:
    head = read_request(b"OPTIONS", target, "1.1", [(b"host", host)])
    assert (head.target, head.host) == expected


@pytest.mark.parametrize("target", [b"ftp://a/", b"a.example:80", b"x", b"http:/a", b"http://a@b/", b"http:///x y"])
def test_other_targets_are_refused(target: bytes) -> None:
    with pytest.raises(BadHead):
        read_request(b"GET", target, "1.1", [(b"host", b"a")])
