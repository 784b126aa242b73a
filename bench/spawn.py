"""Inputs that are spawned and not waited for: is the rate at which they are accepted constant, and what do they cost in memory?

    python -m bench.spawn [--state DIR] [--set SETTING=VALUE] [--inputs 100000] [--step 10000] [--json]

The stock client's `spawn_map`, in steps. The function spawned has one container that sleeps over its first input, so that nearly
all inputs stay queued: what the server's memory (anonymous pages) grows by, per input, is what a waiting input costs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from bench import platform
from bench.figures import Figures, show
from bench.processes import Process, memory_bytes
from bench.program import APP

FUNCTION = "asleep"


def measure(running: platform.Platform, options: argparse.Namespace, directory: Path) -> dict[str, Figures]:
    """A column per step, and one for the whole."""
    running.deploy("bench.program")
    server = running.pids()["server"]
    columns: dict[str, Figures] = {}
    with Process("client", [sys.executable, "-m", "bench.client"], directory, running.environment) as client:

        def spawn(count: int) -> float:
            return client.ask(work="spawn_map", app=APP, function=FUNCTION, count=count)["elapsed_s"]

        spawn(options.step // 10)  # first use of everything
        before = memory_bytes(server)
        elapsed_s, first, last = 0.0, 0.0, 0.0
        for done in range(options.step, options.inputs + 1, options.step):
            held = memory_bytes(server)
            took_s = spawn(options.step)
            elapsed_s, last = elapsed_s + took_s, options.step / took_s
            first = first or last
            columns[f"{done:,}"] = {"accepted_per_s": last, "bytes_per_input": (memory_bytes(server) - held) / options.step}
        total = {"accepted_per_s": options.inputs / elapsed_s, "bytes_per_input": (memory_bytes(server) - before) / options.inputs}
    running.stop(APP)
    return columns | {"all": total | {"last_rate_over_first": last / first}}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with platform.running(options) as running, tempfile.TemporaryDirectory(prefix="pilotlight-spawn-") as name:
        show("spawn", measure(running, options, Path(name)), options.json)


if __name__ == "__main__":
    main()
