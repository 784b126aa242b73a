"""WebSockets through the edge, by the websockets library as the client and ASGI apps behind a node of the test."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.web_platform import DEADLINE_S, Aside, Died, WebPlatform, web_platform
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pilotlight.edge.websockets import MAX_MESSAGE_BYTES

Scenario = Callable[[WebPlatform], Awaitable[None]]


def play(tmp_path: Path, app: Any, scenario: Scenario, *slots: int, **more: Any) -> None:
    async def run() -> None:
        async with web_platform(tmp_path, app, *slots, **more) as platform, asyncio.timeout(DEADLINE_S):
            await scenario(platform)

    asyncio.run(run())


def address(platform: WebPlatform, path: str = "/") -> str:
    return platform.url(path, scheme="ws")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Sends back what it gets; "close" and "fail" do so; "/shut" lets nobody in."""
    assert scope["type"] == "websocket" and scope["scheme"] == "ws"
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/shut":
        return await send({"type": "websocket.close"})
    protocols = scope["subprotocols"]
    headers = [(b"x-seen", b"\xff"), (b"x-path", scope["path"].encode())]
    await send({"type": "websocket.accept", "subprotocol": protocols[-1] if protocols else None, "headers": headers})
    while (message := await receive())["type"] == "websocket.receive":
        if message["text"] == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
        elif message["text"] == "fail":
            raise ValueError("a secret")
        elif message["text"] == "die":
            raise Died("killed")
        else:
            await send(
                {"type": "websocket.send", **{name: message[name] for name in ("text", "bytes") if message[name] is not None}}
            )
    return None


def test_messages_go_both_ways(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        async with connect(address(platform, "/a%2Fb"), subprotocols=["one", "two"], max_size=None) as client:  # type: ignore[list-item]
            assert client.subprotocol == "two"
            assert client.response is not None
            assert client.response.headers["x-path"] == "/a/b"
            assert client.response.headers["x-request-id"].startswith("fc-")
            for message in ("", "text ÿ", b"", b"\x00\xff", "x" * MAX_MESSAGE_BYTES, bytes(MAX_MESSAGE_BYTES)):
                await client.send(message)
                assert await client.recv() == message
            await client.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")
        await platform.server.until(lambda server: server.requests)
        assert (platform.server.requests[0].status, platform.server.requests[0].path) == (101, "/a/b")

    play(tmp_path, echo, scenario, 5)


@pytest.mark.parametrize(("word", "code"), [("fail", 1011), ("die", 1011), ("x" * (MAX_MESSAGE_BYTES + 1), 1009)])
def test_ends_have_codes(tmp_path: Path, word: str, code: int) -> None:
    async def scenario(platform: WebPlatform) -> None:
        async with connect(address(platform)) as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.send(word)
                await client.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == code
            assert "secret" not in closed.value.rcvd.reason

    play(tmp_path, echo, scenario, 5)


def test_handshakes_that_are_refused(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        async def status(url: str) -> int:
            with pytest.raises(InvalidStatus) as refused:
                await connect(url)
            had_entry = url.startswith(address(platform, ""))
            assert refused.value.response.headers.get("x-request-id", "").startswith("fc-") is had_entry
            return refused.value.response.status_code

        assert await status(address(platform, "/shut")) == 403
        assert await status(platform.url(label="nothing", scheme="ws")) == 404
        assert await status(f"ws://127.0.0.1:{platform.port}/") == 403
        platform.node.deaths = 3
        assert await status(address(platform)) == 502

    play(tmp_path, echo, scenario, 1, 1, 1)


@pytest.mark.parametrize("is_clean", [True, False])
def test_the_app_learns_that_its_client_has_gone(tmp_path: Path, is_clean: bool) -> None:
    codes: asyncio.Queue[int] = asyncio.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        while message["type"] == "websocket.receive":
            message = await receive()
        codes.put_nowait(message["code"])

    async def scenario(platform: WebPlatform) -> None:
        client = await connect(address(platform))
        await client.send("last words")
        if is_clean:
            await client.close(4444)
        else:
            client.transport.abort()
        assert await codes.get() == (4444 if is_clean else 1005)
        await platform.server.until(lambda server: server.loads and not server.loads[-1].running)

    play(tmp_path, app, scenario, 1)


def test_a_client_that_leaves_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        opening = asyncio.ensure_future(connect(address(platform)).__aenter__())
        await platform.server.until(lambda server: server.loads and server.loads[-1].waiting == 1)
        opening.cancel()
        await platform.server.until(lambda server: server.loads[-1].waiting == 0)
        assert platform.node.opened == []

    play(tmp_path, echo, scenario)


def test_an_app_may_talk_without_being_asked_and_end_first(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(100):
            await send({"type": "websocket.send", "text": str(number)})

    async def scenario(platform: WebPlatform) -> None:
        async with connect(address(platform)) as client:
            assert [message async for message in client] == [str(number) for number in range(100)]
            assert client.close_code == 1000

    play(tmp_path, app, scenario, 1)


@pytest.mark.parametrize(
    "said",
    [
        {"type": "websocket.accept", "headers": [(b"x-a", b"b\r\nx-c: d")]},
        {"type": "websocket.accept", "headers": [(b"x a", b"b")]},
        {"type": "websocket.accept", "headers": [], "subprotocol": "one\r\nx-c: d"},
        {"type": "http.response.start", "status": 200, "headers": []},
        Aside("bl-nothing"),
    ],
)
def test_a_client_does_not_wait_for_an_app_whose_answer_is_none(tmp_path: Path, said: Any) -> None:
    was_told, may_end = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send(said)
        assert (await receive())["type"] == "websocket.disconnect"
        was_told.set()
        await may_end.wait()

    async def scenario(platform: WebPlatform) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(address(platform), subprotocols=["one"])  # type: ignore[list-item]
        assert refused.value.response.status_code in (500, 502)
        assert "x-c" not in refused.value.response.headers
        await was_told.wait()
        may_end.set()
        await platform.server.until(lambda server: server.loads and not server.loads[-1].running)

    play(tmp_path, app, scenario, 1)


def test_a_connection_that_breaks_on_our_side_is_closed_before_the_app_ends(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send(Aside("bl-nothing"))
        assert (await receive())["type"] == "websocket.disconnect"
        await may_end.wait()

    async def scenario(platform: WebPlatform) -> None:
        async with connect(address(platform)) as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
        may_end.set()
        await platform.server.until(lambda server: server.loads and not server.loads[-1].running)

    play(tmp_path, app, scenario, 1)


def test_headers_of_the_connection_are_not_for_the_app_to_set(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"Connection", b"close"), (b"content-length", b"3"), (b"x-a", b"b"), (b"x-request-id", b"mine")]
        await send({"type": "websocket.accept", "headers": headers})
        await send({"type": "websocket.send", "text": "hello"})

    async def scenario(platform: WebPlatform) -> None:
        async with connect(address(platform)) as client:
            assert client.response is not None
            headers = client.response.headers
            assert headers.get_all("connection") == ["Upgrade"] and "content-length" not in headers
            assert (headers["x-a"], headers.get_all("x-request-id")) == ("b", ["mine"])
            assert await client.recv() == "hello"

    play(tmp_path, app, scenario, 1)
