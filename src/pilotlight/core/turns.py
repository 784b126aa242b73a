"""Whose turn it is to get a container where several want more: whoever has the fewest, then whoever has waited longest."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """So many more containers for somebody who has some already, or none."""

    have: int
    wanted: int


class Turns:
    """One container at a time, so that no claim, however large, keeps another from its first.

    `claims` in the order in which they began to wait. Iterating gives their numbers; who can't be served is taken out by `leave`.
    """

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._left = [claim.wanted for claim in claims]
        self._heap = [(claim.have, number) for number, claim in enumerate(claims) if claim.wanted > 0]
        heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[int]:
        while self._heap:
            have, number = heapq.heappop(self._heap)
            if self._left[number] <= 0:
                continue
            self._left[number] -= 1
            if self._left[number]:
                heapq.heappush(self._heap, (have + 1, number))
            yield number

    def leave(self, number: int) -> None:
        """This claim gets no more in this round."""
        self._left[number] = 0
