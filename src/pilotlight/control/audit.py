"""The audit log: who changed what, or tried to, from where, and what came of it.

It is written behind: nobody waits for it, and an event is on disk with the next transaction, milliseconds later. Calls never pass
through here.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from pilotlight.core.audit import Event
from pilotlight.store import audit as store
from pilotlight.store.database import Database

MAX_EVENTS = 200_000
SAME_WITHIN_S = 60.0  # who does the same to the same thing again and again is written down so often
REMEMBERED = 2_000  # events that are compared with
MAX_LISTED = 10_000
LONGEST_WAIT_S = 60.0

Key = tuple[str, str, str, str, str]


class Audit:
    """Use cases of the audit log."""

    def __init__(self, *, database: Database, retention_s: float, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._retention_s = retention_s
        self._now = now
        self._recent: OrderedDict[Key, float] = OrderedDict()
        self._written = asyncio.Event()
        self._last: asyncio.Future[object] | None = None  # the newest event on its way to the disk

    def record(self, *, actor: str, address: str, action: str, about: str, outcome: str) -> None:
        """Write down an event."""
        now = self._now()
        key = (actor, address, action, about, outcome)
        if (before := self._recent.get(key)) is not None and before <= now < before + SAME_WITHIN_S:
            return
        self._recent[key] = now
        self._recent.move_to_end(key)
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        event = Event(0, now, *key)
        self._last = self._database.write_unattended(
            lambda connection: store.add(connection, event, MAX_EVENTS), "audit event", patient=True
        )
        self._last.add_done_callback(lambda _: self._wake())

    async def events(self, *, since: float, after_id: int, limit: int, wait_s: float = 0.0) -> Sequence[Event]:
        """The newest events, oldest of them first. If there is none, waits for one for so long."""
        limit = min(limit, MAX_LISTED)
        if self._last is not None:
            await asyncio.wait((self._last,))  # what has happened is shown
        until = asyncio.get_running_loop().time() + min(wait_s, LONGEST_WAIT_S)
        while True:
            written = self._written
            rows = await self._database.read(lambda connection: store.newest(connection, since, after_id, limit))
            if rows:
                return [Event(*row) for row in rows]
            try:
                async with asyncio.timeout_at(until):
                    await written.wait()
            except TimeoutError:
                return []

    async def collect(self) -> int:
        """Forget what is older than it is to be kept; how many."""
        before = self._now() - self._retention_s
        return await self._database.write(lambda connection: store.remove_old(connection, before, MAX_EVENTS))

    def _wake(self) -> None:
        written, self._written = self._written, asyncio.Event()
        written.set()
