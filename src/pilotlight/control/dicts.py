"""Dicts: entries by key, on disk before they are acknowledged, gone a week after their last use."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from pilotlight.control.creation import Creation
from pilotlight.control.environments import Environments
from pilotlight.control.named import NamedObject, NamedObjects
from pilotlight.control.replies import RecentReplies
from pilotlight.core import errors, ids
from pilotlight.store import dicts as store
from pilotlight.store import named
from pilotlight.store.database import Database

ENTRY_TTL_S = 7 * 24 * 3600
TOUCH_EVERY_S = 3600.0  # reading an entry renews its life, but writes no more often than this
MAX_ENTRY_BYTES = 100 << 20  # what one message carries
MAX_KEY_BYTES = 1 << 20
MAX_UPDATE_ENTRIES = 10_000
MAX_COUNT = 100_000  # DictLen counts no further
KEYS_PER_PAGE = 1_000
VALUES_PER_PAGE = 32


class Dicts:
    """Use cases of dicts. `objects` gives them their names."""

    def __init__(self, *, database: Database, environments: Environments, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        self._popped: RecentReplies[bytes] = RecentReplies()
        self._created: RecentReplies[bool] = RecentReplies()
        self.objects = NamedObjects(
            database=database, environments=environments, kind=named.DICTS, prefix=ids.DICT, word="dict", now=now
        )
        environments.before_delete.append(self._delete_all_in)

    async def get_or_create(
        self, environment_name: str, name: str, creation: Creation, request_key: str, data: Sequence[tuple[bytes, bytes]] = ()
    ) -> NamedObject:
        """The dict; one that is made now gets the data."""
        found, is_new = await self.objects.get_or_create(environment_name, name, creation, request_key)
        if data and is_new:
            await self.put(found.object_id, data)
        return found

    async def put(
        self, dict_id: str, entries: Sequence[tuple[bytes, bytes]], *, if_not_exists: bool = False, request_key: str = ""
    ) -> bool:
        """Set entries, or those that are missing; whether any was set. Safe to repeat under one key.

        Raises NotFound if there is no such dict, InvalidInput for what is too large.
        """
        await self.objects.require(dict_id)
        _check(entries)
        at = self._now()
        if not entries:
            return False
        if not if_not_exists:
            await self._database.write(lambda connection: store.put(connection, dict_id, entries, at))
            return True
        if (answered := self._created.get(request_key)) is not None:
            return answered
        count = await self._database.write(lambda connection: store.put_missing(connection, dict_id, entries, at, at - ENTRY_TTL_S))
        self._created.keep(request_key, count > 0)
        return count > 0

    async def get(self, dict_id: str, key: bytes) -> bytes | None:
        """An entry's value; raises NotFound if there is no such dict."""
        await self.objects.require(dict_id)
        cutoff = self._cutoff()
        row = await self._database.read(lambda connection: store.get(connection, dict_id, key, cutoff))
        if row is None:
            return None
        self._touch(dict_id, key, row.used_at)
        return row.value

    async def contains(self, dict_id: str, key: bytes) -> bool:
        """Whether there is such an entry; raises NotFound if there is no such dict."""
        await self.objects.require(dict_id)
        cutoff = self._cutoff()
        used_at = await self._database.read(lambda connection: store.used_at(connection, dict_id, key, cutoff))
        if used_at is not None:
            self._touch(dict_id, key, used_at)
        return used_at is not None

    async def pop(self, dict_id: str, key: bytes, request_key: str = "") -> bytes | None:
        """Remove an entry and return its value. Safe to repeat under one key; raises NotFound if there is no such dict."""
        await self.objects.require(dict_id)
        if (answered := self._popped.get(request_key)) is not None:
            return answered
        cutoff = self._cutoff()
        popping = self._database.write(lambda connection: store.pop(connection, dict_id, key, cutoff))
        # Kept even if this caller goes away before the answer: it may come back with the same request.
        popping.add_done_callback(lambda done: self._keep_popped(request_key, done))
        return await asyncio.shield(popping)

    async def count(self, dict_id: str) -> int:
        """How many entries there are, up to MAX_COUNT; raises NotFound."""
        await self.objects.require(dict_id)
        cutoff = self._cutoff()
        return await self._database.read(lambda connection: store.count(connection, dict_id, cutoff, MAX_COUNT))

    async def contents(self, dict_id: str, *, with_values: bool) -> AsyncIterator[tuple[bytes, bytes | None]]:
        """All entries, read in pages: what changes meanwhile may or may not be seen; raises NotFound."""
        await self.objects.require(dict_id)
        after: bytes | None = None
        limit = VALUES_PER_PAGE if with_values else KEYS_PER_PAGE
        while True:
            cutoff, last = self._cutoff(), after
            rows = await self._database.read(
                lambda connection, cutoff=cutoff, last=last: store.page(
                    connection, dict_id, last, cutoff, limit, with_values=with_values
                )
            )
            for row in rows:
                yield row.key, row.value if with_values else None
            if len(rows) < limit:
                return
            after = rows[-1].key

    async def clear(self, dict_id: str) -> None:
        """Remove all entries; raises NotFound."""
        await self.objects.require(dict_id)
        await self._database.write(lambda connection: store.clear(connection, dict_id))

    async def collect(self) -> int:
        """Remove entries that nobody used for a week, and ephemeral dicts whose owner is gone; how many dicts."""
        cutoff = self._cutoff()
        await self._database.write(lambda connection: store.remove_unused(connection, cutoff))
        abandoned = await self.objects.abandoned()
        if abandoned:
            await self.objects.delete(abandoned)
        return len(abandoned)

    async def _delete_all_in(self, environment_id: str) -> None:
        await self.objects.delete(await self.objects.ids_in(environment_id))

    def _keep_popped(self, request_key: str, done: "asyncio.Future[bytes | None]") -> None:
        if done.exception() is None and (value := done.result()) is not None:
            self._popped.keep(request_key, value, len(value))

    def _cutoff(self) -> float:
        return self._now() - ENTRY_TTL_S

    def _touch(self, dict_id: str, key: bytes, used_at: float) -> None:
        # Nobody waits for this, and losing it shortens a week by an hour.
        at = self._now()
        if used_at < at - TOUCH_EVERY_S:
            touched = self._database.write(lambda connection: store.touch(connection, dict_id, key, at))
            touched.add_done_callback(asyncio.Future.exception)


def _check(entries: Sequence[tuple[bytes, bytes]]) -> None:
    if len(entries) > MAX_UPDATE_ENTRIES:
        raise errors.InvalidInput(f"An update of {len(entries)} entries is over the limit of {MAX_UPDATE_ENTRIES}. Split it.")
    for key, value in entries:
        # Clients know a request that is too large by the number in parentheses.
        if len(key) > MAX_KEY_BYTES:
            raise errors.InvalidInput(f"A dict's key of {len(key)} bytes is over the limit of {MAX_KEY_BYTES} (status = '413').")
        if len(value) > MAX_ENTRY_BYTES:
            raise errors.InvalidInput(
                f"A dict's value of {len(value)} bytes is over the limit of {MAX_ENTRY_BYTES} (status = '413')."
            )
