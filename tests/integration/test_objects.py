"""The object store on a real directory and in a bucket (obstore's, in memory): one suite for both."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pilotlight.core.errors import InvalidInput, NotFound, WrongState
from pilotlight.objects import Objects, blob_key, content_key, durable, load_or_create_key, part_key

KEY = blob_key("bl-1")
BLOCK = os.urandom(1 << 20)


@pytest.fixture(params=["directory", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    store = Objects(tmp_path / "objects") if request.param == "directory" else Objects(MemoryStore())
    request.addfinalizer(store.close)
    return store


async def blocks(count: int, *, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield BLOCK
    if then:
        raise then


async def read(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in stream])


def test_what_is_put_is_read_whole_and_in_ranges(objects: Objects) -> None:
    async def scenario() -> None:
        await objects.put(KEY, b"first")
        await objects.put(KEY, b"0123456789")  # the last one wins
        assert await objects.get(KEY) == b"0123456789"
        assert await objects.size(KEY) == 10
        assert await read(objects.stream(KEY, 2, 5)) == b"234"
        assert await read(objects.stream(KEY, 7)) == b"789"
        await objects.put(KEY, blocks(5))
        assert await read(objects.stream(KEY)) == BLOCK * 5
        await objects.delete(KEY)
        await objects.delete(KEY)
        assert not await objects.exists(KEY)

    asyncio.run(scenario())


def test_an_empty_object(objects: Objects) -> None:
    async def scenario() -> None:
        await objects.put(KEY, blocks(0))
        assert (await objects.size(KEY), await objects.get(KEY)) == (0, b"")

    asyncio.run(scenario())


def test_what_is_broken_off_was_never_there(objects: Objects) -> None:
    async def scenario() -> None:
        with pytest.raises(ConnectionError, match="gone"):
            await objects.put(KEY, blocks(3, then=ConnectionError("gone")))
        assert await objects.size(KEY) is None
        with pytest.raises(NotFound):
            await objects.get(KEY)
        with pytest.raises(NotFound):
            await read(objects.stream(KEY))

    asyncio.run(scenario())


def test_parts_become_one(objects: Objects) -> None:
    async def scenario() -> None:
        parts = [part_key("bl-1", number) for number in (1, 2)]
        await objects.put(parts[0], blocks(2))
        with pytest.raises(NotFound):
            await objects.join(KEY, parts)
        await objects.put(parts[1], b"end")
        await objects.join(KEY, parts)
        assert await read(objects.stream(KEY)) == BLOCK * 2 + b"end"

    asyncio.run(scenario())


def test_strange_keys_are_refused(objects: Objects) -> None:
    async def scenario() -> None:
        for refused in (
            objects.put("../x", b""),
            objects.get("../x"),
            objects.size("x"),
            objects.delete(""),
            objects.join(KEY, ["/x"]),
        ):
            with pytest.raises(InvalidInput):
                await refused
        with pytest.raises(InvalidInput):
            objects.local_path("blobs/../x")

    asyncio.run(scenario())


def test_a_cancelled_upload_leaves_no_draft(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, waiting = Objects(tmp_path), asyncio.Event()

        async def stalled() -> AsyncIterator[bytes]:
            yield BLOCK
            waiting.set()
            await asyncio.Event().wait()

        upload = asyncio.ensure_future(store.put(KEY, stalled()))
        await waiting.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        store.close()

    asyncio.run(scenario())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_many_small_files_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, keys = Objects(tmp_path), [content_key(f"{number:064x}") for number in range(300)]
        await asyncio.gather(*(store.put(key, key.encode()) for key in keys))
        assert [await store.get(key) for key in keys] == [key.encode() for key in keys]
        store.close()

    asyncio.run(scenario())
    assert len(list((tmp_path / "sha256").iterdir())) == 300


def test_a_batch_that_fails_is_acknowledged_to_nobody_and_the_next_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        store, keys = Objects(tmp_path), [content_key(f"{number:064x}") for number in range(20)]
        monkeypatch.setattr(durable, "sync_file_system", failing)
        outcomes = await asyncio.gather(*(store.put(key, b"x") for key in keys), return_exceptions=True)
        assert outcomes[0] is None  # it came alone, before the others
        assert [type(outcome) for outcome in outcomes[1:]] == [OSError] * 19
        assert [await store.size(key) for key in keys] == [1] + [None] * 19
        monkeypatch.undo()
        await asyncio.gather(*(store.put(key, b"x") for key in keys))
        assert [await store.size(key) for key in keys] == [1] * 20
        store.close()

    def failing(path: Path) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    asyncio.run(scenario())
    assert not list((tmp_path / "drafts").iterdir())


def test_one_that_gives_up_takes_none_of_its_batch_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, keys = Objects(tmp_path), [content_key(f"{number:064x}") for number in range(20)]
        writes = [asyncio.ensure_future(store.put(key, b"x")) for key in keys]
        await asyncio.sleep(0)
        writes[7].cancel()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome] == [asyncio.CancelledError]
        assert [await store.size(key) for number, key in enumerate(keys) if number != 7] == [1] * 19
        store.close()

    asyncio.run(scenario())


def test_content_gets_another_name_if_it_has_the_hash(objects: Objects) -> None:
    async def scenario() -> None:
        data = BLOCK * 3
        sha256, other = hashlib.sha256(data).hexdigest(), hashlib.sha256(b"other").hexdigest()
        with pytest.raises(NotFound):
            await objects.adopt(content_key(sha256), KEY, sha256)
        await objects.put(KEY, blocks(3))
        for _ in range(2):
            await objects.adopt(content_key(sha256), KEY, sha256)
        with pytest.raises(InvalidInput, match=f"{other} has the hash {sha256}"):
            await objects.adopt(content_key(other), KEY, other)
        assert not await objects.exists(content_key(other))
        await objects.put(KEY, b"replaced")
        assert await objects.get(content_key(sha256)) == data
        await objects.adopt(content_key(other), KEY, hashlib.sha256(b"replaced").hexdigest())
        await objects.delete(KEY)
        assert await objects.get(content_key(other)) == b"replaced"

    asyncio.run(scenario())


def test_content_is_copied_where_a_file_can_have_one_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    async def scenario() -> None:
        store, sha256 = Objects(tmp_path), hashlib.sha256(b"x").hexdigest()
        await store.put(KEY, b"x")
        monkeypatch.setattr(os, "link", refused)
        await store.adopt(content_key(sha256), KEY, sha256)
        assert await store.get(content_key(sha256)) == b"x"
        assert not (tmp_path / KEY).samefile(tmp_path / content_key(sha256))
        store.close()

    asyncio.run(scenario())
    assert not list((tmp_path / "drafts").iterdir())


def test_abandoned_uploads_go_and_others_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Objects(tmp_path, clock=lambda: 1_000_000.0)
        for key in (KEY, part_key("bl-old", 1), part_key("bl-new", 1)):
            await store.put(key, b"x")
        for old in (tmp_path / "drafts" / "old", tmp_path / "parts/bl-old/1", tmp_path / "parts/bl-old", tmp_path / KEY):
            if not old.exists():
                old.touch()
            os.utime(old, (0, 0))
        assert await store.remove_abandoned() == 2
        assert await store.exists(KEY)
        assert await store.exists(part_key("bl-new", 1))
        assert not (tmp_path / "parts/bl-old").exists()
        store.close()

    asyncio.run(scenario())


def test_all_who_ask_get_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(load_or_create_key, [path] * 32))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"short")
    with pytest.raises(WrongState, match="5 bytes"):
        load_or_create_key(path)
