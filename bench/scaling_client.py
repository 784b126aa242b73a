"""Child: the stock client at functions that are scaled. Does what each line of its standard input asks for."""

import json
import sys
import time

import modal

from bench.many import APP
from bench.processes import say

SHORTEST_WINDOW_S = 2
POLL_S = 0.05


def burst(function: modal.Function, count: int) -> None:
    """So many inputs at once; says how long until the first and the last of them ran, and all were done."""
    called = time.time()
    results = list(function.map(range(count)))
    done_s = time.time() - called
    began = [at - called for at, _ in results]
    say(first_s=min(began), last_s=max(began), done_s=done_s, containers=len({task for _, task in results}))


def keep(function: modal.Function, count: int) -> None:
    """Have so many containers kept warm, and say when they are there; with 0, the others end soon."""
    function.autoscaler.update(min_containers=count, scaledown_window=SHORTEST_WINDOW_S)
    while function.get_current_stats().num_total_runners < count:
        time.sleep(POLL_S)
    say(kept=count)


def main() -> None:
    """Until standard input ends."""
    function = modal.Function.from_name(APP, "one_second")
    for line in sys.stdin:
        wish = json.loads(line)
        {"burst": burst, "keep": keep}[wish["work"]](function, wish["count"])


if __name__ == "__main__":
    main()
