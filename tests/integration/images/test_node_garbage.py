"""What a node removes at the server's command, and what it keeps whatever the server says."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from pilotlight.config import Settings
from pilotlight.core.garbage import Verdict
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.local import LocalImages
from pilotlight.images.mounts import LocalContent, Mounts, content_key
from pilotlight.images.probe import ImageFacts, Probe
from pilotlight.images.registry import UnpackedImage
from pilotlight.node.garbage import NodeGarbage
from pilotlight.objects import content_key as object_key
from pilotlight.wire import platform_pb2

BASE, WANTED, RUNNING, IDLE = (definition_id("test", name) for name in ("base", "wanted", "running", "idle"))
LATER = 1e12  # everything was used before this


class Node:
    def __init__(self, place: Path) -> None:
        self.settings = Settings(state=place)
        self.layers = LayerStore(self.settings.layers_dir)
        self.local = LocalImages(self.settings, self.layers)
        self.mounts = Mounts(self.settings, LocalContent(self.settings.objects_dir))
        self.garbage = NodeGarbage(self.layers, self.local, self.mounts, self.settings.probes_dir)

    async def fill(self) -> None:
        for layer_id in (BASE, WANTED, RUNNING, IDLE):
            await self.layers.make(layer_id, parent="", command="RUN", fill=write)
        self.local.add_image("debian:12", UnpackedImage((BASE,), platform_pb2.ImageConfig()), "pulled")
        self.garbage.running = lambda: [platform_pb2.StartTask(layers=[RUNNING])]

    def mount(self, *texts: str) -> platform_pb2.Mount:
        mount = platform_pb2.Mount()
        for text in texts:
            sha = hashlib.sha256(text.encode()).hexdigest()
            path = self.settings.objects_dir / object_key(sha)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            mount.files.add(path=f"/root/{text[:8]}", sha256=sha, mode=0o644)
        return mount


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def write(content: Path) -> None:
    (content / "file").write_text("x" * 5000)


def _request(used_before: float = LATER, *, dry_run: bool = False) -> platform_pb2.CollectLayers:
    return platform_pb2.CollectLayers(request_id="1", wanted=[WANTED], used_before=used_before, dry_run=dry_run)


def test_only_what_nothing_needs_goes(node: Node) -> None:
    async def scenario() -> None:
        await node.fill()
        would = await node.garbage.collect(_request(dry_run=True))
        assert len(node.layers.list()) == 4
        done = await node.garbage.collect(_request())
        assert (done.request_id, done.removed, done.kept) == ("1", 1, 3)
        assert done.removed_bytes >= 5000 and would == done
        assert {record.layer_id for record in node.layers.list()} == {BASE, WANTED, RUNNING}
        assert not any(path.name.startswith(IDLE) for path in node.settings.layers_dir.iterdir())
        assert not list(node.settings.layers_dir.glob(".making-*"))

    asyncio.run(scenario())


def test_a_layer_that_was_used_lately_stays(node: Node) -> None:
    async def scenario() -> None:
        await node.fill()
        for layer_id in (WANTED, IDLE):
            os.utime(node.settings.layers_dir / f"{layer_id}.json", (1.0, 1.0))
        again = Node(node.settings.state)  # another process, which has seen nothing being made
        again.garbage.running = node.garbage.running
        again.layers.path(IDLE)
        assert (await again.garbage.collect(_request(used_before=1000.0))).removed == 0
        assert (await Node(node.settings.state).garbage.collect(_request(used_before=1000.0))).removed == 0  # the disk knows

    asyncio.run(scenario())


def test_a_layer_that_is_made_while_it_is_removed_is_whole(node: Node) -> None:
    async def scenario() -> None:
        await node.fill()
        for _ in range(20):
            removing = asyncio.ensure_future(node.layers.remove(IDLE))
            making = asyncio.ensure_future(node.layers.make(IDLE, parent="", command="RUN", fill=write))
            await asyncio.gather(removing, making)
            if node.layers.has(IDLE):
                assert (node.layers.path(IDLE) / "file").stat().st_size == 5000
            else:
                assert await node.layers.make(IDLE, parent="", command="RUN", fill=write)

    asyncio.run(scenario())


def test_directories_of_mounts_go_with_the_files_that_only_they_had(node: Node) -> None:
    async def scenario() -> None:
        shared, first, second = "shared" * 100, "first" * 200, "second" * 300
        shown, idle = node.mount(shared, first), node.mount(shared, second)
        places = [await node.mounts.layer(mount) for mount in (shown, idle)]
        kept = await node.mounts.collect(0.0, (), dry_run=False)
        assert (len(kept.garbage), kept.kept) == (0, 2)
        in_use = {content_key(shown)}
        would = await node.mounts.collect(LATER, in_use, dry_run=True)
        assert (len(would.garbage), would.garbage_bytes) == (1, len(second))
        assert all(place.is_dir() for place in places)
        done = await node.mounts.collect(LATER, in_use, dry_run=False)
        assert (done.garbage_bytes, done.kept) == (len(second), 1)
        assert [place.exists() for place in places] == [True, False]
        assert sorted(path.read_text() for path in (node.settings.node_dir / "files").iterdir()) == sorted([shared, first])
        again = await node.mounts.layer(idle)
        assert sorted(path.read_text() for path in (again / "root").iterdir()) == sorted([shared, second])

    asyncio.run(scenario())


def test_what_is_known_of_an_image_goes_with_its_layers(node: Node) -> None:
    class Asked(Probe):
        count = 0

        async def _ask(self, layers: object, env: object) -> ImageFacts:
            self.count += 1
            return ImageFacts("3.13.1", "glibc 2.41", {"modal": "1.6.4"})

    async def scenario() -> None:
        await node.fill()
        nothing: Any = None
        probe, images = Asked(node.settings.probes_dir, nothing), ([BASE, WANTED], [BASE, IDLE])
        for layer_ids in images:
            paths = node.layers.paths(layer_ids)
            assert await probe.facts(layer_ids, paths, {}) == await probe.facts(layer_ids, paths, {})
        assert probe.count == 2
        (node.settings.probes_dir / "older.json").write_text('{"python_version": "3.11.2"}')
        await node.garbage.collect(_request())
        assert len(list(node.settings.probes_dir.iterdir())) == 1
        again = Asked(node.settings.probes_dir, nothing)  # after a restart
        assert (await again.facts([BASE, WANTED], (), {})).python_version == "3.13.1"
        assert again.count == 0
        await node.layers.make(IDLE, parent="", command="RUN", fill=write)
        await probe.facts([BASE, IDLE], (), {})
        assert probe.count == 3

    asyncio.run(scenario())


def test_a_node_without_anything_has_nothing_to_remove(node: Node) -> None:
    assert asyncio.run(node.mounts.collect(LATER, (), dry_run=False)) == Verdict()
