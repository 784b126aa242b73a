"""The local store of base images: what was imported by hand, and what was pulled before.

Invariant: the index names only layers that were whole when it was written, and every change to it is one rename under a lock, since
the command line and the node agent share it.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pilotlight.config import Settings
from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.images import programs
from pilotlight.images.layers import LayerStore, definition_id, write_durably
from pilotlight.images.references import parse_reference
from pilotlight.images.registry import UnpackedImage, extract, unpack
from pilotlight.images.surroundings import Surroundings
from pilotlight.wire import platform_pb2

IMPORTED, PULLED = "imported", "pulled"


@dataclass(frozen=True)
class LocalImage:
    """One reference of the store; layers lowest first, env as NAME=value."""

    reference: str
    layers: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    user: str
    source: str  # IMPORTED or PULLED
    created_at: float

    def config(self) -> platform_pb2.ImageConfig:
        """What a container's process gets from the image."""
        return platform_pb2.ImageConfig(
            env=self.env, workdir=self.workdir, entrypoint=self.entrypoint, cmd=self.cmd, user=self.user
        )


class LocalImages:
    """The references that this platform has on this machine."""

    def __init__(self, settings: Settings, layers: LayerStore | None = None, clock: Callable[[], float] = time.time) -> None:
        self._index = settings.images_dir / "index.json"
        self._layers = layers or LayerStore(settings.layers_dir)
        self._clock = clock

    def find_image(self, reference: str) -> LocalImage | None:
        """The image of this name, if it and all its layers are here; errors: InvalidInput for what is no name."""
        image = self._read().get(str(parse_reference(reference)))
        return image if image is not None and all(self._layers.has(layer) for layer in image.layers) else None

    def list_images(self) -> list[LocalImage]:
        """All images, by name."""
        return sorted(self._read().values(), key=lambda image: image.reference)

    def size_bytes(self, image: LocalImage) -> int:
        """What the image's layers take on disk; layers may be shared with other images."""
        return sum(self._layers.record(layer).size_bytes for layer in image.layers if self._layers.has(layer))

    def remove_image(self, reference: str) -> LocalImage:
        """Forget the name; its layers stay for the images built on it. Errors: NotFound."""
        name = str(parse_reference(reference))
        with self._changing() as images:
            if name not in images:
                raise NotFound(f"There is no local image {name}. `pilotlight image list` shows what there is.")
            return images.pop(name)

    def add_image(self, reference: str, image: UnpackedImage, source: str) -> LocalImage:
        """Name an image whose layers are in the store; an older one of that name is replaced."""
        name, config = str(parse_reference(reference)), image.config
        added = LocalImage(
            reference=name,
            layers=image.layers,
            env=tuple(config.env),
            workdir=config.workdir,
            entrypoint=tuple(config.entrypoint),
            cmd=tuple(config.cmd),
            user=config.user,
            source=source,
            created_at=self._clock(),
        )
        with self._changing() as images:
            images[name] = added
        return added

    async def import_image(self, reference: str, path: Path) -> LocalImage:
        """Take in an OCI layout, a docker or OCI archive, a tar of a root directory, or a root directory (needs root).

        Errors: InvalidInput where the path is none of these, NotFound where there is nothing.
        """
        name = str(parse_reference(reference))
        path, source = await asyncio.to_thread(_source, path, name)
        if source:
            image = await unpack(source, self._layers, env=Surroundings().host_env())
        else:
            image = await self._import_root(path)
        return self.add_image(name, image, IMPORTED)

    async def _import_root(self, path: Path) -> UnpackedImage:
        fingerprint, is_directory = await asyncio.to_thread(_fingerprint, path)

        async def fill(content: Path) -> None:
            await (_copy(path, content) if is_directory else extract(path, content))

        layer_id = definition_id("root", fingerprint)
        await self._layers.make(layer_id, parent="", command=f"import {path.name}", fill=fill)
        env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        return UnpackedImage((layer_id,), platform_pb2.ImageConfig(env=env))

    def _read(self) -> dict[str, LocalImage]:
        try:
            entries = json.loads(self._index.read_text())
        except FileNotFoundError:
            return {}
        return {name: _local_image(entry) for name, entry in entries.items()}

    @contextlib.contextmanager
    def _changing(self):
        self._index.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._index.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for a moment only
            images = self._read()
            yield images
            write_durably(self._index, json.dumps({name: asdict(image) for name, image in sorted(images.items())}, indent=1))
        finally:
            os.close(lock)


def _local_image(entry: dict[str, Any]) -> LocalImage:
    lists: dict[str, Any] = {name: tuple(entry[name]) for name in ("layers", "env", "entrypoint", "cmd")}
    return LocalImage(**(entry | lists))


def _source(path: Path, name: str) -> tuple[Path, str]:
    """The absolute path, and what skopeo calls this image: empty for a root directory. Errors: NotFound, InvalidInput."""
    path = path.expanduser().resolve()
    if not path.exists():
        raise NotFound(f"There is nothing at {path}. Give an OCI layout, a docker archive or a root directory.")
    return path, _directory_source(path, name) if path.is_dir() else _archive_source(path)


def _directory_source(path: Path, name: str) -> str:
    if (path / "oci-layout").exists():
        return f"oci:{path}{_oci_tag(json.loads((path / 'index.json').read_text()), path, name)}"
    if not any((path / entry).exists() for entry in ("bin", "usr", "etc", "lib")):
        raise InvalidInput(f"{path} is neither an OCI layout (no oci-layout file) nor a root directory (no bin, usr, etc or lib).")
    return ""


def _archive_source(path: Path) -> str:
    if not tarfile.is_tarfile(path):
        raise InvalidInput(f"{path} is not an archive. Give a docker or OCI archive, an OCI layout or a root directory.")
    with tarfile.open(path) as archive:
        names = {member.name.removeprefix("./") for member in archive}
    if "oci-layout" in names:
        return f"oci-archive:{path}"
    return f"docker-archive:{path}" if "manifest.json" in names else ""


def _oci_tag(index: dict[str, list[dict[str, dict[str, str]]]], path: Path, name: str) -> str:
    manifests = index.get("manifests", [])
    if len(manifests) == 1:
        return ""
    tags = [manifest.get("annotations", {}).get("org.opencontainers.image.ref.name", "") for manifest in manifests]
    tag = next((tag for tag in tags if tag and (tag == name or name.endswith(f":{tag}"))), "")
    if not tag:
        raise InvalidInput(
            f"{path} holds {len(manifests)} images ({', '.join(filter(None, tags))}). Import one under a name with its tag."
        )
    return f":{tag}"


def _fingerprint(path: Path) -> tuple[str, bool]:
    """What changes when anything in the directory or archive does, without reading all of it; and whether it is a directory."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), False
    digest = hashlib.sha256()
    for directory, names, files in os.walk(path):
        names.sort()
        for name in sorted([*names, *files]):
            status = os.lstat(os.path.join(directory, name))  # noqa: PTH118 - a million times faster to skip Path
            facts = (os.path.relpath(directory, path), name, status.st_mode, status.st_uid, status.st_gid)
            digest.update(repr((*facts, 0 if name in names else status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest(), True


async def _copy(source: Path, target: Path) -> None:
    finished = await programs.run(["cp", "--archive", "--one-file-system", "--reflink=auto", f"{source}/.", str(target)])
    if finished.code:
        raise InvalidInput(f"{source} could not be copied: {finished.last_words()}. Run as root, and check the free space.")
