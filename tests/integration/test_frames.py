"""Streams of frames on a real socket: order, size, ends, and what is no frame."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from pilotlight.wire.frames import MAX_FRAME_BYTES, Frames, Listener, connect
from pilotlight.wire.platform_pb2 import FromNode, NodeCommand, StopBuild, ToNode

DEADLINE_S = 60.0


def talk(
    path: Path, serve: Callable[[Frames[FromNode]], Awaitable[None]], say: Callable[[Frames[ToNode]], Awaitable[None]]
) -> None:
    """Run both ends until the second is done."""

    async def both() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path / "s"))
        listening.listen()
        listener = Listener(FromNode, serve)
        await listener.start(listening)
        async with asyncio.timeout(DEADLINE_S):
            frames = await connect(path / "s", ToNode)
            await say(frames)
            frames.close()
            await listener.close()

    uvloop.run(both())


async def echo(frames: Frames[FromNode]) -> None:
    while (message := await frames.receive()) is not None:
        name = message.events[0].hello.node_id
        await frames.send(ToNode(commands=[NodeCommand(stop_build=StopBuild(build_id=name))]))


def named(name: str) -> FromNode:
    message = FromNode()
    message.events.add().hello.node_id = name
    return message


def test_messages_of_any_size_keep_their_order(tmp_path: Path) -> None:
    async def say(frames: Frames[ToNode]) -> None:
        names = [str(number) * size for number, size in enumerate((1, 5_000_000, 3, 70_000, 1))]
        for name in names:
            await frames.send(named(name))
        for name in names:
            reply = await frames.receive()
            assert reply is not None
            assert reply.commands[0].stop_build.build_id == name

    talk(tmp_path, echo, say)


def test_a_stream_that_is_ended_is_read_to_its_end(tmp_path: Path) -> None:
    heard: list[str] = []

    async def listen(frames: Frames[FromNode]) -> None:
        while (message := await frames.receive()) is not None:
            heard.append(message.events[0].hello.node_id)

    async def say(frames: Frames[ToNode]) -> None:
        for number in range(1000):
            await frames.send(named(str(number)))
        frames.end()
        assert await frames.receive() is None

    talk(tmp_path, listen, say)
    assert heard == [str(number) for number in range(1000)]


@pytest.mark.parametrize("junk", [struct.pack("!I", MAX_FRAME_BYTES + 1), struct.pack("!I", 3) + b"\xff\xff\xff"])
def test_what_is_no_frame_ends_the_stream(tmp_path: Path, junk: bytes) -> None:
    async def listen(frames: Frames[FromNode]) -> None:
        assert await frames.receive() is None

    async def say(frames: Frames[ToNode]) -> None:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(junk)
        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    talk(tmp_path, listen, say)


def test_a_reader_that_is_slow_makes_the_writer_wait(tmp_path: Path) -> None:
    released = asyncio.Event()

    async def listen(frames: Frames[FromNode]) -> None:
        await released.wait()
        while await frames.receive() is not None:
            pass

    async def say(frames: Frames[ToNode]) -> None:
        flood = asyncio.create_task(_flood(frames))
        done, _ = await asyncio.wait((flood,), timeout=1.0)
        assert not done, "64 MiB went into a stream that nobody read"
        released.set()
        await flood

    async def _flood(frames: Frames[ToNode]) -> None:
        for _ in range(100):
            await frames.send(named("x" * 1_000_000))

    talk(tmp_path, listen, say)
