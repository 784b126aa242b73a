"""Mounts: files by content, as directories that are laid over an image.

Invariant: a directory under `mounts/` is complete, is named by its content, and holds nothing outside itself; files with the same
content and mode are one file on disk.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pilotlight.config import Settings
from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.wire import platform_pb2

DEFAULT_MODE = 0o644
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ContentSource(Protocol):
    """Where the bytes of files are."""

    async def path(self, sha256_hex: str) -> Path:
        """A file with this content, not to be changed; errors: NotFound."""
        ...


class LocalContent:
    """Files of an object store that is a directory of this machine: `sha256/<hex>`."""

    def __init__(self, objects_dir: Path) -> None:
        self._root = objects_dir / "sha256"

    async def path(self, sha256_hex: str) -> Path:
        path = self._root / sha256_hex
        if not path.is_file():
            raise NotFound(f"File {sha256_hex[:12]} was never uploaded. Run the program again: the client uploads what is missing.")
        return path


class Mounts:
    """Makes a directory of each mount, once."""

    def __init__(self, settings: Settings, objects: ContentSource) -> None:
        self._root = settings.node_dir / "mounts"
        self._files = settings.node_dir / "files"
        self._objects = objects
        self._locks: dict[str, asyncio.Lock] = {}
        self._serial = itertools.count()

    async def layer(self, mount: platform_pb2.Mount) -> Path:
        """The mount's files under their paths; errors: InvalidInput for a path that leaves the root, NotFound for a lost file."""
        key = content_key(mount)
        target = self._root / key
        if target.exists():
            return target
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if not target.exists():
                await self._make(mount.files, target)
        self._locks.pop(key, None)
        return target

    def sweep(self) -> None:
        """Remove what an interrupted agent left; only while no other uses this directory."""
        for path in self._root.glob(".making-*"):
            shutil.rmtree(path, ignore_errors=True)

    async def _make(self, files: Sequence[platform_pb2.MountEntry], target: Path) -> None:
        making = target.with_name(f".making-{os.getpid()}-{next(self._serial)}")
        making.mkdir(parents=True)
        making.chmod(0o755)  # whatever our own umask is
        self._files.mkdir(parents=True, exist_ok=True)
        try:
            sources: list[tuple[Path, str, int]] = []
            for entry in files:
                if not _SHA256.fullmatch(entry.sha256):
                    raise InvalidInput(f"{entry.sha256!r} of {entry.path!r} is not a SHA-256 in hex.")
                content = await self._objects.path(entry.sha256)
                sources.append((content, relative_path(entry.path), entry.mode & 0o777 or DEFAULT_MODE))
            await asyncio.to_thread(self._place_all, sources, making)
            with contextlib.suppress(OSError):  # another was faster: the same content
                making.rename(target)
        finally:
            if making.exists():
                shutil.rmtree(making, ignore_errors=True)

    def _place_all(self, sources: Sequence[tuple[Path, str, int]], root: Path) -> None:
        for content, path, mode in sources:
            place = root / path
            _make_parents(place, root)
            if place.is_dir():
                raise InvalidInput(f"The mount has {path!r} both as a file and as a directory. Rename one of them.")
            place.unlink(missing_ok=True)
            self._place(content, place, mode)

    def _place(self, content: Path, place: Path, mode: int) -> None:
        canonical = self._files / f"{content.name}-{mode:o}"
        if not canonical.exists():
            temporary = canonical.with_name(f".{canonical.name}-{os.getpid()}-{next(self._serial)}")
            shutil.copyfile(content, temporary)
            temporary.chmod(mode)
            temporary.rename(canonical)
        try:
            place.hardlink_to(canonical)
        except OSError:  # as many links as the file system allows
            shutil.copy2(canonical, place)


def _make_parents(place: Path, root: Path) -> None:
    missing = [parent for parent in place.parents if parent.is_relative_to(root) and not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        parent.chmod(0o755)


def relative_path(path: str) -> str:
    """The path of a mount's file below the root; errors: InvalidInput where it would leave it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        raise InvalidInput(f"Mount path {path!r} does not name a file below the root. Use an absolute path without '..'.")
    return "/".join(parts)


def content_key(mount: platform_pb2.Mount) -> str:
    """What the mount's directory is named by: its files' paths, contents and modes."""
    digest = hashlib.sha256()
    for entry in sorted(mount.files, key=lambda entry: entry.path):
        digest.update(repr((entry.path, entry.sha256, entry.mode & 0o777)).encode())
    return digest.hexdigest()
