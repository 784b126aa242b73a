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
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from pilotlight.config import Settings
from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.core.garbage import Held, Verdict, sort_out
from pilotlight.images.trees import MAX_DEPTH
from pilotlight.objects.syncing import sync_file, sync_file_system
from pilotlight.wire import platform_pb2

DEFAULT_MODE = 0o644
SYNC_ONE_BY_ONE = 16  # more files than this are synced together, with all else that the file system has to write
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
        if not target.exists():
            lock = self._locks.setdefault(key, asyncio.Lock())
            async with lock:
                if not target.exists():
                    await self._make(mount.files, target)
            self._locks.pop(key, None)
        os.utime(target)
        return target

    async def collect(self, used_before: float, in_use: Collection[str], *, dry_run: bool) -> Verdict:
        """Remove directories (named by `content_key`) that nobody uses, and files that are in none; or only count them.

        `used_before`: seconds since the epoch.
        """
        held = [Held(path.name, 0, path.stat().st_mtime) for path in self._root.glob("*") if not path.name.startswith(".")]
        verdict = sort_out(held, in_use, used_before)
        doomed = [self._root / one.key for one in verdict.garbage]
        if not dry_run:
            # Out of the way at once, so that nobody is given one that is being emptied.
            doomed = [path.rename(path.with_name(f".making-{os.getpid()}-{next(self._serial)}")) for path in doomed]
        freed = await asyncio.to_thread(self._free, doomed, used_before, dry_run=dry_run)
        verdict.garbage = [Held("", freed if number == 0 else 0, 0.0) for number in range(len(doomed))]
        return verdict

    def _free(self, doomed: Sequence[Path], used_before: float, *, dry_run: bool) -> int:
        """Remove directories and the files that only they had; returns how many bytes that gives back."""
        links: Counter[tuple[int, int]] = Counter()
        for path in doomed:
            for directory, _, names in os.walk(path):
                statuses = (Path(directory, name).lstat() for name in names)
                links.update((status.st_dev, status.st_ino) for status in statuses)
            if not dry_run:
                shutil.rmtree(path, ignore_errors=True)
        freed = 0
        for canonical in self._files.glob("*"):
            status = canonical.stat()
            gone = links[status.st_dev, status.st_ino]
            # Its number of links changed when the last directory let go of it, or when it was made.
            is_fresh = not gone and status.st_ctime >= used_before
            if not is_fresh and status.st_nlink - (gone if dry_run else 0) == 1:
                freed += status.st_size
                if not dry_run:
                    canonical.unlink(missing_ok=True)
        return freed

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
        self._copy({(content, mode) for content, _, mode in sources})
        for content, path, mode in sources:
            place = root / path
            _make_parents(place, root)
            if place.is_dir():
                raise InvalidInput(f"The mount has {path!r} both as a file and as a directory. Rename one of them.")
            place.unlink(missing_ok=True)
            self._place(content, place, mode)

    def _copy(self, wanted: Collection[tuple[Path, int]]) -> None:
        """Have these files under `files/`: what they hold is on the disk before they have a name that says what it is."""
        drafts: dict[Path, Path] = {}
        try:
            for content, mode in wanted:
                canonical = self._canonical(content, mode)
                if not canonical.exists():
                    draft = drafts[canonical] = canonical.with_name(f".{canonical.name}-{os.getpid()}-{next(self._serial)}")
                    shutil.copyfile(content, draft)
                    draft.chmod(mode)
            if len(drafts) > SYNC_ONE_BY_ONE:
                sync_file_system(self._files)
            else:
                for draft in drafts.values():
                    sync_file(draft)
            for canonical, draft in drafts.items():
                draft.rename(canonical)
        finally:
            for draft in drafts.values():
                draft.unlink(missing_ok=True)

    def _place(self, content: Path, place: Path, mode: int) -> None:
        try:
            place.hardlink_to(self._canonical(content, mode))
        except OSError:  # as many links as the file system allows, or the file was collected in this moment
            shutil.copyfile(content, place)
            place.chmod(mode)
            sync_file(place)

    def _canonical(self, content: Path, mode: int) -> Path:
        return self._files / f"{content.name}-{mode:o}"


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
    if len(parts) > MAX_DEPTH:
        raise InvalidInput(f"Mount path {path[:40]!r}… has more than {MAX_DEPTH} directories in one another. Use fewer.")
    return "/".join(parts)


def content_key(mount: platform_pb2.Mount) -> str:
    """What the mount's directory is named by: its files' paths, contents and modes."""
    digest = hashlib.sha256()
    for entry in sorted(mount.files, key=lambda entry: entry.path):
        digest.update(repr((entry.path, entry.sha256, entry.mode & 0o777)).encode())
    return digest.hexdigest()
