"""Mounts: sets of files by content. What a mount lists is in the object store, and its bytes are what their hash says.

A mount's id follows from its content, so that the same files make the same mount, however often and by whomever they are sent.
"""

import asyncio
import hashlib
import posixpath
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pilotlight.core import errors, ids
from pilotlight.core.names import check_object_name
from pilotlight.objects import Objects, blob_key, content_key
from pilotlight.objects.store import wrong_content
from pilotlight.store import garbage
from pilotlight.store import mounts as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

CLIENT_MOUNT = "modal-client-mount-"
PYTHON_MOUNT = "python-build-standalone"
MAX_FILES = 100_000  # of one mount
MAX_CACHED_MOUNTS = 1_000
MAX_KNOWN_CONTENTS = 200_000  # hashes known to be in the object store; a hash and a number each
CHECKS_AT_ONCE = 64
HASHED_AT_ONCE_BYTES = 64 << 10  # takes the loop less time than a thread's start and end
RENEWED_EVERY_S = 600.0  # how often the row of a mount that is made again and again says so
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class MountFile:
    """One file of a mount: where it appears, and what it holds."""

    path: str
    sha256: str
    mode: int


@dataclass(frozen=True, slots=True)
class MountHandle:
    """What a caller gets to know of a mount."""

    mount_id: str
    content_hash: str


def content_hash_of(files: Sequence[MountFile]) -> str:
    """One hash for all files, whatever the order in which they come."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{len(file.path.encode())}:{file.path}{file.sha256}{file.mode:o}\n".encode())
    return digest.hexdigest()


def checked_file(path: str, sha256: str, mode: int) -> MountFile:
    """A file whose path stays below the root; raises InvalidInput."""
    if not _HASH.fullmatch(sha256):
        raise errors.InvalidInput(f"The file {path!r} of a mount has no SHA-256: {sha256!r} is not 64 hexadecimal digits.")
    if not path or "\0" in path or path.endswith("/") or ".." in path.split("/"):
        raise errors.InvalidInput(f"A mount can't have a file at {path!r}: the path must be absolute, without '..'.")
    return MountFile("/" + posixpath.normpath(path).lstrip("/"), sha256, (mode or 0o644) & 0o7777)


class Mounts:
    """Use cases of mounts."""

    def __init__(self, *, database: Database, objects: Objects, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._objects = objects
        self._now = now
        self._mounts: OrderedDict[str, platform_pb2.Mount] = OrderedDict()
        self._made_at: dict[str, float] = {}  # of mounts in memory: when their rows were last written
        self._sizes: OrderedDict[str, tuple[int, float]] = OrderedDict()  # and when somebody last asked
        self._removing: dict[str, asyncio.Event] = {}

    async def create(self, files: Iterable[MountFile]) -> MountHandle:
        """The mount of these files, all of which must have been sent; raises WrongState, OverLimit. Safe to repeat."""
        return await self._add(list(files), None, None)

    async def deploy(self, environment_id: str, name: str, files: Iterable[MountFile], *, replace: bool) -> MountHandle:
        """Give a name to the mount of these files; raises AlreadyExists if the name is another's and `replace` is false."""
        check_object_name(name, "mount")
        listed = list(files)
        found = await self._database.read(lambda connection: store.find(connection, environment_id, name))
        if found and not replace and found.content_hash != content_hash_of(listed):
            raise errors.AlreadyExists(
                f"Mount '{name}' already exists with other files. Choose another name, or allow overwriting."
            )
        return await self._add(listed, name, environment_id)

    async def look_up(self, environment_id: str, name: str) -> MountHandle:
        """The mount that has that name; raises NotFound."""
        found = await self._database.read(lambda connection: store.find(connection, environment_id, name))
        if found is None:
            raise errors.NotFound(f"Mount '{name}' not found. Deploy it first.")
        return MountHandle(found.mount_id, found.content_hash)

    async def look_up_global(self, name: str) -> MountHandle:
        """A mount that the platform itself offers. The client's own package is one, in any version; raises NotFound."""
        if name.startswith(CLIENT_MOUNT):
            # Nodes make the package themselves, so its row has no files.
            mount_id = ids.derived(ids.MOUNT, "global", name)
            if mount_id not in self._mounts:
                await self._store(platform_pb2.Mount(mount_id=mount_id), name, None)
            return MountHandle(mount_id, "")
        if name.startswith(PYTHON_MOUNT):
            raise errors.NotFound(
                f"Mount '{name}' not found: this platform has no standalone Pythons, so `add_python=` does not work here. Take an "
                'image that has Python (`modal.Image.debian_slim()`, `from_registry("python:3.11-slim")`), or install it by '
                '`.apt_install("python3", "python-is-python3", "python3-pip")`, and leave `add_python` away.'
            )
        raise errors.NotFound(
            f"Mount '{name}' not found among those that the platform offers, which are '{CLIENT_MOUNT}<version>'."
        )

    async def get(self, mount_id: str) -> platform_pb2.Mount:
        """A mount with its files, for the node that shows them; raises NotFound. Not to be changed by the caller."""
        if mount_id in self._mounts:
            self._mounts.move_to_end(mount_id)
            return self._mounts[mount_id]
        row = await self._database.read(lambda connection: store.get(connection, mount_id))
        if row is None:
            raise errors.NotFound(f"Mount {mount_id} not found: run or deploy the app again, which sends its files anew.")
        mount = platform_pb2.Mount.FromString(row.files)
        self._remember(mount)
        return mount

    async def missing(self, hashes: Sequence[str]) -> list[str]:
        """Those of the hashes whose content was never sent."""
        for sha256 in hashes:
            checked_file("/file", sha256, 0)
        sizes = await self._sizes_of(list(dict.fromkeys(hashes)))
        return [sha256 for sha256, size in sizes.items() if size is None]

    async def put_file(self, sha256: str, data: bytes) -> None:
        """Store a file's content; raises InvalidInput if it is not what its hash says. Safe to repeat."""
        key = content_key(sha256)

        def digest() -> str:
            return hashlib.sha256(data).hexdigest()

        found = digest() if len(data) <= HASHED_AT_ONCE_BYTES else await asyncio.to_thread(digest)
        if found != sha256:
            raise wrong_content(sha256, found)
        await self._removed([sha256])
        await self._objects.put(key, data)
        self._know(sha256, len(data))

    async def put_file_from_blob(self, sha256: str, blob_id: str) -> None:
        """Store a file's content that was sent as a blob; raises InvalidInput, NotFound. Safe to repeat."""
        key = content_key(sha256)
        await self._removed([sha256])
        await self._objects.adopt(key, blob_key(blob_id), sha256)
        self._know(sha256, await self._objects.size(key) or 0)

    async def _add(self, files: list[MountFile], name: str | None, environment_id: str | None) -> MountHandle:
        if len(files) > MAX_FILES:
            raise errors.OverLimit(
                f"The mount has {len(files)} files, over the limit of {MAX_FILES}. Leave files out with `ignore=`, "
                "or put them into the image with `copy=True` in several steps."
            )
        content_hash = content_hash_of(files)
        mount_id = ids.derived(ids.MOUNT, content_hash, *((environment_id or "", name) if name else ()))
        if name is None and mount_id in self._mounts and self._now() < self._made_at.get(mount_id, 0.0) + RENEWED_EVERY_S:
            return MountHandle(mount_id, content_hash)
        sizes = await self._sizes_of([file.sha256 for file in files])
        absent = [file.path for file in files if sizes[file.sha256] is None]
        if absent:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            raise errors.WrongState(f"Files of the mount were never sent: {', '.join(absent[:3])}{more}. Run the command again.")
        entries = [
            platform_pb2.MountEntry(path=file.path, sha256=file.sha256, size=sizes[file.sha256] or 0, mode=file.mode)
            for file in sorted(files, key=lambda file: file.path)
        ]
        mount = platform_pb2.Mount(mount_id=mount_id, content_hash=content_hash, files=entries)
        await self._store(mount, name, environment_id)
        return MountHandle(mount_id, content_hash)

    async def _store(self, mount: platform_pb2.Mount, name: str | None, environment_id: str | None) -> None:
        created_at = self._now()
        await self._database.write(
            lambda connection: store.add(
                connection,
                mount_id=mount.mount_id,
                content_hash=mount.content_hash,
                files=mount.SerializeToString(),
                name=name,
                environment_id=environment_id,
                created_at=created_at,
            )
        )
        self._remember(mount)
        self._made_at[mount.mount_id] = created_at

    async def remove_unused(self, mount_ids: Sequence[str], used_before: float) -> int:
        """Remove mounts that nothing refers to, unless somebody has made them again since; how many."""
        for mount_id in mount_ids:
            if self._made_at.get(mount_id, 0.0) < used_before:
                self._forget(mount_id)
        return await self._database.write(lambda connection: garbage.remove_mounts(connection, mount_ids, used_before))

    async def remove_content(self, sha256: str, used_before: float) -> bool:
        """Remove a file's content that no mount lists; False if somebody has asked for it since."""
        if sha256 in self._removing or ((known := self._sizes.get(sha256)) is not None and known[1] >= used_before):
            return False
        # From here on who asks for it, or sends it again, waits until it is gone.
        gone = self._removing[sha256] = asyncio.Event()
        self._sizes.pop(sha256, None)
        try:
            await self._objects.delete(content_key(sha256))
        finally:
            del self._removing[sha256]
            gone.set()
        return True

    def content_used_at(self, sha256: str) -> float:
        """When somebody last asked for a content, or sent it; 0 if not since the start."""
        return self._sizes.get(sha256, (0, 0.0))[1]

    async def _removed(self, hashes: Iterable[str]) -> None:
        for sha256 in hashes:
            if (gone := self._removing.get(sha256)) is not None:
                await gone.wait()

    def _remember(self, mount: platform_pb2.Mount) -> None:
        self._mounts[mount.mount_id] = mount
        if len(self._mounts) > MAX_CACHED_MOUNTS:
            self._forget(next(iter(self._mounts)))

    def _forget(self, mount_id: str) -> None:
        self._mounts.pop(mount_id, None)
        self._made_at.pop(mount_id, None)

    def _know(self, sha256: str, size: int) -> None:
        self._sizes[sha256] = (size, self._now())
        self._sizes.move_to_end(sha256)
        if len(self._sizes) > MAX_KNOWN_CONTENTS:
            self._sizes.popitem(last=False)

    async def _sizes_of(self, hashes: Sequence[str]) -> dict[str, int | None]:
        await self._removed(hashes)
        sizes: dict[str, int | None] = {}
        for sha256 in hashes:
            known = self._sizes.get(sha256)
            sizes[sha256] = known[0] if known else None
            if known:
                self._know(sha256, known[0])
        unknown = [sha256 for sha256, size in sizes.items() if size is None]
        for start in range(0, len(unknown), CHECKS_AT_ONCE):
            some = unknown[start : start + CHECKS_AT_ONCE]
            found = await asyncio.gather(*(self._objects.size(content_key(sha256)) for sha256 in some))
            for sha256, size in zip(some, found, strict=True):
                sizes[sha256] = size
                if size is not None:
                    self._know(sha256, size)
        return sizes
