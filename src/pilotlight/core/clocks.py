"""Time by which silence and age are judged, when somebody sets the clock of the machine meanwhile."""

import time
from collections.abc import Callable


class SteadyClock:
    """Seconds since the epoch as they were at the start, and from then on as they pass: whoever sets the machine's clock changes
    nothing before the next start.

    For what is compared with itself only, such as the time of a heartbeat. What people see goes by the machine's clock, and so do
    schedules.
    """

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._offset_s = wall() - elapsed()

    def __call__(self) -> float:
        return self._elapsed() + self._offset_s

    def careful(self) -> float:
        """The earlier of this and the machine's clock: by it nothing is too old before its time, however that was set."""
        return min(self(), self._wall())
