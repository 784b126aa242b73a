"""Blocks: up to 8 MiB of a file, by their SHA-256. They are sent once, ahead of the files that are made of them.

A block is known if it waits here, checked as it came in, or if the file that is to be replaced has it at the same place, which is
checked there and then. Trailing zeros are no part of a block; where a file has nothing else, it has a hole.
"""

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.core import errors
from pilotlight.core.volumes import BLOCK_BYTES, EMPTY_SHA256, Parts, block_lengths
from pilotlight.volumes import changes, walking
from pilotlight.volumes.changes import Fill
from pilotlight.volumes.places import Places
from pilotlight.volumes.removal import ABANDONED_AFTER_S, USED_AFTER_S

_ZEROS = b"\0"


@dataclass(frozen=True, slots=True)
class BlockFile:
    """A file of a version 2 volume as a client describes it: its length, and the SHA-256 of each block."""

    parts: Parts
    mode: int
    size_bytes: int
    blocks: tuple[bytes, ...]
    given: tuple[tuple[int, bytes], ...] = ()  # small ones that came with the request, by their number


class IncomingBlock:
    """A block on its way in: an unnamed file of ours that gets its name when all is there. Blocks its thread."""

    def __init__(self, places: Places, volume_id: str, sha256_hex: str, most_bytes: int) -> None:
        self._place = places.block(volume_id, sha256_hex)
        self._tree = places.tree(volume_id)
        self._left = min(most_bytes, BLOCK_BYTES)
        self._expected = sha256_hex
        self._hash = hashlib.sha256()
        self._draft = places.draft()
        self._descriptor: int | None = None
        self._lock = threading.Lock()  # `close` waits for a write that its cancelled caller no longer waits for
        self.is_closed = False

    def append(self, pieces: Sequence[bytes]) -> None:
        """The next bytes; raises InvalidInput if there are more than its URL allows."""
        self._left -= sum(map(len, pieces))
        if self._left < 0:
            raise errors.InvalidInput("The block is longer than its URL allows. Start the upload again.")
        with self._lock:
            if self.is_closed:
                return
            if self._descriptor is None:
                self._descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            for piece in pieces:
                self._hash.update(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]

    def finish(self, pieces: Sequence[bytes] = ()) -> None:
        """The last bytes, after which it is closed; raises InvalidInput if it is not what its hash says, NotFound."""
        self.append(pieces)
        if self._hash.hexdigest() != self._expected:
            raise errors.InvalidInput(
                f"The block sent for {self._expected} has the hash {self._hash.hexdigest()}: the file changed while it was being "
                "sent. Start the upload again."
            )
        with self._lock:
            try:
                self._draft.rename(self._place)
            except FileNotFoundError:
                if not self._tree.is_dir():
                    raise errors.NotFound(f"Volume {self._tree.name} was deleted.") from None
                self._place.parent.mkdir(mode=0o700, exist_ok=True)
                self._draft.rename(self._place)
            if self._descriptor is not None:
                os.close(self._descriptor)
            self.is_closed = True

    def close(self) -> None:
        """End it; what has not been finished leaves nothing."""
        with self._lock:
            if self._descriptor is not None and not self.is_closed:
                os.close(self._descriptor)
                self._draft.unlink(missing_ok=True)
            self.is_closed = True


def missing(places: Places, volume_id: str, files: Sequence[BlockFile], present: Collection[Parts]) -> list[tuple[int, int]]:
    """(file, block) of those blocks that must be sent, each hash once. `present`: which of the files are to be replaced."""
    waiting = _waiting(places, volume_id) | {file.blocks[index] for file in files for index, _ in file.given}
    asked: set[bytes] = set()
    found: list[tuple[int, int]] = []
    for file_index, file in enumerate(files):
        lacking = [
            (index, digest)
            for index, digest in enumerate(file.blocks)
            if digest != EMPTY_SHA256 and digest not in asked and digest not in waiting
        ]
        if not lacking:
            continue
        is_new = file.parts not in present
        with contextlib.nullcontext() if is_new else _old_file(places, volume_id, file) as old:
            lengths = block_lengths(file.size_bytes)
            for index, digest in lacking:
                if digest not in asked and (old is None or not holds(old, index * BLOCK_BYTES, lengths[index], digest)):
                    asked.add(digest)
                    found.append((file_index, index))
    return found


def fill(places: Places, volume_id: str, file: BlockFile) -> Fill:
    """Writes a file whose blocks are all known; raises WrongState if one has gone since that was asked."""

    def write(target: int) -> None:
        lengths = block_lengths(file.size_bytes)
        with contextlib.ExitStack() as cleanup:
            old: int | None = None
            given = dict(file.given)
            for index, digest in enumerate(file.blocks):
                if digest == EMPTY_SHA256:
                    continue
                offset = index * BLOCK_BYTES
                if index in given:
                    os.pwrite(target, given[index][: lengths[index]], offset)
                    continue
                if _copy_waiting(places.block(volume_id, digest.hex()), target, offset, lengths[index]):
                    continue
                if old is None:
                    old = cleanup.enter_context(_old_file(places, volume_id, file))
                if old is None:
                    raise _gone(file)
                changes.copy_range(old, target, lengths[index], offset, offset)
                if not holds(target, offset, lengths[index], digest):
                    raise _gone(file)
        os.ftruncate(target, file.size_bytes)

    return write


def used(places: Places, volume_id: str, files: Sequence[BlockFile]) -> None:
    """The files are in place: their blocks may go soon."""
    at = time.time() - ABANDONED_AFTER_S + USED_AFTER_S
    for digest in {digest for file in files for digest in file.blocks}:
        with contextlib.suppress(FileNotFoundError):
            os.utime(places.block(volume_id, digest.hex()), (at, at))


def same(places: Places, volume_id: str, file: BlockFile) -> bool:
    """Whether the volume has this very file already."""
    with _old_file(places, volume_id, file) as old:
        if old is None or os.fstat(old).st_size != file.size_bytes:
            return False
        lengths = block_lengths(file.size_bytes)
        return all(holds(old, index * BLOCK_BYTES, lengths[index], digest) for index, digest in enumerate(file.blocks))


def holds(descriptor: int, offset: int, length: int, digest: bytes) -> bool:
    """Whether a file has a block there, by its bytes."""
    data = os.pread(descriptor, length, offset)
    return len(data) == length and hashlib.sha256(data.rstrip(_ZEROS)).digest() == digest


def _waiting(places: Places, volume_id: str) -> set[bytes]:
    try:
        return {bytes.fromhex(path.name) for path in (places.blocks / volume_id).iterdir()}
    except FileNotFoundError:
        return set()


def _copy_waiting(block: Path, target: int, offset: int, most_bytes: int) -> bool:
    try:
        source = os.open(block, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        size = os.fstat(source).st_size
        if size > most_bytes:
            raise errors.InvalidInput("A block is longer than its place in the file. Name its hash without trailing zeros.")
        changes.copy_range(source, target, size, 0, offset)
        return True
    finally:
        os.close(source)


@contextlib.contextmanager
def _old_file(places: Places, volume_id: str, file: BlockFile) -> Generator[int | None]:
    """What lies at the file's path now, None where that is no file."""
    tree = places.tree(volume_id)
    found = None
    with contextlib.suppress(errors.InvalidInput):
        found = walking.find(tree, file.parts)
    if found is None or not stat.S_ISREG(found.st_mode):
        yield None
        return
    try:
        descriptor = walking.open_file(tree, file.parts)
    except errors.PilotlightError:
        yield None  # replaced since it was looked at
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _gone(file: BlockFile) -> errors.WrongState:
    return errors.WrongState(f"A block of {'/'.join(file.parts)!r} has gone since it was asked for. Start the upload again.")
