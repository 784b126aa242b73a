"""Chunks for containers are what protobuf would write, whatever the sizes."""

import pickle

import pytest
from google.protobuf.message import DecodeError
from modal_proto import api_pb2

from pilotlight.edge import messages


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384, 3 << 20])
@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("index", [1, 128, 1 << 20])
def test_a_piece_of_a_body(size: int, more: bool, index: int) -> None:
    chunk = api_pb2.DataChunk.FromString(messages.body_chunk(index, b"x" * size, more))
    assert (chunk.index, chunk.data_format) == (index, api_pb2.DATA_FORMAT_ASGI)
    request = api_pb2.Asgi.FromString(chunk.data)
    assert request.WhichOneof("type") == "http_request"
    assert (request.http_request.body, request.http_request.more_body) == (b"x" * size, more)


def test_a_request_as_an_input() -> None:
    scope = {"type": "http", "headers": [(b"x", b"\xff")], "client": ("127.0.0.1", 1)}
    item = api_pb2.FunctionGetInputsItem.FromString(messages.item("fc-1", scope, "method"))
    assert (item.input_id, item.function_call_id, item.input.method_name) == ("in-1", "fc-1", "method")
    assert pickle.loads(item.input.args) == ((scope,), {})


def test_goodbyes() -> None:
    def told(chunk: bytes) -> api_pb2.Asgi:
        return api_pb2.Asgi.FromString(api_pb2.DataChunk.FromString(chunk).data)

    assert told(messages.goodbye(2, "http")).HasField("http_disconnect")
    assert told(messages.goodbye(2, "websocket", 4000)).websocket_disconnect.code == 4000


def test_headers_keep_their_order_and_repetitions() -> None:
    assert list(messages.pairs([b"a", b"1", b"a", b"2"])) == [(b"a", b"1"), (b"a", b"2")]


@pytest.mark.parametrize("size", [10, 70_000, 3 << 20])
@pytest.mark.parametrize("more", [True, False])
def test_what_apps_say_is_read_the_same_whatever_its_size(size: int, more: bool) -> None:
    body = bytes(range(256)) * (size // 256)
    said = [
        api_pb2.Asgi(http_response_body=api_pb2.Asgi.HttpResponseBody(body=body, more_body=more)),
        api_pb2.Asgi(websocket_send=api_pb2.Asgi.WebsocketSend(bytes=body)),
        api_pb2.Asgi(http_response_body=api_pb2.Asgi.HttpResponseBody()),
    ]
    request = api_pb2.FunctionCallPutDataRequest(function_call_id="fc-1")
    for index, message in enumerate(said, 1):
        request.data_chunks.add(data_format=api_pb2.DATA_FORMAT_ASGI, index=index, data=message.SerializeToString())
    request.data_chunks.add(data_format=api_pb2.DATA_FORMAT_ASGI, index=4, data_blob_id="bl-1")
    chunks = list(messages.chunks_of(request.SerializeToString()))
    assert [(chunk.index, chunk.data_format, chunk.data_blob_id) for chunk in chunks] == [
        (index, api_pb2.DATA_FORMAT_ASGI, "bl-1" if index == 4 else "") for index in range(1, 5)
    ]
    for message, chunk in zip(said, chunks, strict=False):
        read = messages.message_of(chunk.data)
        if isinstance(read, messages.Piece):
            assert size > 64 << 10
            assert (bytes(read.body), read.more_body) == (body, more)
        else:
            assert read == message


def test_what_is_no_message_is_an_error() -> None:
    request = api_pb2.FunctionCallPutDataRequest(data_chunks=[api_pb2.DataChunk(data=b"x" * 100_000)])
    whole = request.SerializeToString()
    for broken in (whole[:-1], whole + b"\x80", whole + b"\x05\x01"):
        with pytest.raises(DecodeError):
            list(messages.chunks_of(broken))
