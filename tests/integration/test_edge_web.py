"""Web functions at the edge, on real sockets: real HTTP clients on one side, ASGI apps behind a node of the test on the other."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.web_platform import WebPlatform, web_platform

Scenario = Callable[[WebPlatform], Awaitable[None]]


def play(tmp_path: Path, app: Any, scenario: Scenario, *slots: int, **more: Any) -> None:
    async def run() -> None:
        async with web_platform(tmp_path, app, *(slots or (10,)), **more) as platform:
            await scenario(platform)

    asyncio.run(run())


async def body_of(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        if not message["more_body"]:
            return body


async def reply(send: Any, body: bytes = b"", status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def mirror(scope: Any, receive: Any, send: Any) -> None:
    """Says what it was asked."""
    body = await body_of(receive)
    seen = {name: scope[name] for name in ("method", "path", "scheme", "root_path", "http_version")}
    seen |= {"query": scope["query_string"].decode(), "body": body.decode("latin-1"), "client": scope["client"]}
    seen["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
    await reply(send, json.dumps(seen).encode(), headers=[(b"content-type", b"application/json")])


def test_a_request_gets_to_the_app_and_its_response_back(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        response = await platform.http.get(platform.url("/a%2Fb/?x=1&y="), headers=[("x-two", "1"), ("x-two", "2")])
        assert response.status_code == 200
        seen = response.json()
        assert (seen["method"], seen["path"], seen["query"], seen["body"]) == ("GET", "/a/b/", "x=1&y=", "")
        assert (seen["scheme"], seen["root_path"], seen["http_version"]) == ("http", "", "1.1")
        assert seen["client"][0] == "127.0.0.1"
        assert [value for name, value in seen["headers"] if name == "x-two"] == ["1", "2"]
        call_id = response.headers["modal-function-call-id"]
        assert call_id.startswith("fc-") and response.headers["x-request-id"] == call_id
        assert platform.node.opened[0].call_id == call_id
        posted = await platform.http.post(platform.url("/p"), content=b"\xff\x00" * 1000)
        assert posted.json()["body"] == "\xff\x00" * 1000
        assert platform.node.connections == 1

    play(tmp_path, mirror, scenario)
