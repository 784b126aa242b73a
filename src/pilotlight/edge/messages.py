"""ASGI messages as the official client's runtime takes and gives them: Asgi in DataChunk, in order, counted from 1.

Bodies go around, not through, protobuf's own coders: of a large one there is one copy instead of four.
"""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from modal_proto import api_pb2

from pilotlight.edge.refusals import Header
from pilotlight.wire.raw import field_header

_ASGI_FORMAT = b"\x08" + bytes([api_pb2.DATA_FORMAT_ASGI])  # DataChunk.data_format
_MORE_BODY = b"\x10\x01"  # Asgi.HttpRequest.more_body
_DATA, _INDEX, _HTTP_REQUEST, _BODY = 2, 4, 2, 1  # field numbers of DataChunk, Asgi, Asgi.HttpRequest
_INDEX_TAG = b"\x20"
_LARGE_BYTES = 64 << 10  # beyond it copies cost more than reading fields in Python
_PUT_CHUNKS, _FORMAT, _BLOB, _RESPONSE_BODY, _MORE = 2, 1, 3, 4, 2  # of FunctionCallPutDataRequest, DataChunk, Asgi and its body
_VARINT, _SIZED = 0, 2  # wire types


def item(call_id: str, scope: dict[str, Any], method_name: str) -> bytes:
    """A request as an input of its function: a serialized FunctionGetInputsItem, whose one argument is the ASGI scope."""
    return api_pb2.FunctionGetInputsItem(
        input_id=input_id(call_id),
        function_call_id=call_id,
        input=api_pb2.FunctionInput(
            args=pickle.dumps(((scope,), {}), protocol=4),
            data_format=api_pb2.DATA_FORMAT_PICKLE,
            method_name=method_name,
        ),
    ).SerializeToString()


def input_id(call_id: str) -> str:
    """The one input of such a call."""
    return "in" + call_id[2:]


def body_chunk(index: int, body: bytes | bytearray, more: bool) -> bytes:
    """A piece of a request's body, serialized; `more` is to come."""
    ending = _MORE_BODY if more else b""
    inner = field_header(_BODY, len(body)) if body else b""
    request_size = len(inner) + len(body) + len(ending)
    request = field_header(_HTTP_REQUEST, request_size)
    data = field_header(_DATA, len(request) + request_size)
    return b"".join((_ASGI_FORMAT, data, request, inner, body, ending, _INDEX_TAG, _varint(index)))


def event_chunk(index: int, message: api_pb2.Asgi) -> bytes:
    """Any other message for the app, serialized."""
    chunk = api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, index=index, data=message.SerializeToString())
    return chunk.SerializeToString()


def goodbye(index: int, scope_type: str, code: int = 1006) -> bytes:
    """The client has gone."""
    if scope_type == "http":
        return event_chunk(index, api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect()))
    return event_chunk(index, api_pb2.Asgi(websocket_disconnect=api_pb2.Asgi.WebsocketDisconnect(code=code)))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A DataChunk from an app; `data` may be a view."""

    data_format: int
    index: int
    data: bytes | memoryview
    data_blob_id: str


class Piece(NamedTuple):
    """A large piece of a response's body, as it was received."""

    body: memoryview
    more_body: bool


def chunks_of(data_out: bytes) -> Iterator[Chunk]:
    """Those of a serialized FunctionCallPutDataRequest; raises DecodeError."""
    if len(data_out) > _LARGE_BYTES:
        for number, value in _fields(memoryview(data_out)):
            if number == _PUT_CHUNKS and isinstance(value, memoryview):
                found = dict(_fields(value))
                blob_id = found.get(_BLOB, b"")
                yield Chunk(
                    data_format=_number(found.get(_FORMAT)),
                    index=_number(found.get(_INDEX)),
                    data=_bytes(found.get(_DATA)),
                    data_blob_id=bytes(_bytes(blob_id)).decode(),
                )
        return
    for chunk in api_pb2.FunctionCallPutDataRequest.FromString(data_out).data_chunks:
        yield Chunk(chunk.data_format, chunk.index, chunk.data, chunk.data_blob_id)


def message_of(data: bytes | memoryview) -> api_pb2.Asgi | Piece:
    """The message of a chunk; raises DecodeError."""
    if len(data) > _LARGE_BYTES:
        fields = list(_fields(memoryview(data)))
        if len(fields) == 1 and fields[0][0] == _RESPONSE_BODY:
            found = dict(_fields(memoryview(_bytes(fields[0][1]))))
            return Piece(memoryview(_bytes(found.get(_BODY))), bool(_number(found.get(_MORE))))
    return api_pb2.Asgi.FromString(bytes(data))


def pairs(flat: Iterable[bytes]) -> Iterator[Header]:
    """Headers from a flat list of names and values."""
    names = iter(flat)
    return zip(names, names, strict=False)


Value = int | bytes | memoryview | None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a serialized message that has varints and sized values only; raises DecodeError."""
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        value, position = _read_varint(data, position)
        if key & 7 == _SIZED:
            if position + value > len(data):
                raise DecodeError("a value that is longer than its message")
            yield key >> 3, data[position : position + value]
            position += value
        elif key & 7 == _VARINT:
            yield key >> 3, value
        else:
            raise DecodeError(f"a field of the wire type {key & 7}")


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    number = shift = 0
    while position < len(data):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return number, position
        shift += 7
    raise DecodeError("a number that does not end")


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _bytes(value: Value) -> bytes | memoryview:
    return value if isinstance(value, bytes | memoryview) else b""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
