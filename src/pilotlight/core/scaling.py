"""How many containers a pool should have: a pure function of what is known of it."""

import math
from dataclasses import dataclass

DEFAULT_SCALEDOWN_WINDOW_S = 60
DEFAULT_MAX_CONTAINERS = 100
SHORTEST_STARTUP_S = 0.05
STARTUP_S = 1.0  # of a container, where it has not been seen yet


@dataclass(frozen=True, slots=True)
class TaskView:
    """One container of the pool."""

    task_id: str
    starting: bool
    held_inputs: int
    idle_s: float  # since when it has had nothing to do; 0 while it has
    is_outdated: bool = False  # of a version that is not the live one
    taken: int = 0  # inputs ever given to it: who had many has learned (caches, connections) what others would have to


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool at one moment. Containers that drain or stop are not in it."""

    queued: int
    inputs_per_container: int
    tasks: tuple[TaskView, ...]
    min_containers: int = 0
    max_containers: int = DEFAULT_MAX_CONTAINERS
    buffer_containers: int = 0
    scaledown_window_s: float = DEFAULT_SCALEDOWN_WINDOW_S
    service_s: float | None = None  # how long an input takes, as far as is known
    startup_s: float = STARTUP_S  # how long a container takes to its first input
    scaleup_window_s: float = 0.0  # more beside those that there are only once they have been too few for so long
    short_s: float = 0.0  # for how long they have been


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again (None: when something happens)."""

    start: int
    drain: tuple[str, ...]
    look_again_s: float | None
    is_short: bool = False  # more are wanted than there are


def plan(pool: PoolView) -> Plan:
    """Enough containers for all that is queued or running, within the limits; idle ones go after the window.

    Short inputs get fewer: as many containers as finish the load within the time that one more would take to start.
    """
    cut = False  # short inputs got fewer than one container each: they may turn out to be long
    load = pool.queued + sum(task.held_inputs for task in pool.tasks)
    needed = math.ceil(load / pool.inputs_per_container)
    if load and pool.service_s is not None:
        worthwhile = math.ceil(load * pool.service_s / (max(SHORTEST_STARTUP_S, pool.startup_s) * pool.inputs_per_container))
        cut = worthwhile < needed
        needed = min(needed, max(1, worthwhile))
    if load:
        needed += pool.buffer_containers
    wanted = max(pool.min_containers, min(needed, pool.max_containers))
    have = len(pool.tasks)
    if wanted > have:
        left_s = pool.scaleup_window_s - pool.short_s
        if have and left_s > 0:
            return Plan(max(0, pool.min_containers - have), (), left_s, is_short=True)
        return Plan(wanted - have, (), None, is_short=True)
    idle = sorted(
        (task for task in pool.tasks if not task.held_inputs and not task.starting),
        key=lambda task: (not task.is_outdated, -task.idle_s, task.taken),
    )
    surplus = have - wanted
    candidates = idle[:surplus]
    over_limit = max(0, have - max(pool.max_containers, pool.min_containers))
    drain = [task for number, task in enumerate(candidates) if number < over_limit or task.idle_s >= pool.scaledown_window_s]
    waiting = [pool.scaledown_window_s - task.idle_s for task in candidates if task not in drain]
    # A container that is busy now may be idle for the whole window by the time we look again, not earlier.
    look_again_s = min(waiting, default=pool.scaledown_window_s)
    if cut:
        look_again_s = min(look_again_s, max(SHORTEST_STARTUP_S, pool.startup_s))
    return Plan(0, tuple(task.task_id for task in drain), look_again_s if have else None)
