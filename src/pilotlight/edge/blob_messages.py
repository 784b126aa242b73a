"""Messages of an app that are too large for its runtime to send: it has put them into the object store, serialized.

Of a response's body, which may have any size, no more than a block is in memory at a time.
"""

from collections.abc import AsyncIterator

from modal_proto import api_pb2

from pilotlight.core.errors import OverLimit
from pilotlight.objects import Objects, blob_key

MAX_WHOLE_BYTES = 64 << 20  # of a message that is no piece of a body
_RESPONSE_BODY, _BODY = b"\x22", b"\x0a"  # Asgi.http_response_body and its field body, each followed by a size


async def messages_of_blob(objects: Objects, blob_id: str) -> AsyncIterator[api_pb2.Asgi]:
    """The message of a blob, a piece of a body as several; the blob is removed after it. Raises NotFound, OverLimit."""
    key = blob_key(blob_id)
    head = b"".join([block async for block in objects.stream(key, 0, 32)])
    found = _body_range(head)
    if found is None:
        size = await objects.size(key) or 0
        if size > MAX_WHOLE_BYTES:
            raise OverLimit(f"a message of {size} bytes, of which {MAX_WHOLE_BYTES} may be sent at once; send it in pieces")
        yield api_pb2.Asgi.FromString(await objects.get(key))
    else:
        begin, end = found
        async for block in objects.stream(key, begin, end):
            yield _piece(block, more=True)
        rest = b"".join([block async for block in objects.stream(key, end)])
        yield _piece(b"", more=api_pb2.Asgi.HttpResponseBody.FromString(rest).more_body)
    await objects.delete(key)


def _piece(body: bytes, *, more: bool) -> api_pb2.Asgi:
    return api_pb2.Asgi(http_response_body=api_pb2.Asgi.HttpResponseBody(body=body, more_body=more))


def _body_range(head: bytes) -> tuple[int, int] | None:
    """Where in a serialized Asgi the bytes of a response's body are; None where it is another message."""
    if not head.startswith(_RESPONSE_BODY):
        return None
    _, position = _varint(head, 1)
    if head[position : position + 1] != _BODY:
        return None
    size, position = _varint(head, position + 1)
    return position, position + size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position
