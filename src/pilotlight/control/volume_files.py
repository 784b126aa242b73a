"""Files on their way into volumes and out of them. Bytes go by the edge; the server says where to, and puts files in place.

A request that is repeated after its reply was lost is answered as before: from memory, or because the files are as it wants them.
"""

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pilotlight.control.replies import RecentReplies
from pilotlight.control.volumes import Volumes
from pilotlight.core import errors, ids
from pilotlight.core.volumes import (
    ECHO_BYTES,
    MAX_ECHOED_BYTES,
    MAX_FILES_AT_ONCE,
    V2,
    Parts,
    VolumeUrls,
    block_lengths,
    block_ranges,
    check_file,
    parse_file_path,
    shown,
)
from pilotlight.objects import Objects, blob_key, content_key
from pilotlight.volumes import blocks, changes, walking
from pilotlight.volumes.blocks import BlockFile
from pilotlight.volumes.changes import NewFile
from pilotlight.volumes.limits import check_room

File = TypeVar("File", "ContentFile", BlockFile)

INLINE_BYTES = 4 << 20  # a larger file that is asked for without block URLs is answered as a blob
MAX_URLS = 200_000  # in one reply
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ContentFile:
    """A file of a version 1 volume as a client describes it: its content was sent before, as that of mounts is."""

    parts: Parts
    mode: int
    sha256_hex: str


@dataclass(frozen=True, slots=True)
class MissingBlock:
    """A block that the client has to send."""

    file_index: int
    block_index: int
    put_url: str


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes start..start+length of a file of that size, by the URLs of its blocks."""

    urls: Sequence[str]
    size_bytes: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes start..start+length of a file of that size, at once or as a blob."""

    data: bytes
    blob_id: str
    size_bytes: int
    start: int
    length: int


def block_file(path: str, mode: int, size_bytes: int, blocks: Sequence[tuple[bytes, bytes]]) -> BlockFile:
    """A file of a request, checked; raises InvalidInput, OverLimit. `blocks` are hashes, each with the answer to its PUT."""
    digests = tuple(digest for digest, _ in blocks)
    check_file(path, size_bytes, digests)
    # An answer is the block itself where its URL was made so; believed for no other reason than its hash.
    given = tuple(
        (index, answer) for index, (digest, answer) in enumerate(blocks) if answer and hashlib.sha256(answer).digest() == digest
    )
    return BlockFile(parse_file_path(path), mode, size_bytes, digests, given)


class VolumeFiles:
    """Use cases of files in volumes."""

    def __init__(
        self, *, volumes: Volumes, objects: Objects, signing_key: bytes, base_url: str, now: Callable[[], float] = time.time
    ) -> None:
        self._volumes = volumes
        self._objects = objects
        self._key = signing_key
        self._base_url = base_url
        self._now = now
        self._put: RecentReplies[bool] = RecentReplies()

    # ---- in ----

    async def put_contents(
        self, volume_id: str, files: Sequence[ContentFile], *, overwrite: bool, request_key: str, is_repeated: bool
    ) -> None:
        """Put files in place whose contents were sent before; raises NotFound, AlreadyExists, WrongState, OverLimit."""
        version = await self._prepare(volume_id, files)
        if self._put.get(request_key):
            return
        await self._volumes.on_thread(partial(self._put_contents, volume_id, version, files, overwrite, is_repeated))
        self._put.keep(request_key, True)

    def _put_contents(self, volume_id: str, version: int, files: Sequence[ContentFile], overwrite: bool, is_repeated: bool) -> None:
        places = self._volumes.places
        tree = places.tree(volume_id)
        new = [NewFile(file.parts, file.mode, partial(self._fill, file)) for file in _last_of_each(files)]
        if is_repeated and all(_has_content(tree, file) for file in files):
            return
        check_room(tree, version, [file.parts for file in new])
        changes.check_targets(tree, [file.parts for file in new], overwrite=overwrite)
        changes.put(places, volume_id, new, overwrite=overwrite)

    def _fill(self, file: ContentFile, target: int) -> None:
        path = self._objects.local_path(content_key(file.sha256_hex))
        if path is None:
            raise errors.NotBuilt("Volumes of version 1 with an object store in a bucket are not built yet. Use version 2.")
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise errors.WrongState(f"The content of {shown(file.parts)!r} was never sent. Start the upload again.") from error
        try:
            changes.copy_range(source, target, os.fstat(source).st_size)
        finally:
            os.close(source)

    async def put_blocks(
        self,
        volume_id: str,
        files: Sequence[BlockFile],
        *,
        overwrite: bool,
        request_key: str,
        is_repeated: bool,
        edge_base_url: str | None,
    ) -> Sequence[MissingBlock]:
        """Put files in place if all of their blocks are known; otherwise say which ones to send, and nothing is changed.

        Raises NotFound, AlreadyExists, OverLimit.
        """
        await self._prepare(volume_id, files)
        if self._put.get(request_key):
            return []
        missing = await self._volumes.on_thread(partial(self._put_blocks, volume_id, files, overwrite, is_repeated))
        if not missing:
            self._put.keep(request_key, True)
            return []
        urls = self._urls(edge_base_url)
        lengths = {index: block_lengths(files[index].size_bytes) for index in {index for index, _ in missing}}
        asked: list[MissingBlock] = []
        echoed = 0
        for index, block in missing:
            length = lengths[index][block]
            echo = length <= ECHO_BYTES and echoed + length <= MAX_ECHOED_BYTES
            echoed += length if echo else 0
            url = urls.put_url(volume_id, files[index].blocks[block].hex(), length, echo=echo)
            asked.append(MissingBlock(index, block, url))
        return asked

    def _put_blocks(
        self, volume_id: str, files: Sequence[BlockFile], overwrite: bool, is_repeated: bool
    ) -> Sequence[tuple[int, int]]:
        places = self._volumes.places
        tree = places.tree(volume_id)
        listed = _last_of_each(files)
        try:
            present = changes.check_targets(tree, [file.parts for file in listed], overwrite=overwrite)
        except errors.AlreadyExists:
            if is_repeated and all(blocks.same(places, volume_id, file) for file in listed):
                return []
            raise
        check_room(tree, V2, [file.parts for file in listed])
        if missing := blocks.missing(places, volume_id, files, present):
            return missing[:MAX_URLS]
        new = [NewFile(file.parts, file.mode, blocks.fill(places, volume_id, file)) for file in listed]
        changes.put(places, volume_id, new, overwrite=overwrite)
        blocks.used(places, volume_id, files)
        return []

    async def _prepare(self, volume_id: str, files: Sequence[object]) -> int:
        if len(files) > MAX_FILES_AT_ONCE:
            raise errors.OverLimit(f"{len(files)} files in one upload, over the limit of {MAX_FILES_AT_ONCE}. Send them in parts.")
        return await self._volumes.version_of(volume_id)

    # ---- out ----

    async def download(self, volume_id: str, parts: Parts, start: int, length: int, edge_base_url: str | None) -> Download:
        """Where to fetch a file, or a part of it (a length of 0: the rest); raises NotFound, InvalidInput."""
        inode, size = await self._volumes.inode_and_size(volume_id, parts)
        begin, end = _clipped(start, length, size)
        urls = self._urls(edge_base_url)
        return Download(
            [urls.get_url(volume_id, parts, inode, first, last) for first, last in block_ranges(begin, end)],
            size,
            begin,
            end - begin,
        )

    async def read(self, volume_id: str, parts: Parts, start: int, length: int) -> Content:
        """A file, or a part of it, for clients that know nothing of blocks; raises NotFound, InvalidInput."""
        _, size = await self._volumes.inode_and_size(volume_id, parts)
        begin, end = _clipped(start, length, size)
        if end - begin <= INLINE_BYTES:
            data = b"".join([chunk async for chunk in self._chunks(volume_id, parts, begin, end)])
            return Content(data, "", size, begin, len(data))
        blob_id = ids.new(ids.BLOB)
        await self._objects.put(blob_key(blob_id), self._chunks(volume_id, parts, begin, end))
        return Content(b"", blob_id, size, begin, end - begin)

    async def _chunks(self, volume_id: str, parts: Parts, start: int, end: int) -> AsyncIterator[bytes]:
        tree = self._volumes.places.tree(volume_id)
        descriptor = await self._volumes.on_thread(partial(walking.open_file, tree, parts))
        try:
            for first in range(start, end, READ_BYTES):
                yield await self._volumes.on_thread(partial(os.pread, descriptor, min(READ_BYTES, end - first), first))
        finally:
            os.close(descriptor)

    def _urls(self, edge_base_url: str | None) -> VolumeUrls:
        return VolumeUrls(self._key, edge_base_url or self._base_url, self._now)


def _clipped(start: int, length: int, size: int) -> tuple[int, int]:
    begin = min(start, size)
    return begin, min(begin + length, size) if length else size


def _last_of_each(files: Sequence[File]) -> list[File]:
    """Where one request names a path twice, the last one counts, as if they had come one after the other."""
    return list({file.parts: file for file in files}.values())


def _has_content(tree: Path, file: ContentFile) -> bool:
    try:
        descriptor = walking.open_file(tree, file.parts)
    except errors.PilotlightError:
        return False
    with os.fdopen(descriptor, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256_hex
