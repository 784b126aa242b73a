"""Cold starts: calls of functions of which nothing runs, beside other ways to start a Python process, in one run.

    python -m bench.cold [--state DIR] [--set SETTING=VALUE] [--rounds 30] [--many] [--load] [--page FILE] [--plot FILE] [--json]

Before each call the bench sees to it that no process of any container exists (`modal container stop`, then the kernel's books are
looked at), and that the machine has been quiet for a moment; in bursts only the first call finds nothing. "p50" and "p95" are of
the client's own clock, from the call to its result. Rounds take turns between the cases, so that a busy moment of the machine hits
all of them. The no-op is also called in containers that are made the ordinary way: by an OCI runtime, with a new interpreter.
--many deploys a thousand functions over ten images and measures the no-op again; --load measures it once more while one core is
busy. --page writes the tables between the marks of a page, such as docs/cold-starts.md.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import cold_page, cold_rivals, cold_state, cold_steps, platform
from bench.cold_functions import several
from bench.figures import Figures, show
from bench.processes import Process
from pilotlight.config import Settings

APPS = ("noop", "several", "numpy_", "pandas_", "web")
NOOP, SEVERAL, NUMPY, PANDAS, WEB = (f"pilotlight-cold-{name}" for name in ("noop", "several", "numpy", "pandas", "web"))
QUIET_S = 0.25  # between the end of one container and the next call: what is cleared away is not measured
SETTLED_S = 3.0
BURST_ROUNDS = 5
MOMENT_S = 0.03
ROUNDS_OF_P99 = 100  # of fewer it would be the slowest one, under another name
BUSY = "while True: pass"


@dataclass
class Bench:
    """A running platform, and a client of it."""

    running: platform.Platform
    client: Process
    settings: Settings

    def nothing_runs(self) -> None:
        """End all containers, and wait until the kernel knows of none."""
        self.client.ask(work="end")
        cold_state.wait_until_none(self.settings)
        time.sleep(QUIET_S)
        cold_state.wait_until_none(self.settings)

    def cold(self, **work: object) -> dict[str, object]:
        """Do it from zero."""
        self.nothing_runs()
        return self.client.ask(**work)

    def call(self, app: str, function: str, argument: object = None) -> float:
        return float(self.cold(work="call", app=app, function=function, argument=argument)["ms"])  # type: ignore[arg-type]

    def burst(self, app: str, functions: Sequence[str], argument: object = None) -> float:
        return float(self.cold(work="burst", app=app, functions=functions, argument=argument)["ms"])  # type: ignore[arg-type]

    def get(self, app: str, function: str) -> float:
        return float(self.cold(work="get", app=app, function=function)["ms"])  # type: ignore[arg-type]


def summary(latencies_ms: Sequence[float]) -> Figures:
    """Of one case."""
    ordered = sorted(latencies_ms)
    cuts = statistics.quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else ordered * 99
    rarest = {"p99": cuts[98]} if len(ordered) >= ROUNDS_OF_P99 else {}
    return {"best": ordered[0], "p50": cuts[49], "p95": cuts[94], **rarest, "rounds": len(ordered)}


def singles(bench: Bench, rounds: int) -> dict[str, Figures]:
    """Single calls; the first round of each makes what is made once (templates, bytecode) and is not counted."""
    cases: dict[str, Callable[[], float]] = {
        "no-op": lambda: bench.call(NOOP, "noop"),
        "no-op, the ordinary way": lambda: bench.call(NOOP, "ordinary"),
        "imports numpy": lambda: bench.call(NUMPY, "total", 7),
        "imports pandas": lambda: bench.call(PANDAS, "total", 7),
        "GET of a Starlette app": lambda: bench.get(WEB, "site"),
    }
    return in_turns(cases, rounds)


def bursts(bench: Bench, rounds: int) -> dict[str, Figures]:
    """Many calls at once: until the last is answered."""
    cases: dict[str, Callable[[], float]] = {
        "10 calls, max_inputs=1": lambda: bench.burst(NOOP, ["single_use"] * 10),
        "50 calls of 30 ms": lambda: bench.burst(NOOP, ["moment"] * 50, MOMENT_S),
        "20 functions, once each": lambda: bench.burst(SEVERAL, several.FUNCTIONS),
    }
    return in_turns(cases, rounds)


def in_turns(cases: dict[str, Callable[[], float]], rounds: int) -> dict[str, Figures]:
    """One of each per round, the first round not counted."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, measure in cases.items():
            took_ms = measure()
            if number:
                seen[name].append(took_ms)
    return {name: summary(latencies_ms) for name, latencies_ms in seen.items()}


def breakdown(bench: Bench, function: str, rounds: int) -> Figures:
    """The median of each step of a no-op's cold call, while nothing else happens."""
    calls: list[cold_steps.Call] = []
    for _ in range(rounds):
        answer = bench.cold(work="call", app=NOOP, function=function, argument=None)
        began_at, took_ms = float(answer["began_at"]), float(answer["ms"])  # type: ignore[arg-type]
        calls.append(cold_steps.Call(began_at, began_at + took_ms / 1000))
    time.sleep(1.0)  # the last lines reach the log
    found = cold_steps.steps(bench.running.state, calls)
    rows = dict.fromkeys(row for figures in found for row in figures)
    return {row: statistics.median(figures[row] for figures in found if row in figures) for row in rows}


def memory(bench: Bench) -> Figures:
    """Private memory in MiB: of what is kept ready, and of one more container of a no-op."""
    bench.nothing_runs()
    kept = {name: cold_state.processes(path) for name, path in cold_state.groups(bench.settings).items()}
    by_kind: dict[str, list[float]] = {}
    for name, pids in kept.items():
        if pids:
            by_kind.setdefault(name.rpartition("-")[0] or name, []).append(cold_state.private_mib(pids))
    figures = {f"kept ready: a {kind}, of {len(sizes)} the largest": max(sizes) for kind, sizes in by_kind.items()}
    bench.client.ask(work="call", app=NOOP, function="noop", argument=None)
    found = [cold_state.private_mib(pids) for pids in cold_state.containers(bench.settings).values()]
    return figures | {"a no-op's container": max(found)}


def settle(settings: Settings) -> None:
    """Return when no more is made ahead: templates of what was just deployed begin one after another."""
    before, same_since = cold_state.groups(settings).keys(), time.monotonic()
    while time.monotonic() - same_since < SETTLED_S:
        time.sleep(QUIET_S)
        if (now := cold_state.groups(settings).keys()) != before:
            before, same_since = now, time.monotonic()


def look_up(client: Process) -> None:
    """Look up every function that will be called."""
    wanted = {
        NOOP: ["noop", "ordinary", "single_use", "moment"],
        SEVERAL: several.FUNCTIONS,
        NUMPY: ["total"],
        PANDAS: ["total"],
        WEB: ["site"],
    }
    for app, functions in wanted.items():
        client.ask(work="look_up", app=app, functions=functions)


def measure(bench: Bench, options: argparse.Namespace, directory: Path) -> dict[str, dict[str, Figures]]:
    """All tables: rows of figures by name."""
    look_up(bench.client)
    tables = {"calls of functions that are not running, ms": singles(bench, options.rounds)}
    ways = {"median": "noop", "the ordinary way": "ordinary"}
    tables[cold_page.STEPS] = {way: breakdown(bench, function, options.rounds) for way, function in ways.items()}
    tables["private memory, MiB"] = {"MiB": memory(bench)}
    tables["bursts, ms until the last answer"] = bursts(bench, min(options.rounds, BURST_ROUNDS))
    beside = in_turns(cold_rivals.ways(directory, options.ray_python), options.rounds)
    tables["beside: other ways to start Python, ms"] = beside
    quiet = {"no-op": lambda: bench.call(NOOP, "noop")}
    if options.load:
        with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
            try:
                tables["while one core is busy, ms"] = in_turns(quiet, options.rounds)
            finally:
                busy.kill()
    if options.many:
        bench.running.deploy("bench.cold_functions.many")
        settle(bench.settings)
        tables["with a thousand functions of ten images deployed, ms"] = in_turns(quiet, options.rounds)
    return tables


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--many", action="store_true")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--ray-python", type=Path, help="an interpreter that has Ray installed")
    parser.add_argument("--plot", type=Path, help="where to draw the medians, as SVG")
    parser.add_argument("--page", type=Path, help="a page whose tables of figures are to be these")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with platform.running(options) as running, tempfile.TemporaryDirectory(prefix="pilotlight-cold-") as name:
        for module in APPS:
            running.deploy(f"bench.cold_functions.{module}")
        settings = Settings(state=running.state)
        settle(settings)
        with Process("cold-client", [sys.executable, "-m", "bench.cold_client"], Path(name), running.environment) as client:
            tables = measure(Bench(running, client, settings), options, Path(name))
    for title, rows in tables.items():
        show(title, transposed(rows) if "median" not in rows and "MiB" not in rows else rows, options.json)
    if options.plot:
        cold_page.plot(tables, options.plot)
    if options.page:
        cold_page.write(tables, options.page)


def transposed(rows: dict[str, Figures]) -> dict[str, Figures]:
    """Columns by the figures' names."""
    columns: dict[str, Figures] = {}
    for name, figures in rows.items():
        for figure, value in figures.items():
            columns.setdefault(figure, {})[name] = value
    return columns


if __name__ == "__main__":
    main()
