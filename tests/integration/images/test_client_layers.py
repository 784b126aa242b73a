"""The client over images whose Python is not of our own version: what one image says stays with that image."""

import asyncio
import base64
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from pilotlight.config import Settings
from pilotlight.core.containers import ContainerSpec, Exit, OnOutput
from pilotlight.core.errors import InvalidInput
from pilotlight.images import clients
from pilotlight.images.clients import ClientPackages
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.wire import platform_pb2

VERSION = importlib.metadata.version("modal")
EVIL, GOOD, MORE = (definition_id("image", name) for name in ("evil", "good", "more"))
PROBED = f"pilotlight-probe:{json.dumps(['3.99.1', 'glibc 2.36', {}])}\n"


class Runtime:
    """Pythons of a version of the future, which answer the probe, and compile each source to the name of their image."""

    def __init__(self) -> None:
        self.compilers: list[ContainerSpec] = []
        self.probed = PROBED
        self.exit_code = 0

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> Any:
        if len(spec.args) == 3:
            on_output(1, self.probed.encode(), 0)
            return Ended(0)
        self.compilers.append(spec)
        name = (spec.layers[0] / "name").read_bytes()
        on_output(1, f"cpython-399\n0 {len(name)} {base64.b64encode(name).decode()}\n".encode(), 0)
        return Ended(self.exit_code)


class Ended:
    def __init__(self, code: int) -> None:
        self._code = code

    async def wait(self) -> Exit:
        return Exit(self._code, False, 0, 0.0)


class Place:
    """A node with two images of one version of Python, and one that adds to the second."""

    def __init__(self, state: Path, cache: Path) -> None:
        self.settings = Settings(state=state, cache=cache)
        self.images = LayerStore(self.settings.layers_dir)
        self.runtime = Runtime()
        self.clients = ClientPackages(self.settings, self.runtime, self.images)

    async def prepare(self) -> None:
        for layer_id, name in ((EVIL, "evil"), (GOOD, "good")):
            await self.images.make(layer_id, parent="", command="FROM", fill=_python(name))
        await self.images.make(MORE, parent=GOOD, command="RUN", fill=_nothing)

    async def over(self, *layers: str) -> tuple[Path, ...]:
        return await self.clients.layers_for(VERSION, "", layers, platform_pb2.ImageConfig())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the machine: the client in it is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path) -> Place:
    return Place(tmp_path, cache)


def _python(name: str) -> Any:
    async def fill(content: Path) -> None:
        (content / "name").write_text(name)
        (content / "usr/bin").mkdir(parents=True)
        (content / "usr/bin/python3").touch(mode=0o755)

    return fill


async def _nothing(content: Path) -> None:
    (content / "file").touch()


def _made_by_images(layers: tuple[Path, ...]) -> set[bytes]:
    return {path.read_bytes() for layer in layers for path in layer.rglob("*.cpython-399.pyc")}


def test_what_one_image_compiled_no_other_image_has(place: Place) -> None:
    async def check() -> None:
        await place.prepare()
        evil, good = await place.over(EVIL), await place.over(GOOD)
        assert (_made_by_images(evil), _made_by_images(good)) == ({b"evil"}, {b"good"})
        assert not _made_by_images((place.settings.cache,))  # all platforms of the machine share it
        for spec in place.runtime.compilers:
            assert spec.block_network and spec.memory_limit_mib and spec.upper is None

    asyncio.run(check())


def test_an_image_shares_what_the_layers_of_its_python_made(place: Place) -> None:
    async def check() -> None:
        await place.prepare()
        assert await place.over(GOOD) == await place.over(GOOD, MORE)
        [spec] = place.runtime.compilers
        assert place.images.path(MORE) not in spec.layers
        assert _made_by_images(await place.over(EVIL, GOOD)) == {b"evil"}
        assert len(place.runtime.compilers) == 2

    asyncio.run(check())


def test_it_goes_with_the_image_that_made_it(place: Place) -> None:
    async def check() -> None:
        await place.prepare()
        evil, good = await place.over(EVIL), await place.over(GOOD)
        await place.images.remove(EVIL)
        await place.clients.collect()
        assert [layer.exists() for layer in (*evil, *good)] == [True, False, True, True]

    asyncio.run(check())


def test_a_compiler_that_fails_costs_its_image_the_bytecode_and_is_asked_once(place: Place) -> None:
    async def check() -> None:
        await place.prepare()
        place.runtime.exit_code = 1
        assert [len(await place.over(EVIL)) for _ in range(2)] == [1, 1]
        assert len(place.runtime.compilers) == 1
        place.runtime.exit_code = 0
        assert len(await place.over(GOOD)) == 2

    asyncio.run(check())


def test_a_python_of_our_own_version_compiles_nothing(place: Place) -> None:
    async def check() -> None:
        await place.prepare()
        place.runtime.probed = PROBED.replace("3.99", clients.OWN_MINOR)
        [layer] = await place.over(EVIL)
        assert not place.runtime.compilers and (layer / "pkg/modal/__pycache__").is_dir()

    asyncio.run(check())


def test_an_image_that_names_no_version_is_told_so(place: Place) -> None:
    async def check() -> None:
        await place.prepare()
        place.runtime.probed = PROBED.replace("3.99.1", "--anything")
        with pytest.raises(InvalidInput, match="--anything"):
            await place.over(EVIL)

    asyncio.run(check())
