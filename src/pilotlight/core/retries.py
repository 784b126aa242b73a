"""When a failed input is tried again, and when a death of its container is one too many."""

from dataclasses import dataclass

DEATHS_LIMIT = 3  # an input that was in this many containers when they died is the likely cause
STARTUP_FAILURES_LIMIT = 3  # starts in a row that failed before a function's waiting inputs are failed
STARTUP_BACKOFF_S = (0.5, 2.0)  # before the second, the third … start
CRASH_LOOP = 3  # containers of a function in a row that died: from then on `status` lists it
FIRST_CRASH_BACKOFF_S, LONGEST_CRASH_BACKOFF_S = 1.0, 60.0
STABLE_S = 60.0  # a container that was ready for so long did not die of what it is


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A user's `modal.Retries`: the delay of the n-th retry is initial × coefficient^n, at most the maximum."""

    retries: int = 0
    initial_delay_s: float = 1.0
    backoff_coefficient: float = 2.0
    max_delay_s: float = 60.0

    def delay_s(self, retry_count: int) -> float | None:
        """Seconds to wait after the attempt that had `retry_count` retries before it; None: the budget is used up."""
        if retry_count >= self.retries:
            return None
        return min(self.initial_delay_s * self.backoff_coefficient**retry_count, self.max_delay_s)


def startup_backoff_s(failures: int) -> float:
    """Seconds to wait before the next start after so many failed ones in a row."""
    if failures <= 0:
        return 0.0
    return STARTUP_BACKOFF_S[min(failures, len(STARTUP_BACKOFF_S)) - 1]


def crash_backoff_s(crashes: int) -> float:
    """Seconds before a container that nobody waits for takes the place of one that died, after so many in a row."""
    return 0.0 if crashes < 2 else min(LONGEST_CRASH_BACKOFF_S, FIRST_CRASH_BACKOFF_S * 2.0 ** min(crashes - 2, 16))
