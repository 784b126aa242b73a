"""Which settings of an autoscaler may be asked for."""

from dataclasses import dataclass

from pilotlight.core import errors

MAX_CONTAINERS_ASKED = 10_000
LONGEST_SCALEDOWN_S = 3600
SHORTEST_SCALEDOWN_S = 2


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a function would be scaled by; a `max_containers` of 0 is no limit of the function's own."""

    min_containers: int
    max_containers: int
    buffer_containers: int
    scaledown_window_s: int | None  # None: not asked for


def check(function_name: str, bounds: Bounds) -> None:
    """Raise InvalidInput for settings that contradict each other, or that no platform could keep."""
    most = max(bounds.min_containers, bounds.max_containers, bounds.buffer_containers)
    if most > MAX_CONTAINERS_ASKED:
        raise errors.InvalidInput(
            f"Function {function_name!r} can't have {most:,} containers: at most {MAX_CONTAINERS_ASKED:,} can be asked for."
        )
    if bounds.max_containers and bounds.min_containers > bounds.max_containers:
        raise errors.InvalidInput(
            f"Function {function_name!r} can't keep min_containers={bounds.min_containers} with "
            f"max_containers={bounds.max_containers}: change both in one update, the lower first."
        )
    window_s = bounds.scaledown_window_s
    if window_s is not None and not SHORTEST_SCALEDOWN_S <= window_s <= LONGEST_SCALEDOWN_S:
        raise errors.InvalidInput(
            f"Function {function_name!r} can't have a scaledown window of {window_s} s: "
            f"it must be {SHORTEST_SCALEDOWN_S} to {LONGEST_SCALEDOWN_S} s."
        )
