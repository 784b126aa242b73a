"""The bytecode of the client for Pythons that are not of the minor version of our own, as layers over the client's packages.

Invariant: what an image's Python made is laid over images that consist of that Python's layers too, and over no others: an image
that says something else than what its sources mean says it to itself. It goes with these layers.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from pilotlight.core.errors import InvalidInput, PilotlightError
from pilotlight.images.compiling import MOST_SOURCES, Compiler, write_compiled
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.probe import find_python
from pilotlight.images.steps import StepFailed
from pilotlight.images.trees import Tree

RECIPE = 1  # raise it when what is made changes
MAX_KNOWN = 1_000  # images in memory, and compilers that failed; both are found out again

log = structlog.get_logger()


class ClientBytecode:
    """Makes and keeps these layers."""

    def __init__(self, directory: Path, compiler: Compiler, images: LayerStore) -> None:
        self._made = LayerStore(directory)
        self._compiler = compiler
        self._images = images
        self._makers: dict[tuple[tuple[str, ...], str], tuple[str, int]] = {}
        self._failed: set[str] = set()  # not tried again by this process: each time somebody would wait for it

    async def layer(self, layer_ids: Sequence[str], env: Mapping[str, str], packages: Sequence[Path]) -> Path | None:
        """What to lay over these packages, layers of a LayerStore themselves, in this image; None where it can't be compiled.

        Errors: NotFound for a layer of the image.
        """
        python, count = await self._maker(layer_ids, env)
        maker = tuple(layer_ids[:count])
        layer_id = definition_id("client bytecode", python, list(maker), [path.name for path in packages], RECIPE)
        if not python or layer_id in self._failed:
            return None

        async def fill(content: Path) -> None:
            sources = await asyncio.to_thread(_sources, packages)
            layers = (*self._images.paths(maker), *packages)
            compiled = await self._compiler.compile(layers, python, sources, is_checked=False)
            await asyncio.to_thread(write_compiled, content, compiled)

        try:
            # Its parent is the layer that it goes with.
            await self._made.make(layer_id, parent=maker[-1], command=f"client compiled by {python}", fill=fill)
        except PilotlightError as error:  # each container compiles what it imports, then
            log.warning("client_not_compiled", python=python, layer=maker[-1], error=str(error))
            if isinstance(error, StepFailed):
                self._note_failed(layer_id)
            return None
        return self._made.path(layer_id)

    async def collect(self) -> None:
        """Remove what images made that are gone."""
        for record in self._made.list():
            if not self._images.has(record.parent):
                with contextlib.suppress(PilotlightError):
                    await self._made.remove(record.layer_id)

    def sweep(self) -> None:
        """Remove what an interrupted agent left."""
        self._made.sweep()

    async def _maker(self, layer_ids: Sequence[str], env: Mapping[str, str]) -> tuple[str, int]:
        key = (tuple(layer_ids), env.get("PATH", ""))
        if key not in self._makers:
            if len(self._makers) >= MAX_KNOWN:
                self._makers.clear()
            self._makers[key] = await asyncio.to_thread(_maker_of, self._images.paths(layer_ids), env)
        return self._makers[key]

    def _note_failed(self, layer_id: str) -> None:
        if len(self._failed) >= MAX_KNOWN:
            self._failed.clear()
        self._failed.add(layer_id)


def _maker_of(layers: tuple[Path, ...], env: Mapping[str, str]) -> tuple[str, int]:
    """The path of the image's Python, and of how many of its layers, from the lowest, that Python consists.

    Images that are built upon the same ones have the same compiler then, and what it made. Blocks.
    """
    python = find_python(layers, env)
    program = Tree(layers).open(python) if python else None
    for count in range(1, len(layers)):
        with contextlib.suppress(InvalidInput):  # links that lead somewhere only by a layer above
            if find_python(layers[:count], env) == python and Tree(layers[:count]).open(python) == program:
                return python, count
    return python, len(layers)


def _sources(packages: Sequence[Path]) -> tuple[str, ...]:
    """Paths below the root. Blocks."""
    found = sorted(str(path.relative_to(package)) for package in packages for path in package.rglob("*.py"))
    return tuple(found[:MOST_SOURCES])
