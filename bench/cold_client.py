"""Child: the stock client. Calls functions of which nothing runs, alone or in bursts, and ends what runs.

Each line of its standard input asks for something, and is answered with the times that it took. Functions are looked up once, ahead
of the first call, as a program does that calls them again and again.
"""

import asyncio
import functools
import http.client
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import modal
from modal._utils.async_utils import synchronizer
from modal.client import _Client
from modal_proto import api_pb2

from bench.processes import say

Answer = dict[str, object]


@functools.cache
def _function(app: str, name: str) -> modal.Function:
    function = modal.Function.from_name(app, name)
    function.hydrate()
    return function


def look_up(app: str, functions: list[str]) -> Answer:
    """Look functions up ahead of their calls."""
    return {"found": [_function(app, name).object_id for name in functions]}


def call(app: str, function: str, argument: object) -> Answer:
    """One `.remote()`: when it began (seconds since the epoch) and how long it took."""
    wanted = _function(app, function)
    began_at, began = time.time(), time.perf_counter()
    result = wanted.remote(argument)
    took_ms = (time.perf_counter() - began) * 1000
    if result != argument:
        raise RuntimeError(f"{app}/{function} returned {result!r} for {argument!r}")
    return {"ms": took_ms, "began_at": began_at}


def burst(app: str, functions: list[str], argument: object) -> Answer:
    """A call to each of these, which may be the same, at once: how long until all were answered, and each."""
    wanted = [_function(app, name) for name in functions]

    async def all_at_once() -> list[float]:
        began = time.perf_counter()

        async def one(function: modal.Function) -> float:
            if await function.remote.aio(argument) != argument:
                raise RuntimeError(f"a call to {app} did not return {argument!r}")
            return (time.perf_counter() - began) * 1000

        return await asyncio.gather(*(one(function) for function in wanted))

    latencies_ms = asyncio.run(all_at_once())
    return {"ms": max(latencies_ms), "latencies_ms": latencies_ms}


def get(app: str, function: str) -> Answer:
    """One GET over a new connection, until the body is read."""
    url = urlsplit(_function(app, function).get_web_url() or "")
    began_at, began = time.time(), time.perf_counter()
    # The host's name goes into the header only: that a resolver knows it is not what is measured.
    connection = http.client.HTTPConnection("127.0.0.1", url.port or 80)
    try:
        connection.request("GET", "/", headers={"Host": url.netloc})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK or body != b"ok":
        raise RuntimeError(f"{url.netloc} answered {response.status} {body[:200]!r}")
    return {"ms": (time.perf_counter() - began) * 1000, "began_at": began_at}


@synchronizer.create_blocking
async def _end_containers() -> list[str]:
    client = await _Client.from_env()
    running = await client.stub.TaskList(api_pb2.TaskListRequest())
    for task in running.tasks:
        await client.stub.ContainerStop(api_pb2.ContainerStopRequest(task_id=task.task_id))
    return [task.task_id for task in running.tasks]


def end() -> Answer:
    """As `modal container stop` of every container: they would wait for their idle windows otherwise."""
    return {"told": _end_containers()}


WORK: dict[str, Any] = {"look_up": look_up, "call": call, "burst": burst, "get": get, "end": end}


def main() -> None:
    """Serve until standard input ends. A line: {"work": "call", "app": …, "function": …, "argument": …}."""
    for line in sys.stdin:
        wanted = json.loads(line)
        say(**WORK[wanted.pop("work")](**wanted))


if __name__ == "__main__":
    main()
