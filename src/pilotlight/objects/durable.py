"""Files that are whole or absent, and that outlast a loss of power once a write has returned.

Each is written to a draft of its own in `drafts/`, synced, renamed to its place, and the directory of that place is synced. Those
that arrive while a directory is being synced share the next sync. Small ones that arrive while others are being written are the
next batch: one thread writes them all, with one sync for many.
"""

import asyncio
import errno
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pilotlight.core.errors import DiskFull
from pilotlight.objects.names import PARTS
from pilotlight.objects.syncing import make_directory, sync_directory, sync_file_system

DRAFTS = "drafts"
WRITERS = 16  # threads, most of which wait for the disk: concurrent syncs share a commit of the file system's journal
SYNC_EVERY_BYTES = 64 << 20  # keeps the last sync of a large file short, and other writers' syncs too
COPY_BYTES = 16 << 20
SMALL_BYTES = 256 << 10  # files up to here are written in batches
BATCH_FILES = 256  # open at once
SYNC_ONE_BY_ONE = 4  # a batch of more files is synced with all that the file system has to write
_NO_SECOND_NAME = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS)

T = TypeVar("T")


class DurableFiles:
    """Writes below one directory of a local file system; keys are relative paths that the caller has checked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._drafts = root / DRAFTS
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._drafts.mkdir(mode=0o700, exist_ok=True)
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="objects")
        self._directories = _SharedSyncs(self._pool)
        self._batches = _Batches(self._run, self._write_batch)

    async def write(self, key: str, data: bytes) -> None:
        """Put a small file in place, replacing one that is there."""
        place = self._root / key
        if len(data) <= SMALL_BYTES:
            await self._batches.write(place, data)
            return
        await self._run(lambda: self._write_at_once(place, data))
        await self._directories.sync(place.parent)

    async def write_stream(self, key: str, blocks: AsyncIterator[bytes]) -> None:
        """Put in place what the iterator yields, in blocks of about a MiB; nothing stays if it raises or this task is cancelled."""

        async def fill(draft: _Draft) -> None:
            written: asyncio.Future[None] | None = None
            async for block in blocks:
                if written:
                    await written  # one block on its way to the disk while the next one arrives, and never more
                written = self._run(lambda block=block: draft.append(block))
            if written:
                await written

        await self._through_draft(self._root / key, fill)

    async def join(self, key: str, parts: Sequence[str]) -> None:
        """Put in place the parts' contents, one after the other; the kernel copies, or shares blocks where the file system can."""

        async def fill(draft: _Draft) -> None:
            for part in parts:
                await self._run(lambda part=part: draft.append_file(self._root / part))

        await self._through_draft(self._root / key, fill)

    async def adopt(self, key: str, source: str, sha256_hex: str) -> bool:
        """Give a file another name if it has that SHA-256; False if it has not, or can't have two. Raises FileNotFoundError."""
        place = self._root / key
        if not await self._run(lambda: self._adopt(place, self._root / source, sha256_hex)):
            return False
        await self._directories.sync(place.parent)
        return True

    async def stream(self, key: str, start: int, end: int | None, block_bytes: int) -> AsyncIterator[bytes]:
        """Yield a file's bytes from `start` up to `end` (None: its end) in blocks; raises FileNotFoundError."""
        path = self._root / key
        file = await self._run(lambda: path.open("rb", buffering=0))
        with file:
            position, stop = start, os.fstat(file.fileno()).st_size if end is None else end
            while position < stop:
                block = await self._run(partial(os.pread, file.fileno(), min(block_bytes, stop - position), position))
                if not block:
                    return
                yield block
                position += len(block)

    async def remove_older(self, before: float) -> int:
        """Remove drafts and parts that were last written before that time (seconds since 1970); how many."""
        return await self._run(lambda: _remove_older([*self._drafts.iterdir(), *(self._root / PARTS).glob("*")], before))

    def close(self) -> None:
        """Wait for the writes under way."""
        self._pool.shutdown()

    def _run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        def working() -> T:
            try:
                return work()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DiskFull(
                    f"The disk of the platform is full: nothing was stored. Make room on the file system of {self._root}, "
                    "then try again."
                ) from error

        return asyncio.get_running_loop().run_in_executor(self._pool, working)

    def _new_draft(self) -> "_Draft":
        return _Draft(self._drafts / secrets.token_hex(16))

    def _write_at_once(self, place: Path, data: bytes) -> None:
        draft = self._new_draft()
        try:
            draft.append(data)
            draft.move_to(place)
        finally:
            draft.discard()

    def _adopt(self, place: Path, source: Path, sha256_hex: str) -> bool:
        # A name for what is there now: who replaces the source makes another file, and nobody changes one.
        draft = self._drafts / secrets.token_hex(16)
        try:
            os.link(source, draft)
        except OSError as error:
            if error.errno in _NO_SECOND_NAME:
                return False
            raise
        try:
            with draft.open("rb", buffering=0) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256_hex:
                    return False
            os.utime(draft)  # to the collector of garbage it is as old as its newest name
            if not place.parent.is_dir():
                make_directory(place.parent)
            draft.rename(place)
            return True
        finally:
            draft.unlink(missing_ok=True)  # still there if the place had this very file

    def _write_batch(self, files: "Sequence[_SmallFile]") -> None:
        """Put all in place, with that on disk; if it raises, none is known to be."""
        drafts: list[_Draft] = []
        try:
            for file in files:
                drafts.append(draft := self._new_draft())
                draft.append(file.data)
            one_by_one = len(files) <= SYNC_ONE_BY_ONE
            if not one_by_one:
                sync_file_system(self._drafts)
            for file, draft in zip(files, drafts, strict=True):
                draft.move_to(file.place, sync=one_by_one)
        finally:
            for draft in drafts:
                draft.discard()
        for directory in {file.place.parent for file in files}:
            sync_directory(directory)

    async def _through_draft(self, place: Path, fill: Callable[["_Draft"], Awaitable[None]]) -> None:
        draft = self._new_draft()
        try:
            await fill(draft)
            await self._run(lambda: draft.move_to(place))
        finally:
            # Shielded: a cancelled upload must not leave its draft either.
            await asyncio.shield(self._run(draft.discard))
        await self._directories.sync(place.parent)


class _Draft:
    """A file that nobody else sees yet. The lock lets `discard` wait for a write that its cancelled caller no longer waits for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        # Others may read it: the directory above is closed to them, and the node agent shows content to containers of other users.
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._unsynced_bytes = 0
        self._is_in_place = False

    def append(self, data: bytes) -> None:
        with self._lock:
            if self._descriptor is None:
                return
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._count(len(data))

    def append_file(self, path: Path) -> None:
        with self._lock, path.open("rb") as source:
            while self._descriptor is not None and (count := os.copy_file_range(source.fileno(), self._descriptor, COPY_BYTES)):
                self._count(count)

    def move_to(self, place: Path, *, sync: bool = True) -> None:
        with self._lock:
            if self._descriptor is None:
                return
            if sync:
                os.fsync(self._descriptor)
            try:
                self._path.rename(place)
            except FileNotFoundError:
                make_directory(place.parent)
                self._path.rename(place)
            self._is_in_place = True

    def discard(self) -> None:
        """Close it, and remove it if it was not moved to its place."""
        with self._lock:
            if self._descriptor is None:
                return
            os.close(self._descriptor)
            self._descriptor = None
            if not self._is_in_place:
                self._path.unlink(missing_ok=True)

    def _count(self, appended: int) -> None:
        assert self._descriptor is not None
        self._unsynced_bytes += appended
        if self._unsynced_bytes >= SYNC_EVERY_BYTES:
            os.fdatasync(self._descriptor)
            self._unsynced_bytes = 0


@dataclass(frozen=True, slots=True)
class _SmallFile:
    """A file on its way into a batch; `written` is done when it is on disk."""

    place: Path
    data: bytes
    written: "asyncio.Future[None]"


class _Batches:
    """Small files, one batch at a time; those of a batch share its fate. Who comes while one is written is in the next."""

    def __init__(
        self, run: Callable[[Callable[[], None]], "asyncio.Future[None]"], write: Callable[[Sequence[_SmallFile]], None]
    ) -> None:
        self._run = run
        self._write = write
        self._waiting: list[_SmallFile] = []
        self._is_writing = False

    async def write(self, place: Path, data: bytes) -> None:
        """Return when the file is in its place, and that on disk."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_SmallFile(place, data, written))
        if not self._is_writing:
            self._start()
        await written

    def _start(self) -> None:
        files, self._waiting = self._waiting[:BATCH_FILES], self._waiting[BATCH_FILES:]
        self._is_writing = True
        self._run(lambda: self._write(files)).add_done_callback(lambda done: self._finish(files, done))

    def _finish(self, files: Sequence[_SmallFile], done: "asyncio.Future[None]") -> None:
        self._is_writing = False
        if self._waiting:
            self._start()
        error = done.exception()
        for file in files:
            if file.written.done():
                continue  # cancelled: nobody waits for it any more
            if error:
                file.written.set_exception(error)
            else:
                file.written.set_result(None)


class _SharedSyncs:
    """Syncs of directories, one at a time each; who asks while one runs shares the next: that one may have missed the entry."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._running: set[Path] = set()
        self._next: dict[Path, asyncio.Future[None]] = {}

    async def sync(self, directory: Path) -> None:
        """Return when all entries that the directory has now are on disk."""
        shared = self._next.get(directory)
        if shared is None:
            shared = self._next[directory] = asyncio.get_running_loop().create_future()
            if directory not in self._running:
                self._start(directory)
        await asyncio.shield(shared)  # one that gives up must not take the others along

    def _start(self, directory: Path) -> None:
        shared = self._next.pop(directory)
        self._running.add(directory)
        work = asyncio.get_running_loop().run_in_executor(self._pool, sync_directory, directory)
        work.add_done_callback(lambda done: self._finish(directory, shared, done))

    def _finish(self, directory: Path, shared: "asyncio.Future[None]", done: "asyncio.Future[None]") -> None:
        self._running.discard(directory)
        if directory in self._next:
            self._start(directory)
        if error := done.exception():
            shared.set_exception(error)
        else:
            shared.set_result(None)


def _remove_older(candidates: Sequence[Path], before: float) -> int:
    removed = 0
    for path in candidates:
        with suppress(FileNotFoundError):  # another process of the platform may be doing the same
            inside = path.iterdir() if path.is_dir() else ()
            if max(file.stat().st_mtime for file in (path, *inside)) >= before:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed += 1
    return removed
