"""What is told of a span of time: shares, percentiles, which ends of containers were errors."""

import math
from collections.abc import Sequence

LONGEST_SPAN_S = 7 * 24 * 3600.0
PERCENTILES = (5_000, 9_000, 9_500, 9_900)  # in basis points

_ERRORS = frozenset(
    {
        *("oom", "setup_failed", "disk_full", "not_isolated", "startup_timeout", "input_timeout", "gpu_failed"),
        *("lost", "lost with its node"),
    }
)


def percentiles(values: Sequence[float]) -> list[tuple[int, float]]:
    """(basis points, value) by the nearest rank; empty for no values."""
    ordered = sorted(values)
    return [(point, ordered[math.ceil(point * len(ordered) / 10_000) - 1]) for point in PERCENTILES] if ordered else []


def is_error(reason: str, exit_code: int) -> bool:
    """Whether a container ended otherwise than it should have: nobody had asked it to, and it did not end well."""
    return reason in _ERRORS or (reason == "exited" and exit_code != 0)
