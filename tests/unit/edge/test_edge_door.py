"""What the door lets in, and what it says to the others."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from pilotlight.edge.admission import MAX_BODY_BYTES, Door, Head, wanted
from pilotlight.edge.dispatch import Dispatch
from pilotlight.edge.proxy_auth import ProxyAuth
from pilotlight.edge.rates import Rates
from pilotlight.edge.refusals import Refusal
from pilotlight.edge.routes import Routes
from pilotlight.edge.waiting import earlier_call, see_other
from pilotlight.wire.platform_pb2 import ProxyToken, WebFunction, WebRoute, WebTask


async def bind(function_id: str, parameters: Mapping[str, str]) -> str:
    return function_id + "".join(f"/{name}={value}" for name, value in sorted(parameters.items()))


def door(clock: Any = lambda: 0.0, per_function: int = 0, in_all: int = 0, **more: Any) -> Door:
    routes, auth = Routes("localhost"), ProxyAuth(b"key")
    routes.keep_only(())
    routes.set(WebRoute(**{"label": "site", "function_id": "fu", "title": "app.site", **more}))
    auth.set([ProxyToken(token_id="wk", secret_hash=hashlib.sha256(b"ws").hexdigest())])
    dispatch = Dispatch(10, lambda function_id, is_urgent: None)
    dispatch.set_function(WebFunction(function_id="fu", tasks=[WebTask(task_id="ta", slots=1)]))
    return Door(routes, auth, Rates(per_function, in_all, clock), dispatch, bind)


def head(query: bytes = b"", **headers: str) -> Head:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Head("GET", query, {b"host": b"site.localhost", **named})


def refusal(door: Door, asked: Head) -> Refusal:
    with pytest.raises(Refusal) as refused:
        asyncio.run(door.enter(asked))
    return refused.value


def test_a_request_is_admitted_with_a_container() -> None:
    admission = asyncio.run(door().admit(head()))
    assert (admission.entry.function_id, admission.slot.task.task_id) == ("fu", "ta")
    assert admission.entry.headers[0] == (b"x-request-id", admission.entry.call_id.encode())


def test_what_is_not_there_is_denied_only_once_the_server_has_said_what_is() -> None:
    routes = Routes("localhost")
    empty = Door(routes, ProxyAuth(b"key"), Rates(0, 0), Dispatch(10, lambda function_id, is_urgent: None), bind)
    early = refusal(empty, head())
    assert (early.status, dict(early.headers)[b"retry-after"]) == (503, b"1")
    routes.keep_only(())
    assert refusal(empty, head()).status == 404


def test_tokens_come_before_rates() -> None:
    shut = door(requires_proxy_auth=True, per_function=1)
    for _ in range(20):
        assert refusal(shut, head(modal_key="wk", modal_secret="wrong")).status == 401
    assert asyncio.run(shut.enter(head(modal_key="wk", modal_secret="ws"))).function_id == "fu"


def test_rates_of_one_and_of_all() -> None:
    for limits in ({"per_function": 1}, {"in_all": 1}, {"per_function": 3, "in_all": 1}):
        limited = door(**limits)
        for _ in range(5):
            asyncio.run(limited.enter(head()))
        refused = refusal(limited, head())
        assert refused.status == 429 and (b"retry-after", b"1") in refused.headers


def test_bodies_beyond_the_limit() -> None:
    assert refusal(door(), head(content_length=str(MAX_BODY_BYTES + 1))).status == 413
    assert asyncio.run(door().enter(head(content_length=str(MAX_BODY_BYTES)))).function_id == "fu"


def test_parameters_of_the_query_choose_the_containers() -> None:
    entry = asyncio.run(door(parameters=["size", "name"]).enter(head(b"name=a%20b&other=1&size=2&size=3")))
    assert entry.function_id == "fu/name=a b/size=3"
    assert wanted(["empty"], b"empty=&x=1") == {"empty": ""}


def test_the_way_back_to_a_request_that_waits() -> None:
    status, headers = see_other(b"/a%2Fb", b"x=1", "fc-1")
    location = dict(headers)[b"location"]
    assert (status, location) == (303, b"/a%2Fb?x=1&__modal_function_call_id=fc-1")
    assert earlier_call(location.partition(b"?")[2]) == "fc-1"
    assert dict(see_other(b"/a", b"__modal_function_call_id=fc-1", "fc-1")[1])[b"location"].count(b"fc-1") == 1
    assert earlier_call(b"x__modal_function_call_id=fc-1") is None and earlier_call(b"__modal_function_call_id=bad%20") is None
    assert dict(see_other(b"//evil.example/", b"", "fc-1")[1])[b"location"].startswith(b"/.//evil")
