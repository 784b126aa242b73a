"""How long a process is waited for, on a machine that may have more to do than it can.

Owns one invariant: who has not answered because it waited for a processor is not taken for one that hangs, up to a limit that
nobody can move. Source: Documentation/scheduler/sched-stats.rst (the second number of /proc/PID/schedstat).
"""

import contextlib
import math
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

MOST_TIMES = 10.0  # a limit is stretched to at most so much
_UNWATCHED_S = 0.2  # who answers within this time costs nothing but the wait
_LOOK_S = 0.5  # between two looks at how long it had to wait itself


def nobody() -> Iterable[int]:
    """Where the processes that are waited for are not known."""
    return ()


@dataclass(frozen=True)
class Patience:
    """So many seconds in which none of these processes waits for a processor."""

    limit_s: float
    processes: Callable[[], Iterable[int]] = nobody
    ends_at: float = math.inf  # by the monotonic clock: of all waits together

    def from_now(self) -> "Patience":
        """The same for what is waited for from now on, the longest of which is that of all of it together."""
        return replace(self, ends_at=time.monotonic() + MOST_TIMES * self.limit_s)

    def awaits(self, fd: int) -> bool:
        """Return once there is something to be read, or an end; False: too late."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        at = time.monotonic()
        ends_at = min(self.ends_at, at + MOST_TIMES * self.limit_s)
        if poll.poll(max(0.0, min(_UNWATCHED_S, self.limit_s, ends_at - at)) * 1000):
            return True
        delays = self._delays_s()
        counted_s = time.monotonic() - at
        while counted_s < self.limit_s and time.monotonic() < ends_at:
            at = time.monotonic()
            if poll.poll(min(_LOOK_S, self.limit_s - counted_s) * 1000 + 1):
                return True
            before, delays = delays, self._delays_s()
            # Those that work for each other wait one after the other: the longest wait is that of all.
            delayed_s = max((delay - before.get(process, 0.0) for process, delay in delays.items()), default=0.0)
            counted_s += max(0.0, time.monotonic() - at - delayed_s)
        return False

    def _delays_s(self) -> dict[int, float]:
        """How long each waited for a processor since it began."""
        found: dict[int, float] = {}
        for process in self.processes():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or the kernel does not count
                found[process] = int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
        return found
