"""Bytecode of sources, made by an image's own Python.

Invariant: an image has a say in nothing but the content of the bytecode. Its Python runs in a container without a network, within
limits of memory and time, and prints what it made. Nothing that it leaves on a disk is looked at; names follow from the sources.
"""

import asyncio
import base64
import binascii
import contextlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pilotlight.core.containers import ContainerRuntime
from pilotlight.images.steps import Command, StepFailed, Steps
from pilotlight.images.surroundings import Surroundings

MOST_SOURCES = 1_000  # at once
MOST_BYTES = 32 << 20  # of what the container says
MEMORY_MIB = 512
TIMEOUT_S = 60.0
_TAG = re.compile(r"[a-z]+-[0-9]{2,4}[a-z]{0,2}")
_LINE = re.compile(r"([0-9]{1,6}) ([0-9]{1,9}) ([A-Za-z0-9+/=]+)")  # which source, length of its bytecode, bytecode
_UNCHECKED, _CHECKED = 1, 3  # flags of PEP 552: by a hash, which is checked or is not
# It runs in whatever Python the image has, 3.8 included; without `site`, so that no package of the image is imported.
_SCRIPT = """
import base64, importlib.util, marshal, sys
print(sys.implementation.cache_tag)
for number, path in enumerate(sys.argv[2:]):
    try:
        with open(path, "rb") as file:
            source = file.read()
        code = marshal.dumps(compile(source, path, "exec", dont_inherit=True))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        continue
    flags = int(sys.argv[1]).to_bytes(4, "little")
    pyc = importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source) + code
    print(number, len(pyc), base64.b64encode(pyc).decode())
"""


class Compiler:
    """Has the Pythons of images compile."""

    def __init__(self, runtime: ContainerRuntime, surroundings: Surroundings, timeout_s: float = TIMEOUT_S) -> None:
        self._steps = Steps(runtime, surroundings, MEMORY_MIB)
        self._timeout_s = timeout_s

    async def compile(
        self, layers: tuple[Path, ...], python: str, sources: tuple[str, ...], *, is_checked: bool
    ) -> dict[str, bytes]:
        """Paths below the root and contents of what could be compiled; `is_checked`: against the source, at each import.

        Errors: StepFailed where the compiler did not come to its end.
        """
        args = (*arguments(python, is_checked=is_checked), *(f"/{path}" for path in sources))
        command = Command(layers, args, user="0", block_network=True)
        ended, said = await self._steps.ask(command, most=MOST_BYTES, timeout_s=self._timeout_s)
        if ended.code:  # what it said may lack its end, and what is kept is kept for good
            how = "ran out of memory and was killed" if ended.oom_killed else f"ended with exit code {ended.code}"
            raise StepFailed(f"The compiler {how}.")
        return await asyncio.to_thread(compiled_of, said, sources)


def arguments(python: str, *, is_checked: bool) -> tuple[str, ...]:
    """The compiler's command, to which the paths of sources are added."""
    return (python, "-I", "-S", "-B", "-c", _SCRIPT, str(_CHECKED if is_checked else _UNCHECKED))


def compiled_of(said: str, sources: tuple[str, ...]) -> dict[str, bytes]:
    """Paths below the root and contents, as a container says that they are: it may say anything, and is heard on these alone.

    Bytecode that lacks a part breaks its import for good, so a line counts only with its end, and with the length that it names.
    Blocks.
    """
    tag, *lines = said.split("\n", len(sources) + 1)[:-1] or [""]  # no line is for a source that was told already
    if not _TAG.fullmatch(tag):
        return {}
    found: dict[str, bytes] = {}
    told: set[int] = set()
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or (number := int(match[1])) >= len(sources) or number in told:
            continue
        told.add(number)
        source = PurePosixPath(sources[number])
        with contextlib.suppress(binascii.Error):
            code = base64.b64decode(match[3], validate=True)
            if len(code) == int(match[2]):
                found[str(source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc")] = code
    return found


def write_compiled(content: Path, files: Mapping[str, bytes]) -> None:
    """Make these files in a directory of our own. Blocks."""
    for path, data in files.items():
        place = content / path
        for parent in reversed(place.relative_to(content).parents[:-1]):
            if not (content / parent).exists():
                (content / parent).mkdir()
                (content / parent).chmod(0o755)  # as the directories of mounts
        place.write_bytes(data)
        place.chmod(0o644)
