"""Volumes on this machine: where containers see them, how their changes reach the disk, and who has files of them open.

A volume is mounted where the official client looks for open files, and a link at the path that its function names leads there.
The directory of all volumes is the same for all machines: local where there is one, else on a shared file system.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from pilotlight.core.containers import ContainerSpec, Link
from pilotlight.core.errors import InvalidInput
from pilotlight.core.volumes import GUEST_DIR
from pilotlight.node import syscalls
from pilotlight.volumes.changes import sync_file_system
from pilotlight.volumes.mounting import bind_of
from pilotlight.volumes.places import Places
from pilotlight.wire import platform_pb2

OPEN_FILES = "there are open files preventing the operation"  # in these words the official client knows it


class VolumeDirectories:
    """The volumes of this platform, for its containers."""

    def __init__(self, root: Path) -> None:
        self._places = Places(root)

    def mounted(self, spec: ContainerSpec, mounts: Sequence[platform_pb2.VolumeMount]) -> ContainerSpec:
        """The container of a function, with its volumes; raises InvalidInput for what is no volume id."""
        places = {mount.mount_path: f"{GUEST_DIR}/{mount.volume_id}" for mount in mounts}
        binds = (bind_of(self._places, mount, places[mount.mount_path]) for mount in mounts)
        return replace(spec, binds=(*spec.binds, *binds), links=tuple(Link(*link) for link in places.items()))

    async def sync(self, volume_id: str) -> None:
        """Return when all that containers of this machine have written is on disk; raises OSError, InvalidInput."""
        await asyncio.to_thread(sync_file_system, self._places.tree(volume_id))

    async def has_open_files(self, volume_id: str, pid: int) -> bool:
        """Whether a process of the container with that init has a file of the volume open, or works in one of its directories."""
        return await asyncio.to_thread(partial(_is_in_use, f"{GUEST_DIR}/{volume_id}", pid))


def place_links(root: Path, links: Sequence[Link]) -> None:
    """Make links below a container's root, before anything runs in it; raises InvalidInput where something is in the way."""
    for link in links:
        path = PurePosixPath(link.path)
        parent = _make_directory(root, path.parent)
        try:
            _clear_way(parent, path)
            os.symlink(link.target, path.name, dir_fd=parent)
        finally:
            os.close(parent)


def _make_directory(root: Path, path: PurePosixPath) -> int:
    """A descriptor of a directory below the root, every link of the image resolved as the container would."""
    try:
        return syscalls.open_in_root(root, str(path))
    except FileNotFoundError:
        parent = _make_directory(root, path.parent)
        try:
            os.mkdir(path.name, 0o755, dir_fd=parent)
        finally:
            os.close(parent)
        return syscalls.open_in_root(root, str(path))


def _clear_way(parent: int, path: PurePosixPath) -> None:
    try:
        found = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise InvalidInput(f'cannot mount volume at "{path}": {path.parent} is a file in the image') from error
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidInput(f'cannot mount volume at "{path}": the image has a file or link of that name; choose another path')
    try:
        os.rmdir(path.name, dir_fd=parent)
    except OSError as error:
        raise InvalidInput(
            f'cannot mount volume on non-empty path: "{path}". Choose another path, or remove in the image what is in it.'
        ) from error


def _is_in_use(directory: str, pid: int) -> bool:
    try:
        namespace = Path(f"/proc/{pid}/ns/pid").readlink()
    except FileNotFoundError:
        return False
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            # One that ends meanwhile has nothing open, and one that even root may not look at is no container's.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if (process / "ns/pid").readlink() == namespace and _uses(process, directory):
                    return True
    return False


def _uses(process: Path, directory: str) -> bool:
    if _is_within(process / "cwd", directory):
        return True
    return any(_is_within(entry, directory) for entry in (process / "fd").iterdir())


def _is_within(link: Path, directory: str) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        target = str(link.readlink())
        return target == directory or target.startswith(directory + "/")
    return False
