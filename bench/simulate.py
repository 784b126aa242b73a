"""`python -m bench.simulate`: a day of 10,000 functions on 1,000 nodes, under our policies and two published ones.

Nothing here takes real time but the decisions: arrivals, starts and ends are events on a virtual clock (bench/simulation).
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from bench.simulation.cloud import Cloud, Result
from bench.simulation.policies import KeepAlive, Knative, Ours, Policy
from bench.simulation.workload import DAY_S, arrivals
from pilotlight.core import scaling
from pilotlight.core.gpus import GpuWish
from pilotlight.core.placement import Need, NodeView, place

DECISIONS = 300
SAMPLES_DRAWN = 5  # in one point of the plot; there is one a minute


def main() -> None:
    """Run all policies on the same arrivals; a table, and a plot where matplotlib is installed."""
    parser = argparse.ArgumentParser(prog="bench.simulate", description=__doc__)
    parser.add_argument("--functions", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--most-per-day", type=float, default=3_000.0, help="cap of one function's calls")
    parser.add_argument("--startup-s", type=float, default=0.7, help="from the wish for a container to its first input")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="policies that are simulated at the same time")
    parser.add_argument("--plot", type=Path, help="a PNG of containers over the day")
    options = parser.parse_args()
    print_decisions()
    policies: list[Policy] = [Ours(options.startup_s), Ours(options.startup_s, 600.0), Knative(), KeepAlive()]
    with ProcessPoolExecutor(options.jobs) as processes:
        results = list(processes.map(partial(simulate, options=options), policies))
    print_table(results)
    if options.plot:
        draw(results, options.plot)


def simulate(policy: Policy, options: argparse.Namespace) -> Result:
    """One policy over the whole time."""
    seconds = options.hours / 24 * DAY_S
    began = time.process_time()
    cloud = Cloud(policy, options.functions, options.nodes, options.startup_s)
    result = cloud.run(arrivals(options.functions, seconds, options.most_per_day, options.seed), seconds)
    print(f"{policy.name}: {result.inputs} inputs simulated in {time.process_time() - began:.0f} s of CPU time", flush=True)
    return result


def print_decisions() -> None:
    """What one decision costs, in real time."""
    nodes = [
        NodeView(f"node-{number}", 16_000, 65_536, number * 7 % 9_000, number * 31 % 60_000, containers=10, gpus={"H100": 8},
                 free_gpus={"H100": number % 9})
        if number % 5 == 0
        else NodeView(f"node-{number}", 16_000, 65_536, number * 7 % 9_000, number * 31 % 60_000, containers=10)
        for number in range(1_000)
    ]  # fmt: skip
    for need in (Need(125, 128), Need(125, 128, GpuWish("H100", 2))):
        took = [_seconds_of(lambda need=need: place(nodes, need)) for _ in range(DECISIONS)]
        print(f"one placement over 1,000 nodes, 10,000 containers ({need.gpu or 'no GPU'}): {statistics.median(took) * 1e3:.2f} ms")
    pools = [_pool(number) for number in range(10_000)]
    took = [_seconds_of(lambda: [scaling.plan(pool) for pool in pools]) for _ in range(5)]
    print(f"one pass of scaling over 10,000 pools: {statistics.median(took) * 1e3:.0f} ms")


def _pool(number: int) -> scaling.PoolView:
    tasks = tuple(scaling.TaskView(str(task), False, task % 2, float(number % 90)) for task in range(number % 4))
    return scaling.PoolView(queued=number % 7, inputs_per_container=1, tasks=tasks, service_s=0.1)


def _seconds_of(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def print_table(results: Sequence[Result]) -> None:
    """The figures of all policies, side by side."""
    print(f"\n{'policy':30} {'cold':>7} {'p50':>9} {'p99':>9} {'p99.9 wait':>10} {'container-h':>12} {'busy':>6} {'starts':>9}")
    for result in results:
        waits = sorted(result.waits)
        p50, p99, p999 = (waits[min(len(waits) - 1, int(len(waits) * share))] for share in (0.5, 0.99, 0.999))
        print(
            f"{result.name:30} {result.cold / result.inputs:7.2%} {p50:8.3f}s {p99:8.3f}s {p999:9.3f}s "
            f"{result.container_s / 3600:12.0f} {result.busy_s / result.container_s:6.1%} {result.starts:9}"
            + (f"  ({result.unplaced} unplaced)" if result.unplaced else "")
        )


def draw(results: Sequence[Result], path: Path) -> None:
    """Containers over the day."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    for result in results:
        samples = result.containers_over_time
        means = [samples[at : at + SAMPLES_DRAWN] for at in range(0, len(samples), SAMPLES_DRAWN)]
        hours = [group[0][0] / 3600 for group in means]
        axes.plot(hours, [statistics.mean(count for _, count in group) for group in means], label=result.name, linewidth=1)
    axes.set_xlabel("hour of the day")
    axes.set_ylabel("containers")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_title(f"Containers of all functions, means of {SAMPLES_DRAWN} minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
