"""Ways into a volume that no link can divert: one component after the other, each relative to the directory before it.

Raises NotFound where something is missing, InvalidInput where it is of another kind than asked for, Busy for a file on which a
program holds a lease.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pilotlight.core import errors
from pilotlight.core.volumes import MAX_DEPTH, Parts, shown

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ENTRIES_PER_BATCH = 1_000
_KINDS = {
    stat.S_IFLNK: "a symbolic link, which is not followed",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or directory; `format` is of `stat.S_IFMT`."""

    parts: Parts
    format: int
    size_bytes: int
    modified_at: float


@contextlib.contextmanager
def directory(root: Path, parts: Parts, *, make: bool = False) -> Generator[int]:
    """A descriptor of a directory of the volume, which is made where it is missing if so wished."""
    descriptor = open_directory(root, parts, make=make)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_directory(root: Path, parts: Parts, *, make: bool = False) -> int:
    """As `directory`, for the caller to close."""
    try:
        current = os.open(root, _DIRECTORY)
    except FileNotFoundError as error:
        raise errors.NotFound(f"Volume {root.name} was deleted.") from error
    for index, name in enumerate(parts):
        try:
            below = _enter(current, name, make=make)
        except OSError as error:
            raise translated(error, parts[: index + 1], current) from error
        finally:
            os.close(current)
        current = below
    return current


def _enter(current: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=current)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=current)
    below = os.open(name, _DIRECTORY, dir_fd=current)
    os.fchmod(below, 0o755)  # whatever the umask
    return below


def translated(error: OSError, parts: Parts, parent: int = -1) -> errors.PilotlightError:
    """The error of an access in words for whoever asked for it."""
    path = shown(parts)
    match error.errno:
        case errno.ENOENT:
            return errors.NotFound(f"There is no {path!r} in the volume. List what there is with `modal volume ls`.")
        case errno.ENOTDIR | errno.ELOOP:
            return errors.InvalidInput(f"{path!r} is {_kind(parent, parts)}, not a directory. Name another path.")
        case errno.EISDIR:
            return errors.AlreadyExists(f"{path!r} is a directory. Remove it first, or choose another name.")
        case errno.EEXIST:
            return errors.AlreadyExists(f"{path!r} already exists. Allow overwriting (`force`), or choose another name.")
        case errno.ENAMETOOLONG:
            return errors.InvalidInput(f"The name {path[-60:]!r} is too long for the file system of the volume.")
        case errno.EAGAIN:
            return errors.Busy(f"A program holds a lease on {path!r}. Try again when it has ended.")
        case errno.ENOSPC | errno.EDQUOT:
            return errors.OverLimit(f"The disk of the volumes is full, {path!r} was not written. Make room there.")
        case _:
            return errors.WrongState(f"{path!r} can't be reached: {error.strerror}.")


def _kind(parent: int, parts: Parts) -> str:
    try:
        found = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False) if parent >= 0 and parts else None
    except OSError:
        found = None
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a file") if found else "a file or a link"


def look(root: Path, parts: Parts) -> os.stat_result:
    """What is at a path; a link is itself."""
    if not parts:
        with directory(root, ()) as descriptor:
            return os.fstat(descriptor)
    with directory(root, parts[:-1]) as parent:
        try:
            return os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise translated(error, parts, parent) from error


def find(root: Path, parts: Parts) -> os.stat_result | None:
    """As `look`, None if there is nothing."""
    try:
        return look(root, parts)
    except errors.NotFound:
        return None


def find_all(root: Path, paths: Iterable[Parts]) -> Iterator[tuple[Parts, os.stat_result]]:
    """Those of the paths at which there is something; each directory is entered once.

    Raises AlreadyExists where something else is in the place of a directory.
    """
    by_directory: dict[Parts, list[Parts]] = {}
    for parts in paths:
        by_directory.setdefault(parts[:-1], []).append(parts)
    for parent, listed in by_directory.items():
        try:
            descriptor = open_directory(root, parent)
        except errors.InvalidInput as error:
            raise errors.AlreadyExists(f"{shown(listed[0])!r} can't be written: {error}") from error
        except errors.NotFound:
            if not parent:
                raise
            continue
        try:
            for parts in listed:
                with contextlib.suppress(FileNotFoundError):
                    yield parts, os.stat(parts[-1], dir_fd=descriptor, follow_symlinks=False)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def file(root: Path, parts: Parts) -> Generator[int]:
    """A readable descriptor of a regular file."""
    descriptor = open_file(root, parts)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(root: Path, parts: Parts) -> int:
    """As `file`, for the caller to close. What the name means is pinned before it is opened: no pipe can slip in between."""
    with directory(root, parts[:-1]) as parent:
        return open_file_in(parent, parts)


def open_file_in(parent: int, parts: Parts) -> int:
    """A file by the last of its components, in a directory that is open."""
    try:
        pinned = os.open(parts[-1] if parts else ".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise translated(error, parts, parent) from error
    try:
        kind = stat.S_IFMT(os.fstat(pinned).st_mode)
        if kind != stat.S_IFREG:
            raise errors.InvalidInput(f"{shown(parts)!r} is {_KINDS.get(kind, 'a device')}, not a file that can be read.")
        return os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise translated(error, parts) from error
    finally:
        os.close(pinned)


def entries(root: Path, parts: Parts, *, recursive: bool) -> Iterator[list[Entry]]:
    """What is in a directory, or the one file that the path names, in batches; a directory comes before what is in it.

    What is made or removed meanwhile may be seen or not. Raises OverLimit for directories so deep that no path can name them.
    """
    first = look(root, parts)
    if not stat.S_ISDIR(first.st_mode):
        yield [_entry(parts, first)]
        return
    batch: list[Entry] = []
    waiting = [parts]
    while waiting:
        current = waiting.pop()
        below: list[Parts] = []
        for entry in _directory_entries(root, current, is_first=current == parts):
            batch.append(entry)
            if recursive and entry.format == stat.S_IFDIR:
                below.append(entry.parts)
            if len(batch) == ENTRIES_PER_BATCH:
                yield batch
                batch = []
        waiting.extend(reversed(below))
    if batch:
        yield batch


def _directory_entries(root: Path, parts: Parts, *, is_first: bool) -> Iterator[Entry]:
    if len(parts) > MAX_DEPTH:
        raise errors.OverLimit(f"{shown(parts)[:80]!r}… is deeper than {MAX_DEPTH} directories, which no path can name. Remove it.")
    try:
        descriptor = open_directory(root, parts)
    except (errors.NotFound, errors.InvalidInput):
        if is_first:
            raise
        return  # removed, or replaced, since its name was read
    try:
        with os.scandir(descriptor) as scan:
            for found in sorted(scan, key=lambda found: found.name):
                with contextlib.suppress(FileNotFoundError):
                    yield _entry((*parts, found.name), found.stat(follow_symlinks=False))
    finally:
        os.close(descriptor)


def _entry(parts: Parts, found: os.stat_result) -> Entry:
    return Entry(parts, stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime)


def count(root: Path, limit: int) -> int:
    """How many entries a volume has, directories included; counts no further than one beyond the limit."""
    total = 0
    waiting: list[Parts] = [()]
    while waiting and total <= limit:
        parts = waiting.pop()
        try:
            descriptor = open_directory(root, parts)
        except (errors.NotFound, errors.InvalidInput):
            continue
        try:
            with os.scandir(descriptor) as scan:
                for found in scan:
                    total += 1
                    if total > limit:
                        break
                    if len(parts) < MAX_DEPTH and found.is_dir(follow_symlinks=False):
                        waiting.append((*parts, found.name))
        finally:
            os.close(descriptor)
    return total
