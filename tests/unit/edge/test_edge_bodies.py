"""Bodies of requests in chunks: when they are joined, where they end, and how much is too much."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from modal_proto import api_pb2

from pilotlight.edge import admission, bodies
from pilotlight.edge.admission import Head
from pilotlight.edge.bodies import BULK_BYTES, JOIN_BYTES, Body
from pilotlight.edge.refusals import Refusal

LEFT = {"type": "http.disconnect"}


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def sent(messages: Sequence[dict[str, Any]], method: str = "POST", **headers: str) -> tuple[Body, list[api_pb2.DataChunk]]:
    """The body of these messages, and the chunks that a container gets."""
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    chunks: list[api_pb2.DataChunk] = []
    waiting = iter(messages)

    async def receive() -> Any:
        return next(waiting)

    async def put(chunk: bytes) -> None:
        chunks.append(api_pb2.DataChunk.FromString(chunk))

    async def play() -> Body:
        body = Body(Head(method, b"", named), receive)
        await put(await body.first())
        assert await body.first() == await body.first()
        await body.relay(put)
        return body

    body = asyncio.run(play())
    assert [chunk.index for chunk in chunks] == list(range(1, len(chunks) + 1))
    return body, chunks


def bodies_of(chunks: Sequence[api_pb2.DataChunk]) -> list[tuple[bytes, bool]]:
    requests = [api_pb2.Asgi.FromString(chunk.data).http_request for chunk in chunks]
    return [(request.body, request.more_body) for request in requests]


def test_a_request_without_a_body_is_one_chunk_and_reads_nothing() -> None:
    for headers in ({}, {"content_length": "0"}):
        body, chunks = sent([], "GET", **headers)
        assert bodies_of(chunks) == [(b"", False)]
        assert body.is_whole and body.is_repeatable
    assert not sent([], "POST")[0].is_repeatable


def test_a_body_that_never_came_is_no_empty_one() -> None:
    body, chunks = sent([LEFT], content_length="3")
    assert bodies_of(chunks[:1]) == [(b"", True)]
    assert api_pb2.Asgi.FromString(chunks[1].data).HasField("http_disconnect") and len(chunks) == 2
    assert body.size_bytes == 0


def test_what_came_with_the_head_is_the_first_chunk() -> None:
    body, chunks = sent([piece(b"all", False)], content_length="3")
    assert bodies_of(chunks) == [(b"all", False)] and body.is_whole


def test_small_pieces_go_on_as_they_come_and_large_ones_are_joined() -> None:
    large = bytes(BULK_BYTES)
    count = JOIN_BYTES // BULK_BYTES
    messages = [piece(b"a"), piece(b"b"), *[piece(large)] * (count + 1), piece(b"end", False)]
    body, chunks = sent(messages, transfer_encoding="chunked")
    assert [(len(data), more) for data, more in bodies_of(chunks)] == [
        (1, True),
        (1, True),
        (JOIN_BYTES, True),
        (BULK_BYTES + 3, False),
    ]
    assert body.size_bytes == sum(len(message["body"]) for message in messages)


@pytest.mark.parametrize("size", [1, BULK_BYTES])
def test_a_client_that_leaves_is_told_of_in_its_turn(size: int) -> None:
    _, chunks = sent([piece(b"a"), piece(bytes(size)), LEFT, LEFT], content_length="9999999")
    assert [len(data) for data, _ in bodies_of(chunks[:2])] == [1, size]
    assert api_pb2.Asgi.FromString(chunks[2].data).HasField("http_disconnect")


def test_too_much_is_refused_wherever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 10)
    monkeypatch.setattr(admission, "MAX_BODY_BYTES", 10)
    for messages in ([piece(b"x" * 11, False)], [piece(b"x" * 6), piece(b"x" * 6)]):
        with pytest.raises(Refusal) as refused:
            sent(messages, transfer_encoding="chunked")
        assert refused.value.status == 413
