"""Copies within a volume, as cp(1) makes them, but that links are copied as links and never followed.

Each file of a copy appears whole, one after the other; the copy as a whole is not one step.
"""

import itertools
import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pilotlight.core import errors
from pilotlight.core.volumes import Parts, shown
from pilotlight.volumes import changes, walking
from pilotlight.volumes.changes import NewFile
from pilotlight.volumes.places import Places

FILES_AT_ONCE = 1_000


def copy(places: Places, volume_id: str, sources: Sequence[Parts], target: Parts, *, into_directory: bool, recursive: bool) -> None:
    """Copy files, or with `recursive` directories too. `into_directory`: the target was written with a slash at its end.

    Raises NotFound, InvalidInput for what cp would refuse, AlreadyExists for a directory in the place of a file.
    """
    tree = places.tree(volume_id)
    existing = walking.find(tree, target)
    is_directory = existing is not None and stat.S_ISDIR(existing.st_mode)
    if not is_directory and (into_directory or len(sources) > 1):
        raise errors.InvalidInput(f"{shown(target)!r} is not a directory. Name one that exists, or another file.")
    plan = [(source, (*target, *source[-1:]) if is_directory else target) for source in sources]
    for source, destination in plan:
        _check(tree, source, destination, recursive=recursive)
    for source, destination in plan:
        _copy_one(places, volume_id, source, destination)


def count(tree: Path, sources: Sequence[Parts], limit: int) -> int:
    """How many entries a copy of these makes, counted no further than just beyond the limit."""
    total = 0
    for source in sources:
        for batch in walking.entries(tree, source, recursive=True):
            total += len(batch)
            if total > limit:
                return total
    return total


def _check(tree: Path, source: Parts, destination: Parts, *, recursive: bool) -> None:
    found = walking.look(tree, source)
    if destination == source:
        raise errors.InvalidInput(f"{shown(source)!r} and its copy would be the same file. Choose another target.")
    if stat.S_ISDIR(found.st_mode):
        if not recursive:
            raise errors.InvalidInput(f"{shown(source)!r} is a directory. Copy it with `recursive` (`modal volume cp -r`).")
        if destination[: len(source)] == source:
            raise errors.InvalidInput(f"The directory {shown(source)!r} can't be copied into itself.")
    elif not stat.S_ISREG(found.st_mode):
        walking.open_file(tree, source)  # says what it is


def _copy_one(places: Places, volume_id: str, source: Parts, destination: Parts) -> None:
    tree = places.tree(volume_id)
    files: list[NewFile] = []
    if stat.S_ISDIR(walking.look(tree, source).st_mode):
        os.close(walking.open_directory(tree, destination, make=True))
    for entry in itertools.chain.from_iterable(walking.entries(tree, source, recursive=True)):
        place = (*destination, *entry.parts[len(source) :])
        match entry.format:
            case stat.S_IFREG:
                files.append(_new_file(tree, entry.parts, place))
            case stat.S_IFDIR:
                os.close(walking.open_directory(tree, place, make=True))
            case stat.S_IFLNK:
                _copy_link(places, tree, entry.parts, place)
            case _:
                raise errors.InvalidInput(f"{shown(entry.parts)!r} is a pipe, socket or device, which can't be copied.")
        if len(files) == FILES_AT_ONCE:
            changes.put(places, volume_id, files, overwrite=True)
            files.clear()
    changes.put(places, volume_id, files, overwrite=True)


def _new_file(tree: Path, source: Parts, place: Parts) -> NewFile:
    mode = stat.S_IMODE(walking.look(tree, source).st_mode)
    return NewFile(place, mode, partial(_fill, tree, source))


def _fill(tree: Path, source: Parts, target: int) -> None:
    with walking.file(tree, source) as descriptor:
        changes.copy_range(descriptor, target, os.fstat(descriptor).st_size)


def _copy_link(places: Places, tree: Path, source: Parts, place: Parts) -> None:
    draft = places.draft()
    with walking.directory(tree, source[:-1]) as parent:
        draft.symlink_to(os.readlink(source[-1], dir_fd=parent))
    try:
        with walking.directory(tree, place[:-1], make=True) as parent:
            changes.place(draft, parent, place, overwrite=True)
    finally:
        draft.unlink(missing_ok=True)
