"""What was answered lately, by the key of the request: one that takes something away finds its answer again when it is repeated.

Held in memory, for as long as clients repeat a request. What must not be lost or done twice even if the server dies between doing
and answering is on disk as well (store.replies), where `Replies` forgets it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from pilotlight.store import replies as store
from pilotlight.store.database import Database

T = TypeVar("T")

MAX_REPLIES = 10_000
MAX_REPLIES_BYTES = 64 << 20
REPLY_TTL_S = 120.0  # clients repeat within seconds; a connection that hangs is given up within a minute
REPLY_KEPT_S = 300.0  # on disk: a client waits for up to 30 s between two tries


class Replies:
    """The answers on disk. While the server is down nobody can repeat a request, so that time does not count."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        self._started_at = now()

    async def collect(self) -> int:
        """Forget what no client repeats any more; how many."""
        before = self._now() - REPLY_KEPT_S
        if before < self._started_at:
            return 0
        return await self._database.write(lambda connection: store.remove_older(connection, before))


class RecentReplies(Generic[T]):
    """Replies by request key; the oldest go first. An empty key is never kept."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._replies: OrderedDict[str, tuple[T, int, float]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> T | None:
        """What this very request was answered before, None if it is new."""
        found = self._replies.get(key)
        return found[0] if found and found[2] > self._now() else None

    def keep(self, key: str, reply: T, size_bytes: int = 0) -> None:
        """Remember an answer."""
        if not key or key in self._replies:
            return
        now = self._now()
        self._replies[key] = (reply, size_bytes, now + REPLY_TTL_S)
        self._bytes += size_bytes
        while len(self._replies) > 1 and (
            len(self._replies) > MAX_REPLIES or self._bytes > MAX_REPLIES_BYTES or self._oldest_ends(now)
        ):
            _, (_, size, _) = self._replies.popitem(last=False)
            self._bytes -= size

    def _oldest_ends(self, now: float) -> bool:
        return next(iter(self._replies.values()))[2] <= now
