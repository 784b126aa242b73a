"""What waits of web requests between the edge and a container, without either."""

import asyncio
from typing import Any, cast

from google.protobuf.message import Message
from modal_proto import api_pb2

from pilotlight.node.inputs import Inputs
from pilotlight.node.web_requests import UNREAD_BYTES, WebRequest, WebRequests
from pilotlight.wire import platform_pb2


class FakeFrames:
    """A connection that keeps what is written to it; `room` is set while its other end reads."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.out: list[bytes] = []
        self.room = asyncio.Event()
        self.room.set()

    async def writable(self) -> None:
        await self.room.wait()

    def write(self, message: Message, *, before: bytes = b"") -> None:
        self._hear(before)
        self.said.append(str(message.WhichOneof("message")))

    def write_field(self, number: int, value: bytes, *, before: bytes = b"") -> None:
        self._hear(before)
        self.out.append(value)

    def _hear(self, frame: bytes) -> None:
        if frame:
            self.said.append(str(platform_pb2.FromTask.FromString(frame[4:]).WhichOneof("message")))


def request_on(frames: FakeFrames, number: int = 1, *, is_whole: bool = False) -> WebRequest:
    opened = platform_pb2.WebOpen(task_id="ta-1", call_id=f"fc-{number}", input_id=f"in-{number}", is_whole=is_whole)
    return WebRequest(opened, cast(Any, frames))


def disconnect_of(chunk: bytes) -> tuple[str | None, int]:
    data = api_pb2.DataChunk.FromString(chunk)
    return api_pb2.Asgi.FromString(data.data).WhichOneof("type"), data.index


def test_chunks_come_in_order_and_a_stream_that_broke_goes_on_where_the_container_stands() -> None:
    async def play() -> None:
        request = request_on(FakeFrames())
        one, two, three = (api_pb2.DataChunk(index=index).SerializeToString() for index in (1, 2, 3))
        for chunk in (one, two, three):
            await request.feed(chunk)
        first = request.chunks(0)
        assert [await anext(first), await anext(first)] == [one, two]
        again = request.chunks(1)  # the second may not have come through
        assert await anext(again) == two
        await first.aclose()
        once_more = request.chunks(2)  # but it had
        assert await anext(once_more) == three
        late = request.chunks(0)  # what is gone can't be had again: the program is told that its client left
        assert disconnect_of(await anext(late)) == ("http_disconnect", 3)

    asyncio.run(play())


def test_a_body_waits_for_the_container() -> None:
    async def play() -> None:
        request = request_on(FakeFrames())
        await request.feed(bytes(UNREAD_BYTES))
        feeding = asyncio.ensure_future(request.feed(b"x"))
        await asyncio.sleep(0)
        assert not feeding.done()
        chunks = request.chunks(0)
        await anext(chunks)
        assert await anext(chunks) == b"x"
        await feeding

    asyncio.run(play())


def test_output_waits_for_the_edge_and_nothing_is_written_after_the_end() -> None:
    async def play() -> None:
        frames = FakeFrames()
        request = request_on(frames)
        await request.put(b"1")
        frames.room.clear()
        putting = asyncio.ensure_future(request.put(b"2"))
        await asyncio.sleep(0)
        assert not putting.done()
        request.end(b"result")
        request.end(b"again")
        frames.room.set()
        await putting
        assert (frames.out, frames.said) == ([b"1"], ["ended"])

    asyncio.run(play())


def test_that_a_whole_request_was_taken_is_said_with_the_next_word_even_if_that_is_the_last() -> None:
    async def play() -> None:
        for answered in (True, False):
            frames = FakeFrames()
            request = request_on(frames, is_whole=True)
            request.take()
            assert frames.said == []
            if answered:
                await request.put(b"a response")
                assert frames.said == ["taken"] and frames.out == [b"a response"]
            request.end(why="its container died")
            assert frames.said == ["taken", "ended"]

    asyncio.run(play())


def test_the_server_hears_of_its_own_inputs_alone() -> None:
    async def play() -> None:
        inputs = Inputs(batched=False, timeout_s=1)
        web, frames = WebRequests("ta-1", inputs), FakeFrames()
        inputs.deliver([platform_pb2.Lease(input_id="in-server")])
        assert not web.admit(request_on(frames))
        for _ in range(2):
            batch = await inputs.take()
            assert batch is not None
            inputs.start(batch, 0.0)
            web.take(batch)
        assert web.time_out(inputs.overdue(2.0), 1) == ["in-server"]
        assert "in-1" in web  # until the container has ended, or says what became of it
        items = [api_pb2.FunctionPutOutputsItem(input_id=input_id) for input_id in ("in-1", "in-server")]
        assert [item.input_id for item in web.end(items)] == ["in-server"]
        assert [entry.input_id for entry in inputs.held()] == ["in-server"]
        assert frames.said == ["taken", "ended"]

    asyncio.run(play())


def test_what_the_container_has_not_got_is_refused_and_what_it_has_dies_with_it() -> None:
    async def play() -> None:
        inputs = Inputs(batched=False, timeout_s=1)
        web = WebRequests("ta-1", inputs)
        taken, waiting, given_up, late = FakeFrames(), FakeFrames(), FakeFrames(), FakeFrames()
        web.admit(request_on(taken, 1))
        batch = await inputs.take()
        assert batch is not None
        inputs.start(batch, 0.0)
        web.take(batch)
        web.admit(request_on(waiting, 2))
        web.admit(left := request_on(given_up, 3))
        web.abandon(left)
        inputs.drain()
        web.refuse_waiting()
        assert "no more requests" in web.admit(request_on(late, 4))
        web.close("it died")
        assert [frames.said for frames in (taken, waiting, given_up)] == [["taken", "ended"], ["refused"], []]
        assert not inputs.has_more

    asyncio.run(play())
