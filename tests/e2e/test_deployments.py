"""What outlives the program that began it: deployed apps, spawned calls and their results; and how it ends.

A result after the client's process has ended (of a deployed and of a detached app) · a redeployment that lets running calls finish
on the old code and sends new ones to the new · an app that is stopped ends its calls.
"""

import json
from collections.abc import Iterator

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e

SPAWN = "import modal; print(modal.Function.from_name('deployed', 'which').spawn(*{arguments}).object_id)"
GET = "import modal; print(modal.FunctionCall.from_id({call!r}).get(timeout=150))"
DETACHED = """
import time, modal
app = modal.App("detached")
@app.function(serialized=True)
def late(number):
    time.sleep(3)
    return number + 1
with app.run(detach=True):
    print(late.spawn(41).object_id)
"""
STATS = """
import modal, time
which, deadline = modal.Function.from_name('deployed', 'which'), time.monotonic() + 150
while which.get_current_stats().num_total_runners < 1:
    assert time.monotonic() < deadline
    time.sleep(0.1)
"""


def spawn(platform: Platform, *arguments: object) -> str:
    return platform.run("-c", SPAWN.format(arguments=list(arguments))).out.strip()


def result(platform: Platform, call: str) -> str:
    return platform.run("-c", GET.format(call=call)).out.strip()


def deploy(platform: Platform, version: int) -> None:
    deployed = platform.start("-m", "modal", "deploy", "deployed.py", VERSION=str(version)).end()
    assert deployed.code == 0, deployed.text


@pytest.fixture
def deployed(platform: Platform) -> Iterator[Platform]:
    deploy(platform, 1)
    yield platform
    platform.modal("app", "stop", "--yes", "deployed")


def test_results_outlive_the_program_that_asked(deployed: Platform) -> None:
    assert result(deployed, spawn(deployed)) == "version 1"
    detached = deployed.run("-c", DETACHED).out.split()[-1]
    assert result(deployed, detached) == "42"


def test_a_redeployment_lets_running_calls_finish(deployed: Platform) -> None:
    call = spawn(deployed, 6.0)
    deployed.run("-c", STATS)
    deploy(deployed, 2)
    assert result(deployed, spawn(deployed)) == "version 2"
    assert result(deployed, call) == "version 1"
    history = json.loads(deployed.modal("app", "history", "deployed", "--json").out)
    assert len(history) >= 2


def test_stopping_an_app_ends_its_calls(platform: Platform) -> None:
    deploy(platform, 1)
    running, waiting = spawn(platform, 100.0), spawn(platform, 100.0)
    platform.run("-c", STATS)
    platform.modal("app", "stop", "--yes", "deployed")
    for call in (running, waiting):
        ended = platform.try_run("-c", GET.format(call=call))
        assert ended.code != 0 and "stopped" in ended.err, ended.text
    gone = platform.try_run("-c", SPAWN.format(arguments=[]))
    assert gone.code != 0 and "NotFoundError" in gone.err, gone.text
