"""The bytecode of what users mount, made before the first container imports it, as layers over the mounts.

Invariant: it is made by the image's own Python in a container without a network, of the mounted files alone; nothing of a container
that ran a program comes here. What is made says itself of which source it is (PEP 552, checked hashes), so a program that changes
its own source finds its change.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from importlib.util import source_from_cache
from itertools import islice
from pathlib import Path

from pilotlight.core.containers import ContainerRuntime
from pilotlight.core.errors import PilotlightError
from pilotlight.images.compiling import MOST_SOURCES, Compiler, write_compiled
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.mounts import Mounts, relative_path
from pilotlight.images.probe import find_python
from pilotlight.images.stages import state_of
from pilotlight.images.surroundings import Surroundings
from pilotlight.wire import platform_pb2

RECIPE = 2  # raise it when what is made changes


class Bytecode:
    """Makes and keeps these layers."""

    def __init__(
        self, directory: Path, runtime: ContainerRuntime, surroundings: Surroundings, images: LayerStore, mounts: Mounts
    ) -> None:
        self._made = LayerStore(directory)
        self._compiler = Compiler(runtime, surroundings)
        self._images = images
        self._mounts = mounts
        self._one = asyncio.Lock()  # a container at a time: others wait to run programs

    def layer(self, request: platform_pb2.StartTask) -> Path | None:
        """What to lay over a task's mounts; None where nothing was made."""
        if not request.mounts:
            return None
        layer_id = _layer_id(request)
        return self._made.path(layer_id) if self._made.has(layer_id) else None

    async def make(self, request: platform_pb2.StartTask) -> None:
        """Make the layer for tasks like this, unless it is there. What can't be compiled stays source.

        Errors: StepFailed where the compiler did not come to its end; nothing is kept then.
        """
        if not request.mounts or self._made.has(_layer_id(request)):
            return
        sources = await asyncio.to_thread(_sources, request)
        if not sources:
            return
        async with self._one:
            layers = self._images.paths(request.layers)
            env = dict(state_of((), request.image_config).env)
            python = await asyncio.to_thread(find_python, layers, env)
            if not python:
                return
            mounts = [await self._mounts.layer(mount) for mount in request.mounts]

            async def fill(content: Path) -> None:
                compiled = await self._compiler.compile((*layers, *mounts), python, sources, is_checked=True)
                await asyncio.to_thread(write_compiled, content, compiled)

            await self._made.make(_layer_id(request), parent="", command=f"bytecode for {request.image_id}", fill=fill)

    async def collect(self, used_before: float, running: Iterable[platform_pb2.StartTask]) -> None:
        """Remove what was not used since, and no container of these has."""
        shown = {_layer_id(task) for task in running}
        for record in self._made.list():
            with contextlib.suppress(PilotlightError):
                if record.layer_id not in shown:
                    await self._made.remove(record.layer_id, used_before=used_before)

    def sweep(self) -> None:
        """Remove what an interrupted agent left."""
        self._made.sweep()


def _sources(request: platform_pb2.StartTask) -> tuple[str, ...]:
    """The mounted Python files that have no bytecode of their own beside them; paths below the root. Blocks where they are many."""
    paths = dict.fromkeys(relative_path(entry.path) for mount in request.mounts for entry in mount.files)
    compiled = set(_shipped(paths))
    return tuple(islice((path for path in paths if path.endswith(".py") and path not in compiled), MOST_SOURCES))


def _shipped(paths: Iterable[str]) -> Iterator[str]:
    """The sources that have bytecode among these files."""
    for path in paths:
        if path.endswith(".pyc"):
            with contextlib.suppress(ValueError):  # it lies where no interpreter looks for that of a source
                yield source_from_cache(path)


def _layer_id(request: platform_pb2.StartTask) -> str:
    path = next((entry for entry in request.image_config.env if entry.startswith("PATH=")), "")
    return definition_id("bytecode", list(request.layers), path, [mount.content_hash for mount in request.mounts], RECIPE)
