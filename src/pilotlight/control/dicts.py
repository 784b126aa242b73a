"""Dicts: entries by key, on disk before they are acknowledged, gone a week after their last use."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from sqlalchemy import Connection

from pilotlight.control.creation import Creation
from pilotlight.control.environments import Environments
from pilotlight.control.named import NamedObject, NamedObjects
from pilotlight.core import errors, ids
from pilotlight.store import dicts as store
from pilotlight.store import named, replies
from pilotlight.store.database import Database

ENTRY_TTL_S = 7 * 24 * 3600
TOUCH_EVERY_S = 3600.0  # reading an entry renews its life, but writes no more often than this
MAX_ENTRY_BYTES = 100 << 20  # what one message carries
MAX_KEY_BYTES = 1 << 20
MAX_UPDATE_ENTRIES = 10_000
MAX_COUNT = 100_000  # DictLen counts no further
KEYS_PER_PAGE = 1_000
VALUES_PER_PAGE = 32
_CREATED = b"\x01"


class Dicts:
    """Use cases of dicts. `objects` gives them their names."""

    def __init__(self, *, database: Database, environments: Environments, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
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
        key = f"DictUpdate {request_key}" if request_key else ""

        def work(connection: Connection) -> bool:
            if (answered := replies.find(connection, key)) is not None:
                return answered == _CREATED
            is_created = store.put_missing(connection, dict_id, entries, at, at - ENTRY_TTL_S) > 0
            replies.add(connection, key, _CREATED if is_created else b"", at)
            return is_created

        return await self._database.write(work)

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
        cutoff, at = self._cutoff(), self._now()
        reply_key = f"DictPop {request_key}" if request_key else ""

        def work(connection: Connection) -> bytes | None:
            if (answered := replies.find(connection, reply_key)) is not None:
                return answered
            value = store.pop(connection, dict_id, key, cutoff)
            if value is not None:
                replies.add(connection, reply_key, value, at)
            return value

        # Done even if this caller goes away before the answer: it may come back with the same request.
        return await asyncio.shield(self._database.write(work))

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
