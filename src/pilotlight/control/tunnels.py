"""Tunnels: ports of containers that are open to the outside, for as long as the container holds them open.

Invariant: a container is told of a tunnel only once an edge listens there. A tunnel ends with its container at the latest; a
restart of the server or of an edge does not end it.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from pilotlight.control.edges import Edges, EdgeSession
from pilotlight.control.live import LiveTask
from pilotlight.core import errors
from pilotlight.core.tunnels import Place, new_label
from pilotlight.store import tunnels as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

MAX_PER_TASK = 100
MOST_RAW_PORTS_TRIED = 50  # others on this machine may hold some of the range
ANSWER_LIMIT_S = 10.0  # for an edge to say that it listens

EdgeCommand = platform_pb2.EdgeCommand


@dataclass(slots=True, eq=False)
class Tunnel:
    """One open port. `answered` gets what the edge says: empty where it listens, else why it can't."""

    label: str
    task_id: str
    port: int
    h2: bool
    raw_port: int = 0
    is_open: bool = False
    answered: "asyncio.Future[str]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def answer(self, problem: str) -> None:
        if not self.answered.done():
            self.answered.set_result(problem)


class Tunnels:
    """All open tunnels. Lives on the event loop's thread."""

    def __init__(self, *, database: Database, edges: Edges, place: Place, find_task: Callable[[str], LiveTask | None]) -> None:
        self._database = database
        self._edges = edges
        self.place = place
        self._find_task = find_task
        self._tunnels: dict[str, Tunnel] = {}  # by label

    async def restore(self) -> None:
        """After a start, before edges connect: those that the rows know."""
        for row in await self._database.read(store.all_tunnels):
            self._tunnels[row.label] = Tunnel(row.label, row.task_id, row.port, bool(row.h2), row.raw_port, is_open=True)

    def of_task(self, task_id: str) -> list[Tunnel]:
        """Those of one container."""
        return [tunnel for tunnel in self._tunnels.values() if tunnel.task_id == task_id]

    async def open(self, task_id: str, port: int, *, raw: bool, h2: bool, is_repeated: bool = False) -> Tunnel:
        """Open a port of a container, by TLS and perhaps raw as well. `is_repeated`: the one that is open already will do.

        Raises InvalidInput, WrongState, AlreadyExists, OverLimit, Busy.
        """
        self._check(task_id, port)
        present = self.of_task(task_id)
        for tunnel in present:
            if tunnel.port == port:
                if not is_repeated:
                    raise errors.AlreadyExists(f"Port {port} is already forwarded by this container.")
                if not tunnel.is_open:
                    raise errors.Busy(f"Port {port} is just being forwarded. Ask again in a moment.")
                return tunnel
        if len(present) >= MAX_PER_TASK:
            raise errors.OverLimit(f"This container has {MAX_PER_TASK} ports forwarded, which is the limit. Leave some first.")
        tunnel = Tunnel(new_label(), task_id, port, h2)
        self._tunnels[tunnel.label] = tunnel
        try:
            await self._listen(tunnel, raw=raw)
            row = {"label": tunnel.label, "task_id": task_id, "port": port, "h2": h2, "raw_port": tunnel.raw_port}
            await self._database.write(lambda connection: store.add(connection, row))
            if tunnel.label not in self._tunnels:  # its container ended meanwhile, and nobody would close it
                raise errors.WrongState(f"Container {task_id} has ended.")
        except BaseException:
            self._forget(tunnel)
            raise
        tunnel.is_open = True
        log.info("tunnel_opened", task_id=task_id, port=port, label=tunnel.label, raw_port=tunnel.raw_port)
        return tunnel

    def _check(self, task_id: str, port: int) -> None:
        if not 1 <= port <= 65_535:
            raise errors.InvalidInput(f"Port {port} can't be forwarded: ports go from 1 to 65535.")
        task = self._find_task(task_id)
        if task is None:
            raise errors.WrongState(f"Container {task_id} has ended.")
        if not task.address:
            raise errors.WrongState(
                f"Port {port} can't be forwarded: this container has no network (block_network=True of its function)."
            )

    async def _listen(self, tunnel: Tunnel, *, raw: bool) -> None:
        """Have an edge listen, at another raw port where the first is taken by somebody else."""
        problem = ""
        for raw_port in self._raw_ports() if raw else [0]:
            tunnel.raw_port = raw_port
            tunnel.answered = asyncio.get_running_loop().create_future()
            if not list(self._edges):
                raise errors.Busy("No edge is connected, so no port can be forwarded now. Try again in a moment.")
            self._edges.send(self._command(tunnel))
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    problem = await tunnel.answered
            except TimeoutError:
                raise errors.Busy(f"The edge did not open the tunnel within {ANSWER_LIMIT_S:.0f} s. Try again.") from None
            if not problem:
                return
            if tunnel.label not in self._tunnels:
                raise errors.WrongState(f"Container {tunnel.task_id} has ended.")
        raise errors.Busy(
            f"No port could be opened{': ' + problem if problem else ''}. "
            "`tunnel_ports` says which may be used; other programs, or other tunnels, hold them."
        )

    def _raw_ports(self) -> list[int]:
        """Ports to try, at random: the range may be shared with other platforms of this machine."""
        used = {tunnel.raw_port for tunnel in self._tunnels.values()}
        free = [port for port in self.place.raw_ports if port not in used]
        return random.sample(free, min(len(free), MOST_RAW_PORTS_TRIED))

    async def close(self, task_id: str, port: int) -> bool:
        """End a tunnel; whether there was one."""
        found = [tunnel for tunnel in self.of_task(task_id) if tunnel.port == port]
        for tunnel in found:
            self._forget(tunnel)
        return bool(found)

    def task_ended(self, task_id: str) -> None:
        """A container is gone, and its tunnels with it."""
        for tunnel in self.of_task(task_id):
            self._forget(tunnel)

    def _forget(self, tunnel: Tunnel) -> None:
        label = tunnel.label
        self._tunnels.pop(label, None)
        tunnel.answer("its container has ended")
        self._edges.send(EdgeCommand(drop_tunnel=platform_pb2.DropTunnel(label=label)))
        self._database.write_unattended(lambda connection: store.remove(connection, label), "the end of a tunnel")

    # ---- edges ----

    def tell(self, session: EdgeSession) -> None:
        """An edge is (back) here, and nodes have said which containers there are."""
        for tunnel in list(self._tunnels.values()):
            if self._find_task(tunnel.task_id) is None:
                self._forget(tunnel)
            else:
                session.send(self._command(tunnel))

    def _command(self, tunnel: Tunnel) -> EdgeCommand:
        task = self._find_task(tunnel.task_id)
        told = platform_pb2.SetTunnel(
            label=tunnel.label,
            address=task.address if task is not None else "",
            port=tunnel.port,
            h2=tunnel.h2,
            raw_port=tunnel.raw_port,
        )
        return EdgeCommand(set_tunnel=told)

    def answered(self, event: platform_pb2.TunnelOpened) -> None:
        """An edge listens for a tunnel, or can't."""
        tunnel = self._tunnels.get(event.label)
        if tunnel is None:
            return
        if event.problem and tunnel.is_open:
            log.warning("tunnel_not_reopened", label=event.label, task_id=tunnel.task_id, why=event.problem)
        tunnel.answer(event.problem)
