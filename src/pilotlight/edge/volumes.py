"""Blocks of volumes over HTTP, by signed URL: PUT of one block ahead of its file, GET of a part of a file as it lies in its volume.

Bytes are read from the volume's own file and written to a draft of ours, on threads; a request holds less than a MiB in memory.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pilotlight.core.errors import InvalidInput, LostRace
from pilotlight.core.signing import verify
from pilotlight.core.volumes import ECHO_BYTES, Parts, decoded, parse_file_path
from pilotlight.edge.blobs import PIECES_AT_ONCE, SILENCE_S, chunks
from pilotlight.volumes import walking
from pilotlight.volumes.blocks import IncomingBlock
from pilotlight.volumes.places import Places

THREADS = 16
PIECE_BYTES = 512 << 10  # read, hashed or written at a time
_TYPE = "application/octet-stream"

T = TypeVar("T")


class Volumes:
    """The handlers."""

    def __init__(
        self, places: Places, signing_key: bytes, clock: Callable[[], float] = time.time, silence_s: float = SILENCE_S
    ) -> None:
        self._places = places
        self._key = signing_key
        self._clock = clock
        self._silence_s = silence_s
        self._threads = ThreadPoolExecutor(THREADS, "volumes")

    def routes(self) -> list[Route]:
        """Paths as `core.volumes` makes them."""
        return [
            Route("/volumes/{volume_id}/blocks/{digest}", self.upload, methods=["PUT"]),
            Route("/volumes/{volume_id}/files", self.download, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Keep a block for the files that are to be made of it; the reply is what the client hands to the server as its receipt."""
        claims = self._permitted(request)
        volume_id, digest = request.path_params["volume_id"], request.path_params["digest"]
        if "echo" in claims:
            return Response(await self._small(request, digest, int(claims["most"])), media_type=_TYPE)
        block = IncomingBlock(self._places, volume_id, digest, int(claims["most"]))
        try:
            held, held_bytes = list[bytes](), 0
            async for chunk in chunks(request, self._silence_s):
                held.append(chunk)
                held_bytes += len(chunk)
                if held_bytes >= PIECE_BYTES or len(held) >= PIECES_AT_ONCE:
                    await self._run(partial(block.append, held))
                    held, held_bytes = [], 0
            await self._run(partial(block.finish, held))
        finally:
            if not block.is_closed:
                # Shielded: a request that is broken off must not leave its draft.
                await asyncio.shield(self._run(block.close))
        return Response(digest, media_type="text/plain")

    async def _small(self, request: Request, digest: str, most_bytes: int) -> bytes:
        """A block that is kept nowhere: the client hands what we answer to the server, with the file that it is a block of."""
        data = bytearray()
        async for chunk in chunks(request, self._silence_s):
            data += chunk
            if len(data) > min(most_bytes, ECHO_BYTES):
                raise InvalidInput("The block is longer than its URL allows. Start the upload again.")
        if hashlib.sha256(data).hexdigest() != digest:
            raise InvalidInput(f"The block sent for {digest} has another hash: the file changed while it was being sent.")
        return bytes(data)

    async def download(self, request: Request) -> Response:
        """Send bytes start..end of a file; 409 if another file has taken its place since the URL was given out."""
        claims = self._permitted(request)
        start, end = int(claims["start"]), int(claims["end"])
        parts = parse_file_path(decoded(claims["file"]))
        volume_id = request.path_params["volume_id"]
        descriptor = await self._run(partial(self._open, volume_id, parts, int(claims["inode"]), end))
        headers = {"content-length": str(end - start)}
        if request.method == "HEAD":
            os.close(descriptor)
            return Response(headers=headers, media_type=_TYPE)
        if end - start <= PIECE_BYTES:
            return Response(await self._run(partial(_read_and_close, descriptor, start, end)), media_type=_TYPE)
        return StreamingResponse(self._pieces(descriptor, start, end), headers=headers, media_type=_TYPE)

    def _open(self, volume_id: str, parts: Parts, inode: int, end: int) -> int:
        descriptor = walking.open_file(self._places.tree(volume_id), parts)
        found = os.fstat(descriptor)
        if found.st_ino != inode or found.st_size < end:
            os.close(descriptor)
            raise LostRace(f"{'/'.join(parts)!r} was replaced or shortened while it was being read. Read it again.")
        return descriptor

    async def _pieces(self, descriptor: int, start: int, end: int) -> AsyncIterator[bytes]:
        try:
            position = start
            while position < end:
                piece = await self._run(partial(os.pread, descriptor, min(PIECE_BYTES, end - position), position))
                if not piece:
                    raise LostRace("The file was shortened while it was being read.")  # the connection breaks: no false bytes
                position += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    def _permitted(self, request: Request) -> Mapping[str, str]:
        return verify(self._key, request.method, request.scope["path"], request.query_params.multi_items(), self._clock())

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _read_and_close(descriptor: int, start: int, end: int) -> bytes:
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return os.pread(file.fileno(), end - start, start)
