"""Layers of bytecode: made once by a container, laid over the mounts of tasks like it, and collected."""

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from pilotlight.config import Settings
from pilotlight.core.containers import ContainerSpec, Exit, OnOutput
from pilotlight.core.errors import Busy
from pilotlight.images.bytecode import Bytecode
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.mounts import LocalContent, Mounts
from pilotlight.images.steps import StepFailed
from pilotlight.images.surroundings import Surroundings
from pilotlight.wire import platform_pb2

IMAGE = definition_id("image")
SAID = f"cpython-311\n0 8 {base64.b64encode(b'bytecode').decode()}\n1 !\n".encode()


class Runtime:
    """Containers that say what they are to say, at once."""

    def __init__(self) -> None:
        self.started: list[ContainerSpec] = []
        self.is_busy = False
        self.exit_code = 0

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> Any:
        if self.is_busy:
            raise Busy("No room.")
        self.started.append(spec)
        on_output(1, SAID, 0)
        return self

    async def wait(self) -> Exit:
        return Exit(self.exit_code, self.exit_code == 137, 0, 0.0)


class Place:
    """A node's directories, with an image that has a Python and a mount of two files."""

    def __init__(self, state: Path) -> None:
        settings = Settings(state=state)
        self.runtime = Runtime()
        self.images = LayerStore(settings.layers_dir)
        self.mounts = Mounts(settings, LocalContent(settings.objects_dir))
        self.bytecode = Bytecode(settings.node_dir / "bytecode", self.runtime, Surroundings(), self.images, self.mounts)
        digest = hashlib.sha256(b"pass").hexdigest()
        stored = settings.objects_dir / "sha256" / digest
        stored.parent.mkdir(parents=True)
        stored.write_bytes(b"pass")
        files = [platform_pb2.MountEntry(path=f"/root/{name}.py", sha256=digest, size=4) for name in ("one", "two")]
        mount = platform_pb2.Mount(mount_id="mo-1", content_hash="of both", files=files)
        self.task = platform_pb2.StartTask(layers=[IMAGE], mounts=[mount])

    async def prepare(self) -> None:
        async def fill(content: Path) -> None:
            (content / "usr/bin").mkdir(parents=True)
            (content / "usr/bin/python3").touch(mode=0o755)

        await self.images.make(IMAGE, parent="", command="FROM", fill=fill)


def test_it_is_made_once_and_goes_when_nobody_uses_it(tmp_path: Path) -> None:
    async def check() -> None:
        place = Place(tmp_path)
        await place.prepare()
        assert place.bytecode.layer(place.task) is None
        for _ in range(2):
            await place.bytecode.make(place.task)
        [spec] = place.runtime.started
        assert spec.block_network and spec.args[0] == "/usr/bin/python3" and spec.args[-2:] == ("/root/one.py", "/root/two.py")
        layer = place.bytecode.layer(place.task)
        assert layer is not None
        found = [path.relative_to(layer) for path in layer.rglob("*") if path.is_file()]
        assert found == [Path("root/__pycache__/one.cpython-311.pyc")]
        assert (layer / found[0]).read_bytes() == b"bytecode"
        await place.bytecode.collect(float("inf"), [place.task])
        assert place.bytecode.layer(place.task) is not None
        await place.bytecode.collect(0.0, [])
        assert place.bytecode.layer(place.task) is not None
        await place.bytecode.collect(float("inf"), [])
        assert place.bytecode.layer(place.task) is None

    asyncio.run(check())


def test_another_image_or_other_files_have_bytecode_of_their_own(tmp_path: Path) -> None:
    async def check() -> None:
        place = Place(tmp_path)
        await place.prepare()
        await place.bytecode.make(place.task)
        other = platform_pb2.StartTask.FromString(place.task.SerializeToString())
        other.mounts[0].content_hash = "of others"
        assert place.bytecode.layer(other) is None
        other.mounts[0].content_hash = place.task.mounts[0].content_hash
        assert place.bytecode.layer(other) is not None
        other.layers.append(definition_id("one more"))
        assert place.bytecode.layer(other) is None
        assert place.bytecode.layer(platform_pb2.StartTask(layers=[IMAGE])) is None

    asyncio.run(check())


def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    async def check() -> None:
        place = Place(tmp_path)
        await place.prepare()
        place.runtime.is_busy = True
        with pytest.raises(Busy):
            await place.bytecode.make(place.task)
        assert place.bytecode.layer(place.task) is None
        place.runtime.is_busy = False
        place.runtime.exit_code = 137
        with pytest.raises(StepFailed, match="memory"):
            await place.bytecode.make(place.task)
        assert place.bytecode.layer(place.task) is None
        place.runtime.exit_code = 0
        await place.bytecode.make(place.task)
        assert place.bytecode.layer(place.task) is not None

    asyncio.run(check())
