"""How many spares of a template should wait: one, and for a while after many starts at once as many as there were. Pure."""

from collections import deque

SPARES = 1  # children of each template that wait for what they become
MOST_SPARES = 12  # of one after a burst
BURST_S = 1.0  # starts within this time are one
BURSTS_KEPT_S = 60.0  # so long after a burst as many are ready for the next one


class Bursts:
    """The starts from one template, as far as they matter. Times are of any one clock, in seconds."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque(maxlen=MOST_SPARES)  # when the last ones were
        self._size = 0
        self._at = 0.0

    def took(self, now: float) -> None:
        """One has started."""
        self._taken.append(now)
        size = sum(now - at <= BURST_S for at in self._taken)
        if size >= self._size or now - self._at > BURSTS_KEPT_S:
            self._size, self._at = size, now

    def wanted(self, now: float) -> int:
        """So many should wait now."""
        return max(SPARES, self._size) if now - self._at <= BURSTS_KEPT_S else SPARES
