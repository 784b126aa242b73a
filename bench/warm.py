"""Warm calls and maps through a running platform, containers and all, beside the ruler: the two take turns within each round.

    python -m bench.warm [--state DIR] [--set SETTING=VALUE] [--rounds 3] [--calls 400] [--inputs 5000] [--json]

"ratio" is the median of the rounds' ratios: above 1 is slower for times, below 1 is slower for rates. Without --state a new
platform is started, which builds its image first, and is removed afterwards; a state that has run before spares that.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from bench import floor, platform
from bench.figures import Figures, medians, show
from bench.processes import Process
from bench.program import APP


def ratios(platform_figures: Figures, ruler_figures: Figures) -> Figures:
    """Platform over ruler, figure by figure."""
    return {name: value / ruler_figures[name] for name, value in platform_figures.items()}


def side_by_side(case: floor.Case, kind: str, count: int, client: Process, options: argparse.Namespace) -> dict[str, Figures]:
    """Figures of one case: of the platform, of the ruler, and their ratio."""

    def work(kind: str, count: int) -> dict[str, object]:
        return client.ask(work=kind, app=APP, function=case.function, count=count)

    ours: list[Figures] = []
    rulers: list[Figures] = []
    with floor.running(case, options.linger_ms) as ruler:
        for each in (ruler.work, work):
            each(kind, floor.warm_up_count(count))
        for number in range(options.rounds):
            # Who goes first changes each round, so that neither always finds the machine warm.
            for is_ours in (number % 2 == 0, number % 2 == 1):
                (ours if is_ours else rulers).append(floor.measured(work if is_ours else ruler.work, kind, count))
    ratio = medians([ratios(one, other) for one, other in zip(ours, rulers, strict=True)])
    return {"platform": medians(ours), "ruler": medians(rulers), "ratio": ratio}


def measure(running: platform.Platform, options: argparse.Namespace, directory: Path) -> dict[str, Figures]:
    """All cases, as columns of a table."""
    running.deploy("bench.program")
    cases = {"call": ("call", floor.CALL, options.calls)}
    cases |= {title: ("map", case, options.inputs) for title, case in floor.MAPS.items()}
    columns: dict[str, Figures] = {"platform": {}, "ruler": {}, "ratio": {}}
    with Process("platform-client", [sys.executable, "-m", "bench.client"], directory, running.environment) as client:
        for title, (kind, case, count) in cases.items():
            for column, figures in side_by_side(case, kind, count, client, options).items():
                columns[column] |= {f"{title}: {name}": value for name, value in figures.items()}
    return columns


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform.add_options(parser)
    floor.add_options(parser)
    options = parser.parse_args()
    with platform.running(options) as running, tempfile.TemporaryDirectory(prefix="pilotlight-warm-") as name:
        show("warm", measure(running, options, Path(name)), options.json)


if __name__ == "__main__":
    main()
