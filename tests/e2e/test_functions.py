"""Functions in every way that the stock client offers, in real containers; the checks are in `programs/functions.py`, `lookups.py`.

remote, local, map (ordered or not, of 500 inputs, with exceptions returned or raised), starmap, for_each, spawn, spawn_map ·
FunctionCall get, from_id (from another process), cancel, gather, get_call_graph · generators, sync and async, that end early or
fail on the way · async functions, `.aio` · calls from containers, in turn with large data both ways · lookups by name from another
process and from another app's containers · serialized functions, keyword arguments · arguments and results of 30 MiB · Dict, Queue,
Secret.from_dict · an exception's own type and lines.
"""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Platform

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_functions(checks: Callable[..., None], client: str) -> None:
    checks("functions", client=client)


@pytest.mark.parametrize("client", ["newest", "oldest"])
def test_lookups(platform: Platform, checks: Callable[..., None], client: str) -> None:
    platform.modal("deploy", "deployed.py", client=client)
    checks("lookups", client=client)
    platform.modal("app", "stop", "deployed", *(["--yes"] if client == "newest" else []), client=client)


def test_command_line_runs_functions(platform: Platform) -> None:
    said: Any = platform.modal("run", "deployed.py::which", "--words", "from the command line")
    assert "working" in said.text
    failed = platform.try_run("-m", "modal", "run", "functions.py::oddities", "--number", "5")
    assert failed.code == 1 and "it is odd" in failed.text and "deep_inside" in failed.text, failed.text
