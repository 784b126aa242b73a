"""The power goes: what was acknowledged is there when it is back, whatever had not been synced is not.

On a file system whose unsynced part is dropped; `chaos.disk` says how.
"""

import asyncio
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import modal
import pytest
from control.heart import MAP, FakeNode, Heart
from running_server import RunningServer

from pilotlight.config import Settings
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.mounts import LocalContent, Mounts
from pilotlight.node.agent import node_id_of
from pilotlight.objects.durable import DurableFiles
from pilotlight.wire import platform_pb2
from tests.chaos.disk import Disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mkfs.ext4"), reason="needs root and mkfs.ext4")

DISK_MIB = 128


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk.img", tmp_path / "disk")
    made.make(DISK_MIB)
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


class Durable(Heart):
    """A server as operators have it: each commit is synced."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.settings = Settings(state=state)

    async def crash(self) -> None:
        """End it on a disk that takes nothing: what it still has to say goes nowhere."""
        try:
            await self.server.close()
        except Exception as error:  # noqa: BLE001 - what is written in vain fails in many ways, all of them of the disk
            assert "I/O" in str(error) or "Input/output" in str(error), error


def test_what_is_not_synced_is_gone(disk: Disk) -> None:
    """The method itself: a test that could not fail would prove nothing."""
    (disk.path / "synced").write_text("here")
    descriptor = os.open(disk.path / "synced", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    (disk.path / "unsynced").write_text("here")
    disk.cut_power()
    with pytest.raises(OSError, match="Input/output error"):
        (disk.path / "late").write_text("never")
    disk.come_back()
    assert sorted(path.name for path in disk.path.iterdir()) == ["lost+found", "synced"]


def test_calls_and_results_that_were_acknowledged_are_there(disk: Disk) -> None:
    state = disk.path / "state"
    state.mkdir()

    async def before() -> tuple[str, list[str]]:
        heart = Durable(state)
        await heart.open()
        node = FakeNode(heart)
        await node.connect()
        function_id = await heart.define(max_concurrent_inputs=10)
        task = await node.ready(function_id)
        call = await heart.call(function_id, count=10, kind=MAP)
        held = [input_id for message in node.delivered() for input_id, _ in message]
        for input_id in held[:4]:
            assert not await node.answer(task, input_id)
        disk.cut_power()
        refused = await node.answer(task, held[4])
        assert refused, "an output was acknowledged that can't be on the disk"
        await heart.crash()
        return call.call_id, held

    async def after(call_id: str, held: list[str]) -> None:
        heart = Durable(state)
        await heart.open()
        try:
            found = await heart.outputs(call_id)
            assert sorted(item.input_id for item in found.items) == sorted(held[:4])
            assert found.unfinished == 6
        finally:
            await heart.close()

    call_id, held = asyncio.run(before())
    disk.come_back()
    asyncio.run(after(call_id, held))


def test_what_queues_dicts_secrets_and_volumes_were_told_is_there(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    state = disk.path / "state"
    state.mkdir()
    server = RunningServer(state, synchronous="FULL")
    server.start()
    monkeypatch.setenv("MODAL_SERVER_URL", server.url)
    with modal.Client.from_credentials(*server.token) as client:
        queue = modal.Queue.from_name("q", create_if_missing=True, client=client)
        notes = modal.Dict.from_name("d", create_if_missing=True, client=client)
        queue.put_many([1, 2, 3])
        assert queue.get() == 1
        notes["a"] = "b"
        modal.Secret.objects.create("s", {"A": "1"}, client=client)
        with modal.Volume.from_name("v", create_if_missing=True, client=client).batch_upload() as batch:
            batch.put_file(io.BytesIO(b"content"), "/directory/file")
        disk.cut_power()
        with pytest.raises(modal.exception.Error):
            notes["c"] = "d"
    server.stop()
    disk.come_back()
    server = RunningServer(state, synchronous="FULL")
    server.start()
    monkeypatch.setenv("MODAL_SERVER_URL", server.url)
    with modal.Client.from_credentials(*server.token) as client:
        assert modal.Queue.from_name("q", client=client).get_many(5) == [2, 3]
        assert dict(modal.Dict.from_name("d", client=client).items()) == {"a": "b"}
        modal.Secret.from_name("s", required_keys=["A"], client=client).hydrate()
        assert b"".join(modal.Volume.from_name("v", client=client).read_file("directory/file")) == b"content"
    server.stop()


@pytest.mark.parametrize("count", [1, 3, 40], ids=["alone", "synced one by one", "synced together"])
def test_objects_that_were_acknowledged_are_there(disk: Disk, count: int) -> None:
    contents = {f"sha256/{number:02}/{number}": os.urandom(5000 + number) for number in range(count)}
    large = os.urandom(3 << 20)

    async def before() -> None:
        files = DurableFiles(disk.path / "objects")
        await asyncio.gather(*(files.write(key, data) for key, data in contents.items()))
        await files.write("blobs/large", large)
        await files.adopt("sha256/ad/opted", "blobs/large", hashlib.sha256(large).hexdigest())
        disk.cut_power()
        with pytest.raises(OSError, match="Input/output error"):
            await files.write("blobs/late", b"never")

    asyncio.run(before())
    disk.come_back()
    for key, data in contents.items():
        assert (disk.path / "objects" / key).read_bytes() == data
    assert (disk.path / "objects/blobs/large").read_bytes() == large == (disk.path / "objects/sha256/ad/opted").read_bytes()
    assert not (disk.path / "objects/blobs/late").exists()


def commit_the_names(disk: Disk) -> None:
    """What happens all the time by somebody else's sync: names reach the disk, what is in the files need not have."""
    (disk.path / "other").touch()
    descriptor = os.open(disk.path / "other", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_what_a_node_keeps_of_mounts_is_whole_after_it(disk: Disk) -> None:
    settings = Settings(state=disk.path / "state")
    contents = [os.urandom(3000) for _ in range(20)]

    async def show(contents: Sequence[bytes]) -> Path:
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        files = DurableFiles(settings.objects_dir)
        for digest, content in zip(digests, contents, strict=True):
            await files.write(f"sha256/{digest}", content)
        entries = [platform_pb2.MountEntry(path=f"/{digest}.py", sha256=digest) for digest in digests]
        return await Mounts(settings, LocalContent(settings.objects_dir)).layer(platform_pb2.Mount(files=entries))

    for part in (contents[:1], contents[1:]):
        asyncio.run(show(part))
    commit_the_names(disk)
    disk.cut_power()
    disk.come_back()
    for part in (contents[:1], contents[1:]):
        shown = asyncio.run(show(part))
        assert sorted(path.read_bytes() for path in shown.iterdir()) == sorted(part)


def test_a_layer_that_was_said_to_be_there_is_there_after_it(disk: Disk) -> None:
    root = disk.path / "layers"
    layer_id = definition_id("test", 1)

    async def fill(content: Path) -> None:
        (content / "file").write_text("x" * 5000)

    assert asyncio.run(LayerStore(root).make(layer_id, parent="", command="RUN x", fill=fill))
    disk.cut_power()
    disk.come_back()
    store = LayerStore(root)
    store.sweep()
    assert (store.path(layer_id) / "file").read_text() == "x" * 5000


def test_a_node_is_the_same_after_it(disk: Disk) -> None:
    settings = Settings(state=disk.path / "state")
    node_id = node_id_of(settings)
    commit_the_names(disk)
    disk.cut_power()
    disk.come_back()
    assert node_id_of(settings) == node_id != ""
