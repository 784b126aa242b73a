"""How often something may happen: a bucket of tokens that fills steadily (pure: the time is told to it)."""

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
