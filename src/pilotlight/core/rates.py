"""How often something may happen: a bucket of tokens that fills steadily (pure: the time is told to it)."""

from collections.abc import Callable

BURST_S = 5.0  # a bucket holds what comes in so many seconds


class TokenBucket:
    """`rate_per_s` tokens a second, BURST_S seconds' worth at most; full at first."""

    __slots__ = ("_at_s", "_tokens", "rate_per_s")

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self._tokens = rate_per_s * BURST_S
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take a token: 0.0 if there was one, else the seconds until there is (nothing is taken then)."""
        filled = self._tokens + (now_s - self._at_s) * self.rate_per_s
        self._tokens = min(filled, self.rate_per_s * BURST_S)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate_per_s

    def put_back(self) -> None:
        """Undo a take that came to nothing."""
        self._tokens += 1


class Pace:
    """How fast somebody may go on who can be made to wait: what comes too early is counted, and says how long it is ahead."""

    __slots__ = ("_at_s", "_left", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._left = burst
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Count one more: 0.0 if it is in time, else the seconds by which it and those before it came too early."""
        left = min(self._left + (now_s - self._at_s) * self.rate_per_s, self.burst) - 1
        self._left, self._at_s = left, now_s
        return 0.0 if left >= 0 else -left / self.rate_per_s


class Paces:
    """The pace of each of many, by name; the names are few."""

    def __init__(self, rate_per_s: float, burst: float, now: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._now = now
        self._paces: dict[str, Pace] = {}

    def take(self, name: str) -> float:
        """As of the Pace of this name."""
        now_s = self._now()
        pace = self._paces.get(name)
        if pace is None:
            pace = self._paces[name] = Pace(self._rate_per_s, self._burst, now_s)
        return pace.take(now_s)
