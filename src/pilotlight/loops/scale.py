"""Starts and ends containers so that each pool has as many as the policy wants, and the nodes have room for."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from pilotlight.control.autoscalers import Autoscalers
from pilotlight.control.crash_loops import not_before
from pilotlight.control.gpu_tasks import GpuTasks
from pilotlight.control.live import Pool
from pilotlight.control.needs import needs_of
from pilotlight.control.pool_views import view_of
from pilotlight.control.pools import Pools
from pilotlight.control.spare_tasks import SpareTasks
from pilotlight.control.tasks import Tasks
from pilotlight.control.unplaced import UnplacedPools
from pilotlight.core import scaling
from pilotlight.core.placement import Need, NodeView, Placed, Unplaced, place
from pilotlight.core.quotas import Quota
from pilotlight.core.tasks import TaskState
from pilotlight.core.turns import Claim, Turns

log = structlog.get_logger()

STARTS_PER_PASS = 100
FIRST_ONES = 1  # containers of pools without any that may start on a node beside those that start there already


@dataclass(slots=True)
class Report:
    """What a pass did."""

    looked_at: int = 0
    started: int = 0
    drained: int = 0
    unplaced: int = 0


class ScaleLoop:
    """Looks at the pools in which something happened, whose time has come, or for which there may be room now."""

    name = "scale"
    interval_s = 5.0
    calm_s = 0.01

    def __init__(
        self,
        *,
        pools: Pools,
        tasks: Tasks,
        autoscalers: Autoscalers,
        unplaced: UnplacedPools,
        gpu_tasks: GpuTasks,
        spare: SpareTasks,
        quota: Quota,
        clock: Callable[[], float],
    ) -> None:
        self._pools = pools
        self._autoscalers = autoscalers
        self._tasks = tasks
        self._unplaced = unplaced
        self._gpu_tasks = gpu_tasks
        self._spare = spare
        self._quota = quota
        self._clock = clock
        self._timers: dict[Pool, asyncio.TimerHandle] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._short = pools.short
        self._freed = -1
        self.wake = pools.changed

    async def run_once(self) -> Report:
        """Plan for every pool that asks for it, then start what they want, one container each in turn."""
        report = Report()
        occupancy = self._tasks.occupancy
        nodes = occupancy.views()
        dirty = self._pools.dirty
        has_room = occupancy.freed != self._freed or any(task.is_idle for pool in dirty for task in pool.tasks.values())
        chosen = (dict.fromkeys(self._short) if has_room else {}) | dirty
        dirty.clear()
        wishes = [(pool, wanted) for pool in chosen if (wanted := self._plan(pool, report))]
        turns = Turns([Claim(len(pool.live_tasks()), wanted) for pool, wanted in wishes])
        refused: dict[object, Unplaced] = {}
        for number in turns:
            pool = wishes[number][0]
            if report.started >= STARTS_PER_PASS:
                self._pools.touch(pool)  # its turn is in the next pass: others are served in between
                turns.leave(number)
                continue
            if (unplaced := self._start(pool, nodes, refused, report)) is not None:
                turns.leave(number)
                self._wait(pool, unplaced, report)
        self._freed = occupancy.freed
        self._pools.is_room_wanted = any(self._short.values())
        return report

    def _plan(self, pool: Pool, report: Report) -> int:
        """End the containers that are too many; returns how many there are too few."""
        report.looked_at += 1
        if (timer := self._timers.pop(pool, None)) is not None:
            timer.cancel()
        now = self._clock()
        plan = scaling.plan(view_of(pool, self._autoscalers.settings_of(pool.function), now))
        if not plan.is_short:
            pool.short_since = None
        elif pool.short_since is None:
            pool.short_since = now
        for task_id in plan.drain:
            self._tasks.drain(pool.tasks[task_id], "idle")
            report.drained += 1
        look_again_s, wanted = plan.look_again_s, 0
        if plan.start and not pool.closed:
            if now < (earliest := not_before(pool)):
                look_again_s = earliest - now
            elif not pool.startup_failures:
                wanted = plan.start
            else:  # after a failed start one container is tried at a time
                wanted = int(not any(task.state is TaskState.STARTING for task in pool.tasks.values()))
        else:
            self._unplaced.clear(pool)
        if not wanted:
            self._short.pop(pool, None)
        self._look_again(pool, look_again_s)
        return wanted

    def _look_again(self, pool: Pool, in_s: float | None) -> None:
        pool.watched = in_s is not None
        if in_s is not None:
            self._timers[pool] = asyncio.get_running_loop().call_later(in_s, self._pools.touch, pool)

    def _start(self, pool: Pool, nodes: Sequence[NodeView], refused: dict[object, Unplaced], report: Report) -> Unplaced | None:
        """One container, if there is a place. What was refused once in a pass is not looked for again."""
        needs = needs_of(pool.function)
        is_first = not pool.live_tasks()
        key = (is_first, *map(_key, needs))
        if (known := refused.get(key)) is not None:
            return known
        placed = self._place(nodes, needs, is_first=is_first)
        if isinstance(placed, Placed):
            self._unplaced.clear(pool)
            task = self._tasks.reserve(pool, placed)
            starting = asyncio.get_running_loop().create_task(self._tasks.start(task))
            self._starting.add(starting)
            starting.add_done_callback(self._starting.discard)
            report.started += 1
            return None
        refused[key] = placed
        if not placed.momentary:
            report.drained += self._spare.end_one() if placed.is_quota else self._spare.make_room(needs)
        return placed

    def _place(self, nodes: Sequence[NodeView], needs: Sequence[Need], *, is_first: bool) -> Placed | Unplaced:
        in_use = self._gpu_tasks.in_use if self._quota.max_gpus else 0
        allowed = self._quota.allowed(needs, self._tasks.occupancy.containers, in_use)
        if isinstance(allowed, Unplaced):
            return allowed
        placed = place(nodes, [needs[number] for number in allowed], FIRST_ONES if is_first else 0)
        return replace(placed, rank=allowed[placed.rank]) if isinstance(placed, Placed) else placed

    def _wait(self, pool: Pool, unplaced: Unplaced, report: Report) -> None:
        report.unplaced += 1
        self._short[pool] = not unplaced.never
        in_s = self._unplaced.note(pool, unplaced, self._clock())
        if in_s is not None and pool not in self._timers:
            self._timers[pool] = asyncio.get_running_loop().call_later(in_s, self._pools.touch, pool)


def _key(need: Need) -> object:
    return need.milli_cpu, need.memory_mib, need.gpu, tuple(sorted((name, *sorted(values)) for name, values in need.labels.items()))
