"""Use cases on a real database, where the clock or the moment of a cancellation matters."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pilotlight.control import named
from pilotlight.control.blobs import Blobs
from pilotlight.control.creation import Creation
from pilotlight.control.dicts import ENTRY_TTL_S, Dicts
from pilotlight.control.environments import Environments
from pilotlight.control.mounts import Mounts, checked_file
from pilotlight.control.queues import Queues
from pilotlight.core import errors
from pilotlight.core.blobs import PartedUpload, WholeUpload
from pilotlight.objects import Objects, blob_key, content_key
from pilotlight.store.database import Database, open_engine
from pilotlight.store.schema import migrate


class World:
    """Use cases over one database, with a clock of their own."""

    def __init__(self, place: Path) -> None:
        engine = open_engine(place / "pilotlight.db", "NORMAL")
        migrate(engine)
        self.now = 1_000_000.0
        self.database = Database(engine)
        self.environments = Environments(database=self.database, workspace="main", image_builder_version="2025.06", now=self.clock)
        self.dicts = Dicts(database=self.database, environments=self.environments, now=self.clock)
        self.queues = Queues(database=self.database, environments=self.environments, now=self.clock)

    def clock(self) -> float:
        return self.now

    async def queue(self) -> str:
        return (await self.queues.get_or_create("", "", Creation.ANONYMOUS, "")).object_id


def within(place: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            world = World(place)
            await world.environments.ensure_default()
            await scenario(world)
            await world.database.close()

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(6))
def test_a_getter_cancelled_at_any_step_loses_nothing(tmp_path: Path, steps: int) -> None:
    async def scenario(world: World) -> None:
        queue_id = await world.queue()
        await world.queues.put(queue_id, b"", [b"1", b"2"], 0)
        gone = asyncio.create_task(world.queues.get(queue_id, b"", 1, 10))
        for _ in range(steps):
            await asyncio.sleep(0)
        gone.cancel()
        got = [] if await asyncio.wait((gone,)) and gone.cancelled() else gone.result()
        while len(got) < 2:
            got += await world.queues.get(queue_id, b"", 1, 10)
        assert sorted(got) == [b"1", b"2"]
        assert await world.queues.get(queue_id, b"", 1, 0) == []

    within(tmp_path, scenario)


def test_getters_are_served_in_turn_and_end_with_their_queue(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        queue_id = await world.queue()
        await world.queues.count(
            queue_id, b"", total=False
        )  # reads the partition: from here on nobody is overtaken while it is read
        waiting: list[asyncio.Task[list[bytes]]] = []
        for _ in range(3):
            waiting.append(asyncio.create_task(world.queues.get(queue_id, b"", 5, 10)))
            # Counting goes the same way as getting: once it is through, the getter before it waits in its place.
            await world.queues.count(queue_id, b"", total=False)
        first, second, third = waiting
        await world.queues.put(queue_id, b"", [b"1"], 0)
        await world.queues.put(queue_id, b"", [b"2"], 0)
        assert (await first, await second) == ([b"1"], [b"2"])
        await world.queues.delete([queue_id])
        with pytest.raises(errors.NotFound, match="deleted while"):
            await third

    within(tmp_path, scenario)


def test_partitions_expire_after_their_last_put(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        queue_id = await world.queue()
        await world.queues.put(queue_id, b"", [b"1"], 100)
        world.now += 60
        await world.queues.put(queue_id, b"", [b"2"], 100)
        world.now += 60
        assert await world.queues.count(queue_id, b"", total=False) == 2
        world.now += 60
        assert await world.queues.count(queue_id, b"", total=True) == 0
        assert await world.queues.get(queue_id, b"", 1, 0) == []
        await world.queues.put(queue_id, b"", [b"3"], 100)
        assert await world.queues.get(queue_id, b"", 5, 0) == [b"3"]

    within(tmp_path, scenario)


def test_what_is_ephemeral_goes_after_its_last_heartbeat(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        queue_id = await world.queue()
        kept = (await world.dicts.get_or_create("", "", Creation.ANONYMOUS, "")).object_id
        world.now += named.EPHEMERAL_TTL_S - 10
        await world.dicts.objects.heartbeat(kept)
        world.now += 20
        assert (await world.queues.collect(), await world.dicts.collect()) == (1, 0)
        assert await world.dicts.count(kept) == 0
        with pytest.raises(errors.NotFound):
            await world.queues.put(queue_id, b"", [b"1"], 0)

    within(tmp_path, scenario)


def test_entries_live_a_week_after_their_last_use(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        dict_id = (await world.dicts.get_or_create("", "d", Creation.IF_MISSING, "")).object_id
        await world.dicts.put(dict_id, [(b"used", b"1"), (b"unused", b"1")])
        world.now += ENTRY_TTL_S - 10
        assert await world.dicts.get(dict_id, b"used") == b"1"
        world.now += 20
        assert await world.dicts.get(dict_id, b"unused") is None
        assert await world.dicts.put(dict_id, [(b"unused", b"2")], if_not_exists=True)
        assert await world.dicts.get(dict_id, b"used") == b"1"
        world.now += ENTRY_TTL_S
        await world.dicts.collect()
        assert await world.dicts.count(dict_id) == 0

    within(tmp_path, scenario)


def test_content_of_mounts_is_what_its_hash_says(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        objects = Objects(tmp_path / "objects")
        mounts = Mounts(database=world.database, objects=objects)
        right, wrong = (hashlib.sha256(data).hexdigest() for data in (b"right", b"wrong"))
        assert await mounts.missing([right, wrong, right]) == [right, wrong]
        await objects.put(blob_key("bl-1"), b"right")
        await mounts.put_file_from_blob(right, "bl-1")
        with pytest.raises(errors.InvalidInput):
            await mounts.put_file_from_blob(wrong, "bl-1")
        with pytest.raises(errors.InvalidInput):
            await mounts.put_file(wrong, b"right")
        assert await mounts.missing([right, wrong]) == [wrong]
        assert await objects.get(content_key(right)) == b"right"
        handle = await mounts.create([checked_file("/a", right, 0)])
        assert handle == await mounts.create([checked_file("/a", right, 0)])
        with pytest.raises(errors.WrongState, match="/b"):
            await mounts.create([checked_file("/b", wrong, 0)])
        fresh = Mounts(database=world.database, objects=objects)
        assert await fresh.get(handle.mount_id) == await mounts.get(handle.mount_id)
        objects.close()

    within(tmp_path, scenario)


def test_blobs_are_sent_where_the_caller_can_reach(tmp_path: Path) -> None:
    async def scenario(_: World) -> None:
        objects = Objects(tmp_path / "objects")
        blobs = Blobs(objects=objects, signing_key=b"k" * 32, base_url="http://127.0.0.1:9980")

        def create(caller: str, key: str, size_bytes: int, *, parts: bool = True, edge: str | None = None) -> Any:
            return blobs.create(caller, key, size_bytes, "", takes_parts=parts, knows_private_hosts=True, edge_base_url=edge)

        blob_id, upload = create("me", "key", 5, edge="http://169.254.10.1:9980")
        assert isinstance(upload, WholeUpload)
        assert upload.url.startswith(f"http://169.254.10.1:9980/blobs/{blob_id}?")
        assert create("me", "key", 5)[0] == blob_id
        assert create("other", "key", 5)[0] != blob_id
        assert isinstance(create("me", "", 5 << 30)[1], PartedUpload)
        assert isinstance(create("me", "", 5 << 30, parts=False)[1], WholeUpload)
        with pytest.raises(errors.NotFound, match="never sent"):
            await blobs.download_url(blob_id, None)
        await objects.put(blob_key(blob_id), b"hello")
        assert (await blobs.download_url(blob_id, None)).startswith("http://127.0.0.1:9980/")
        assert await blobs.read(blob_id) == b"hello"
        objects.close()

    within(tmp_path, scenario)
