"""What is in a finished image: its Python, its C library, its packages.

Invariant: an image is asked once; the answer is kept by its layers, for as long as they are there.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from pilotlight.images.layers import definition_id, write_durably
from pilotlight.images.steps import DEFAULT_PATH, Command, Steps
from pilotlight.images.trees import Tree

MOST_BYTES = 4 << 20  # of what the image's Python says
TIMEOUT_S = 120.0
MAX_KNOWN = 1_000  # answers in memory; the others are read again
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
        path = self._directory / f"{definition_id('probe', list(layer_ids), env.get('PATH', ''))}.json"
        if (known := self._known.get(key)) is not None and path.exists():
            return known
        facts = _kept(path)
        if facts is None:
            facts = await self._ask(layers, env)
            await asyncio.to_thread(self._keep, path, layer_ids, facts)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = facts
        return facts

    def _keep(self, path: Path, layer_ids: Sequence[str], facts: ImageFacts) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps({"layers": list(layer_ids), "facts": asdict(facts)}))

    async def _ask(self, layers: tuple[Path, ...], env: Mapping[str, str]) -> ImageFacts:
        interpreter = await asyncio.to_thread(find_python, layers, env)
        if not interpreter:
            return ImageFacts()
        command = Command(layers, (interpreter, "-c", _SCRIPT), env, user="0")
        ended, said = await self._steps.ask(command, most=MOST_BYTES, timeout_s=TIMEOUT_S)
        return ImageFacts() if ended.code else facts_of(said)


def facts_of(said: str) -> ImageFacts:
    """What an image's Python has answered; nothing where that is no answer, for it is the image's to say anything."""
    answer = next((line for line in said.splitlines() if line.startswith(_MARK)), "")
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        version, libc, packages = json.loads(answer.removeprefix(_MARK))
        return ImageFacts(str(version), str(libc), {str(name): str(release) for name, release in packages.items()})
    return ImageFacts()


def sweep(directory: Path, is_there: Callable[[str], bool]) -> int:
    """Forget the answers of images that lack a layer by now; how many. Blocks."""
    removed = 0
    for path in directory.glob("*.json"):
        with suppress(FileNotFoundError):
            try:
                is_wanted = all(is_there(layer_id) for layer_id in json.loads(path.read_text())["layers"])
            except (ValueError, KeyError, TypeError):  # of an older version: asked anew
                is_wanted = False
            if not is_wanted:
                path.unlink()
                removed += 1
    return removed


def _kept(path: Path) -> ImageFacts | None:
    with suppress(FileNotFoundError, KeyError, TypeError, ValueError):  # of another version, or cut short: asked anew
        return ImageFacts(**json.loads(path.read_text())["facts"])
    return None


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
