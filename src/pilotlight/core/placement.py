"""Where a container goes: a pure function of the nodes and what it needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pilotlight.core.gpus import GpuWish

CPU_OVERCOMMIT = 8.0  # requests of CPU are shares of the kernel's scheduler; their sum may be this much more than there is
NO_LABELS: Mapping[str, frozenset[str]] = {}


@dataclass(frozen=True, slots=True)
class Need:
    """What one container asks for. `labels`: a node that carries one of these must carry one of the values, or something within it;
    a node that carries none of that name says nothing against it, and is taken where no better one has room."""

    milli_cpu: int
    memory_mib: int
    gpu: GpuWish | None = None
    labels: Mapping[str, frozenset[str]] = field(default_factory=lambda: NO_LABELS)


@dataclass(slots=True)
class NodeView:
    """What a node has, and what is taken of it."""

    node_id: str
    milli_cpu: int
    memory_mib: int
    used_milli_cpu: int = 0
    used_memory_mib: int = 0
    containers: int = 0
    max_containers: int = 200
    starting: int = 0
    max_starting: int = 4
    gpus: dict[str, int] = field(default_factory=dict[str, int])  # devices by kind, less those that have failed
    free_gpus: dict[str, int] = field(default_factory=dict[str, int])  # of those, with a share that nobody has
    failed_gpus: dict[str, int] = field(default_factory=dict[str, int])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    cordoned: bool = False  # takes nothing new

    def could_hold(self, need: Need) -> bool:
        """Whether it could if it were empty."""
        return (
            need.memory_mib <= self.memory_mib
            and need.milli_cpu <= self.milli_cpu
            and self._suits(need)
            and (need.gpu is None or any(self.gpus[kind] >= need.gpu.count for kind in need.gpu.kinds(self.gpus)))
        )

    def has_room(self, need: Need) -> bool:
        """Whether it can take one more container of this size now, leaving aside GPUs."""
        return (
            need.memory_mib <= self.memory_mib - self.used_memory_mib
            and need.milli_cpu <= self.milli_cpu * CPU_OVERCOMMIT - self.used_milli_cpu
            and need.milli_cpu <= self.milli_cpu
            and self.containers < self.max_containers
            and not self.cordoned
            and (not need.labels or self._suits(need))
        )

    def _suits(self, need: Need) -> bool:
        return not need.labels or all(
            name not in self.labels or is_within(self.labels[name], values) for name, values in need.labels.items()
        )

    def promises(self, need: Need) -> int:
        """How much of what is asked for the node says of itself."""
        return sum(name in self.labels for name in need.labels)


def is_within(place: str, wanted: frozenset[str]) -> bool:
    """Whether a place is one of those, or lies in one: "us-east-1" in "us-east" and in "us"."""
    return any(place == one or place.startswith(f"{one}-") for one in wanted)


@dataclass(frozen=True, slots=True)
class Placed:
    """`gpu_kind`: of the GPUs it is to get there; empty for none. `rank`: which of the needs was met."""

    node_id: str
    gpu_kind: str = ""
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No node can take it. `never` is true where no wait can help."""

    why: str
    never: bool = False
    momentary: bool = False  # only because too many are starting right now
    is_quota: bool = False  # the nodes have room, but it is not to be had


def place(nodes: Iterable[NodeView], needs: Need | Sequence[Need], extra_starting: int = 0) -> Placed | Unplaced:
    """A node for the first of the needs (in order of preference) that one can meet now.

    `extra_starting`: so many more than a node's `max_starting` may start there, for who is not to wait for others' starts.
    Without a GPU: the node with the most free memory, those with GPUs last. With one: where it leaves the fewest of its kind.
    """
    nodes = list(nodes)
    wanted = (needs,) if isinstance(needs, Need) else needs
    if not nodes:
        return Unplaced("no node is connected")
    crowded = False
    for rank, need in enumerate(wanted):
        placed, is_crowded = _place_one(nodes, need, rank, extra_starting)
        if placed is not None:
            return placed
        crowded = crowded or is_crowded
    if crowded:
        return Unplaced("other containers are starting", momentary=True)
    possible = [need for need in wanted if any(node.could_hold(need) for node in nodes)]
    if not possible:
        return Unplaced(_why_never(nodes, wanted), never=True)
    return Unplaced(_why_not_now(nodes, possible))


def _place_one(nodes: Sequence[NodeView], need: Need, rank: int, extra_starting: int) -> tuple[Placed | None, bool]:
    """The place for one need, and whether there is one as soon as fewer containers start."""
    best: NodeView | None = None
    best_score: tuple[float, ...] = ()
    best_kind, crowded = "", False
    gpu = need.gpu
    serving: dict[tuple[str, ...], tuple[str, ...]] = {}  # kinds that may serve it, by those of a node: few nodes differ
    for node in nodes:
        kind = ""
        if gpu is not None:
            if not node.gpus:
                continue
            there = tuple(node.gpus)
            if (kinds := serving.get(there)) is None:
                kinds = serving[there] = gpu.kinds(there)
            kind = next((kind for kind in kinds if node.free_gpus.get(kind, 0) >= gpu.count), "")
            if not kind:
                continue
        if not node.has_room(need):
            continue
        if node.starting >= node.max_starting + extra_starting:
            crowded = True
            continue
        free_mib = node.memory_mib - node.used_memory_mib
        if gpu is None:
            score = (node.promises(need) if need.labels else 0, 0.0 if node.gpus else 1.0, free_mib, -node.containers)
        else:
            # The very kind that was asked for before a better one, then where the fewest are left over.
            rarity = -serving[tuple(node.gpus)].index(kind)
            score = (node.promises(need) if need.labels else 0, rarity, -(node.free_gpus[kind] - gpu.count), free_mib)
        if best is None or score > best_score:
            best, best_score, best_kind = node, score, kind
    return (Placed(best.node_id, best_kind, rank) if best is not None else None), crowded


def _size(need: Need) -> str:
    gpu = f"{need.gpu}, " if need.gpu is not None else ""
    labels = "".join(f", {name}={'|'.join(sorted(values))}" for name, values in sorted(need.labels.items()))
    return f"{gpu}{need.milli_cpu / 1000:g} CPUs and {need.memory_mib} MiB{labels}"


def _inventory(nodes: Sequence[NodeView]) -> str:
    there = ", ".join(_totals(node.gpus for node in nodes)) or "no GPU"
    failed = ", ".join(_totals(node.failed_gpus for node in nodes))
    return f"{there} ({failed} failed)" if failed else there


def _totals(numbers: Iterable[Mapping[str, int]]) -> list[str]:
    totals: dict[str, int] = {}
    for by_kind in numbers:
        for kind, count in by_kind.items():
            totals[kind] = totals.get(kind, 0) + count
    return [f"{count}×{kind}" for kind, count in sorted(totals.items())]


def _why_never(nodes: Sequence[NodeView], needs: Sequence[Need]) -> str:
    wishes = [need.gpu for need in needs if need.gpu is not None]
    if wishes and all(
        not any(node.gpus.get(kind, 0) >= wish.count for node in nodes for kind in wish.kinds(node.gpus)) for wish in wishes
    ):
        return f"needs {' or '.join(map(str, wishes))}, this platform has {_inventory(nodes)}"
    need = needs[0]
    for name, values in need.labels.items():
        if all(name in node.labels and not is_within(node.labels[name], values) for node in nodes):
            have = sorted({node.labels[name] for node in nodes})
            return f"needs {name}={'|'.join(sorted(values))}, this platform has {', '.join(have)}"
    largest = max(nodes, key=lambda node: (node.memory_mib, node.milli_cpu))
    return f"needs {_size(need)}, the largest node has {largest.milli_cpu / 1000:g} CPUs and {largest.memory_mib} MiB"


def _why_not_now(nodes: Sequence[NodeView], needs: Sequence[Need]) -> str:
    need = needs[0]
    if wishes := [need.gpu for need in needs if need.gpu is not None]:
        kinds = {kind for wish in wishes for node in nodes for kind in wish.kinds(node.gpus)}
        total = sum(node.gpus.get(kind, 0) for node in nodes for kind in kinds)
        free = sum(node.free_gpus.get(kind, 0) for node in nodes for kind in kinds)
        least = min(wish.count for wish in wishes)
        if free < least or least > 1:
            return f"needs {' or '.join(map(str, wishes))}; {total - free} of {total} GPUs ({', '.join(sorted(kinds))}) are busy"
    if all(node.cordoned for node in nodes):
        return "all nodes are being drained"
    free_mib = max(node.memory_mib - node.used_memory_mib for node in nodes)
    running = sum(node.containers for node in nodes)
    return f"needs {_size(need)}; {running} containers are running and the node with the most room has {free_mib} MiB free"
