"""Queues: each item goes to one caller, in the order in which items were put into their partition.

An item is on disk before its put is acknowledged, and leaves the disk in the commit that hands it out; if the caller has gone
by then, it goes back to its old place. Waiting is by event: what arrives is promised to the first who waits in the same step.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modal_proto import api_pb2
from sqlalchemy import Connection

from pilotlight.control.creation import Creation
from pilotlight.control.environments import Environment, Environments
from pilotlight.control.named import NamedObject, NamedObjects
from pilotlight.control.replies import REPLY_KEPT_S, RecentReplies
from pilotlight.core import errors, ids
from pilotlight.core.partitions import MAX_ITEMS, Partition
from pilotlight.store import named, replies
from pilotlight.store import queues as store
from pilotlight.store.database import Database

MAX_ITEM_BYTES = 1 << 20
MAX_PARTITION_KEY_BYTES = 64
MAX_WAIT_S = 55.0  # clients ask for 50 at most, and again
MAX_ITERATED_ITEMS = 100  # in one answer
MAX_ANSWER_BYTES = 32 << 20
MAX_PARTITIONS_HELD = 10_000  # in memory, those in use aside
MAX_TTL_S = 7 * 24 * 3600
DEFAULT_TTL_S = 24 * 3600
GET_PREFIX = "QueueGet "  # of the keys under which answers to gets are kept


Items = list[store.Item]
Outline = list[tuple[int, int]]  # number and size


@dataclass(slots=True, eq=False)
class Claim:
    """Who waits for items. `taking` is set to the removal of its items from the disk."""

    partition: "LivePartition"
    request_key: str
    taking: "asyncio.Future[asyncio.Future[Items]]"


@dataclass(slots=True, eq=False)
class LivePartition:
    """A partition in memory, with those who look at it without taking."""

    queue_id: str
    key: bytes
    state: Partition[Claim]
    watchers: set["asyncio.Future[None]"] = field(default_factory=set)
    users: int = 0  # operations under way

    @property
    def is_idle(self) -> bool:
        return not (self.users or self.watchers or self.state.arriving or self.state.has_claims)


@dataclass(frozen=True, slots=True)
class QueueSize:
    """A queue in a list."""

    queue: NamedObject
    partitions: int
    items: int


class _Repeated(Exception):
    """The batch is on disk already."""


class Queues:
    """Use cases of queues. `objects` gives them their names."""

    def __init__(self, *, database: Database, environments: Environments, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now
        self._started_at = now()
        self._newest_seq = 0
        self._answered_before: frozenset[str] = frozenset()  # keys of gets that a server before this one answered
        self._partitions: OrderedDict[tuple[str, bytes], LivePartition] = OrderedDict()
        self._loading: dict[tuple[str, bytes], asyncio.Future[None]] = {}
        self._taken: RecentReplies[list[bytes]] = RecentReplies()
        self._put: RecentReplies[bool] = RecentReplies()
        self.objects = NamedObjects(
            database=database, environments=environments, kind=named.QUEUES, prefix=ids.QUEUE, word="queue", now=now
        )
        environments.before_delete.append(self._delete_all_in)

    async def load(self) -> None:
        """Learn which numbers are in use; done at the first use otherwise."""
        # The clock keeps numbers growing over a restart with empty queues: those who iterate remember the last one.
        newest = max(await self._database.read(store.newest_seq), int(self._now() * 1_000_000))
        self._answered_before = frozenset(await self._database.read(lambda connection: replies.keys(connection, GET_PREFIX)))
        self._newest_seq = max(self._newest_seq, newest)

    async def get_or_create(self, environment_name: str, name: str, creation: Creation, request_key: str) -> NamedObject:
        """The queue; see NamedObjects."""
        return (await self.objects.get_or_create(environment_name, name, creation, request_key))[0]

    async def put(self, queue_id: str, key: bytes, values: Sequence[bytes], ttl_s: float, request_key: str = "") -> None:
        """Append items to a partition. Safe to repeat under one key.

        Raises NotFound, InvalidInput for what is too large, OverLimit for a full partition.
        """
        _check(key, values)
        live = await self._use(queue_id, key)
        try:
            if not values or self._put.get(request_key):
                return
            if not live.state.has_room(len(values)):
                raise errors.OverLimit(
                    f"The queue is full: its partition holds {len(live.state)} items, and {MAX_ITEMS} is the limit. Get some first."
                )
            ttl = min(ttl_s, MAX_TTL_S) if ttl_s > 0 else DEFAULT_TTL_S
            expires_at = self._now() + ttl
            first = self._newest_seq + 1
            self._newest_seq += len(values)
            items = [store.Item(first + index, queue_id, key, value, expires_at) for index, value in enumerate(values)]
            try:
                await asyncio.shield(self._store(live, items, request_key))
            except _Repeated:
                return
        finally:
            live.users -= 1

    async def get(self, queue_id: str, key: bytes, at_most: int, wait_s: float, request_key: str = "") -> list[bytes]:
        """Take the oldest items of a partition, at least one and up to `at_most`; none if there is none in that time.

        Safe to repeat under one key; raises NotFound.
        """
        _check(key, ())
        live = await self._use(queue_id, key)
        claim = Claim(live, request_key, asyncio.get_running_loop().create_future())
        try:
            if (answered := await self._answered(request_key)) is not None:
                return answered
            live.state.claim(claim, max(1, min(at_most, MAX_ITEMS)))
            if not claim.taking.done() and (wait := _waiting_time(wait_s)):
                await asyncio.wait((claim.taking,), timeout=wait)
            if not claim.taking.done():
                live.state.withdraw(claim)
                return []
            values = [item.value for item in await asyncio.shield(claim.taking.result())]
        except asyncio.CancelledError:
            self._give_back(claim)
            raise
        finally:
            live.users -= 1
        if values:
            self._taken.keep(request_key, values, sum(map(len, values)))
        return values

    async def _answered(self, request_key: str) -> list[bytes] | None:
        """What this very request was given before, by this server or by the one before it."""
        answered = self._taken.get(request_key)
        if answered is not None or _get_key(request_key) not in self._answered_before:
            return answered
        reply = await self._database.read(lambda connection: replies.find(connection, _get_key(request_key)))
        return None if reply is None else list(api_pb2.QueueGetResponse.FromString(reply).values)

    async def items_after(self, queue_id: str, key: bytes, seq: int, wait_s: float) -> list[tuple[int, bytes]]:
        """Look at items that follow a number, waiting for the first if there is none; raises NotFound."""
        _check(key, ())
        live = await self._use(queue_id, key)
        try:
            found = live.state.after(seq, MAX_ITERATED_ITEMS, MAX_ANSWER_BYTES)
            if not found and (wait := _waiting_time(wait_s)):
                arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                live.watchers.add(arrival)
                try:
                    await asyncio.wait((arrival,), timeout=wait)
                finally:
                    live.watchers.discard(arrival)
                found = live.state.after(seq, MAX_ITERATED_ITEMS, MAX_ANSWER_BYTES)
        finally:
            live.users -= 1
        rows = await self._database.read(lambda connection: store.peek(connection, found)) if found else ()
        return [(row.item_seq, row.value) for row in rows]

    async def count(self, queue_id: str, key: bytes, *, total: bool) -> int:
        """How many items wait in a partition, or in all; raises NotFound."""
        if total:
            await self.objects.require(queue_id)
            now = self._now()
            rows = await self._database.read(lambda connection: store.sizes(connection, [queue_id], now))
            return sum(row.items for row in rows)
        live = await self._use(queue_id, key)
        live.users -= 1
        return len(live.state)

    async def list(
        self, environment_name: str, created_before: float = 0, limit: int = 0
    ) -> tuple[Environment, Sequence[QueueSize]]:
        """Named queues with their sizes, newest first."""
        environment, found = await self.objects.list(environment_name, created_before, limit)
        now = self._now()
        rows = await self._database.read(lambda connection: store.sizes(connection, [queue.object_id for queue in found], now))
        sizes: dict[str, list[int]] = {}
        for row in rows:
            sizes.setdefault(row.queue_id, []).append(row.items)
        counted = ((queue, sizes.get(queue.object_id, [])) for queue in found)
        return environment, [QueueSize(queue, len(items), sum(items)) for queue, items in counted]

    async def clear(self, queue_id: str, key: bytes | None) -> None:
        """Remove the items of a partition, or of all (None), that were put before this; raises NotFound."""
        await self._require(queue_id)
        up_to = self._newest_seq
        for live in self._held(queue_id):
            if key is None or live.key == key:
                live.state.clear(up_to)
        await self._database.write(lambda connection: store.clear(connection, queue_id, key, up_to))

    async def delete(self, queue_ids: Sequence[str]) -> None:
        """Remove queues; who waits for their items learns that they are gone. One that is gone is no error."""
        await self.objects.delete(queue_ids)
        for queue_id in queue_ids:
            for live in self._held(queue_id):
                del self._partitions[live.queue_id, live.key]
                for claim in live.state.withdraw_all():
                    claim.taking.set_exception(errors.NotFound(f"Queue {queue_id} was deleted while this call waited for an item."))

    async def collect(self) -> int:
        """Remove partitions that have expired, and ephemeral queues whose owner is gone; how many queues."""
        now = self._now()
        if now >= self._started_at + REPLY_KEPT_S:
            self._answered_before = frozenset()
        for live in list(self._partitions.values()):
            self._expire(live)
        await self._database.write(lambda connection: store.remove_expired(connection, now))
        abandoned = await self.objects.abandoned()
        if abandoned:
            await self.delete(abandoned)
        return len(abandoned)

    async def _delete_all_in(self, environment_id: str) -> None:
        await self.delete(await self.objects.ids_in(environment_id))

    def _held(self, queue_id: str) -> Sequence[LivePartition]:
        return [live for live in self._partitions.values() if live.queue_id == queue_id]

    async def _use(self, queue_id: str, key: bytes) -> LivePartition:
        """The partition, which stays in memory until its `users` is lowered again."""
        await self._require(queue_id)
        place = (queue_id, key)
        # In a loop: what was just loaded may have been evicted again, and there must never be two of one partition.
        while (live := self._partitions.get(place)) is None:
            await self._load_shared(queue_id, key)
        live.users += 1
        self._partitions.move_to_end(place)
        self._expire(live)
        return live

    async def _require(self, queue_id: str) -> None:
        if not self._newest_seq:
            await self.load()
        await self.objects.require(queue_id)

    async def _load_shared(self, queue_id: str, key: bytes) -> None:
        place = (queue_id, key)
        if place not in self._loading:
            loading = self._loading[place] = asyncio.ensure_future(self._load_partition(queue_id, key))
            loading.add_done_callback(lambda _: self._loading.pop(place, None))
        await asyncio.shield(self._loading[place])

    async def _load_partition(self, queue_id: str, key: bytes) -> None:
        rows = await self._database.read(lambda connection: store.outline(connection, queue_id, key))
        live = LivePartition(queue_id, key, Partition(self._take, MAX_ANSWER_BYTES))
        live.state.expires_at = max((row.expires_at for row in rows), default=0.0)
        live.state.add((row.item_seq, row.size_bytes) for row in rows)
        self._partitions[queue_id, key] = live
        self._evict()

    def _evict(self) -> None:
        surplus = len(self._partitions) - MAX_PARTITIONS_HELD
        if surplus > 0:
            idle = [place for place, live in self._partitions.items() if live.is_idle]
            for place in idle[: surplus + MAX_PARTITIONS_HELD // 10]:  # more than one, so that not each new one searches
                del self._partitions[place]

    def _expire(self, live: LivePartition) -> None:
        if len(live.state) and live.state.expires_at <= self._now():
            up_to = live.state.clear_free()
            cleared = self._database.write(lambda connection: store.clear(connection, live.queue_id, live.key, up_to))
            cleared.add_done_callback(asyncio.Future.exception)

    def _store(self, live: LivePartition, items: "Items", request_key: str) -> "asyncio.Future[None]":
        at = self._now()

        def work(connection: Connection) -> None:
            if not replies.add(connection, request_key and f"QueuePut {request_key}", b"", at):
                raise _Repeated
            store.add(connection, items)

        def finished(done: "asyncio.Future[None]") -> None:
            live.state.arriving -= len(items)
            if done.exception() is not None:
                return
            self._put.keep(request_key, True)
            live.state.expires_at = max(live.state.expires_at, items[0].expires_at)
            live.state.add((item.item_seq, len(item.value)) for item in items)
            for watcher in live.watchers:
                if not watcher.done():
                    watcher.set_result(None)

        live.state.arriving += len(items)
        storing = self._database.write(work)
        storing.add_done_callback(finished)
        return storing

    def _take(self, claim: Claim, items: "Outline") -> None:
        def finished(done: "asyncio.Future[Items]") -> None:
            if done.exception() is not None:
                claim.partition.state.put_back(items)

        at = self._now()

        def work(connection: Connection) -> Items:
            taken = store.take(connection, [seq for seq, _ in items])
            if claim.request_key:
                reply = api_pb2.QueueGetResponse(values=[item.value for item in taken])
                replies.add(connection, _get_key(claim.request_key), reply.SerializeToString(), at)
            return taken

        taking = self._database.write(work)
        taking.add_done_callback(finished)
        claim.taking.set_result(taking)

    def _give_back(self, claim: Claim) -> None:
        """The caller is gone: what was taken for it is put back as soon as the removal is on disk."""
        claim.partition.state.withdraw(claim)
        if not claim.taking.done() or claim.taking.exception() is not None:
            return
        live = claim.partition
        live.users += 1

        def returned(items: "Items", done: "asyncio.Future[None]") -> None:
            live.users -= 1
            if done.exception() is None:
                live.state.put_back((item.item_seq, len(item.value)) for item in items)

        def taken(done: "asyncio.Future[Items]") -> None:
            # A deleted queue gets nothing back, nor does one that was cleared since.
            is_gone = done.exception() is not None or self._partitions.get((live.queue_id, live.key)) is not live
            kept = [] if is_gone else [item for item in done.result() if item.item_seq > live.state.cleared_up_to]
            if not kept:
                live.users -= 1
                return

            def work(connection: Connection) -> None:
                store.add(connection, kept)
                replies.remove(connection, _get_key(claim.request_key))

            returning = self._database.write(work)
            returning.add_done_callback(lambda written: returned(kept, written))

        claim.taking.result().add_done_callback(taken)


def _get_key(request_key: str) -> str:
    return GET_PREFIX + request_key if request_key else ""


def _waiting_time(wait_s: float) -> float:
    return max(0.0, min(wait_s, MAX_WAIT_S)) if math.isfinite(wait_s) else 0.0


def _check(key: bytes, values: Sequence[bytes]) -> None:
    if len(key) > MAX_PARTITION_KEY_BYTES:
        raise errors.InvalidInput(f"A partition's name of {len(key)} bytes is over the limit of {MAX_PARTITION_KEY_BYTES}.")
    if len(values) > MAX_ITEMS:
        raise errors.InvalidInput(f"{len(values)} items at once are over the limit of {MAX_ITEMS} items in a partition. Put fewer.")
    largest = max(map(len, values), default=0)
    if largest > MAX_ITEM_BYTES:
        # Clients know a request that is too large by the number in parentheses.
        raise errors.InvalidInput(f"A queue's item of {largest} bytes is over the limit of {MAX_ITEM_BYTES} (status = '413').")
