"""`make leaks`: thousands of containers one after the other on a platform of its own, and what they leave behind on the machine.

python -m tests.chaos.leaks [--containers 2000] [--directory DIR]

Nothing is restarted between the two counts: what its processes keep open or in memory is seen. Caches that have bounds are filled
before the first one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.config import Settings
from tests.chaos import starts_program, traces
from tests.chaos.campaign import REPOSITORY, deploy, settle
from tests.chaos.starts import PLAIN
from tests.chaos.target import PlatformFailed, Target, free_address

CALLS_BEFORE, CONTAINERS_BEFORE = 2_500, 100  # more calls than the server remembers
STARTS_S = 2.0  # for one, on a machine that others use too
COMPARED = 100  # starts, the first and the last
SLOWER = 1.1

Say = Callable[[str], None]


@dataclass
class Report:
    """What came of it; `medians_ms` of the first and the last plain starts."""

    starts: int
    medians_ms: tuple[float, float]
    grown: dict[str, tuple[float, float]]

    @property
    def is_good(self) -> bool:
        return not self.grown and self.medians_ms[1] <= self.medians_ms[0] * SLOWER


def measure(
    target: Target, containers: int, say: Say, *, calls_before: int = CALLS_BEFORE, containers_before: int = CONTAINERS_BEFORE
) -> Report:
    """Start containers on a platform that runs and has nothing else to do."""
    deploy(target, Path(starts_program.__file__))
    start(target, containers_before, calls_before)
    settle(target)
    before = traces.count(target)
    say(f"before: {json.dumps(before)}")
    took = start(target, containers)
    settle(target)
    after = traces.count(target)
    say(f"after:  {json.dumps(after)}")
    plain = [ms for kind, ms in took if kind == PLAIN]
    compared = min(COMPARED, len(plain))
    medians = statistics.median(plain[:compared]), statistics.median(plain[-compared:])
    return Report(len(took), medians, traces.grown(before, after))


def start(target: Target, containers: int, calls: int = 0) -> list[tuple[str, float]]:
    """Have a stock client start so many: (kind, milliseconds) of each call."""
    command = [sys.executable, "-m", "tests.chaos.starts", "--containers", str(containers), "--calls", str(calls)]
    environment = {**target.client_environment(), "PYTHONPATH": str(REPOSITORY)}
    limit_s = 120.0 + (containers + calls) * STARTS_S
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise PlatformFailed(f"the client ended with {done.returncode}: {done.stderr[-4000:]}")
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def table(report: Report) -> Sequence[str]:
    """For people."""
    first, last = report.medians_ms
    compared = f"medians of the first and last {COMPARED} plain ones: {first:.1f} and {last:.1f} ms ({last / first - 1:+.0%})"
    grown = [f"left behind: {name}: {before:g} before, {after:g} after" for name, (before, after) in report.grown.items()]
    return [f"{report.starts} calls, {compared}", *grown, "GOOD" if report.is_good else "BAD"]


def main() -> int:
    """The command line; 0 if nothing was left behind, and starts did not become slower."""
    parser = argparse.ArgumentParser(prog="leaks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=2_000)
    parser.add_argument("--directory", type=Path, help="Keep the platform's state here; built images that are there are used.")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("Containers need root.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="pilotlight-leaks-") as scratch:
        state = (options.directory or Path(scratch)).resolve() / "state"
        target = Target(Settings(state=state), ("--api", free_address(), "--web", free_address()))
        target.up()
        try:
            report = measure(target, options.containers, lambda line: print(line, flush=True))
        finally:
            target.down()
    print(*table(report), sep="\n")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
