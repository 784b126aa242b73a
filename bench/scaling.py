"""Scaling on a running platform: what deployed functions cost that nobody calls, how soon a burst runs, what idle containers hold.

    python -m bench.scaling [--state DIR] [--set SETTING=VALUE] [--rounds 3] [--inputs 50] [--idle 40] [--seconds 30] [--json]

"until all run" is from the call to the start of the last of as many inputs of one second, each in a container of its own where the
policy wants it so; "memory" of a container is what its control group is charged with, "own" of that what is no page of a file.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import platform
from bench.figures import Figures, medians, show
from bench.many import APP, FUNCTIONS
from bench.processes import Failed, Process, cpu_s, memory_bytes
from pilotlight.config import Settings

GROUPS = Path("/sys/fs/cgroup")
MEMORY_FILES = ("memory.current", "memory.usage_in_bytes")  # by the version of control groups
GONE_WITHIN_S = 120.0


def resting(server_pid: int, seconds: float) -> Figures:
    """The server's share of a core, and its memory, while nothing happens."""
    before = cpu_s(server_pid)
    time.sleep(seconds)
    cpu = (cpu_s(server_pid) - before) / seconds
    return {"server_cpu_percent": cpu * 100, "server_mib": memory_bytes(server_pid) / 2**20}


def burst(client: Process, inputs: int) -> Figures:
    """From no container to the last of so many inputs."""
    answer = client.ask(work="burst", count=inputs)
    return {
        "until_first_runs_s": answer["first_s"],
        "until_all_run_s": answer["last_s"],
        "until_all_done_s": answer["done_s"],
        "containers": answer["containers"],
    }


def idle_memory(state: Path, containers: int) -> Figures:
    """Of each idle container, as the kernel counts it."""
    own_by_group = {path: _own_mib(path) for path in memory_groups(state) if (path / "cgroup.procs").exists()}
    if len(own_by_group) < containers:
        raise Failed(f"{len(own_by_group)} containers have groups, of {containers}")
    # Forks that wait to become containers have such groups as well: they have touched less.
    groups = sorted(own_by_group, key=lambda path: -own_by_group[path])[:containers]
    charged = [_charged(path) / 2**20 for path in groups]
    own = [own_by_group[path] for path in groups]
    return {
        "containers": len(groups),
        "forks_that_wait": len(own_by_group) - len(groups),
        "memory_mib_median": statistics.median(charged),
        "own_mib_median": statistics.median(own),
        "own_mib_sum": sum(own),
    }


def memory_groups(state: Path) -> list[Path]:
    """The groups of a platform's containers that account for memory; forked ones, and the forks that wait, have other names."""
    ours = f"pilotlight-{Settings(state=state).instance}"
    ours_everywhere = [Path(path) for path, _, _ in os.walk(GROUPS) if path.endswith(f"/{ours}")]  # others come and go meanwhile
    groups = [path for directory in ours_everywhere for kind in ("ta-*", "spare-*") for path in directory.glob(kind)]
    return [path for path in groups if any((path / file).exists() for file in MEMORY_FILES)]


def _charged(group: Path) -> int:
    return next(int((group / file).read_text()) for file in MEMORY_FILES if (group / file).exists())


def _own_mib(group: Path) -> float:
    fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(fields.get("anon", fields.get("total_rss", "0"))) / 2**20


def none_left(running: platform.Platform) -> None:
    """Wait for the containers of the round before."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while running.containers():
        if time.monotonic() > deadline:
            raise Failed("containers of the round before are still there")
        time.sleep(0.1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inputs", type=int, default=50)
    parser.add_argument("--idle", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    columns: dict[str, Figures] = {}
    with platform.running(options) as running, tempfile.TemporaryDirectory(prefix="pilotlight-scaling-") as name:
        running.deploy("bench.many")
        pid = running.pids()["server"]
        with Process("client", [sys.executable, "-m", "bench.scaling_client"], Path(name), running.environment) as client:
            client.ask(work="burst", count=1)  # the image is there, and what it needs in memory
            client.ask(work="keep", count=0)
            none_left(running)
            columns[f"{FUNCTIONS} functions at rest"] = resting(pid, options.seconds)
            rounds: list[Figures] = []
            for _ in range(options.rounds):
                rounds.append(burst(client, options.inputs))
                client.ask(work="keep", count=0)
                none_left(running)
            columns[f"{options.inputs} inputs of 1 s"] = medians(rounds)
            client.ask(work="keep", count=options.idle)
            columns[f"{options.idle} idle containers"] = idle_memory(running.state, options.idle)
        running.stop(APP)
    show("scaling", columns, options.json)


if __name__ == "__main__":
    main()
