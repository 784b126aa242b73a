"""Tunnels between containers and edges: opened when an edge listens, kept through restarts, ended with their container."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from heart import FakeNode, Heart, beat

from pilotlight.control.edges import EdgeSession
from pilotlight.control.live import LiveTask
from pilotlight.control.tunnels import MAX_PER_TASK, Tunnel
from pilotlight.core import errors
from pilotlight.wire import platform_pb2

ADDRESS = "10.128.0.7"


class ListeningEdge:
    """An edge that listens wherever it is told to, but for ports that somebody else holds."""

    def __init__(self, heart: Heart) -> None:
        self._heart = heart
        self.session = EdgeSession()
        self.taken: set[int] = set()
        self.is_mute = False
        self.open: dict[str, platform_pb2.SetTunnel] = {}
        self._changed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self._heart.server.web.join(self.session, [])
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def leave(self) -> None:
        self._heart.server.web.leave(self.session)
        self.session.close()
        if self._listening is not None:
            await self._listening

    async def heard(self) -> None:
        """Wait until it has heard all that was said."""
        await self.until(lambda: not self.session.outgoing)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until what it hears makes this true."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def _listen(self) -> None:
        while (message := await self.session.next_message()) is not None:
            for command in message.commands:
                if command.HasField("drop_tunnel"):
                    self.open.pop(command.drop_tunnel.label, None)
                elif command.HasField("set_tunnel"):
                    self._set(command.set_tunnel)
            self._changed.set()

    def _set(self, told: platform_pb2.SetTunnel) -> None:
        problem = f"port {told.raw_port} is taken" if told.raw_port in self.taken else ""
        if not problem:
            self.open[told.label] = told
        if not self.is_mute:
            self._heart.server.tunnels.answered(platform_pb2.TunnelOpened(label=told.label, problem=problem))


async def begin(heart: Heart) -> tuple[FakeNode, ListeningEdge, LiveTask]:
    node, edge = FakeNode(heart), ListeningEdge(heart)
    await node.connect()
    await edge.connect()
    task = await node.start(await heart.define())
    heart.server.tasks.started(platform_pb2.TaskStarted(task_id=task.task_id, address=ADDRESS))
    return node, edge, task


async def opened(heart: Heart, task: LiveTask, port: int = 8000, *, raw: bool = False, h2: bool = False) -> Tunnel:
    return await heart.server.tunnels.open(task.task_id, port, raw=raw, h2=h2)


def test_a_tunnel_is_told_to_the_edge_and_ends_when_asked(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        _, edge, task = await begin(heart)
        tunnel = await opened(heart, task, raw=True, h2=True)
        told = edge.open[tunnel.label]
        assert (told.address, told.port, told.h2, told.raw_port) == (ADDRESS, 8000, True, tunnel.raw_port)
        assert tunnel.raw_port in heart.server.tunnels.place.raw_ports
        assert await heart.server.tunnels.close(task.task_id, 8000)
        await edge.heard()
        assert edge.open == {}
        assert not await heart.server.tunnels.close(task.task_id, 8000)
        await edge.leave()

    beat(tmp_path, scenario)


def test_a_port_that_somebody_else_holds_is_passed_over(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        _, edge, task = await begin(heart)
        free = 20_500
        edge.taken = set(heart.server.tunnels.place.raw_ports) - set(range(free, 21_000))
        tunnels = [await opened(heart, task, port, raw=True) for port in range(8000, 8020)]
        assert all(tunnel.raw_port >= free for tunnel in tunnels)
        assert len({tunnel.raw_port for tunnel in tunnels}) == 20
        edge.taken = set(heart.server.tunnels.place.raw_ports)
        with pytest.raises(errors.Busy, match="No port could be opened: port 2"):
            await opened(heart, task, raw=True, port=9000)
        assert len(heart.server.tunnels.of_task(task.task_id)) == 20
        await edge.leave()

    beat(tmp_path, scenario)


def test_a_port_is_forwarded_once_and_a_repeated_request_gets_the_same(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        _, edge, task = await begin(heart)
        tunnel = await opened(heart, task)
        with pytest.raises(errors.AlreadyExists, match="Port 8000"):
            await opened(heart, task)
        again = await heart.server.tunnels.open(task.task_id, 8000, raw=False, h2=False, is_repeated=True)
        assert again is tunnel
        for port in range(1, MAX_PER_TASK):
            await opened(heart, task, port)
        with pytest.raises(errors.OverLimit, match=str(MAX_PER_TASK)):
            await opened(heart, task, 9000)
        await edge.leave()

    beat(tmp_path, scenario)


def test_what_can_not_be_forwarded_is_told(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, edge, task = await begin(heart)
        with pytest.raises(errors.InvalidInput, match="Port 70000"):
            await opened(heart, task, 70_000)
        offline = await node.start(task.pool.function_id)
        with pytest.raises(errors.WrongState, match="no network"):
            await opened(heart, offline)
        await edge.leave()
        with pytest.raises(errors.Busy, match="No edge"):
            await opened(heart, task)
        assert heart.server.tunnels.of_task(task.task_id) == []

    beat(tmp_path, scenario)


def test_tunnels_end_with_their_container_even_while_they_are_opened(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, edge, task = await begin(heart)
        await opened(heart, task)
        edge.is_mute = True
        opening = asyncio.get_running_loop().create_task(opened(heart, task, 8001))
        await edge.until(lambda: len(edge.open) == 2)
        await node.exit(task)
        with pytest.raises(errors.WrongState, match="has ended"):
            await opening
        await edge.heard()
        assert edge.open == {}
        await edge.leave()

    beat(tmp_path, scenario)


def test_a_restarted_server_tells_edges_of_those_whose_containers_are_there(tmp_path: Path) -> None:
    async def scenario(heart: Heart) -> None:
        node, edge, task = await begin(heart)
        other = await node.start(task.pool.function_id)
        heart.server.tasks.started(platform_pb2.TaskStarted(task_id=other.task_id, address="10.128.0.8"))
        kept = await opened(heart, task, raw=True, h2=True)
        await opened(heart, other)
        await edge.leave()
        await heart.restart()
        await node.connect([platform_pb2.HeldTask(task_id=task.task_id, address=ADDRESS)])
        late = ListeningEdge(heart)
        await late.connect()
        await late.heard()
        assert set(late.open) == {kept.label}
        told = late.open[kept.label]
        assert (told.address, told.port, told.h2, told.raw_port) == (ADDRESS, 8000, True, kept.raw_port)
        with pytest.raises(errors.AlreadyExists):
            await heart.server.tunnels.open(task.task_id, 8000, raw=False, h2=False)
        await late.leave()

    beat(tmp_path, scenario)
