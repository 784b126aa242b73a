"""Web functions at the edge, on real sockets: real HTTP clients on one side, ASGI apps behind a node of the test on the other."""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from modal_proto import api_pb2
from support.web_platform import DEADLINE_S, FUNCTION, Aside, WebPlatform, route, web_platform

from pilotlight.config import Settings
from pilotlight.core.blobs import BlobUrls
from pilotlight.edge.app import own_pages
from pilotlight.edge.metrics import EdgeMetrics
from pilotlight.objects import Objects
from pilotlight.objects.keys import load_or_create_key
from pilotlight.wire.platform_pb2 import DropRoute, EdgeCommand, ProxyToken, ProxyTokens, WebRoute

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


async def raw(platform: WebPlatform, request: bytes, until: bytes | None = None) -> bytes:
    """What comes in answer to these bytes, up to `until` or the connection's end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
    writer.write(request)
    async with asyncio.timeout(DEADLINE_S):
        answer = await (reader.readuntil(until) if until else reader.read())
    writer.close()
    return answer


def head(platform: WebPlatform, line: bytes, *more: bytes) -> bytes:
    host = f"host: site.localhost:{platform.port}".encode()
    return b"\r\n".join((line + b" HTTP/1.1", host, *more, b"", b""))


def test_methods_without_bodies(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/none":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            return await send({"type": "http.response.body", "body": b"not allowed here"})
        return await reply(send, b"twelve bytes", headers=[(b"x-method", scope["method"].encode())])

    async def scenario(platform: WebPlatform) -> None:
        answer = await raw(platform, head(platform, b"HEAD /", b"connection: close"))
        assert b"content-length: 12\r\n" in answer and b"x-method: HEAD" in answer and answer.endswith(b"\r\n\r\n")
        options = await platform.http.options(platform.url())
        assert (options.status_code, options.headers["x-method"]) == (200, "OPTIONS")
        for _ in range(2):  # the connection stays in order
            none = await platform.http.get(platform.url("/none"))
            assert (none.status_code, none.content) == (204, b"")

    play(tmp_path, app, scenario)


def test_headers_of_all_kinds(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope["headers"])
        headers = [(b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"x-binary", given[b"x-binary"])]
        of_the_connection = [(b"connection", b"close"), (b"transfer-encoding", b"gzip"), (b"keep-alive", b"timeout=1")]
        await reply(send, b"ok", headers=[*headers, *of_the_connection, (b"x-request-id", b"the app's own")])

    async def scenario(platform: WebPlatform) -> None:
        answer = await raw(platform, head(platform, b"GET /", b"x-binary: \xe9\xff\x80"), b"\r\n\r\nok")
        assert b"x-binary: \xe9\xff\x80\r\n" in answer
        assert b"set-cookie: a=1\r\nset-cookie: b=2\r\n" in answer
        assert answer.count(b"x-request-id") == 1 and b"x-request-id: the app's own" in answer
        for name in (b"connection", b"transfer-encoding", b"keep-alive"):
            assert name + b":" not in answer
        assert await raw(platform, head(platform, b"GET /", b"x-binary: 1", b"connection: close"), None)

    play(tmp_path, app, scenario)


def test_pieces_are_sent_as_they_come_and_a_client_that_leaves_is_noticed(tmp_path: Path) -> None:
    go_on, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async def scenario(platform: WebPlatform) -> None:
        async with platform.http.stream("GET", platform.url()) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"data: 1\n\n"
            go_on.set()
            assert await anext(pieces) == b"data: 2\n\n"
        async with asyncio.timeout(DEADLINE_S):
            await left.wait()
        await platform.server.until(lambda server: server.requests and not server.loads[-1].running)

    play(tmp_path, app, scenario)


def test_large_bodies_pass_in_flat_memory(tmp_path: Path) -> None:
    size = 300 << 20

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received, more = 0, True
        while more:
            message = await receive()
            received, more = received + len(message["body"]), message["more_body"]
        if scope["path"] == "/up":
            return await reply(send, str(received).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        for _ in range(size >> 20):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        return await send({"type": "http.response.body", "body": b""})

    async def scenario(platform: WebPlatform) -> None:
        await platform.http.get(platform.url("/up"))
        before_mib = platform.resident_mib()
        highest_mib = before_mib

        async def pieces() -> Any:
            nonlocal highest_mib
            for _ in range(size >> 20):
                highest_mib = max(highest_mib, platform.resident_mib())
                yield bytes(1 << 20)

        for headers in ({}, {"content-length": str(size)}):
            answer = await platform.http.post(platform.url("/up"), content=pieces(), headers=headers)
            assert answer.text == str(size)
        received = 0
        async with platform.http.stream("GET", platform.url("/down")) as response:
            async for piece in response.aiter_raw():
                received += len(piece)
                highest_mib = max(highest_mib, platform.resident_mib())
        assert received == size
        assert highest_mib - before_mib < 64
        assert platform.node.received_messages < 2 * (size >> 20) + 100  # joined, not in pieces of a packet each

    play(tmp_path, app, scenario)


def test_a_client_that_does_not_read_stops_the_app(tmp_path: Path) -> None:
    sent = 0
    quiet = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                async with asyncio.timeout(1):  # nobody takes it any more
                    await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
                sent += 1
        except TimeoutError:
            quiet.set()
            raise

    async def scenario(platform: WebPlatform) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", platform.port, limit=1024)
        writer.write(head(platform, b"GET /"))
        async with asyncio.timeout(DEADLINE_S):
            await quiet.wait()
        assert sent < 32
        writer.close()

    play(tmp_path, app, scenario)


def test_an_upload_is_announced_and_invited(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
        writer.write(head(platform, b"POST /", b"content-length: 5", b"expect: 100-continue"))
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hello")
            answer = await reader.readuntil(b"}")
        assert b"200 OK" in answer and b'"body": "hello"' in answer
        writer.write(head(platform, b"POST /", b"content-length: 4294967297", b"expect: 100-continue"))
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        writer.close()

    play(tmp_path, mirror, scenario)


def test_a_slow_upload_gets_to_the_app_as_it_comes(tmp_path: Path) -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            if message["body"]:
                seen.put_nowait(message["body"])
        await reply(send, b"done")

    async def scenario(platform: WebPlatform) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
        writer.write(head(platform, b"POST /", b"transfer-encoding: chunked"))
        async with asyncio.timeout(DEADLINE_S):
            for piece in (b"one", b"three"):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                assert await seen.get() == piece
            writer.write(b"0\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"done")
        writer.close()

    play(tmp_path, app, scenario)


def test_an_app_may_answer_before_it_has_read_the_body(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"enough", status=403)

    async def scenario(platform: WebPlatform) -> None:
        size = 8 << 20
        request = head(platform, b"POST /", b"content-length: %d" % size) + bytes(size) + head(platform, b"GET /")
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(2):
                assert b"403 Forbidden" in await reader.readuntil(b"enough")
        writer.close()

    play(tmp_path, app, scenario)


def test_responses_that_http_does_not_allow_are_errors(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        kind = scope["path"]
        headers = {"/header": [(b"x", b"a\r\nb: c")], "/name": [(b"x y", b"1")], "/length": [(b"content-length", b"-1")]}
        if kind in headers:
            await send({"type": "http.response.start", "status": 200, "headers": headers[kind]})
        elif kind == "/status":
            await send({"type": "http.response.start", "status": 99, "headers": []})
        elif kind == "/body":
            await send({"type": "http.response.body", "body": b"x"})
        elif kind in ("/short", "/long"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"abc" if kind == "/short" else b"abcdefgh"})
        elif kind == "/raises":
            raise ValueError("a secret")
        elif kind == "/raises-later":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError("a secret")

    async def scenario(platform: WebPlatform) -> None:
        for kind in ("header", "name", "length", "status", "body"):
            response = await platform.http.get(platform.url(f"/{kind}"))
            assert (response.status_code, response.text[:7]) == (502, "the app"), kind
        for kind in ("raises", "silent"):
            response = await platform.http.get(platform.url(f"/{kind}"))
            assert response.status_code == 500
            assert response.headers["x-request-id"] in response.text and "secret" not in response.text
        for kind in ("short", "long", "raises-later"):
            with pytest.raises(httpx.RemoteProtocolError):
                await platform.http.get(platform.url(f"/{kind}"))

    play(tmp_path, app, scenario)


@pytest.mark.parametrize(("name", "value"), [(b"x-a", b"b\r\nx-c: d"), (b"content-length", b"1")])
def test_a_client_does_not_wait_for_an_app_whose_response_was_given_up(tmp_path: Path, name: bytes, value: bytes) -> None:
    was_told, may_end = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(name, value)]})
        await send({"type": "http.response.body", "body": b"too long", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        was_told.set()
        await may_end.wait()

    async def scenario(platform: WebPlatform) -> None:
        answer = await raw(platform, head(platform, b"GET /", b"connection: close"))
        assert answer.startswith(b"HTTP/1.1 502 " if name == b"x-a" else b"HTTP/1.1 200 ") and b"too long" not in answer
        await was_told.wait()
        may_end.set()
        await platform.server.until(lambda server: server.loads and not server.loads[-1].running)

    play(tmp_path, app, scenario)


def test_requests_sent_ahead_are_answered_in_order(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, scope["path"].encode())

    async def scenario(platform: WebPlatform) -> None:
        answer = await raw(platform, b"".join(head(platform, b"GET /n%d" % number) for number in range(5)), b"/n4")
        assert re.findall(rb"/n(\d)", answer) == [b"0", b"1", b"2", b"3", b"4"]

    play(tmp_path, app, scenario)


def test_hosts(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        async def status(host: str) -> tuple[int, str]:
            response = await platform.http.get(f"http://127.0.0.1:{platform.port}/healthz", headers={"host": host})
            return response.status_code, response.text

        assert (await status("SITE.LocalHost:1"))[0] == (await status("api.example.com"))[0] == 200
        assert (await status("site.localhost"))[1].startswith("{")
        assert await status("localhost") == await status("127.0.0.1") == await status("other.example.com") == (200, "ok\n")
        assert (await status("nothing.localhost"))[0] == 404
        code, text = await status("over.localhost")
        assert code == 404 and "stopped" in text
        await platform.server.tell(EdgeCommand(drop_route=DropRoute(label="site")))
        await platform.server.tell(route("later"))
        await until_found(platform, "later")
        assert (await status("site.localhost"))[0] == (404)
        assert await status("api.example.com") == (200, "ok\n")

    commands = [route(custom_domains=["API.example.com"]), route("over", stopped=True)]
    play(tmp_path, mirror, scenario, commands=commands)


def test_a_url_as_target_decides_the_host_for_all_who_ask_for_it(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        async def asked(target: bytes, host: bytes) -> bytes:
            return await raw(platform, b"GET " + target + b" HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n")

        served = await asked(b"http://site.localhost/a?b", b"127.0.0.1")
        assert served.startswith(b"HTTP/1.1 200 ")
        seen = json.loads(served.partition(b"\r\n\r\n")[2])
        assert (seen["path"], seen["query"], seen["headers"][0]) == ("/a", "b", ["host", "site.localhost"])
        assert (await asked(b"http://127.0.0.1/healthz", b"site.localhost")).endswith(b"ok\n")

    play(tmp_path, mirror, scenario)


@pytest.mark.parametrize("kind", [WebRoute.ASGI, WebRoute.PORT])
def test_signed_urls_are_the_platforms_own_at_every_host(tmp_path: Path, kind: WebRoute.Kind.ValueType) -> None:
    """A function's domain may be the name by which clients reach the machine, also for their blobs."""

    async def scenario(platform: WebPlatform) -> None:
        key = load_or_create_key(platform.settings.keys_dir / "signing.key")
        urls = BlobUrls(key, f"http://127.0.0.1:{platform.port}")
        as_client = {"host": "buildbox.lan"}
        assert (await platform.http.put(urls.upload_url("bl-1", 3), content=b"abc", headers=as_client)).status_code == 200
        assert (await platform.http.get(urls.download_url("bl-1"), headers=as_client)).content == b"abc"
        for other in (urls.download_url("bl-1") + "x", urls.upload_url("bl-1", 3), f"http://127.0.0.1:{platform.port}/healthz"):
            answer = await platform.http.get(other, headers=as_client)
            assert answer.content != b"abc" and answer.headers["x-request-id"].startswith("fc-")  # of the function

    played = route(custom_domains=["buildbox.lan"], kind=kind, port=1)
    play(tmp_path, mirror, scenario, commands=[played], web_redirect_after_s=5)


def test_the_address_that_clients_print_of_an_app_says_what_to_do(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        url = f"http://127.0.0.1:{platform.port}/apps/"
        page = await platform.http.get(f"{url}ap-1a")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain")
        assert "modal app logs ap-1a " in page.text and "pilotlight status" in page.text
        for other in ("fu-1a", "ap-%3Cb%3E", "ap-"):
            assert (await platform.http.get(url + other)).status_code == 404

    play(tmp_path, mirror, scenario)


def test_pages_of_apps_are_not_for_containers(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings, objects = Settings(state=tmp_path), Objects(tmp_path / "objects")
        pages = own_pages(settings, objects, b"key", EdgeMetrics())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(pages)) as http:
            statuses = [
                (await http.get(f"http://{address}/{path}")).status_code
                for address in ("127.0.0.1", settings.link_local_address)
                for path in ("apps/ap-1a", "healthz")
            ]
            assert statuses == [200, 200, 404, 200]
        objects.close()

    asyncio.run(scenario())


async def until_found(platform: WebPlatform, label: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.http.get(platform.url(label=label))).status_code == 404:
            pass


def test_proxy_tokens_are_checked_before_anything_starts(tmp_path: Path) -> None:
    def token(name: str, secret: str, **more: Any) -> ProxyToken:
        return ProxyToken(token_id=name, secret_hash=hashlib.sha256(secret.encode()).hexdigest(), **more)

    tokens = [
        token("wk-1", "ws-1"),
        token("wk-2", "ws-2", scoped=True, environment_ids=["en-1"]),
        token("wk-3", "ws-3", scoped=True, environment_ids=["en-2"]),
    ]

    async def scenario(platform: WebPlatform) -> None:
        async def ask(**headers: str) -> Any:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await platform.http.get(platform.url(label="shut"), headers=named)

        for key, secret in (("wk-1", "ws-2"), ("wk-9", "ws-1"), ("wk-3", "ws-3"), ("", "")):
            assert (await ask(modal_key=key, modal_secret=secret)).status_code == 401
        assert (await ask()).status_code == (await ask(modal_key="wk-1")).status_code == 401
        assert platform.node.opened == [] and platform.server.loads == []
        for key, secret in (("wk-1", "ws-1"), ("wk-2", "ws-2")):
            answer = await ask(modal_key=key, modal_secret=secret)
            assert answer.status_code == 200
            assert secret not in answer.text  # the app has no use for it
        await platform.server.tell(EdgeCommand(proxy_tokens=ProxyTokens()), route("later"))
        await until_found(platform, "later")
        assert (await ask(modal_key="wk-1", modal_secret="ws-1")).status_code == 401

    shut = route("shut", requires_proxy_auth=True, environment_id="en-1")
    play(tmp_path, mirror, scenario, commands=[shut, EdgeCommand(proxy_tokens=ProxyTokens(tokens=tokens))])


def test_a_proxy_on_this_machine_says_who_asks(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        headers = {"x-forwarded-for": "6.6.6.6, 203.0.113.9, 127.0.0.1", "x-forwarded-proto": "https"}
        seen = (await platform.http.get(platform.url(), headers=headers)).json()
        assert (seen["client"], seen["scheme"]) == (["203.0.113.9", 0], "https")

    play(tmp_path, mirror, scenario)


def test_a_message_that_was_put_aside_is_fetched_and_removed(tmp_path: Path) -> None:
    size = 50 << 20

    async def scenario(platform: WebPlatform) -> None:
        objects = Objects(platform.settings.objects_dir)
        body = api_pb2.Asgi.HttpResponseBody(body=os.urandom(size), more_body=True)
        await objects.put("blobs/bl-1", api_pb2.Asgi(http_response_body=body).SerializeToString())
        response = await platform.http.get(platform.url())
        assert response.content == body.body + b"."
        assert not await objects.exists("blobs/bl-1")
        objects.close()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send(Aside("bl-1"))
        await send({"type": "http.response.body", "body": b"."})

    play(tmp_path, app, scenario)


def test_the_server_is_told_of_what_was_served(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        response = await platform.http.post(platform.url("/x"), content=b"12345")
        await platform.server.until(lambda server: server.requests)
        [request] = platform.server.requests
        assert request.call_id == response.headers["x-request-id"]
        assert (request.function_id, request.task_id, request.method, request.path) == (FUNCTION, "ta-1", "POST", "/x")
        assert (request.status, request.bytes_in, request.bytes_out) == (200, 5, len(response.content))
        assert request.seconds >= request.waited_s >= 0 and request.began_at_ns
        metrics = (await platform.http.get(f"http://127.0.0.1:{platform.port}/metrics")).text
        assert 'pilotlight_web_requests_total{function="app.site",status="200"} 1.0' in metrics
        assert 'pilotlight_web_request_seconds_count{function="app.site"} 1.0' in metrics

    play(tmp_path, mirror, scenario)
