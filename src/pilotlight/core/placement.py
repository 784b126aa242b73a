"""Where a container goes: a pure function of the nodes and what it needs."""

from collections.abc import Sequence
from dataclasses import dataclass

CPU_OVERCOMMIT = 8.0  # requests of CPU are shares of the kernel's scheduler; their sum may be this much more than there is


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node has, and what is taken of it."""

    node_id: str
    milli_cpu: int
    memory_mib: int
    used_milli_cpu: int
    used_memory_mib: int
    containers: int
    max_containers: int
    starting: int
    max_starting: int


@dataclass(frozen=True, slots=True)
class Need:
    """What one container asks for."""

    milli_cpu: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Placed:
    node_id: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No node can take it. `never` is true where no wait can help."""

    why: str
    never: bool = False
    momentary: bool = False  # only because too many are starting right now


def place(nodes: Sequence[NodeView], need: Need) -> Placed | Unplaced:
    """The node with the most free memory among those that can take it."""
    if not nodes:
        return Unplaced("no node is connected")
    if all(need.memory_mib > node.memory_mib or need.milli_cpu > node.milli_cpu for node in nodes):
        largest = max(nodes, key=lambda node: (node.memory_mib, node.milli_cpu))
        return Unplaced(
            f"needs {need.milli_cpu / 1000:g} CPUs and {need.memory_mib} MiB, the largest node has "
            f"{largest.milli_cpu / 1000:g} CPUs and {largest.memory_mib} MiB",
            never=True,
        )
    able = [
        node
        for node in nodes
        if need.memory_mib <= node.memory_mib - node.used_memory_mib
        and need.milli_cpu <= node.milli_cpu
        and need.milli_cpu <= node.milli_cpu * CPU_OVERCOMMIT - node.used_milli_cpu
        and node.containers < node.max_containers
    ]
    if not able:
        free = max(node.memory_mib - node.used_memory_mib for node in nodes)
        running = sum(node.containers for node in nodes)
        return Unplaced(
            f"needs {need.milli_cpu / 1000:g} CPUs and {need.memory_mib} MiB; {running} containers are running and the node with "
            f"the most room has {free} MiB free"
        )
    calm = [node for node in able if node.starting < node.max_starting]
    if not calm:
        return Unplaced("other containers are starting", momentary=True)
    return Placed(max(calm, key=lambda node: (node.memory_mib - node.used_memory_mib, -node.containers)).node_id)
