"""Removal: what goes is first moved out of the volume in one step, then taken apart at leisure.

A container may still hold what was removed, and may go on changing it. Directories are taken apart without recursion (a program may
have nested them without end): each one that is found is moved up to the trash, until all are flat.
"""

import contextlib
import os
import secrets
import stat
import time
from pathlib import Path

from pilotlight.core import errors
from pilotlight.core.volumes import Parts, shown
from pilotlight.volumes import walking
from pilotlight.volumes.places import Places

ABANDONED_AFTER_S = 48 * 3600  # drafts and blocks of uploads that never ended, beyond the life of any URL
USED_AFTER_S = 600.0  # a block whose file is in place is kept for so long, in case the request is repeated
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(places: Places, volume_id: str, parts: Parts, *, recursive: bool) -> None:
    """Remove a file, or a directory with all that is in it; raises NotFound, InvalidInput for a directory without `recursive`."""
    if not parts:
        raise errors.InvalidInput("The root of a volume can't be removed. Remove what is in it, or delete the volume.")
    tree = places.tree(volume_id)
    with walking.directory(tree, parts[:-1]) as parent:
        try:
            found = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) and not recursive:
                raise errors.InvalidInput(f"{shown(parts)!r} is a directory. Remove it with `recursive` (`modal volume rm -r`).")
            os.rename(parts[-1], places.trash / secrets.token_hex(16), src_dir_fd=parent)
            os.fsync(parent)
        except OSError as error:
            raise walking.translated(error, parts, parent) from error


def empty_trash(places: Places) -> int:
    """Take apart what was removed; how many things. What a container fills again meanwhile is left for the next time."""
    trash = os.open(places.trash, _DIRECTORY)
    removed = 0
    try:
        with os.scandir(trash) as scan:
            waiting = [found.name for found in scan]
        while waiting:
            name = waiting.pop()
            try:
                os.unlink(name, dir_fd=trash)
                removed += 1
            except IsADirectoryError:
                removed += _take_apart(trash, name, waiting)
            except FileNotFoundError:
                continue
    finally:
        os.close(trash)
    return removed


def _take_apart(trash: int, name: str, waiting: list[str]) -> int:
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=trash)
    except (FileNotFoundError, NotADirectoryError):
        return 0  # another process of ours was faster
    removed = 0
    try:
        with os.scandir(directory) as scan:
            for found in scan:
                with contextlib.suppress(FileNotFoundError):
                    if found.is_dir(follow_symlinks=False):
                        moved = secrets.token_hex(16)
                        os.rename(found.name, moved, src_dir_fd=directory, dst_dir_fd=trash)
                        waiting.append(moved)
                    else:
                        os.unlink(found.name, dir_fd=directory)
                        removed += 1
    finally:
        os.close(directory)
    with contextlib.suppress(OSError):  # a program has put something into it meanwhile
        os.rmdir(name, dir_fd=trash)
        removed += 1
    return removed


def remove_abandoned(places: Places, now: float | None = None) -> int:
    """Remove drafts and blocks that are past their time, and the blocks of earlier boots; how many."""
    before = (time.time() if now is None else now) - ABANDONED_AFTER_S
    removed = 0
    for boot in places.all_blocks.iterdir():
        if boot != places.blocks:
            boot.rename(places.trash / secrets.token_hex(16))
            removed += 1
    for directory in (places.drafts, *places.blocks.iterdir()):
        for path in directory.iterdir():
            removed += _remove_older(path, before)
    return removed


def _remove_older(path: Path, before: float) -> int:
    with contextlib.suppress(FileNotFoundError):  # used up, or removed by another process of ours
        if path.stat().st_mtime < before:
            path.unlink()
            return 1
    return 0
