"""Arrivals like those that a large cloud saw, made anew from the distributions that were published.

Source: Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020), about Azure Functions: 45 % of functions are called at most once
an hour on average and 81 % at most once a minute (a log-normal through these two points has μ = 3.69, σ = 4.08, in calls per day);
16 % of functions are timers; execution times are log-normal with μ = -0.38, σ = 2.36 (seconds); load is highest in the afternoon,
and about half of that is there at all hours. The rates of the busiest functions are capped: a day of billions of calls would take
days to simulate.
"""

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

DAY_S = 86_400.0
TIMERS = 0.16
TIMER_PERIODS_S = ((60, 0.1), (300, 0.25), (900, 0.2), (3_600, 0.3), (86_400, 0.15))
RATE_MU, RATE_SIGMA = 3.69, 4.08
SERVICE_MU, SERVICE_SIGMA = -0.38, 2.36
LONGEST_SERVICE_S = 300.0
SPREAD = 0.4  # of the execution times of one function
BURST_SHARE, BURST_MEAN = 0.05, 8  # of arrivals that bring company, and how much


@dataclass(frozen=True, slots=True)
class Arrival:
    """One input. `service_s`: how long it runs."""

    at: float
    function: int
    service_s: float


def diurnal(at: float) -> float:
    """Load at a time of the day, over its mean."""
    return 1.0 + 0.5 * math.sin((at / DAY_S - 0.375) * 2 * math.pi)


def arrivals(functions: int, seconds: float, most_per_day: float, seed: int) -> Iterator[Arrival]:
    """All inputs of so many functions, in the order of their times."""
    chance = random.Random(seed)
    streams = [_of_function(number, seconds, most_per_day, random.Random(chance.random())) for number in range(functions)]
    return heapq.merge(*streams, key=lambda arrival: arrival.at)


def _of_function(number: int, seconds: float, most_per_day: float, chance: random.Random) -> Iterator[Arrival]:
    mean_s = min(LONGEST_SERVICE_S, max(0.001, chance.lognormvariate(SERVICE_MU, SERVICE_SIGMA)))

    def service_s() -> float:
        return min(LONGEST_SERVICE_S, mean_s * chance.lognormvariate(-SPREAD * SPREAD / 2, SPREAD))

    if chance.random() < TIMERS:
        [period_s] = chance.choices([period for period, _ in TIMER_PERIODS_S], [weight for _, weight in TIMER_PERIODS_S])
        at = 0.0 if period_s < DAY_S else chance.randrange(24) * 3_600.0  # on the full minute: that is what makes spikes
        while at < seconds:
            yield Arrival(at, number, service_s())
            at += period_s
        return
    # Nobody here runs a thousand containers of one function all day.
    rate = min(most_per_day, chance.lognormvariate(RATE_MU, RATE_SIGMA), 20 * DAY_S / mean_s) / DAY_S
    at = 0.0
    while (at := at + chance.expovariate(rate * 1.5)) < seconds:
        if chance.random() * 1.5 > diurnal(at):  # thinning: the rate follows the hour
            continue
        company = int(chance.expovariate(1 / BURST_MEAN)) if chance.random() < BURST_SHARE else 0
        for _ in range(1 + company):
            yield Arrival(at, number, service_s())
