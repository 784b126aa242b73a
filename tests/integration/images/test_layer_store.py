"""Layers are whole or absent."""

import asyncio
from pathlib import Path

import pytest

from pilotlight.core.errors import NotFound
from pilotlight.images.layers import LayerStore, definition_id

ONE = definition_id("test", 1)


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "layers", clock=lambda: 5.0)


async def write(content: Path) -> None:
    (content / "file").write_text("x" * 5000)


def test_a_layer_is_made_once_by_many(store: LayerStore) -> None:
    calls: list[Path] = []

    async def fill(content: Path) -> None:
        calls.append(content)
        await asyncio.sleep(0)
        await write(content)

    async def make_all() -> list[bool]:
        return await asyncio.gather(*(store.make(ONE, parent="", command="RUN x", fill=fill) for _ in range(5)))

    assert sorted(asyncio.run(make_all())) == [False, False, False, False, True]
    assert len(calls) == 1
    record = store.record(ONE)
    assert (record.command, record.created_at, record.size_bytes >= 5000) == ("RUN x", 5.0, True)
    assert (store.path(ONE) / "file").exists()
    assert store.list() == [record]


def test_to_look_at_a_layer_is_not_to_use_it(tmp_path: Path) -> None:
    now = 5.0
    store = LayerStore(tmp_path / "layers", clock=lambda: now)
    asyncio.run(store.make(ONE, parent="", command="RUN x", fill=write))
    made_at = store.used_at(ONE)
    now = made_at + 1e6
    assert [store.record(ONE)] == store.list()
    assert store.used_at(ONE) == made_at  # else whoever collects what nobody uses would keep all of it
    store.path(ONE)
    assert store.used_at(ONE) == now


def test_a_failure_leaves_nothing_and_the_next_one_takes_over(store: LayerStore, tmp_path: Path) -> None:
    async def fail(content: Path) -> None:
        await write(content)
        raise ValueError("no")

    async def both() -> list[object]:
        first = store.make(ONE, parent="", command="", fill=fail)
        second = store.make(ONE, parent="", command="", fill=write)
        return await asyncio.gather(first, second, return_exceptions=True)

    failed, made = asyncio.run(both())
    assert isinstance(failed, ValueError)
    assert made is True
    assert sorted(path.name for path in (tmp_path / "layers").iterdir()) == sorted([ONE, f"{ONE}.json"])


def test_a_cancelled_step_leaves_nothing(store: LayerStore, tmp_path: Path) -> None:
    async def main() -> None:
        started = asyncio.Event()

        async def hang(content: Path) -> None:
            await write(content)
            started.set()
            await asyncio.Event().wait()

        making = asyncio.create_task(store.make(ONE, parent="", command="", fill=hang))
        await started.wait()
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)

    asyncio.run(main())
    assert list((tmp_path / "layers").iterdir()) == []
    with pytest.raises(NotFound, match="is not on this machine"):
        store.path(ONE)


def test_sweep_removes_litter_only(store: LayerStore, tmp_path: Path) -> None:
    asyncio.run(store.make(ONE, parent="", command="", fill=write))
    root = tmp_path / "layers"
    (root / ".making-999999999-0" / "layer").mkdir(parents=True)
    (root / ".making-1-0").mkdir()  # of a process that lives
    (root / definition_id("without record")).mkdir()
    assert store.sweep() == 2
    assert sorted(path.name for path in root.iterdir()) == sorted([ONE, f"{ONE}.json", ".making-1-0"])


def test_a_name_from_outside_is_no_path(store: LayerStore) -> None:
    assert not store.has("../../etc")
