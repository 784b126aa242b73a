"""COPY and ADD: files of a context or of another image, put into a layer.

Invariant: nothing is written outside the layer, and a file lands where a process in the image would find it: links of the image are
followed inside the image, and directories that were there keep their owner and mode.
"""

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pilotlight.core.errors import InvalidInput
from pilotlight.images.layers import directory_size_bytes
from pilotlight.images.removal import remove_tree
from pilotlight.images.trees import Tree

_OCTAL = re.compile(r"[0-7]{3,4}")
_NUMBER = re.compile(r"[0-9]{1,9}")  # of a user or group: what chown takes


@dataclass(frozen=True)
class Owner:
    """Numbers for chown; -1 keeps what the source has."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Copy:
    """One COPY: `sources` are patterns below the root of `tree`; `mode` None keeps that of each file."""

    sources: tuple[str, ...]
    target: str
    tree: Tree
    owner: Owner
    mode: int | None = None
    unpack_archives: bool = False


@dataclass(frozen=True)
class Match:
    """A source that a pattern found: its place in the tree, and on the host."""

    path: PurePosixPath
    place: Path


def find_sources(tree: Tree, patterns: Sequence[str]) -> list[Match]:
    """What the patterns mean; errors: InvalidInput for one that finds nothing."""
    found: list[Match] = []
    for pattern in patterns:
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidInput(f"COPY {pattern}: the source must lie inside the build context. Leave out '..'.")
        matches = _matches(tree, PurePosixPath("/"), parts)
        if not matches:
            raise InvalidInput(f"COPY {pattern}: no such file in what is copied from. Check its path, and what is ignored.")
        found.extend(matches)
    return found


def _matches(tree: Tree, here: PurePosixPath, parts: Sequence[str]) -> list[Match]:
    if not parts:
        place = tree.open(here)
        return [Match(tree.resolve(here), place)] if place is not None else []
    part, rest = parts[0], parts[1:]
    if not any(char in part for char in "*?["):
        return _matches(tree, here / part, rest)
    names = fnmatch.filter(tree.entries(tree.resolve(here)), part)
    return [match for name in names for match in _matches(tree, here / name, rest)]


def files_hash(matches: Sequence[Match], known: dict[str, str]) -> str:
    """A hash of all files below the matches by path; `known` maps paths to the hash of content and mode."""
    digest = hashlib.sha256()
    for match in matches:
        below = f"{match.path}/".replace("//", "/")
        for path in sorted(known):
            if path == str(match.path) or path.startswith(below):
                digest.update(f"{path}\0{known[path]}\n".encode())
        digest.update(b"--")
    return digest.hexdigest()


def copy(request: Copy, image: Sequence[Path], layer: Path) -> None:
    """Write the files into the layer, which lies on top of the image's layers (lowest first). Errors: InvalidInput."""
    matches = find_sources(request.tree, request.sources)
    writer = _Writer(request, Tree([*image, layer]), layer)
    several = len(matches) > 1 or any(char in source for source in request.sources for char in "*?[")
    target = writer.image.resolve(request.target)
    existing = writer.image.find(target)
    into = request.target.endswith(("/", "/.")) or (existing is not None and existing.is_dir())
    for match in matches:
        if match.place.is_dir():
            writer.directory(match.path, target)
        elif request.unpack_archives and tarfile.is_tarfile(match.place):
            writer.archive(match.place, target)
        elif into or several:
            writer.file(match.place, target / PurePosixPath(match.path).name)
        else:
            writer.file(match.place, target)


def make_directory(path: PurePosixPath, owner: Owner, image: Sequence[Path], layer: Path) -> None:
    """Make a directory, and what is missing above it, in the layer on top of the image's layers. Errors: InvalidInput."""
    _Writer(Copy((), str(path), Tree([]), owner), Tree([*image, layer]), layer).ensure_directory(path)


class _Writer:
    def __init__(self, request: Copy, image: Tree, layer: Path) -> None:
        self._request = request
        self._layer = layer
        self.image = image

    def directory(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Copy what the directory holds, not the directory itself."""
        place = self.ensure_directory(target)
        for name, entry in self._request.tree.entries(source).items():
            if entry.is_dir() and not entry.is_symlink():
                below = self.image.resolve(target / name)
                is_new = self.image.find(below) is None
                self.directory(source / name, below)
                if is_new:
                    made = self._layer / str(below).lstrip("/")
                    shutil.copystat(entry, made)
                    self._own(entry, made)
            else:
                self._put(entry, place / name)

    def file(self, source: Path, target: PurePosixPath) -> None:
        self._put(source, self.ensure_directory(target.parent) / target.name)

    def archive(self, source: Path, target: PurePosixPath) -> None:
        """Unpack beside the layer, and copy from there: tar itself follows links that an earlier source has put into the layer."""
        unpacked = tempfile.mkdtemp(dir=self._layer.parent, prefix="archive-")
        try:
            command = ["tar", "--extract", "--file", str(source), "--directory", unpacked, "--numeric-owner", "--same-owner"]
            finished = subprocess.run([*command, "--same-permissions"], capture_output=True, text=True, check=False)
            if finished.returncode:
                raise InvalidInput(f"ADD could not unpack {source.name}: {finished.stderr.strip()[-300:]}")
            directory_size_bytes(Path(unpacked))  # raises InvalidInput for what is too deep to be gone through
            content = Copy((), str(target), Tree([Path(unpacked)]), Owner(-1, -1))
            self.ensure_directory(target)
            _Writer(content, self.image, self._layer).directory(PurePosixPath("/"), target)
        finally:
            remove_tree(Path(unpacked))

    def _put(self, source: Path, place: Path) -> None:
        if place.is_dir() and not place.is_symlink():
            raise InvalidInput(f"COPY can't put the file {source.name} where the image has a directory, at {self._named(place)}.")
        hidden = self.image.find(self._named(place))
        if hidden is not None and hidden.is_dir() and not hidden.is_symlink():
            raise InvalidInput(f"COPY can't put the file {source.name} where the image has a directory, at {self._named(place)}.")
        place.unlink(missing_ok=True)
        if source.is_symlink() or not source.is_file():
            if source.is_symlink():
                place.symlink_to(source.readlink())
                self._own(source, place)
            return  # sockets, pipes and devices are no content
        if not self._linked(source, place):
            shutil.copy2(source, place)
            if self._request.mode is not None:
                place.chmod(self._request.mode)
            self._own(source, place)

    def _linked(self, source: Path, place: Path) -> bool:
        """Share the file's bytes on disk where owner and mode stay: layers and mounts never change."""
        status, owner = source.stat(), self._request.owner
        same_owner = owner.uid in (-1, status.st_uid) and owner.gid in (-1, status.st_gid)
        if not same_owner or self._request.mode not in (None, status.st_mode & 0o7777):
            return False
        try:
            place.hardlink_to(source)
        except OSError:  # another file system, or as many links as this one allows
            return False
        return True

    def _own(self, source: Path, place: Path) -> None:
        status, owner = source.lstat(), self._request.owner
        uid = status.st_uid if owner.uid < 0 else owner.uid
        os.chown(place, uid, status.st_gid if owner.gid < 0 else owner.gid, follow_symlinks=False)

    def ensure_directory(self, path: PurePosixPath) -> Path:
        """The directory in the layer, made as it is in the image; errors: InvalidInput where a file is in the way."""
        place = self._layer
        for depth, part in enumerate(path.parts[1:], start=2):
            here = PurePosixPath(*path.parts[:depth])
            place = place / part
            in_image = self.image.find(here)
            if in_image is not None and not in_image.is_dir():
                raise InvalidInput(f"COPY can't make the directory {here}: the image has a file there.")
            if place.is_dir():
                continue
            place.unlink(missing_ok=True)  # a mark that says: deleted
            place.mkdir()
            if in_image is not None:
                shutil.copystat(in_image, place)
                status = in_image.stat()
                os.chown(place, status.st_uid, status.st_gid)
            else:
                place.chmod(0o755)
                owner = self._request.owner
                os.chown(place, max(owner.uid, 0), max(owner.gid, 0))
        return place

    def _named(self, place: Path) -> str:
        return "/" + str(place.relative_to(self._layer))


def parse_mode(text: str) -> int | None:
    """The value of --chmod; errors: InvalidInput."""
    if not text:
        return None
    if not _OCTAL.fullmatch(text):
        raise InvalidInput(f"--chmod={text}: write the mode in octal, such as 755.")
    return int(text, 8)


def parse_owner(text: str, image: Tree, default: Owner) -> Owner:
    """The value of --chown, names looked up in the image; errors: InvalidInput."""
    if not text:
        return default
    user, _, group = text.partition(":")
    uid, primary = _lookup(image, "/etc/passwd", user)
    gid = _lookup(image, "/etc/group", group)[0] if group else primary
    return Owner(uid, gid)


def _lookup(image: Tree, table: str, name: str) -> tuple[int, int]:
    if _NUMBER.fullmatch(name):
        return int(name), int(name)
    for line in image.read_text(table).splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 3 and _NUMBER.fullmatch(fields[2]):
            return int(fields[2]), int(fields[3]) if _NUMBER.fullmatch(fields[3]) else 0
    raise InvalidInput(f"--chown: the image has no {name!r} in {table}. Add it in an earlier step, or use a number.")
