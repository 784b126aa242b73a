"""Web functions through real containers and real HTTP clients: every kind, and all that may happen to them meanwhile.

Endpoints, ASGI and WSGI apps, classes with parameters · streams, WebSockets, redirects of slow requests · proxy tokens · containers
that die, are not needed or can't start · deployments, stops and crashes of our own processes under load.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from conftest import CLIENTS, PROGRAMS, Platform

pytestmark = pytest.mark.e2e

START_S = 150.0  # what a cold start on a busy machine may take
IMAGE_S = 300.0


def address(platform: Platform, label: str) -> str:
    return f"http://main--{label}.localhost:{platform.web_port}"


def deploy(platform: Platform, version: int = 1, client: str = "newest") -> str:
    finished = platform.start("-m", "modal", "deploy", "web_app.py", client=client, deadline_s=IMAGE_S, VERSION=str(version)).end()
    assert finished.code == 0, finished.text
    return finished.text


@pytest.fixture(scope="module")
def web(platform: Platform) -> Iterator[Platform]:
    # What the tests learn of the addresses is what the newest client prints.
    printed = deploy(platform)
    for label in ("web-add", "front-door", "web-old", "web-greeter-hello", "web-private", "web-brief"):
        assert address(platform, label) in printed
    yield platform
    platform.modal("app", "stop", "--yes", "web")


@pytest.fixture
def http(web: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(timeout=START_S) as client:
        yield client


def test_an_endpoint_answers_documents_itself_and_refuses_what_does_not_fit(web: Platform, http: httpx.Client) -> None:
    url = address(web, "web-add")
    answer = http.post(url, json={"a": 1, "b": 2}, params={"scale": 10})
    assert (answer.status_code, answer.json()) == (200, {"sum": 30})
    assert answer.headers["x-request-id"].startswith("fc-")
    assert http.post(url, content=b"{").status_code == 422
    assert http.post(url, json={}, params={"scale": "many"}).status_code == 422
    assert http.get(url).status_code == 405
    assert "swagger" in http.get(url + "/docs").text
    preflight = http.options(url, headers={"origin": "https://a.example", "access-control-request-method": "POST"})
    assert preflight.headers["access-control-allow-origin"] in ("*", "https://a.example")


def test_an_address_is_found_by_name_and_from_within(web: Platform, http: httpx.Client) -> None:
    url = address(web, "front-door")
    find = "import modal; print(modal.Function.from_name('web', 'front').get_web_url())"
    for client in CLIENTS:
        assert web.run("-c", find, client=client).out.strip() == url
    assert http.get(url + "/url").json() == url
    find = "import modal; print(modal.Cls.from_name('web', 'Greeter')(who='x').hello.get_web_url())"
    assert web.run("-c", find).out.strip() == address(web, "web-greeter-hello")


def test_wsgi_apps(web: Platform, http: httpx.Client) -> None:
    answer = http.put(address(web, "web-old") + "/page", params={"q": "x"}, content=b"12345")
    assert (answer.status_code, answer.text) == (200, "PUT page x 5")
    assert http.get(address(web, "web-old") + "/a/b").status_code == 404


def test_classes_take_their_parameters_from_the_query_string(web: Platform, http: httpx.Client) -> None:
    url = address(web, "web-greeter-hello")
    assert http.get(url, params={"who": "Ann"}).json() == "hello Ann"
    assert http.get(url, params={"who": "Bob", "times": 2}).json() == "hello Bob Bob"
    for wrong in ({}, {"who": "Ann", "times": "x"}):
        refused = http.get(url, params=wrong)
        assert refused.status_code == 400
        assert ("'times'" if wrong else "'who'") in refused.text
    call = "import modal; print(modal.Cls.from_name('web', 'Greeter')(who='Ann').plain.remote())"
    assert web.run("-c", call).out.strip() == "by call Ann"


def test_bodies_and_events_stream(web: Platform, http: httpx.Client) -> None:
    url = address(web, "front-door")

    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    assert http.post(url + "/size", content=pieces()).json() == 64 << 20
    with http.stream("GET", url + "/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert [line for line in events.iter_lines() if line] == ["data: 0", "data: 1", "data: 2"]


def test_websockets(web: Platform) -> None:
    async def talk() -> None:
        url = address(web, "front-door").replace("http:", "ws:") + "/echo"
        async with websockets.connect(url, open_timeout=START_S) as socket:
            await socket.send("one")
            assert await socket.recv() == "ONE"
            await socket.send("end")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4321

    asyncio.run(talk())


def test_proxy_tokens(web: Platform, http: httpx.Client) -> None:
    url = address(web, "web-private")
    assert http.get(url).status_code == 401
    made = json.loads(web.modal("workspace", "proxy-tokens", "create", "--name", "ci", "--json").out)
    headers = {name: made[name] for name in ("Modal-Key", "Modal-Secret")}
    assert http.get(url, headers=headers).json() == "secret"
    assert http.get(url, headers={"Authorization": made["Authorization"]}).json() == "secret"
    assert http.get(url, headers=headers | {"Modal-Secret": "ws-wrong"}).status_code == 401
    token_id = made["Modal-Key"]
    assert token_id in web.modal("workspace", "proxy-tokens", "list").out
    assert token_id in web.control("proxy-token", "list")
    web.modal("workspace", "proxy-tokens", "update", token_id, "name", "renamed")
    assert "renamed" in web.modal("workspace", "proxy-tokens", "list").out
    web.modal("environment", "create", "beside-main")
    web.modal("workspace", "proxy-tokens", "allow", token_id, "beside-main")
    assert http.get(url, headers=headers).status_code == 401
    web.modal("workspace", "proxy-tokens", "allow", token_id, "main")
    assert http.get(url, headers=headers).json() == "secret"
    web.modal("workspace", "proxy-tokens", "revoke", token_id, "main")
    assert http.get(url, headers=headers).status_code == 401
    web.modal("workspace", "proxy-tokens", "delete", "--yes", token_id)
    web.modal("environment", "delete", "--yes", "beside-main")
    ours = dict(line.split(": ") for line in web.control("proxy-token", "create", "ours").splitlines())
    assert http.get(url, headers=ours).json() == "secret"
    web.control("proxy-token", "revoke", ours["Modal-Key"])
    assert http.get(url, headers=ours).status_code == 401


def containers(platform: Platform, function: str) -> list[dict[str, Any]]:
    return [task for task in platform.status()["containers"] if task["function"] == function and task["app_name"] == "web"]


def test_an_idle_function_has_no_containers_and_is_back_when_it_is_asked(web: Platform, http: httpx.Client) -> None:
    url = address(web, "web-brief")
    first = http.get(url)
    call_id, task_id = first.json()
    assert call_id == first.headers["modal-function-call-id"]
    # That it has ended is what the log of its output waits for.
    follow = web.start("-m", "modal", "container", "logs", "-f", task_id)
    follow.end()
    while containers(web, "brief"):  # the log ends a moment before the books are closed
        pass
    assert http.get(url).status_code == 200


def test_a_container_that_dies_fails_only_what_may_not_be_repeated(web: Platform) -> None:
    async def run() -> None:
        url = address(web, "front-door")
        async with httpx.AsyncClient(timeout=START_S) as client:
            await client.get(url)
            async with client.stream("GET", url + "/events?pause_s=60") as events:  # the container has a request in hand
                assert events.status_code == 200
                safe = asyncio.create_task(client.get(url + "/slow/3"))
                assert (await client.get(url)).status_code == 200  # what was sent before it is with the container
                dead = await client.post(url + "/die")
                with pytest.raises(httpx.RemoteProtocolError):
                    await events.aread()
            assert dead.status_code == 502
            assert dead.headers["x-request-id"] in dead.text
            answer = await safe
            assert (answer.status_code, answer.json()) == (200, "done")

    asyncio.run(run())


def test_what_cannot_start_says_so_without_its_secrets(platform: Platform) -> None:
    platform.modal("deploy", "web_broken.py", deadline_s=IMAGE_S)
    answer = httpx.get(address(platform, "web-broken-broken"), timeout=START_S)
    assert answer.status_code == 500
    assert "RuntimeError" in answer.text
    assert "hunter2" not in answer.text
    platform.modal("app", "stop", "--yes", "web-broken")


def test_stopped_apps_and_unknown_addresses_are_not_found(platform: Platform) -> None:
    platform.modal("deploy", "web_served.py", deadline_s=IMAGE_S)
    url = address(platform, "web-served-word")
    assert httpx.get(url, timeout=START_S).json() == "first"
    platform.modal("app", "stop", "--yes", "web-served")
    stopped = httpx.get(url, timeout=START_S)
    assert stopped.status_code == 404
    assert "stopped" in stopped.text
    assert httpx.get(address(platform, "nothing-there"), timeout=START_S).status_code == 404


def test_a_server_of_its_own_answers_and_lists_its_requests(platform: Platform) -> None:
    platform.modal("deploy", "web_server_app.py", deadline_s=IMAGE_S)
    url = address(platform, "web-server-files")
    assert httpx.get(url, timeout=START_S).status_code == 200
    assert httpx.get(url + "/missing", timeout=START_S).status_code == 404
    assert platform.run("-c", "import modal; print(modal.Server.from_name('web-server', 'Files').get_url())").out.strip() == url
    seen: list[dict[str, Any]] = []
    while len(seen) < 2:  # they are told of when they have ended
        seen = json.loads(platform.modal("server", "requests", "web-server/Files", "--json").out)
    assert [(request["route"], request["status"]) for request in seen] == [("GET /", 200), ("GET /missing", 404)]
    assert url in platform.modal("server", "info", "web-server/Files").out
    assert "2 total" in platform.modal("server", "stats", "web-server/Files").out
    over_time = json.loads(platform.modal("server", "metrics", "web-server/Files", "--group", "requests", "--json").out)
    assert [series["name"] for series in over_time["series"]][:2] == ["requests_count", "failed_requests_count"]
    platform.modal("app", "stop", "--yes", "web-server")
    assert httpx.get(url, timeout=START_S).status_code == 404


def test_serving_follows_changes(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "web_served.py"
    text = (PROGRAMS / "web_served.py").read_text()
    program.write_text(text)
    serving = platform.start("-m", "modal", "serve", str(program), deadline_s=IMAGE_S, PYTHONDONTWRITEBYTECODE="1")
    url = address(platform, "web-served-word-dev")
    try:
        serving.until(url)
        serving.until("Initialized")
        serving.until_watching()
        assert httpx.get(url, timeout=START_S).json() == "first"
        program.write_text(text.replace("first", "second"))
        # The client has the old containers stopped at once, with what they do.
        asyncio.run(until(url, lambda answer: answer.json() == "second", may_break=True))
        program.write_text(text.replace("first", "third"))
        asyncio.run(until(url, lambda answer: answer.json() == "third", may_break=True))
    finally:
        serving.signal(2)
        serving.end()
    assert httpx.get(url, timeout=START_S).status_code == 404


@asynccontextmanager
async def requests_all_the_time(url: str, connections: int = 8) -> AsyncIterator[list[httpx.Response | Exception]]:
    """Clients that ask again and again; what they got is whole when the block has ended."""
    seen: list[httpx.Response | Exception] = []
    stop = asyncio.Event()

    async def ask(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            try:
                seen.append(await client.get(url))
            except httpx.HTTPError as error:
                seen.append(error)
            await asyncio.sleep(0.05)

    async with httpx.AsyncClient(timeout=START_S) as client, asyncio.TaskGroup() as group:
        assert (await client.get(url)).status_code == 200
        for _ in range(connections):
            group.create_task(ask(client))
        try:
            yield seen
        finally:
            stop.set()


async def until(url: str, holds: Callable[[httpx.Response], bool], *, may_break: bool = False) -> None:
    """Ask again and again; with `may_break` responses may be broken off, or fail with the container that gave them."""
    async with httpx.AsyncClient(timeout=START_S) as client, asyncio.timeout(START_S):
        while True:
            try:
                answer = await client.get(url)
            except httpx.TransportError:
                if not may_break:
                    raise
                continue
            if answer.status_code == 200 and holds(answer):
                return
            assert may_break or answer.status_code == 200, answer.text


def under_load(url: str, work: Callable[[], Awaitable[None]]) -> list[httpx.Response | Exception]:
    async def run() -> list[httpx.Response | Exception]:
        async with requests_all_the_time(url) as seen:
            await work()
        return seen

    return asyncio.run(run())


def failures(seen: list[httpx.Response | Exception]) -> list[str]:
    return [
        f"{answer.status_code} {answer.text}" if isinstance(answer, httpx.Response) else repr(answer)
        for answer in seen
        if not isinstance(answer, httpx.Response) or answer.status_code != 200
    ]


def test_five_deployments_under_load_fail_no_request(web: Platform) -> None:
    url = address(web, "front-door")

    async def deployments() -> None:
        for number in range(2, 7):
            await asyncio.to_thread(deploy, web, number)
            await until(url, lambda answer, number=number: answer.json() == str(number))

    seen = under_load(url, deployments)
    assert failures(seen) == []
    assert len(seen) > 100


def test_a_server_that_crashes_fails_no_request(web: Platform) -> None:
    url = address(web, "front-door")

    async def crash() -> None:
        await asyncio.to_thread(web.kill, "server")
        await asyncio.to_thread(web.modal, "app", "list")  # waits until there is one again

    assert failures(under_load(url, crash)) == []
    assert httpx.get(address(web, "web-brief"), timeout=START_S).status_code == 200


def test_an_edge_that_crashes_breaks_off_what_it_had_and_no_more(web: Platform) -> None:
    url = address(web, "front-door")

    async def crash() -> None:
        await asyncio.to_thread(web.kill, "edge")
        async with httpx.AsyncClient(timeout=START_S) as client:
            assert (await client.get(url)).status_code == 200

    seen = under_load(url, crash)
    assert len(failures(seen)) <= 8  # one for each connection
    assert all(isinstance(answer, httpx.TransportError) for answer in seen if not isinstance(answer, httpx.Response))
    assert all(answer.status_code == 200 for answer in seen if isinstance(answer, httpx.Response))


def test_the_oldest_client_deploys_web_functions(web: Platform, http: httpx.Client) -> None:
    printed = deploy(web, 7, client="oldest")
    assert address(web, "front-door") in printed
    url = address(web, "front-door")
    asyncio.run(until(url, lambda answer: answer.json() == "7"))
    assert http.post(address(web, "web-add"), json={"a": 1, "b": 2}).json() == {"sum": 3}


def test_slow_requests_are_sent_on_to_wait(web: Platform) -> None:
    settings = web.settings
    running = web.status()
    flags = ("--api", running["api"], "--web", running["web"], "--state", str(settings.state))
    command = [str(CLIENTS["newest"] / "pilotlight"), "up", "--detach", *flags]
    web.control("down")
    short = {**os.environ, "PILOTLIGHT_WEB_REDIRECT_AFTER_S": "2"}
    subprocess.run(command, env=short, check=True, capture_output=True)
    try:
        url = address(web, "front-door")
        with httpx.Client(timeout=START_S) as client:
            client.get(url, follow_redirects=True)
            sent = client.get(url + "/slow/10?x=1")
            assert sent.status_code == 303
            location = sent.headers["location"]
            assert location.startswith("/slow/10?x=1&__modal_function_call_id=fc-")
            answer = client.get(url + location, follow_redirects=True)
            assert answer.json() == "done"
            assert len(answer.history) >= 1
    finally:
        web.control("down")
        subprocess.run(command, check=True, capture_output=True)
