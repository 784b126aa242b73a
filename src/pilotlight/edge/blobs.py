"""Blobs over HTTP: PUT, GET and HEAD of whole ones, PUT of parts and the POST that joins them; all by signed URL.

A blob appears whole, with the length and MD5 that were signed, or not at all. Memory stays flat whatever the body: at most two
blocks of a request are held at a time.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pilotlight.core.blobs import MAX_BLOB_BYTES
from pilotlight.core.errors import InvalidInput, NotFound
from pilotlight.core.signing import verify
from pilotlight.edge import completion
from pilotlight.edge.errors import BodyStalled
from pilotlight.objects import Objects, blob_key, part_digest_key, part_key

BLOCK_BYTES = 1 << 20
PIECES_AT_ONCE = 64  # of a body that comes in small ones: each costs more memory than its bytes
AT_ONCE_BYTES = 1 << 20  # smaller bodies are hashed and sent in one go
# Without a byte of a body. The client's HTTP library repeats a PUT whose connection broke, but of a body half sent it has only the
# rest: it would wait for an answer, and we for the other half, for ever. S3 allows as long.
SILENCE_S = 20.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
# In these words, from S3, the official client knows that the file changed while it was sent, and tells its user so.
_WRONG_MD5 = "The Content-MD5 you specified did not match what we received."


class Blobs:
    """The handlers. Reading and writing of one blob at a time may overlap freely: the object store keeps them apart."""

    def __init__(
        self, objects: Objects, signing_key: bytes, clock: Callable[[], float] = time.time, silence_s: float = SILENCE_S
    ) -> None:
        self._objects = objects
        self._key = signing_key
        self._clock = clock
        self._silence_s = silence_s

    def routes(self) -> list[Route]:
        """Paths as `core.blobs` makes them."""
        return [
            Route("/blobs/{blob_id}", self.upload, methods=["PUT"]),
            Route("/blobs/{blob_id}", self.download, methods=["GET"]),
            Route("/blobs/{blob_id}/parts/{number:int}", self.upload_part, methods=["PUT"]),
            Route("/blobs/{blob_id}/complete", self.complete, methods=["POST"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Store a whole blob. Its ETag is the MD5 of what was received, by which the client checks the transfer."""
        claims = self._permitted(request)
        body = _Body(request, claims, self._silence_s)
        await self._objects.put(blob_key(request.path_params["blob_id"]), body.blocks())
        return Response(headers={"etag": f'"{body.md5_hex}"'})

    async def upload_part(self, request: Request) -> Response:
        """Store a part, and beside it its MD5, by which the completion will know it again."""
        claims = self._permitted(request)
        blob_id, number = request.path_params["blob_id"], request.path_params["number"]
        body = _Body(request, claims, self._silence_s)
        await self._objects.put(part_key(blob_id, number), body.blocks())
        await self._objects.put(part_digest_key(blob_id, number), body.md5_hex.encode())
        return Response(headers={"etag": f'"{body.md5_hex}"'})

    async def complete(self, request: Request) -> Response:
        """Join the parts to a blob. Safe to repeat: when the parts have gone, the blob must be there."""
        claims = self._permitted(request)
        blob_id, count, length = request.path_params["blob_id"], int(claims["parts"]), int(claims["length"])
        digests = completion.parse(await _read(request, completion.MAX_REQUEST_BYTES, self._silence_s))
        if sorted(digests) != list(range(1, count + 1)):
            raise InvalidInput(f"{blob_id} was to have parts 1 to {count}, but {len(digests)} are named; name them all")
        if await self._objects.size(blob_key(blob_id)) != length:
            await self._join(blob_id, digests, length)
        etag = completion.etag([digests[number] for number in range(1, count + 1)])
        for number in digests:
            await self._objects.delete(part_digest_key(blob_id, number))
            await self._objects.delete(part_key(blob_id, number))
        return Response(completion.reply(etag), media_type="application/xml")

    async def download(self, request: Request) -> Response:
        """Send a blob or one range of it (RFC 9110, 14); several ranges at once are answered with the whole."""
        self._permitted(request)
        key = blob_key(request.path_params["blob_id"])
        size = await self._objects.size(key)
        if size is None:
            raise NotFound(f"there is no blob {request.path_params['blob_id']}: its upload never ended, or it has been removed")
        # A blob never changes, so its id is all the validator that a resumed download needs.
        headers = {"accept-ranges": "bytes", "etag": f'"{request.path_params["blob_id"]}"'}
        status, start, end = 200, 0, size
        if asked := request.headers.get("range"):
            wanted = requested_range(asked, size)
            if wanted == (0, 0):
                return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
            if wanted:
                status, (start, end) = 206, wanted
                headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        headers["content-length"] = str(end - start)
        content_type = "application/octet-stream"
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=content_type)
        if (start, end) == (0, size) and size <= AT_ONCE_BYTES:
            return Response(await self._objects.get(key), status, headers, content_type)
        return StreamingResponse(self._objects.stream(key, start, end), status, headers, content_type)

    def _permitted(self, request: Request) -> Mapping[str, str]:
        return verify(self._key, request.method, request.scope["path"], request.query_params.multi_items(), self._clock())

    async def _join(self, blob_id: str, digests: Mapping[int, str], length: int) -> None:
        total = 0
        for number, digest in digests.items():
            size = await self._objects.size(part_key(blob_id, number))
            if size is None or await self._objects.get(part_digest_key(blob_id, number)) != digest.encode():
                raise InvalidInput(f"part {number} of {blob_id} is not the one that was received; send that part again")
            total += size
        if total != length:
            raise InvalidInput(f"the parts of {blob_id} have {total} bytes together instead of the announced {length}")
        await self._objects.join(blob_key(blob_id), [part_key(blob_id, number) for number in sorted(digests)])


class _Body:
    """A request's body on its way to the store, counted and hashed; what does not fit the claims raises before it is stored."""

    def __init__(self, request: Request, claims: Mapping[str, str], silence_s: float) -> None:
        self._request = request
        self._silence_s = silence_s
        self._length = int(claims["length"]) if "length" in claims else None
        self._limit = MAX_BLOB_BYTES if self._length is None else self._length
        self._expected_md5 = claims.get("md5")
        self._hash = hashlib.md5(usedforsecurity=False)
        announced = request.headers.get("content-length")
        if self._length is not None and announced is not None and int(announced) != self._length:
            raise InvalidInput(f"the body has {announced} bytes, but the URL was given out for {self._length}; ask for a new URL")

    @property
    def md5_hex(self) -> str:
        """Of all that was received."""
        return self._hash.hexdigest()

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the body in blocks of about BLOCK_BYTES; raises InvalidInput, and ClientDisconnect if it is broken off."""
        received = 0
        hashing: asyncio.Future[None] | None = None
        async for block in _blocks(self._request, self._silence_s):
            received += len(block)
            if received > self._limit:
                raise InvalidInput(f"the body has more than the {self._limit} bytes that its URL allows; ask for a new URL")
            # Hashing a block takes longer than the loop should wait. One is hashed while it is written, and the next comes.
            if hashing:
                await hashing
            hashing = asyncio.get_running_loop().run_in_executor(None, self._hash.update, block)
            yield block
        if hashing:
            await hashing
        if self._length is not None and received != self._length:
            raise InvalidInput(f"the body ended after {received} of {self._length} bytes; send it again")
        if self._expected_md5 and self.md5_hex != self._expected_md5:
            raise InvalidInput(f"{_WRONG_MD5} It has {self.md5_hex} instead of {self._expected_md5}: send the same bytes again.")


async def chunks(request: Request, silence_s: float) -> AsyncIterator[bytes]:
    """The body as it comes; raises BodyStalled if nothing comes for so long, ClientDisconnect if it is broken off."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(silence_s):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise BodyStalled(f"nothing of the body came for {silence_s:g} s; send it again, on a new connection") from error
        if chunk is None:
            return
        yield chunk


async def _blocks(request: Request, silence_s: float) -> AsyncIterator[bytes]:
    held, held_bytes = list[bytes](), 0
    async for chunk in chunks(request, silence_s):
        held.append(chunk)
        held_bytes += len(chunk)
        if held_bytes >= BLOCK_BYTES or len(held) >= PIECES_AT_ONCE:
            yield b"".join(held)
            held, held_bytes = [], 0
    if held:
        yield b"".join(held)


async def _read(request: Request, limit_bytes: int, silence_s: float) -> bytes:
    body = bytearray()
    async for chunk in chunks(request, silence_s):
        body += chunk
        if len(body) > limit_bytes:
            raise InvalidInput(f"the body is larger than {limit_bytes} bytes, the limit for this request")
    return bytes(body)


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end of a Range header; None where it is to be ignored, (0, 0) where nothing of it can be satisfied."""
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    return (start, end) if start < end else (0, 0)
