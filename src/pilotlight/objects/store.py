"""The object store. An object is whole or absent; once `put` has returned it survives a loss of power.

Readers never see part of an object, so that several processes may share one store without talking to each other. Buckets give this
by themselves; for a local directory `durable` moves the bytes: obstore's own local store does not sync what it writes, and reads
large files in small pieces.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import LocalStore, ObjectStore

from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.objects.durable import DurableFiles
from pilotlight.objects.names import checked, checked_kind

if TYPE_CHECKING:
    from obstore import GetOptions  # exists in its type stubs only

BLOCK_BYTES = 1 << 20
ABANDONED_AFTER_S = 48 * 3600  # beyond the life of any upload URL
_PART_BYTES = 16 << 20  # of a bucket's multipart upload; four of them in memory at a time
_PARTS_AT_ONCE = 4
LISTED_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Stored:
    """An object in a list. `stored_at`: seconds since the epoch."""

    key: str
    size_bytes: int
    stored_at: float


class Objects:
    """Objects by key (see `names`) in a local directory, or in a bucket given as an obstore store."""

    def __init__(self, place: Path | ObjectStore, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._root = place if isinstance(place, Path) else None
        self._files = DurableFiles(place) if isinstance(place, Path) else None
        self._store: ObjectStore = LocalStore(place) if isinstance(place, Path) else place

    async def put(self, key: str, data: bytes | AsyncIterator[bytes]) -> None:
        """Store an object, replacing one that is there.

        An iterator yields blocks of about a MiB; if it raises, or the caller is cancelled, nothing is stored.
        """
        checked(key)
        if self._files is None:
            await obstore.put_async(self._store, key, data, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        elif isinstance(data, bytes):
            await self._files.write(key, data)
        else:
            await self._files.write_stream(key, data)

    async def adopt(self, key: str, source: str, sha256_hex: str) -> None:
        """Store under `key` what is under `source` if it has that SHA-256; raises NotFound, InvalidInput. The source stays.

        In a directory nothing is copied: both keys name the same bytes, until one is replaced or removed.
        """
        for name in (key, source):
            checked(name)
        try:
            if self._files is not None and await self._files.adopt(key, source, sha256_hex):
                return
        except FileNotFoundError as error:
            raise _absent(source) from error
        await self.put(key, _verified(self.stream(source), sha256_hex))

    async def join(self, key: str, parts: Sequence[str]) -> None:
        """Store the concatenation of other objects, which stay; raises NotFound."""
        for name in (key, *parts):
            checked(name)
        if self._files is None:
            await self.put(key, self._concatenated(parts))
            return
        try:
            await self._files.join(key, parts)
        except FileNotFoundError as error:
            raise NotFound(f"a part of {key} is missing: {error.filename}; send it again") from error

    async def get(self, key: str) -> bytes:
        """A whole object, for small ones; raises NotFound."""
        try:
            found = await obstore.get_async(self._store, checked(key))
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            raise _absent(key) from error

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not including, `end` (None: the object's end) in blocks; raises NotFound at the first."""
        checked(key)
        try:
            if self._files is not None:
                async for block in self._files.stream(key, start, end, BLOCK_BYTES):
                    yield block
                return
            options: GetOptions = {"range": {"offset": start} if end is None else (start, end)}
            found = await obstore.get_async(self._store, key, options=options)
        except FileNotFoundError as error:
            raise _absent(key) from error
        async for block in found.stream(min_chunk_size=BLOCK_BYTES):
            yield bytes(block)

    async def size(self, key: str) -> int | None:
        """Bytes of an object, None if there is no such object."""
        try:
            return (await obstore.head_async(self._store, checked(key)))["size"]
        except FileNotFoundError:
            return None

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return await self.size(key) is not None

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            await obstore.delete_async(self._store, checked(key))
        except FileNotFoundError:
            return

    async def list(self, kind: str) -> AsyncIterator[list[Stored]]:
        """All objects of a kind ("blobs", "sha256"), some at a time; what comes or goes meanwhile may or may not be among them."""
        checked_kind(kind)
        async for some in obstore.list(self._store, prefix=kind, chunk_size=LISTED_AT_ONCE):
            yield [Stored(one["path"], one["size"], one["last_modified"].timestamp()) for one in some]

    def local_path(self, key: str) -> Path | None:
        """Where the object is, or would be, as a file; None if the store is a bucket. For reading only."""
        checked(key)
        return self._root / key if self._root else None

    async def remove_abandoned(self) -> int:
        """Remove what uploads that never ended left behind; how many. In a bucket its own life cycle rules do this."""
        return await self._files.remove_older(self._clock() - ABANDONED_AFTER_S) if self._files else 0

    def close(self) -> None:
        """Wait for the writes under way."""
        if self._files:
            self._files.close()

    async def _concatenated(self, parts: Sequence[str]) -> AsyncIterator[bytes]:
        for part in parts:
            async for block in self.stream(part):
                yield block


def wrong_content(sha256_hex: str, found: str) -> InvalidInput:
    """What was sent is not what its hash says."""
    return InvalidInput(
        f"The content sent for {sha256_hex} has the hash {found}: the file changed while it was being sent. Run the command again."
    )


async def _verified(blocks: AsyncIterator[bytes], sha256_hex: str) -> AsyncIterator[bytes]:
    """The blocks, and an error after the last one if they are not what the hash says: then nothing is stored."""
    digest = hashlib.sha256()
    async for block in blocks:
        await asyncio.to_thread(digest.update, block)
        yield block
    if digest.hexdigest() != sha256_hex:
        raise wrong_content(sha256_hex, digest.hexdigest())


def _absent(key: str) -> NotFound:
    return NotFound(f"there is no object {key}: it was never stored, or it has been removed")
