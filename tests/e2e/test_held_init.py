"""Processes of a container that hold its first one still: it ends by its time limit all the same, or when somebody stops it."""

import time
from collections.abc import Callable

import pytest
from conftest import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATIENCE_S = 120.0  # a stop has a grace for exit hooks
CALLS = """
import modal
function = modal.Function.from_name("held-init", "{name}")
{call}
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.2)


def running(platform: Platform) -> list[str]:
    return [one["task_id"] for one in platform.status()["containers"] if one["app_name"] == "held-init"]


def test_a_container_whose_first_process_is_held_ends_by_its_time_limit(platform: Platform) -> None:
    said = platform.modal("run", "held_init.py", "--name", "until_its_limit").text
    assert said.count("ended with FunctionTimeoutError") == 3, said
    assert said.count("\nOperation not permitted") == 2, said  # nobody is held at their exit: that is for ever
    until(lambda: not running(platform), "no container is left")


def test_a_container_whose_first_process_is_held_ends_when_it_is_stopped(platform: Platform) -> None:
    platform.modal("deploy", "held_init.py")
    platform.run("-c", CALLS.format(name="and_returns", call="assert function.remote(0, True) == 'held'"))
    platform.run("-c", CALLS.format(name="until_it_is_stopped", call="function.spawn(0, True)"))
    until(lambda: len(running(platform)) == 2, "both are there")
    for task_id in running(platform):
        platform.modal("container", "stop", "--yes", task_id)
    platform.modal("app", "stop", "held-init", "--yes")
    until(lambda: not running(platform), "no container is left")
