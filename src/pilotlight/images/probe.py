"""What is in a finished image: its Python, its C library, its packages.

Invariant: an image is asked once; the answer is kept by its layers.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from pilotlight.images.layers import definition_id, write_durably
from pilotlight.images.steps import DEFAULT_PATH, Command, Steps
from pilotlight.images.trees import Tree

_MARK = "pilotlight-probe:"
# It runs in whatever Python the image has, 3.8 included; a user's broken .pth file must not hide the answer.
_SCRIPT = f"""
import json, os, sys
try:
    from importlib import metadata
    packages = dict((d.metadata["Name"], d.version) for d in metadata.distributions() if d.metadata["Name"])
except Exception:
    packages = {{}}
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, ValueError, OSError):
    libc = "musl"
print("{_MARK}" + json.dumps([sys.version.split()[0], libc, packages]))
"""


@dataclass(frozen=True)
class ImageFacts:
    """`python_version` such as "3.11.2", `libc_version` such as "glibc 2.36" or "musl"; empty where the image has no Python."""

    python_version: str = ""
    libc_version: str = ""
    packages: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def python_minor(self) -> str:
        """Such as "3.11"."""
        return ".".join(self.python_version.split(".")[:2])


class Probe:
    """Asks images, and remembers."""

    def __init__(self, directory: Path, steps: Steps) -> None:
        self._directory = directory
        self._steps = steps
        self._known: dict[tuple[tuple[str, ...], str], ImageFacts] = {}

    async def facts(self, layer_ids: Sequence[str], layers: tuple[Path, ...], env: Mapping[str, str]) -> ImageFacts:
        """What the image holds, by the first `python` or `python3` on its PATH."""
        key = (tuple(layer_ids), env.get("PATH", ""))
        if (known := self._known.get(key)) is not None:
            return known
        path = self._directory / f"{definition_id('probe', list(layer_ids), env.get('PATH', ''))}.json"
        if path.exists():
            facts = ImageFacts(**json.loads(path.read_text()))
        else:
            facts = await self._ask(layers, env)
            await asyncio.to_thread(self._keep, path, facts)
        self._known[key] = facts
        return facts

    def _keep(self, path: Path, facts: ImageFacts) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(asdict(facts)))

    async def _ask(self, layers: tuple[Path, ...], env: Mapping[str, str]) -> ImageFacts:
        interpreter = await asyncio.to_thread(find_python, layers, env)
        if not interpreter:
            return ImageFacts()
        lines: list[str] = []
        ended, _ = await self._steps.run(
            Command(layers, (interpreter, "-c", _SCRIPT), env, user="0"), lambda fd, text: lines.append(text) if fd == 1 else None
        )
        answer = next((line for line in "".join(lines).splitlines() if line.startswith(_MARK)), "")
        if ended.code or not answer:
            return ImageFacts()
        version, libc, packages = json.loads(answer.removeprefix(_MARK))
        return ImageFacts(version, libc, packages)


def find_python(layers: Sequence[Path], env: Mapping[str, str]) -> str:
    """The path inside the image of its Python, found as a shell would; empty where there is none."""
    tree = Tree(layers)
    for directory in env.get("PATH", DEFAULT_PATH).split(":"):
        for name in ("python", "python3"):
            path = PurePosixPath("/", directory, name)
            found = tree.open(path)
            if found is not None and found.is_file():
                return str(path)
    return ""
