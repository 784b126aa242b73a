"""GPUs: which devices each node has, and which container or build has which of them.

Invariant: what was given to a holder is nobody else's until its node has reported that the holder's processes are gone, or has come
back without it. Holdings outlive the node's stream, and a restart of ours (rows of tasks, hellos of nodes).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from pilotlight.core.gpus import Device, choose
from pilotlight.wire import platform_pb2

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Gpu:
    device: Device
    problem: str


@dataclass(frozen=True, slots=True)
class Holding:
    """GPUs of one node that a container (or a build) has."""

    node_id: str
    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GpuState:
    """One device as people see it. `holders`: ids of tasks, and of images that are being built."""

    node_id: str
    device: Device
    problem: str
    holders: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Node:
    gpus: dict[str, _Gpu] = field(default_factory=dict[str, _Gpu])  # by uuid, in the node's order


class Gpus:
    """The one place that knows who has which GPU. Lives on the event loop's thread."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._holdings: dict[str, Holding] = {}  # by holder
        self._holders: dict[tuple[str, str], set[str]] = {}  # by node and uuid
        self.failures_total = 0
        self.on_free: list[Callable[[], None]] = []  # those who wait may look again
        self.on_change: list[Callable[[str], None]] = []  # what a node has, or has free, is another

    # ---- what nodes have ----

    def join(self, node_id: str, devices: Iterable[platform_pb2.GpuDevice]) -> None:
        """A node is (back) here, with these."""
        gpus = {told.uuid: _Gpu(Device(told.uuid, told.kind, told.memory_mib, told.shares or 1), told.problem) for told in devices}
        self._nodes[node_id] = _Node(gpus)
        self._changed(node_id)

    def leave(self, node_id: str) -> None:
        """A node has gone. Who has GPUs of it keeps them until it is known what became of them."""
        self._nodes.pop(node_id, None)
        self._changed(node_id)

    def fail(self, node_id: str, uuid: str, problem: str) -> list[str]:
        """A device is to be given to nobody any more; returns who has it."""
        node = self._nodes.get(node_id)
        gpu = node.gpus.get(uuid) if node is not None else None
        if gpu is None or gpu.problem:
            return []
        gpu.problem = problem
        self.failures_total += 1
        self._changed(node_id)
        log.error("gpu_failed", node_id=node_id, uuid=uuid, kind=gpu.device.kind, problem=problem)
        return sorted(self._holders.get((node_id, uuid), ()))

    # ---- looking ----

    def totals(self, node_id: str) -> dict[str, int]:
        """Devices by kind, less those that have failed."""
        return self._count(node_id, lambda gpu: not gpu.problem)

    def failed(self, node_id: str) -> dict[str, int]:
        return self._count(node_id, lambda gpu: bool(gpu.problem))

    def free(self, node_id: str) -> dict[str, int]:
        """Devices by kind that could take one more container."""
        return self._count(node_id, lambda gpu: not gpu.problem and self._taken(node_id, gpu) < gpu.device.shares)

    def free_by_node(self) -> dict[str, dict[str, int]]:
        """Of all nodes with GPUs: free devices by kind, 0 included."""
        return {
            node_id: dict.fromkeys(self.totals(node_id), 0) | self.free(node_id)
            for node_id, node in self._nodes.items()
            if node.gpus
        }

    def kind_of(self, node_id: str, uuids: Sequence[str]) -> str:
        """The kind of a holder's GPUs; empty for none, or while their node is away."""
        node = self._nodes.get(node_id)
        gpu = node.gpus.get(uuids[0]) if node is not None and uuids else None
        return gpu.device.kind if gpu is not None else ""

    def holdings(self) -> Iterable[tuple[str, Holding]]:
        """Who has what. Not to be kept through a change."""
        return self._holdings.items()

    def held_by(self, holder: str) -> Holding | None:
        return self._holdings.get(holder)

    @property
    def in_use(self) -> int:
        """Devices that somebody has, one that several share counted for each."""
        return sum(len(holding.uuids) for holding in self._holdings.values())

    def all(self) -> list[GpuState]:
        """Every device of the connected nodes."""
        return [
            GpuState(node_id, gpu.device, gpu.problem, tuple(sorted(self._holders.get((node_id, uuid), ()))))
            for node_id, node in self._nodes.items()
            for uuid, gpu in node.gpus.items()
        ]

    # ---- taking and giving back ----

    def take(self, holder: str, node_id: str, kind: str, count: int) -> tuple[str, ...]:
        """Give so many of a kind to a holder; empty where there are not enough of them."""
        node = self._nodes.get(node_id)
        healthy = [gpu for gpu in node.gpus.values() if not gpu.problem] if node is not None else []
        uuids = choose(((gpu.device, self._taken(node_id, gpu)) for gpu in healthy), kind, count)
        if uuids:
            self.keep(holder, node_id, uuids)
        return uuids

    def keep(self, holder: str, node_id: str, uuids: Sequence[str]) -> None:
        """Somebody has these already, as a row or a node says. Safe to repeat."""
        self._drop(holder)
        if uuids:
            self._holdings[holder] = Holding(node_id, tuple(uuids))
            for uuid in uuids:
                self._holders.setdefault((node_id, uuid), set()).add(holder)
            self._changed(node_id)

    def release(self, holder: str) -> None:
        """The holder's processes are gone. Does nothing for who has none."""
        if self._drop(holder):
            for look_again in self.on_free:
                look_again()

    def _drop(self, holder: str) -> bool:
        holding = self._holdings.pop(holder, None)
        if holding is None:
            return False
        for uuid in holding.uuids:
            holders = self._holders[holding.node_id, uuid]
            holders.discard(holder)
            if not holders:
                del self._holders[holding.node_id, uuid]
        self._changed(holding.node_id)
        return True

    def _changed(self, node_id: str) -> None:
        for follow in self.on_change:
            follow(node_id)

    def _taken(self, node_id: str, gpu: _Gpu) -> int:
        return len(self._holders.get((node_id, gpu.device.uuid), ()))

    def _count(self, node_id: str, wanted: Callable[[_Gpu], bool]) -> dict[str, int]:
        counts: dict[str, int] = {}
        node = self._nodes.get(node_id)
        for gpu in node.gpus.values() if node is not None else ():
            if wanted(gpu):
                counts[gpu.device.kind] = counts.get(gpu.device.kind, 0) + 1
        return counts
