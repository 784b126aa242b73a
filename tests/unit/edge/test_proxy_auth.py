"""Proxy tokens in all the ways in which clients show them."""

import hashlib
import time

import pytest

from pilotlight.core.web_tokens import web_token
from pilotlight.edge.ports.heads import Peer, read_request, request_bytes
from pilotlight.edge.proxy_auth import ProxyAuth
from pilotlight.edge.refusals import Refusal
from pilotlight.edge.scopes import app_scope, head_of
from pilotlight.wire.platform_pb2 import ProxyToken, WebRoute

KEY = bytes(range(32))
HOST = b"main--a-f.modal-dev.direct:9980"
ROUTE = WebRoute(title="a.f", requires_proxy_auth=True, environment_id="en-1")


def auth(**fields: object) -> ProxyAuth:
    checked = ProxyAuth(KEY)
    checked.set([ProxyToken(token_id="wk-1", secret_hash=hashlib.sha256(b"ws-1").hexdigest(), **fields)])  # type: ignore[arg-type]
    return checked


def test_a_token_is_taken_from_its_headers_or_from_authorization() -> None:
    auth().check(ROUTE, {b"modal-key": b"wk-1", b"modal-secret": b"ws-1"})
    auth().check(ROUTE, {b"authorization": b"Bearer wk-1.ws-1"})
    auth(scoped=True, environment_ids=["en-1"]).check(ROUTE, {b"authorization": b"bearer wk-1.ws-1"})


def test_the_owner_of_an_api_token_may_enter_one_host() -> None:
    token = web_token(KEY, "main--a-f.modal-dev.direct", time.time()).encode()
    auth().check(ROUTE, {b"host": HOST, b"modal-authorization": b"Bearer " + token})
    with pytest.raises(Refusal):
        auth().check(ROUTE, {b"host": b"other.modal-dev.direct", b"modal-authorization": b"Bearer " + token})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"modal-key": b"wk-1"},
        {b"modal-key": b"wk-1", b"modal-secret": b"ws-2"},
        {b"modal-key": b"wk-2", b"modal-secret": b"ws-1"},
        {b"authorization": b"Basic wk-1.ws-1"},
        {b"authorization": b"Bearer wk-1"},
        {b"modal-authorization": b"Bearer wk-1.ws-1", b"host": HOST},
    ],
)
def test_all_else_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Refusal) as refused:
        auth().check(ROUTE, headers)
    assert refused.value.status == 401


def test_a_token_of_another_environment_is_refused() -> None:
    with pytest.raises(Refusal):
        auth(scoped=True, environment_ids=["en-2"]).check(ROUTE, {b"modal-key": b"wk-1", b"modal-secret": b"ws-1"})


CREDENTIALS = [
    (b"modal-secret", b"ws-1"),
    (b"authorization", b"Bearer wk-1.ws-1"),
    (b"modal-authorization", b"Bearer eyJ0.ws-1"),
]


@pytest.mark.parametrize("shown", CREDENTIALS)
def test_what_opened_the_door_stays_outside(shown: tuple[bytes, bytes]) -> None:
    assert shown not in _told_to_an_app(shown)
    assert b"ws-1" not in _told_to_a_port(shown)


@pytest.mark.parametrize("own", [b"Bearer of-the-app", b"Basic d2s6d3M=", b"Bearer"])
def test_what_the_app_asks_for_itself_gets_there(own: bytes) -> None:
    header = (b"authorization", own)
    assert header in _told_to_an_app(header)
    assert b"authorization: " + own in _told_to_a_port(header)


def _told_to_an_app(header: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    scope = {
        **{"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/", "query_string": b""},
        **{"client": ("192.0.2.1", 1), "headers": [(b"host", HOST), header]},
    }
    return app_scope(scope, head_of(scope), is_guarded=True)["headers"]


def _told_to_a_port(header: tuple[bytes, bytes]) -> bytes:
    head = read_request(b"GET", b"/", "1.1", [(b"host", HOST), header])
    return request_bytes(head, Peer("192.0.2.1", "http", is_trusted=False), "fc-1", hides_proxy_auth=True)
