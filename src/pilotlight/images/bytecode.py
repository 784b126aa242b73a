"""The bytecode of what users mount, made before the first container imports it, as layers over the mounts.

Invariant: it is made by the image's own Python in a container without a network, of the mounted files alone; nothing of a container
that ran a program comes here. What is made says itself of which source it is (PEP 552, checked hashes), so a program that changes
its own source finds its change.
"""

import asyncio
import base64
import binascii
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import source_from_cache
from itertools import islice
from pathlib import Path, PurePosixPath

import structlog

from pilotlight.core.containers import ContainerRuntime
from pilotlight.core.errors import PilotlightError
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.mounts import Mounts, relative_path
from pilotlight.images.probe import find_python
from pilotlight.images.stages import state_of
from pilotlight.images.steps import Command, StepFailed, Steps
from pilotlight.images.surroundings import Surroundings
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

RECIPE = 2  # raise it when what is made changes
MOST_SOURCES = 1_000  # of one function; the others are compiled where they are imported
MOST_BYTES = 32 << 20  # of what the container says
MEMORY_MIB = 512
TIMEOUT_S = 60.0
_TAG = re.compile(r"[a-z]+-[0-9]{2,4}[a-z]{0,2}")
_LINE = re.compile(r"([0-9]{1,6}) ([0-9]{1,9}) ([A-Za-z0-9+/=]+)")  # which source, length of its bytecode, bytecode
_CHECKED = 3  # flags of PEP 552: by a hash, which is checked
# It runs in whatever Python the image has, 3.8 included; without `site`, so that no package of the image is imported.
_SCRIPT = f"""
import base64, importlib.util, marshal, sys
print(sys.implementation.cache_tag)
for number, path in enumerate(sys.argv[1:]):
    try:
        with open(path, "rb") as file:
            source = file.read()
        code = marshal.dumps(compile(source, path, "exec", dont_inherit=True))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        continue
    pyc = importlib.util.MAGIC_NUMBER + ({_CHECKED}).to_bytes(4, "little") + importlib.util.source_hash(source) + code
    print(number, len(pyc), base64.b64encode(pyc).decode())
"""


class Bytecode:
    """Makes and keeps these layers."""

    def __init__(
        self, directory: Path, runtime: ContainerRuntime, surroundings: Surroundings, images: LayerStore, mounts: Mounts
    ) -> None:
        self._made = LayerStore(directory)
        self._steps = Steps(runtime, surroundings, MEMORY_MIB)
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
                compiled = await self._compile((*layers, *mounts), python, sources)
                await asyncio.to_thread(_write, content, compiled)

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

    async def _compile(self, layers: tuple[Path, ...], python: str, sources: tuple[str, ...]) -> dict[str, bytes]:
        args = (python, "-I", "-S", "-B", "-c", _SCRIPT, *(f"/{path}" for path in sources))
        command = Command(layers, args, user="0", block_network=True)
        ended, said = await self._steps.ask(command, most=MOST_BYTES, timeout_s=TIMEOUT_S)
        if ended.code:  # what it said may lack its end, and what is kept is kept for good
            how = "ran out of memory and was killed" if ended.oom_killed else f"ended with exit code {ended.code}"
            raise StepFailed(f"The compiler {how}.")
        return await asyncio.to_thread(compiled_of, said, sources)


def compiled_of(said: str, sources: tuple[str, ...]) -> dict[str, bytes]:
    """Paths below the root and contents, as a container says that they are: it may say anything, and is heard on these alone.

    Bytecode that lacks a part breaks its import for good, so a line counts only with its end, and with the length that it names.
    """
    tag, *lines = said.split("\n")[:-1] or [""]
    if not _TAG.fullmatch(tag):
        return {}
    found: dict[str, bytes] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or int(match[1]) >= len(sources):
            continue
        source = PurePosixPath(sources[int(match[1])])
        with contextlib.suppress(binascii.Error):
            code = base64.b64decode(match[3], validate=True)
            if len(code) == int(match[2]):
                found[str(source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc")] = code
    return found


def _write(content: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        place = content / path
        for parent in reversed(place.relative_to(content).parents[:-1]):
            if not (content / parent).exists():
                (content / parent).mkdir()
                (content / parent).chmod(0o755)  # as the directories of mounts
        place.write_bytes(data)
        place.chmod(0o644)


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
