"""Deployments while there is work, and the end of an app: nothing fails in between, and nothing is left after it.

Ten versions under the load of calls and requests (deployed, rolled back, rolled over) · what was running is moved by `recreate` ·
a second after `modal app stop` there is no container of it and no schedule.
"""

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e

START_S = 150.0
STOP_S = 1.0
RUN = "import rolling; rolling.{call}"
STOP = "import modal; modal.App.lookup('rolling').stop(); print('stopped', flush=True)"


def deploy(platform: Platform, version: int, *options: str) -> None:
    deployed = platform.start("-m", "modal", "deploy", *options, "rolling.py", VERSION=f"v{version}").end()
    assert deployed.code == 0, deployed.text


@pytest.fixture
def rolling(platform: Platform) -> Iterator[Platform]:
    deploy(platform, 1)
    yield platform
    platform.try_run("-c", STOP)  # one of the tests has done so


class Visitors(threading.Thread):
    """Requests, one after the other, until `end`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._is_over = threading.Event()
        self.answers: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=START_S) as client:
            while not self._is_over.is_set():
                try:
                    answer = client.get(self._url)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    return
                (self.answers if answer.status_code == 200 else self.failures).append(answer.text)

    def end(self) -> None:
        self._is_over.set()
        self.join()


def test_nothing_fails_across_ten_deployments(rolling: Platform) -> None:
    callers = rolling.start("-c", RUN.format(call="keep_calling()"), deadline_s=300)
    callers.until("calling")
    visitors = Visitors(f"http://main--rolling-page.localhost:{rolling.web_port}")
    visitors.start()
    try:
        for version in range(2, 10):
            deploy(rolling, version)
        rolling.modal("app", "rollback", "rolling", "v4")
        rolling.modal("app", "rollover", "rolling")
    finally:
        visitors.end()
        callers.signal(10)
    ended = callers.end()
    assert "failures: []" in ended.out, ended.text
    assert visitors.failures == []
    assert "v9" in ended.out and "v9" in visitors.answers
    history = json.loads(rolling.modal("app", "history", "rolling", "--json").out)
    assert {str(value) for row in history for value in row.values()} >= {f"v{version}" for version in range(1, 12)}
    answer = httpx.get(f"http://main--rolling-page.localhost:{rolling.web_port}", timeout=START_S)
    assert answer.text == "v4"


def test_what_runs_is_moved_where_containers_are_recreated(rolling: Platform) -> None:
    call = "import modal; print(modal.Function.from_name('rolling', 'alone').remote(100.0, of_version='v1'))"
    waiting = rolling.start("-c", call)
    rolling.run("-c", "import rolling; rolling.until_working()")
    deploy(rolling, 2, "--strategy", "recreate")
    ended = waiting.end()
    assert ended.out.split()[-1] == "v2", ended.text


def containers(platform: Platform) -> list[str]:
    return [task["task_id"] for task in platform.status()["containers"] if task["app_name"] == "rolling"]


def test_a_second_after_it_was_stopped_nothing_of_an_app_is_left(rolling: Platform) -> None:
    rolling.run("-c", RUN.format(call="occupy()"))
    running = set(containers(rolling))
    assert len(running) >= 3 and running & there(rolling)
    assert any(scheduled["app_name"] == "rolling" for scheduled in rolling.status()["schedules"])
    stopping = rolling.start("-c", STOP)
    stopping.until("stopped")
    # Looking without a pause, this process gets what there is to be had: the second is longer where others are at work, too.
    began = time.process_time()
    while left := running & there(rolling):
        assert time.process_time() - began < STOP_S, f"they still run: {left}"
    assert stopping.end().code == 0
    assert containers(rolling) == []
    assert not any(scheduled["app_name"] == "rolling" for scheduled in rolling.status()["schedules"])


def there(platform: Platform) -> set[str]:
    """The containers of which this machine has anything: their directories go last."""
    return {path.name for path in (platform.settings.run_dir / "containers").glob("ta-*")}
