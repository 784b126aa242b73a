"""Dicts and queues on a running platform, beside a bare RPC of the same client on the same connection, in turn with each request.

    python -m bench.state [--state DIR] [--set SETTING=VALUE] [--rounds 3] [--requests 500] [--consumers 100] [--seconds 5] [--json]

"ratio" is p50 over the bare RPC's. "blocked consumers" are CPU milliseconds per second of the server while so many clients wait for
an item of one queue, and the time from the put of as many items until each has one.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench import platform
from bench.figures import Figures, medians, percentiles, show
from bench.processes import Process, cpu_s

OPERATIONS = ("dict put", "dict get", "queue put", "queue get")
WARM_UP = 50
SETTLED_AFTER_S = 1.0  # the last of the consumers' requests has arrived


def latencies(client: Process, server_pid: int, name: str, count: int) -> Figures:
    """One round of one operation; the server's CPU includes that of the bare RPCs."""
    before = cpu_s(server_pid)
    answer = client.ask(work=name, count=count)
    cpu_ms = (cpu_s(server_pid) - before) * 1000 / count
    figures, bare = percentiles(answer["latencies_ms"], 50, 95, 99), percentiles(answer["bare_ms"], 50)
    return {**figures, "bare_p50_ms": bare["p50_ms"], "ratio": figures["p50_ms"] / bare["p50_ms"], "server_cpu_ms": cpu_ms}


def blocked(client: Process, server_pid: int, consumers: int, seconds: float) -> Figures:
    """What clients cost that only wait, and how soon they have what they wait for."""
    idle_ms = _cpu_ms_per_s(server_pid, seconds)
    client.ask(work="block", count=consumers)
    time.sleep(SETTLED_AFTER_S)
    waiting_ms = _cpu_ms_per_s(server_pid, seconds)
    woken = client.ask(go=True)
    return {
        "server_cpu_ms_per_s": waiting_ms,
        "server_cpu_ms_per_s_without": idle_ms,
        "until_all_have_one_ms": woken["elapsed_s"] * 1000,
    }


def _cpu_ms_per_s(pid: int, seconds: float) -> float:
    before = cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - before) * 1000 / seconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--consumers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with platform.running(options) as running, tempfile.TemporaryDirectory(prefix="pilotlight-state-") as name:
        pid = running.pids()["server"]
        command = [sys.executable, "-m", "bench.state_client"]
        with Process("client", command, Path(name), running.environment) as client:
            columns: dict[str, Figures] = {}
            for operation in OPERATIONS:
                latencies(client, pid, operation, WARM_UP)
                columns[operation] = medians([latencies(client, pid, operation, options.requests) for _ in range(options.rounds)])
            columns["blocked consumers"] = blocked(client, pid, options.consumers, options.seconds)
    show("state", columns, options.json)


if __name__ == "__main__":
    main()
