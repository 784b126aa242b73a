"""A server of any kind behind a web address: the example, deployed by the stock client and asked by HTTP."""

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import REPOSITORY, Platform

HOST = "main--web-server-generate.localhost"
TEXT = "slowly but surely one token after the other"


class Site:
    """The example's web address."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def connection(self) -> "contextlib.closing[http.client.HTTPConnection]":
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._platform.web_port, timeout=100))

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        with self.connection() as connection:
            connection.request(method, path, body, {"Host": HOST})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def site(platform: Platform) -> Iterator[Site]:
    platform.modal("deploy", str(REPOSITORY / "examples" / "web_server" / "app.py"), deadline_s=400)
    yield Site(platform)
    platform.modal("app", "stop", "web-server", "--yes")
    assert Site(platform).ask("GET", "/health")[0] == 404


def servers() -> list[int]:
    """Process ids of the example's server, in whatever container."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"/server.py" in words:
            found.append(int(entry.name))
    return found


def test_requests_that_come_before_the_server_wait_for_it_and_are_all_answered(site: Site) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: site.ask("GET", "/health"), range(20)))
    assert answers == [(200, "ok\n")] * 20
    assert len(servers()) == 1


def test_tokens_arrive_one_by_one(site: Site) -> None:
    with site.connection() as connection:
        connection.request("POST", "/generate", TEXT, {"Host": HOST})
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["X-Request-Id"].startswith("fc-")
        events = [line.decode().removeprefix("data: ").strip() for line in answer if line.strip()]
        assert [json.loads(event)["token"] for event in events[:-1]] == TEXT.split() and events[-1] == "[DONE]"


def test_one_connection_serves_many_requests_of_different_hosts(site: Site) -> None:
    with site.connection() as connection:
        for host, path, expected in ((HOST, "/health", b"ok\n"), ("127.0.0.1", "/healthz", b"ok\n"), (HOST, "/none", b"there is")):
            connection.request("GET", path, headers={"Host": host})
            assert connection.getresponse().read().startswith(expected)


def test_a_server_that_dies_in_the_middle_of_an_answer_leaves_no_whole_answer(site: Site) -> None:
    with site.connection() as connection:
        connection.request("POST", "/generate", "word " * 1000, {"Host": HOST})
        answer = connection.getresponse()
        assert b"word" in answer.readline()
        for pid in servers():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_a_container_that_was_stopped_is_replaced(platform: Platform, site: Site) -> None:
    listed = json.loads(platform.modal("container", "list", "--json").out)
    (container_id,) = [container["container_id"] for container in listed if container["app_name"] == "web-server"]
    platform.modal("container", "stop", container_id, "--yes")
    assert site.ask("GET", "/health") == (200, "ok\n")
