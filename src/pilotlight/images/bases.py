"""Base images: where what FROM names comes from.

Invariant: the order is always the same: the local store, a registry, and, only where no registry answers, a Debian mirror for the
official images that Debian can stand in for. The build log says which.
"""

import asyncio
import importlib.metadata
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uv as uv_package

from pilotlight.config import Settings
from pilotlight.core.errors import Busy, InvalidInput
from pilotlight.images import debian, local, programs
from pilotlight.images.layers import LayerStore, definition_id
from pilotlight.images.local import LocalImages
from pilotlight.images.references import DebianBase, Reference, debian_base, parse_reference
from pilotlight.images.registry import Auth, NoRegistry, Registry, UnpackedImage
from pilotlight.images.surroundings import Surroundings
from pilotlight.wire import platform_pb2

SCRATCH = UnpackedImage((), platform_pb2.ImageConfig())
Tell = Callable[[str], None]
"""Called with a line for the build log, without its line end."""


@dataclass(frozen=True)
class Pull:
    """How a build wants its bases: `force` asks the registry even for what was pulled before."""

    auth: Auth | None = None
    force: bool = False


class Bases:
    """Finds or makes base images."""

    def __init__(
        self, settings: Settings, surroundings: Surroundings, layers: LayerStore, images: LocalImages, registry: Registry
    ) -> None:
        self._settings = settings
        self._surroundings = surroundings
        self._layers = layers
        self._images = images
        self._registry = registry
        self._bootstrapping = asyncio.Lock()

    async def resolve(self, name: str, tell: Tell, pull: Pull = Pull()) -> UnpackedImage:
        """The image that this name means; errors: InvalidInput, NotFound, NotAllowed, Busy."""
        if name == "scratch":
            return SCRATCH
        reference = parse_reference(name)
        known = self._images.find_image(name)
        if known is not None and (known.source == local.IMPORTED or not pull.force):
            return UnpackedImage(known.layers, known.config())
        if reference.domain == "ghcr.io" and reference.repository == "astral-sh/uv" and _is_plain_uv(reference.tag):
            return await self._uv(reference, tell)
        try:
            image = await self._registry.pull(reference, pull.auth)
        except NoRegistry as exc:
            return await self._stand_in(reference, str(exc), tell)
        self._images.add_image(name, image, local.PULLED)
        return image

    async def _stand_in(self, reference: Reference, reason: str, tell: Tell) -> UnpackedImage:
        base = debian_base(reference)
        if base is None:
            raise Busy(
                f"Base image {reference} is not in the local store, and {reason}. Import it with `pilotlight image import "
                f"{reference} PATH`, or name a registry that can be reached in PILOTLIGHT_REGISTRY_MIRROR."
            )
        layer_id = debian.base_id(base, self._surroundings.apt.mirror)
        home = self._settings.cache / "bases" / layer_id
        if not self._layers.has(layer_id):
            if debian.read_base(home) is None:
                tell(f"{reason}: making Debian {base.suite.name} from its mirror, once for this machine (about half a minute)")
            async with self._bootstrapping:
                cached = await debian.make_base(base, layer_id, self._settings.cache, self._surroundings)

            async def fill(content: Path) -> None:
                await _link_tree(cached.root, content)

            await self._layers.make(layer_id, parent="", command=f"FROM {reference}", fill=fill)
        # Told from the layer itself: the machine's cache may be emptied at any time.
        made = await asyncio.to_thread(debian.describe_base, self._layers.path(layer_id), with_python=base.with_python)
        tell(_provenance(reference, base, made, reason))
        cmd = ["python3"] if made.python else ["bash"]
        return UnpackedImage((layer_id,), platform_pb2.ImageConfig(env=debian.base_env(made), cmd=cmd))

    async def _uv(self, reference: Reference, tell: Tell) -> UnpackedImage:
        """The image that holds nothing but uv, made of the program that this platform itself depends on."""
        binary = Path(uv_package.find_uv_bin())
        ours = importlib.metadata.version("uv")
        version = ours if reference.tag == "latest" else reference.tag
        layer_id = definition_id("uv", version)

        async def fill(content: Path) -> None:
            source = binary.parent
            if not ours.startswith(version):
                tell(f"uv {version} is fetched from the package index")
                source = await self._fetch_uv(version, content)
            for name in ("uv", "uvx"):
                await asyncio.to_thread(shutil.copy2, source / name, content / name)
            await asyncio.to_thread(shutil.rmtree, content / ".fetched", ignore_errors=True)

        await self._layers.make(layer_id, parent="", command=f"FROM {reference}", fill=fill)
        return UnpackedImage((layer_id,), platform_pb2.ImageConfig(entrypoint=["/uv"]))

    async def _fetch_uv(self, version: str, content: Path) -> Path:
        target = content / ".fetched"
        wanted = f"uv=={version}" if version.count(".") >= 2 else f"uv=={version}.*"
        command = [uv_package.find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--target", str(target), wanted]
        finished = await programs.run([*command, *self._surroundings.uv_arguments()], env=self._surroundings.host_env())
        if finished.code:
            raise InvalidInput(f"uv {version} is not in the package index: {finished.last_words()}")
        return target / "bin"


def _is_plain_uv(tag: str) -> bool:
    return tag == "latest" or re.fullmatch(r"\d+\.\d+(\.\d+)?", tag) is not None


def _provenance(reference: Reference, base: DebianBase, made: debian.MadeBase, reason: str) -> str:
    what = f"Debian {base.suite.name} ({made.debian})" + (f" with Python {made.python}" if made.python else "")
    return f"{reference}: {reason}, so this is {what}" + (f"; {base.note}" if base.note else "")


async def _link_tree(source: Path, target: Path) -> None:
    """Copy a directory whose files never change: by hard links where the file system allows it."""
    finished = await programs.run(["cp", "--archive", "--link", f"{source}/.", str(target)])
    if finished.code:
        await asyncio.to_thread(_empty, target)
        finished = await programs.run(["cp", "--archive", "--reflink=auto", f"{source}/.", str(target)])
    if finished.code:
        raise Busy(f"{source} could not be copied to {target}: {finished.last_words()}. Check the free space.")


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
