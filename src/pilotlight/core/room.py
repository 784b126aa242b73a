"""Which idle containers end so that one that waits has room: a pure function of the nodes and who is there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pilotlight.core.placement import CPU_OVERCOMMIT, Need, NodeView


@dataclass(frozen=True, slots=True)
class Occupant:
    """A container on a node. `idle_s`: for how long it has had nothing to do and is not to be kept warm; None: it works.

    `is_leaving`: it has been told to end, so its room will be free soon.
    """

    task_id: str
    node_id: str
    milli_cpu: int
    memory_mib: int
    idle_s: float | None
    is_leaving: bool = False


def longest_idle(occupants: Iterable[Occupant]) -> list[Occupant]:
    """Those that have nothing to do, who has had nothing for longest first."""
    return sorted((one for one in occupants if one.idle_s is not None), key=lambda one: -(one.idle_s or 0.0))


def to_end_for_room(need: Need, nodes: Iterable[NodeView], occupants: Sequence[Occupant]) -> list[str]:
    """As few as will do, on one node, those that were idle longest first.

    Nothing where there will be room as soon as those that leave have left, or where even all idle ones would not do.
    """
    by_node: dict[str, list[Occupant]] = {}
    for one in occupants:
        by_node.setdefault(one.node_id, []).append(one)
    best: list[str] | None = None
    for node in nodes:
        if node.cordoned or not node.could_hold(need):
            continue
        chosen = _enough_of(need, node, by_node.get(node.node_id, []))
        if chosen is not None and (best is None or len(chosen) < len(best)):
            best = chosen
    return best or []


def _enough_of(need: Need, node: NodeView, here: Sequence[Occupant]) -> list[str] | None:
    """Whom to end on this node; None where it would not help."""
    memory_mib = node.memory_mib - node.used_memory_mib - need.memory_mib
    milli_cpu = node.milli_cpu * CPU_OVERCOMMIT - node.used_milli_cpu - need.milli_cpu
    places = node.max_containers - node.containers - 1
    chosen: list[str] = []
    leaving = [one for one in here if one.is_leaving]
    idle = [one for one in longest_idle(here) if not one.is_leaving]
    for one in [*leaving, *idle]:
        if not one.is_leaving:
            if min(memory_mib, milli_cpu, places) >= 0:
                break
            chosen.append(one.task_id)
        memory_mib += one.memory_mib
        milli_cpu += one.milli_cpu
        places += 1
    return chosen if min(memory_mib, milli_cpu, places) >= 0 else None
