"""One partition of a queue, as it is held in memory: which items are on disk and free, who waits for one, and in which order.

An item is free, or promised to exactly one claim. Claims are served in the order in which they came, items in the order in which
they were put, and nobody waits while an item is free.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

MAX_ITEMS = 5_000  # of a partition

C = TypeVar("C")


class Partition(Generic[C]):
    """Items (number and size, never the value) and claims of one partition. `serve` is called with a claim and what it gets."""

    def __init__(self, serve: Callable[[C, list[tuple[int, int]]], None], max_bytes_at_once: int) -> None:
        self._serve = serve
        self._max_bytes_at_once = max_bytes_at_once
        self._free: deque[tuple[int, int]] = deque()
        self._claims: deque[tuple[C, int]] = deque()
        self.arriving = 0  # items on their way to the disk
        self.expires_at = 0.0
        self.cleared_up_to = 0

    def __len__(self) -> int:
        return len(self._free)

    @property
    def has_claims(self) -> bool:
        return bool(self._claims)

    def has_room(self, items: int) -> bool:
        """Whether that many more items fit."""
        return len(self._free) + self.arriving + items <= MAX_ITEMS

    def after(self, seq: int, limit: int, max_bytes: int) -> list[int]:
        """The free items that follow a number: at most `limit`, and no more bytes than said unless it is one item."""
        found: list[int] = []
        total = 0
        for number, size in self._free:
            if number <= seq:
                continue
            total += size
            if found and (len(found) == limit or total > max_bytes):
                break
            found.append(number)
        return found

    def add(self, items: Iterable[tuple[int, int]]) -> None:
        """Items are on disk; those that were cleared meanwhile are not counted."""
        self._free.extend(item for item in items if item[0] > self.cleared_up_to)
        self._match()

    def put_back(self, items: Iterable[tuple[int, int]]) -> None:
        """Items that were promised are free again, at their old place."""
        kept = [item for item in items if item[0] > self.cleared_up_to]
        self._free = deque(sorted([*kept, *self._free]))
        self._match()

    def claim(self, claim: C, at_most: int) -> None:
        """Ask for up to that many items: served at once, or in turn."""
        self._claims.append((claim, at_most))
        self._match()

    def withdraw(self, claim: C) -> None:
        """Stop asking."""
        self._claims = deque(entry for entry in self._claims if entry[0] is not claim)

    def withdraw_all(self) -> list[C]:
        """Stop all from asking: who they were."""
        claims, self._claims = [claim for claim, _ in self._claims], deque()
        return claims

    def clear(self, up_to: int) -> None:
        """Forget all items up to a number, those on their way included."""
        self.cleared_up_to = up_to
        self._free = deque(item for item in self._free if item[0] > up_to)

    def clear_free(self) -> int:
        """Forget the items that are free, not those on their way: the highest number that was forgotten."""
        self.cleared_up_to = max(self.cleared_up_to, self._free[-1][0]) if self._free else self.cleared_up_to
        self._free.clear()
        return self.cleared_up_to

    def _match(self) -> None:
        while self._claims and self._free:
            claim, at_most = self._claims.popleft()
            items: list[tuple[int, int]] = []
            total = 0
            while self._free and len(items) < at_most and (not items or total + self._free[0][1] <= self._max_bytes_at_once):
                items.append(self._free.popleft())
                total += items[-1][1]
            self._serve(claim, items)
