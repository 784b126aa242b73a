"""Raw tunnels of an edge, on real sockets of this machine."""

import asyncio
import errno
import socket
from typing import Any

import pytest

from pilotlight.edge import tunnels
from pilotlight.edge.tunnels import Tunnels
from pilotlight.wire.platform_pb2 import EdgeEvent, SetTunnel, TunnelOpened

DEADLINE_S = 60.0
LOCAL = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((LOCAL, 0)) as listener:
        return listener.getsockname()[1]


class Told:
    """What the edge says of its tunnels."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[TunnelOpened] = asyncio.Queue()

    def __call__(self, event: EdgeEvent) -> None:
        self._said.put_nowait(event.tunnel_opened)

    async def next(self) -> tuple[str, str]:
        async with asyncio.timeout(DEADLINE_S):
            opened = await self._said.get()
        return opened.label, opened.problem


async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()
    await writer.wait_closed()


def test_bytes_go_through_until_it_is_dropped() -> None:
    async def scenario() -> None:
        told, port = Told(), free_port()
        inside = await asyncio.start_server(greeted, LOCAL, 0)
        mine = Tunnels("localhost", LOCAL, told)
        mine.set(SetTunnel(label="a", address=LOCAL, port=inside.sockets[0].getsockname()[1], raw_port=port))
        assert await told.next() == ("a", "")
        reader, writer = await asyncio.open_connection(LOCAL, port)
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
        serving = mine._open["a"].serving
        mine.drop("a")
        assert serving is not None
        await asyncio.wait([serving])
        await asyncio.sleep(0)  # what follows from a task's end is done in the next turn
        socket.create_server((LOCAL, port)).close()
        inside.close()

    asyncio.run(scenario())


def test_one_that_can_not_be_served_is_told_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        told, port = Told(), free_port()
        mine = Tunnels("localhost", LOCAL, told)

        async def refused(*args: Any, **more: Any) -> asyncio.Server:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(tunnels.asyncio, "start_server", refused)
            mine.set(SetTunnel(label="a", address=LOCAL, port=1, raw_port=port))
            assert await told.next() == ("a", "")
            label, problem = await told.next()
        assert label == "a" and str(port) in problem and "Too many open files" in problem
        mine.set(SetTunnel(label="a", address=LOCAL, port=1, raw_port=port))  # its listener has gone as well
        assert await told.next() == ("a", "")
        mine.close()

    asyncio.run(scenario())
