"""ASGI messages as the official client's runtime takes and gives them: Asgi in DataChunk, in order, counted from 1.

Bodies are written around, not through, protobuf's own encoder: of a large one there is one copy instead of four.
"""

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from modal_proto import api_pb2

from pilotlight.edge.refusals import Header
from pilotlight.wire.raw import field_header

_ASGI_FORMAT = b"\x08" + bytes([api_pb2.DATA_FORMAT_ASGI])  # DataChunk.data_format
_MORE_BODY = b"\x10\x01"  # Asgi.HttpRequest.more_body
_DATA, _INDEX, _HTTP_REQUEST, _BODY = 2, 4, 2, 1  # field numbers of DataChunk, Asgi, Asgi.HttpRequest
_INDEX_TAG = b"\x20"


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


def chunks_of(data_out: bytes) -> Iterable[api_pb2.DataChunk]:
    """Those of a serialized FunctionCallPutDataRequest."""
    return api_pb2.FunctionCallPutDataRequest.FromString(data_out).data_chunks


def pairs(flat: Iterable[bytes]) -> Iterator[Header]:
    """Headers from a flat list of names and values."""
    names = iter(flat)
    return zip(names, names, strict=False)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
