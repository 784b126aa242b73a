"""Which container gets a web request, who waits, what a dead one means, and what the server is told and tells."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.web_platform import DEADLINE_S, FUNCTION, Died, WebPlatform, route, web_platform

from pilotlight.edge.waiting import CALL_ID_PARAMETER
from pilotlight.wire.platform_pb2 import DropFunction, EdgeCommand, FailWaiting

Scenario = Callable[[WebPlatform], Awaitable[None]]


def play(tmp_path: Path, app: Any, scenario: Scenario, *slots: int, **more: Any) -> None:
    async def run() -> None:
        async with web_platform(tmp_path, app, *slots, **more) as platform:
            await scenario(platform)

    asyncio.run(run())


async def say(send: Any, text: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


class Held:
    """An app whose requests wait until they are let go; each is answered with its number."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = asyncio.Condition()
        self._free = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._changed:
            self.begun.append(scope["path"])
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._free > 0)
            self._free -= 1
        await say(send, scope["path"])

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= count)

    async def let_go(self, count: int) -> None:
        async with self._changed:
            self._free += count
            self._changed.notify_all()


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    await say(send, "ok")


def asking(platform: WebPlatform, path: str = "/", **more: Any) -> "asyncio.Task[httpx.Response]":
    return asyncio.ensure_future(platform.http.get(platform.url(path), **more))


def test_the_emptiest_container_is_asked_and_none_gets_more_than_its_slots(tmp_path: Path) -> None:
    app = Held()

    async def scenario(platform: WebPlatform) -> None:
        requests = [asking(platform, f"/{number}") for number in range(6)]
        await app.until_begun(5)
        await platform.server.until(lambda server: server.loads and server.loads[-1].waiting == 1)
        assert dict(platform.server.loads[-1].running) == {"ta-1": 2, "ta-2": 3}
        assert sorted(opened.task_id for opened in platform.node.opened[:4]) == ["ta-1", "ta-1", "ta-2", "ta-2"]
        await app.let_go(6)
        assert {request.text for request in await asyncio.gather(*requests)} == {f"/{number}" for number in range(6)}
        await platform.server.until(lambda server: not server.loads[-1].waiting and not server.loads[-1].running)

    play(tmp_path, app, scenario, 2, 3)


def test_requests_wait_for_a_container_in_their_order(tmp_path: Path) -> None:
    app = Held()

    async def scenario(platform: WebPlatform) -> None:
        requests: list[Any] = []
        for number in range(1, 4):
            requests.append(asking(platform, f"/{number}"))
            await platform.server.until(lambda server: server.loads and server.loads[-1].waiting == len(requests))
        leaving = asking(platform, "/leaves")
        await platform.server.until(lambda server: server.loads[-1].waiting == 4)
        leaving.cancel()
        await platform.server.until(lambda server: server.loads[-1].waiting == 3)
        await app.let_go(3)
        await platform.tasks(1)
        await asyncio.gather(*requests)
        assert app.begun == ["/1", "/2", "/3"]
        await platform.server.until(lambda server: {request.status for request in server.requests} == {200, 499})

    play(tmp_path, app, scenario)


def test_a_full_queue_refuses_and_a_failed_start_answers_all(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        await platform.tasks(max_waiting=2)
        waiting = [asking(platform), asking(platform)]
        await platform.server.until(lambda server: server.loads and server.loads[-1].waiting == 2)
        refused = await platform.http.get(platform.url())
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        why = FailWaiting(function_id=FUNCTION, status=500, why="could not start: ImportError")
        await platform.server.tell(EdgeCommand(fail_waiting=why))
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.text) == (500, "could not start: ImportError\n")
        last = asking(platform)
        await platform.server.until(lambda server: server.loads[-1].waiting == 1)
        await platform.server.tell(EdgeCommand(drop_function=DropFunction(function_id=FUNCTION)))
        assert (await last).status_code == 404

    play(tmp_path, at_once, scenario)


def test_rates_are_kept(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        for _ in range(10):
            assert (await platform.http.get(platform.url())).status_code == 200
        while (answer := await platform.http.get(platform.url())).status_code == 200:
            pass  # as many as become due meanwhile
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")

    play(tmp_path, at_once, scenario, 5, web_rate_limit=2)


def test_a_container_that_refuses_is_passed_over(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        platform.node.refusals = 2
        answer = await platform.http.post(platform.url(), content=b"once")
        assert answer.status_code == 200
        assert [opened.task_id for opened in platform.node.opened][:2] == ["ta-1", "ta-2"]
        assert len(platform.node.opened) == 3
        assert len({opened.call_id for opened in platform.node.opened}) == 1

    play(tmp_path, at_once, scenario, 1, 1)


def test_what_no_container_had_is_given_to_another(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        platform.node.deaths = 2
        assert (await platform.http.post(platform.url(), content=b"x")).status_code == 200
        assert len(platform.node.opened) == 3
        platform.node.deaths = 3
        answer = await platform.http.get(platform.url())
        assert answer.status_code == 502 and answer.headers["x-request-id"] in answer.text

    play(tmp_path, at_once, scenario, 1, 1)


def test_what_a_container_had_is_repeated_only_where_it_is_safe(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append((scope["method"], scope["path"]))
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise Died("killed")
        if len(asked) == 1:
            raise Died("killed")
        await say(send, "ok")

    async def scenario(platform: WebPlatform) -> None:
        assert (await platform.http.get(platform.url())).status_code == 200
        assert asked == [("GET", "/")] * 2
        asked.clear()
        assert (await platform.http.post(platform.url())).status_code == 502
        assert asked == [("POST", "/")]
        with pytest.raises(httpx.RemoteProtocolError):
            await platform.http.get(platform.url("/late"))

    play(tmp_path, app, scenario, 1, 1, 1, 1)


def test_a_node_that_can_not_be_reached_is_tried_again(tmp_path: Path) -> None:
    async def scenario(platform: WebPlatform) -> None:
        await platform.node.stop()
        request = asking(platform)
        await platform.server.until(lambda server: server.loads and server.loads[-1].waiting == 1)
        await platform.node.start()
        assert (await request).status_code == 200

    play(tmp_path, at_once, scenario, 1)


def test_requests_are_served_while_the_server_is_away(tmp_path: Path) -> None:
    app = Held()

    async def scenario(platform: WebPlatform) -> None:
        held = asking(platform, "/held")
        await app.until_begun(1)
        await platform.server.stop()
        second = asking(platform, "/second")
        await app.until_begun(2)
        await app.let_go(1)
        await asyncio.wait((held, second), return_when=asyncio.FIRST_COMPLETED)
        platform.server.known = [route("other"), platform.function(1)]  # not the label that there was
        await platform.server.start()
        await platform.server.until(lambda server: len(server.hellos) == 2)
        [load] = platform.server.hellos[1].loads
        assert (load.function_id, dict(load.running)) == (FUNCTION, {"ta-1": 1})
        await platform.server.until(lambda server: server.requests)  # of the time without a server, too
        assert (await platform.http.get(platform.url())).status_code == 404
        await app.let_go(2)
        assert (await platform.http.get(platform.url(label="other"))).status_code == 200
        assert (await held).status_code == (await second).status_code == 200

    play(tmp_path, app, scenario, 2)


def test_who_waits_for_a_container_that_is_done_in_a_moment_needs_no_other(tmp_path: Path) -> None:
    release = asyncio.Event()
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await say(send, "ok")
        if len(asked) == 1:
            await release.wait()  # a task in the background, as frameworks have them

    async def scenario(platform: WebPlatform) -> None:
        assert (await platform.http.get(platform.url())).status_code == 200
        second = asking(platform)
        # At first it is left out; when the container is not done after all, it is demand.
        await platform.server.until(lambda server: server.loads and server.loads[-1].waiting == 1)
        release.set()
        assert (await second).status_code == 200

    play(tmp_path, app, scenario, 1)


def test_long_waits_go_on_by_redirects(tmp_path: Path) -> None:
    app = Held()

    async def scenario(platform: WebPlatform) -> None:
        answer = await platform.http.get(platform.url("/a%20b?x=1"))
        assert (answer.status_code, answer.content) == (303, b"")
        call_id = answer.headers["x-request-id"]
        assert answer.headers["location"] == f"/a%20b?x=1&{CALL_ID_PARAMETER}={call_id}"
        there = platform.url(answer.headers["location"])
        assert (await platform.http.get(there)).headers["location"] == answer.headers["location"]
        posted = await platform.http.post(platform.url("/posted"), content=b"body")
        assert posted.status_code == 303
        await platform.tasks(1)
        await app.until_begun(1)
        await app.let_go(2)
        response = await platform.http.get(there)
        assert (response.status_code, response.text) == (200, "/a b")
        assert response.headers["x-request-id"] == call_id
        assert (await platform.http.get(there)).status_code == 404
        followed = await platform.http.get(platform.url(posted.headers["location"]), follow_redirects=True)
        assert followed.text == "/posted"
        assert app.begun == ["/a b", "/posted"]
        assert platform.node.scopes[0]["query_string"] == b"x=1"
        assert (await platform.http.get(platform.url("//evil/"), follow_redirects=False)).status_code in (200, 303)

    play(tmp_path, app, scenario, web_redirect_after_s=0.5)


def test_a_response_that_began_after_its_client_was_sent_on_is_kept(tmp_path: Path) -> None:
    app = Held()

    async def scenario(platform: WebPlatform) -> None:
        answer = await platform.http.get(platform.url())
        assert answer.status_code == 303
        await app.let_go(1)
        await platform.server.until(lambda server: server.requests)
        there = platform.url(answer.headers["location"])
        assert (await platform.http.get(there)).text == "/"
        again = await platform.http.get(platform.url("/again"))
        on = platform.url(again.headers["location"])
        while 499 not in {request.status for request in platform.server.requests}:  # leave while it waits, not as it is sent on
            with contextlib.suppress(httpx.ReadTimeout):
                await platform.http.get(on, timeout=0.1)
            known = len(platform.server.requests)
            await platform.server.until(lambda server, known=known: len(server.requests) > known)
        await app.let_go(1)
        assert (await platform.http.get(on, follow_redirects=True)).text == "/again"

    play(tmp_path, app, scenario, 1, web_redirect_after_s=0.3)
