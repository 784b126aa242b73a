"""Child: the stock client. Does what each line of its standard input asks for, and answers with the time that it took."""

import json
import sys
import time

import modal

from bench.processes import say


def call(function: modal.Function, count: int) -> dict[str, object]:
    """`.remote()`, one after the other: each one's latency."""
    latencies_ms: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        function.remote()
        latencies_ms.append((time.perf_counter() - started) * 1000)
    return {"latencies_ms": latencies_ms}


def map_(function: modal.Function, count: int) -> dict[str, object]:
    """`.map()` with results in order, each checked."""
    started = time.perf_counter()
    if list(function.map(range(count))) != list(range(count)):
        raise RuntimeError("the results of the map are not its inputs in order")
    return {"elapsed_s": time.perf_counter() - started}


def spawn_map(function: modal.Function, count: int) -> dict[str, object]:
    """`.spawn_map()`: returns when all inputs are accepted."""
    started = time.perf_counter()
    function.spawn_map(range(count))
    return {"elapsed_s": time.perf_counter() - started}


def ask(function: modal.Function, count: int) -> dict[str, object]:
    """One call with that number, and what it returned."""
    return {"answer": function.remote(count)}


WORK = {"ask": ask, "call": call, "map": map_, "spawn_map": spawn_map}


def main() -> None:
    """Serve until standard input ends. A line: {"work": "call", "app": …, "function": …, "count": …}."""
    for line in sys.stdin:
        wanted = json.loads(line)
        function = modal.Function.from_name(wanted["app"], wanted["function"])
        say(**WORK[wanted["work"]](function, wanted["count"]))


if __name__ == "__main__":
    main()
