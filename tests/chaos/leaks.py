"""`make leaks`: thousands of containers one after the other on a platform of its own, and what they leave behind on the machine.

python -m tests.chaos.leaks [--containers 2000] [--ordinary] [--directory DIR]

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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.config import Settings
from pilotlight.node.templates.bursts import BURSTS_KEPT_S, SPARES
from tests.chaos import starts_program, traces
from tests.chaos.campaign import REPOSITORY, REST_S, deploy, settle
from tests.chaos.starts import PLAIN
from tests.chaos.target import PlatformFailed, Target, free_address, wait_for

CALLS_BEFORE, CONTAINERS_BEFORE = 2_500, 100  # more calls than the server remembers
STARTS_S = 2.0  # for one, on a machine that others use too
COMPARED = 100  # starts, the first and the last; fewer where there are no two times so many
SLOWER = 1.1

Say = Callable[[str], None]


@dataclass
class Report:
    """What came of it; `medians_ms` of so many first and last plain starts as were `compared`."""

    starts: int
    compared: int
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
    come_to_rest(target)
    before = traces.count(target)
    say(f"before: {json.dumps(before)}")
    took = start(target, containers)
    come_to_rest(target)
    after = traces.count(target)
    say(f"after:  {json.dumps(after)}")
    compared, medians = first_and_last([ms for kind, ms in took if kind == PLAIN])
    return Report(len(took), compared, medians, traces.grown(before, after))


def come_to_rest(target: Target) -> None:
    """Wait until nothing runs, and no more is ready for the next start than one fork of each template."""

    def is_burst_over() -> bool:
        ready = Counter(name.rpartition("-")[0] for name in target.containers())
        return ready["spare"] == ready["template"] * SPARES

    wait_for(is_burst_over, BURSTS_KEPT_S + REST_S, "a fork waits of each template, and no more")
    settle(target)


def first_and_last(took_ms: Sequence[float]) -> tuple[int, tuple[float, float]]:
    """How many at each end, which have none in common, and the medians of both."""
    compared = max(1, min(COMPARED, len(took_ms) // 2))
    return compared, (statistics.median(took_ms[:compared]), statistics.median(took_ms[-compared:]))


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
    compared = f"medians of the first and last {report.compared} plain: {first:.1f} and {last:.1f} ms ({last / first - 1:+.0%})"
    grown = [f"left behind: {name}: {before:g} before, {after:g} after" for name, (before, after) in report.grown.items()]
    return [f"{report.starts} calls, {compared}", *grown, "GOOD" if report.is_good else "BAD"]


def main() -> int:
    """The command line; 0 if nothing was left behind, and starts did not become slower."""
    parser = argparse.ArgumentParser(prog="leaks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=2_000)
    parser.add_argument("--ordinary", action="store_true", help="Start containers without templates.")
    parser.add_argument("--directory", type=Path, help="Keep the platform's state here; built images that are there are used.")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("Containers need root.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="pilotlight-leaks-") as scratch:
        state = (options.directory or Path(scratch)).resolve() / "state"
        target = Target(Settings(state=state), ("--api", free_address(), "--web", free_address()))
        try:
            # Said either way: what sudo drops, or the caller has set for another platform, is not what is asked for here.
            target.up(PILOTLIGHT_WARM_STARTS="false" if options.ordinary else "true")
            print(f"containers start {'the ordinary way' if options.ordinary else 'warm'}", flush=True)
            report = measure(target, options.containers, lambda line: print(line, flush=True))
        finally:
            target.down()
    print(*table(report), sep="\n")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
