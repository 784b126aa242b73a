"""Files put into volumes: each appears whole in one step or not at all, and the last one to come stays.

A file is filled as a draft outside of every volume, synced, and renamed to its place; the directories of a request's files are
synced before the request is answered. So what was acknowledged outlasts a loss of power, and what was not leaves the old file.
"""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.core import errors
from pilotlight.core.volumes import Parts
from pilotlight.objects.syncing import start_writing, sync_file_system
from pilotlight.volumes import walking
from pilotlight.volumes.places import Places

DEFAULT_MODE = 0o644
SYNC_ONE_BY_ONE = 64  # more files than this are synced together, with all else that the file system has to write
COPY_BYTES = 64 << 20
EARLY_BYTES = 1 << 20  # of a copy: so much is begun to be written to the disk at once, while the next is copied
_BUFFER_BYTES = 1 << 20
_UNSUPPORTED = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1

_libc = ctypes.CDLL(None, use_errno=True)

Fill = Callable[[int], None]
"""Writes a file's bytes to a descriptor."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be put in place. `fill` writes its bytes; permission bits of 0 mean DEFAULT_MODE."""

    parts: Parts
    mode: int
    fill: Fill


def put(places: Places, volume_id: str, files: Sequence[NewFile], *, overwrite: bool) -> None:
    """Put files into a volume, all of them whole; raises AlreadyExists (`check_targets` says it before any is in place)."""
    tree = places.tree(volume_id)
    drafts: list[Path] = []
    is_done = False
    try:
        for file in files:
            draft = places.draft()
            drafts.append(draft)
            _fill(draft, file, sync=len(files) <= SYNC_ONE_BY_ONE)
        if len(files) > SYNC_ONE_BY_ONE:
            sync_file_system(tree)
        _place(tree, files, drafts, overwrite=overwrite)
        is_done = True
    except OSError as error:
        raise walking.translated(error, files[min(len(drafts), len(files)) - 1].parts) from error
    finally:
        if not is_done:
            for draft in drafts:
                draft.unlink(missing_ok=True)


def check_targets(tree: Path, paths: Iterable[Parts], *, overwrite: bool) -> set[Parts]:
    """Whether files may be put there, and which of them are there already.

    Raises AlreadyExists for a directory, and for a file unless it may be overwritten.
    """
    present: set[Parts] = set()
    for parts, found in walking.find_all(tree, paths):
        if stat.S_ISDIR(found.st_mode):
            raise walking.translated(IsADirectoryError(errno.EISDIR, ""), parts)
        if not overwrite:
            raise walking.translated(FileExistsError(errno.EEXIST, ""), parts)
        present.add(parts)
    return present


def _fill(draft: Path, file: NewFile, *, sync: bool) -> None:
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        file.fill(descriptor)
        os.fchmod(descriptor, file.mode & 0o7777 or DEFAULT_MODE)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(tree: Path, files: Sequence[NewFile], drafts: Sequence[Path], *, overwrite: bool) -> None:
    """Rename drafts to their places, directory by directory, and sync these."""
    by_directory: dict[Parts, list[tuple[Parts, Path]]] = {}
    for file, draft in zip(files, drafts, strict=True):
        by_directory.setdefault(file.parts[:-1], []).append((file.parts, draft))
    one_by_one = len(by_directory) <= SYNC_ONE_BY_ONE
    for parent, listed in by_directory.items():
        with walking.directory(tree, parent, make=True) as descriptor:
            for parts, draft in listed:
                place(draft, descriptor, parts, overwrite=overwrite)
            if one_by_one:
                os.fsync(descriptor)
    if one_by_one:
        _sync_ancestors(tree, by_directory)
    else:
        sync_file_system(tree)


def place(draft: Path, directory: int, parts: Parts, *, overwrite: bool) -> None:
    """Give a draft its name in an open directory; raises AlreadyExists."""
    try:
        if overwrite:
            os.rename(draft, parts[-1], dst_dir_fd=directory)
        else:
            _rename_to_free(draft, directory, parts[-1])
    except OSError as error:
        raise walking.translated(error, parts, directory) from error


def _rename_to_free(draft: Path, directory: int, name: str) -> None:
    """Rename, unless the name is taken (renameat2(2))."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(draft), directory, os.fsencode(name), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        if number != errno.EINVAL:
            raise OSError(number, os.strerror(number), name)
        os.link(draft, name, dst_dir_fd=directory)  # network file systems know only this
        draft.unlink()


def _sync_ancestors(tree: Path, directories: Iterable[Parts]) -> None:
    """New directories must be on disk in those above them too."""
    ancestors = {parts[:length] for parts in directories for length in range(len(parts))}
    for parts in sorted(ancestors, key=len, reverse=True):
        # Removed meanwhile by somebody else: nothing is left to be synced.
        with contextlib.suppress(errors.NotFound, errors.InvalidInput), walking.directory(tree, parts) as descriptor:
            os.fsync(descriptor)


def copy_range(source: int, target: int, length: int, source_offset: int = 0, target_offset: int = 0) -> None:
    """Copy bytes between files; the kernel does it, and shares blocks where it can. Raises WrongState if there are fewer."""
    left = length
    in_kernel = True
    while left:
        here, there = source_offset + length - left, target_offset + length - left
        copied = 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source, target, min(left, COPY_BYTES), here, there)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                in_kernel = False
                continue
        else:
            copied = _pwrite_all(target, os.pread(source, min(left, _BUFFER_BYTES), here), there)
        if not copied:
            raise errors.WrongState("A file became shorter while it was being copied. Try again.")
        if copied >= EARLY_BYTES:
            start_writing(target, there, copied)
        left -= copied


def _pwrite_all(target: int, data: bytes, offset: int) -> int:
    written = 0
    while written < len(data):
        written += os.pwrite(target, memoryview(data)[written:], offset + written)
    return written
