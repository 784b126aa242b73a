"""How many requests a second web functions take: buckets of tokens for each function, and for all of them together."""

import math
import time
from collections.abc import Callable

from pilotlight.core.rates import TokenBucket
from pilotlight.edge.refusals import Refusal


class Rates:
    """`per_function` and `in_all` requests a second; 0 is no limit."""

    def __init__(self, per_function: int, in_all: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_function = per_function
        self._clock = clock
        self._all = TokenBucket(in_all, clock()) if in_all else None
        self._functions: dict[str, TokenBucket] = {}

    def check(self, function_id: str, title: str) -> None:
        """Count one request; raises Refusal (429) with Retry-After where it is one too many."""
        if not self._per_function and self._all is None:
            return
        now_s = self._clock()
        bucket = None
        if self._per_function:
            bucket = self._functions.get(function_id)
            if bucket is None:
                bucket = self._functions[function_id] = TokenBucket(self._per_function, now_s)
            if wait_s := bucket.take(now_s):
                raise _too_many(f"{title} takes {self._per_function} requests a second", wait_s)
        if self._all is not None and (wait_s := self._all.take(now_s)):
            if bucket is not None:
                bucket.put_back()
            raise _too_many(f"the web functions here take {self._all.rate_per_s:g} requests a second together", wait_s)

    def forget(self, function_id: str) -> None:
        """The function has gone."""
        self._functions.pop(function_id, None)


def _too_many(what: str, wait_s: float) -> Refusal:
    return Refusal(429, f"{what}; try again later", [(b"retry-after", b"%d" % math.ceil(wait_s))])
