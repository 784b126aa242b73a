"""What was, by buckets of time: how wide they are, which series there are, and what becomes of moments, spans and samples in them.

Buckets begin at multiples of their width since the epoch. A bucket of which nothing is known holds None, which is not 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pilotlight.core import errors
from pilotlight.core.statistics import percentiles

LONGEST_WINDOW_S = 31 * 24 * 3600
MAX_POINTS = 500  # of one series
AIMED_AT_POINTS = 100  # where the caller does not say how wide buckets are
BUCKETS_S = tuple(60 * minutes for minutes in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60, 120, 180, 240, 480, 720, 1440))

Values = list[float | None]
_PERCENTILES = {"p50": 5_000, "p90": 9_000, "p99": 9_900}  # in basis points
SPREAD = (*_PERCENTILES, "max")
LEVEL = ("avg", "max")


@dataclass(frozen=True, slots=True)
class Window:
    """Buckets from `since` (inclusive) to `until`, both seconds since the epoch and multiples of `bucket_s`."""

    since: int
    until: int
    bucket_s: int

    @property
    def starts(self) -> range:
        """Where each bucket begins."""
        return range(self.since, self.until, self.bucket_s)

    def index(self, at: float) -> int | None:
        """The bucket of a moment, if it has one."""
        return int(at - self.since) // self.bucket_s if self.since <= at < self.until else None


def window(since: float, until: float, bucket_s: int | None) -> Window:
    """The buckets for a span; without a width, about a hundred of them. Raises InvalidInput."""
    if not 0 <= since < until:
        raise errors.InvalidInput("The span of time ends before it begins: `since` is not before `until`.")
    if until - since > LONGEST_WINDOW_S:
        raise errors.InvalidInput("The span of time is too long: series are of 31 days at most. Ask for several spans.")
    if bucket_s is None:
        fitting = (width for width in BUCKETS_S if _points(since, until, width) <= AIMED_AT_POINTS)
        bucket_s = next(fitting, BUCKETS_S[-1])
    if bucket_s not in BUCKETS_S:
        widths = ", ".join(map(_name_of_width, BUCKETS_S))
        raise errors.InvalidInput(f"There are no buckets of {bucket_s} s. There are those of {widths}.")
    if _points(since, until, bucket_s) > MAX_POINTS:
        raise errors.InvalidInput(f"Series have {MAX_POINTS} points at most: choose wider buckets, or a shorter span.")
    return Window(int(since) // bucket_s * bucket_s, int(until) // bucket_s * bucket_s, bucket_s)


def _points(since: float, until: float, bucket_s: int) -> int:
    return int(until) // bucket_s - int(since) // bucket_s


def _name_of_width(bucket_s: int) -> str:
    minutes = bucket_s // 60
    return "1d" if minutes == 1440 else f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"


@dataclass(frozen=True, slots=True)
class Family:
    """Series that differ by how a bucket's values become one: `aggregations` end their names."""

    base: str
    unit: str
    description: str
    aggregations: tuple[str, ...] = ("count",)

    @property
    def names(self) -> list[str]:
        """Of each series."""
        return [f"{self.base}_{aggregation}" for aggregation in self.aggregations]

    @property
    def display_name(self) -> str:
        """Of all of them, alternatives in braces."""
        endings = ",".join(self.aggregations)
        return f"{self.base}_{{{endings}}}" if len(self.aggregations) > 1 else self.names[0]


Groups = Mapping[str, Sequence[Family]]

_OF_CONTAINERS: Groups = {
    "containers": (
        Family("active_containers", "containers", "Containers that were ready for inputs.", LEVEL),
        Family("started_containers", "containers", "Containers that became ready."),
        Family("failed_containers", "containers", "Containers that ended otherwise than they should have."),
        Family("startup_time", "s", "From the wish for a container until it was ready, by when it was.", SPREAD),
    ),
    "cpu": (
        Family("reserved_cpu", "cores", "What containers had asked for, all together.", LEVEL),
        Family("used_cpu", "cores", "Of one container in the mean of its life, by when it ended.", SPREAD),
    ),
    "memory": (
        Family("reserved_memory", "GiB", "What containers had asked for, all together.", LEVEL),
        Family("peak_memory", "GiB", "The most that one container ever had, by when it ended.", SPREAD),
    ),
    "gpu": (Family("assigned_gpus", "GPUs", "GPUs, or shares of them, that containers had, all together.", LEVEL),),
}
OF_FUNCTIONS: Groups = {
    "calls": (
        Family("new_calls", "calls", "Inputs, by when their call began. Requests of web functions are none."),
        Family("successful_calls", "calls", "Inputs that ended well."),
        Family("failed_calls", "calls", "Inputs that raised an exception, or whose containers died too often."),
        Family("timed_out_calls", "calls", "Inputs that took longer than they may."),
        Family("cancelled_calls", "calls", "Inputs that were cancelled."),
        Family("execution_time", "s", "Of one input, by when it ended; of the newest 10,000.", SPREAD),
        Family("latency", "s", "From a call with one input to its end; of the newest 10,000.", SPREAD),
    ),
    **_OF_CONTAINERS,
}
OF_SERVERS: Groups = {
    "requests": (
        Family("requests", "requests", "Requests that began, of the newest 100,000 of all servers."),
        Family("failed_requests", "requests", "Those of them that were answered with 500 or more."),
        Family("request_time", "s", "Of one request, by when it began; of the newest 10,000.", SPREAD),
    ),
    **_OF_CONTAINERS,
}


def chosen(groups: Groups, wanted: Sequence[str]) -> Groups:
    """The groups of those names, all of them for none. Raises InvalidInput for a name that is none."""
    for name in wanted:
        if name not in groups:
            raise errors.InvalidInput(f"There are no series of {name!r} here. There are those of {', '.join(groups)}.")
    return {name: groups[name] for name in (dict.fromkeys(wanted) or groups)}


def counts(buckets: Window, moments: Iterable[tuple[float, int]]) -> Values:
    """How much there was in each bucket. `moments`: (when, how many)."""
    values = [0.0] * len(buckets.starts)
    for at, count in moments:
        if (index := buckets.index(at)) is not None:
            values[index] += count
    return list(values)


def levels(buckets: Window, spans: Iterable[tuple[float, float, float]]) -> dict[str, Values]:
    """Mean and most of a sum over each bucket. `spans`: (from, until, how much it adds)."""
    changes: dict[float, float] = {}
    for begin, end, amount in spans:
        begin, end = max(begin, buckets.since), min(end, buckets.until)
        if begin < end:
            changes[begin] = changes.get(begin, 0.0) + amount
            changes[end] = changes.get(end, 0.0) - amount
    for start in buckets.starts:
        changes.setdefault(start, 0.0)
    mean, most = [0.0] * len(buckets.starts), [0.0] * len(buckets.starts)
    moments = sorted(changes)
    level = 0.0
    for at, following in zip(moments, [*moments[1:], float(buckets.until)], strict=True):
        level += changes[at]
        if (index := buckets.index(at)) is not None:  # the last change may be where the window ends
            mean[index] += level * (following - at) / buckets.bucket_s
            most[index] = max(most[index], level)
    return {"avg": [round(value, 9) for value in mean], "max": [round(value, 9) for value in most]}


def spread(buckets: Window, samples: Iterable[tuple[float, float]]) -> dict[str, Values]:
    """Percentiles and maximum of the samples in each bucket. `samples`: (when, value)."""
    groups: list[list[float]] = [[] for _ in buckets.starts]
    for at, value in samples:
        if (index := buckets.index(at)) is not None:
            groups[index].append(value)
    points = [dict(percentiles(group)) for group in groups]
    values: dict[str, Values] = {name: [point.get(share) for point in points] for name, share in _PERCENTILES.items()}
    return values | {"max": [max(group, default=None) for group in groups]}


def unknown_outside(buckets: Window, values: Values, since: float, until: float) -> Values:
    """The values, less those of buckets that are not wholly within what is known."""
    return [
        value if since <= start and start + buckets.bucket_s <= until else None
        for start, value in zip(buckets.starts, values, strict=True)
    ]
