"""Child: the stock client at dicts and queues. Does what each line of its standard input asks for, and answers with what it saw.

Every request is measured between two bare ones (ClientHello), by the same client on the same connection.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import modal

from bench.processes import say

VALUE = b"v" * 100


def operations(state: modal.Dict, queue: modal.Queue) -> dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]]:
    """Name → what is measured, and what is done before it without being measured; both get the number of the round."""

    def nothing(_: int) -> None:
        return

    return {
        "dict put": (lambda number: state.put(f"key {number % 100}", VALUE), nothing),
        "dict get": (lambda number: state.get(f"key {number % 100}"), nothing),
        "queue put": (lambda _: queue.put(VALUE), nothing),
        "queue get": (lambda _: queue.get(timeout=10), lambda _: queue.put(VALUE)),
    }


def measure(client: modal.Client, name: str, count: int) -> dict[str, object]:
    """Latencies of one operation, and of as many bare RPCs in turn with it."""
    latencies_ms: list[float] = []
    bare_ms: list[float] = []
    with modal.Dict.ephemeral(client=client) as state, modal.Queue.ephemeral(client=client) as queue:
        work, prepare = operations(state, queue)[name]
        for number in range(count):
            if name == "queue put" and number % 1000 == 999:
                queue.clear()
            prepare(number)
            started = time.perf_counter()
            client.hello()
            between = time.perf_counter()
            work(number)
            latencies_ms.append((time.perf_counter() - between) * 1000)
            bare_ms.append((between - started) * 1000)
    return {"latencies_ms": latencies_ms, "bare_ms": bare_ms}


async def block(count: int) -> None:
    """So many consumers wait for an item of one queue; then each gets one. What is said in between: they wait; all have theirs."""
    async with modal.Queue.ephemeral() as queue:
        waiting = [asyncio.ensure_future(queue.get.aio(timeout=100)) for _ in range(count)]
        await queue.len.aio()  # asked after theirs on the same connection
        say(waiting=count)
        await asyncio.to_thread(sys.stdin.readline)
        started = time.perf_counter()
        await queue.put_many.aio(list(range(count)))
        got = await asyncio.gather(*waiting)
        if sorted(got) != list(range(count)):
            raise RuntimeError(f"the consumers got {got}, and not one item each")
        say(elapsed_s=time.perf_counter() - started)


def main() -> None:
    """Serve until standard input ends. A line: {"work": "dict get" or the like, "count": …} or {"work": "block", "count": …}."""
    client = modal.Client.from_env()
    while line := sys.stdin.readline():
        wanted = json.loads(line)
        if wanted["work"] == "block":
            asyncio.run(block(wanted["count"]))
        else:
            say(**measure(client, wanted["work"], wanted["count"]))


if __name__ == "__main__":
    main()
