"""Starts and ends containers so that each pool has as many as the policy wants."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from modal_proto import api_pb2

from pilotlight.control.autoscalers import Autoscalers
from pilotlight.control.gpu_tasks import GpuTasks
from pilotlight.control.live import LiveTask, Pool
from pilotlight.control.needs import needs_of
from pilotlight.control.output_log import OutputLog
from pilotlight.control.pools import Pools
from pilotlight.control.tasks import Tasks
from pilotlight.core import scaling
from pilotlight.core.placement import Unplaced, place
from pilotlight.core.tasks import TaskState

log = structlog.get_logger()


@dataclass(slots=True)
class Report:
    """What a pass did."""

    looked_at: int = 0
    started: int = 0
    drained: int = 0
    unplaced: int = 0


class ScaleLoop:
    """Looks at the pools in which something happened, and at those whose time has come."""

    name = "scale"
    interval_s = 5.0
    calm_s = 0.01

    def __init__(
        self,
        pools: Pools,
        tasks: Tasks,
        autoscalers: Autoscalers,
        output_log: OutputLog,
        gpu_tasks: GpuTasks,
        clock: Callable[[], float],
    ) -> None:
        self._pools = pools
        self._autoscalers = autoscalers
        self._tasks = tasks
        self._output_log = output_log
        self._gpu_tasks = gpu_tasks
        self._clock = clock
        self._timers: dict[Pool, asyncio.TimerHandle] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self.wake = pools.changed

    async def run_once(self) -> Report:
        """Plan and act for every pool that asks for it."""
        report = Report()
        chosen = list(self._pools.dirty)
        self._pools.dirty.clear()
        for pool in chosen:
            report.looked_at += 1
            self._scale(pool, report)
        return report

    def _scale(self, pool: Pool, report: Report) -> None:
        if (timer := self._timers.pop(pool, None)) is not None:
            timer.cancel()
        now = self._clock()
        plan = scaling.plan(view_of(pool, self._autoscalers.settings_of(pool.function), now))
        for task_id in plan.drain:
            self._tasks.drain(pool.tasks[task_id], "idle")
            report.drained += 1
        look_again_s = plan.look_again_s
        if plan.start and not pool.closed:
            if now < pool.not_before:
                look_again_s = pool.not_before - now
            else:
                # After a failed start one container is tried at a time.
                wanted = 1 if pool.startup_failures else plan.start
                self._start(pool, wanted, report)
        elif pool.why_waiting:
            pool.why_waiting = ""
        pool.watched = look_again_s is not None
        if look_again_s is not None:
            self._timers[pool] = asyncio.get_running_loop().call_later(look_again_s, self._pools.touch, pool)

    def _start(self, pool: Pool, count: int, report: Report) -> None:
        needs = needs_of(pool.function)
        if pool.startup_failures and any(task.state is TaskState.STARTING for task in pool.tasks.values()):
            return
        for _ in range(count):
            placed = place(self._tasks.occupancy.views(), needs)
            if isinstance(placed, Unplaced):
                report.unplaced += 1
                report.drained += self._gpu_tasks.make_room(needs)
                self._say_why(pool, placed)
                return
            pool.why_waiting = ""
            task = self._tasks.reserve(pool, placed)
            starting = asyncio.get_running_loop().create_task(self._tasks.start(task))
            self._starting.add(starting)
            starting.add_done_callback(self._starting.discard)
            report.started += 1

    def _say_why(self, pool: Pool, unplaced: Unplaced) -> None:
        """Tell the program's author, once, what its inputs wait for."""
        if unplaced.momentary:
            self._pools.dirty.add(pool)  # the next container that is up, or the interval, brings us back
            return
        self._pools.dirty.add(pool)
        if pool.why_waiting != unplaced.why and pool.waiting:
            function = pool.function
            self._output_log.say(function.app_id, function.function_id, "", f"Function {function.tag} waits: {unplaced.why}\n")
            log.info("pool_waits", function_id=function.function_id, why=unplaced.why, inputs=pool.waiting)
        pool.why_waiting = unplaced.why


def view_of(pool: Pool, settings: api_pb2.AutoscalerSettings, now: float) -> scaling.PoolView:
    """What the policy needs to know of a pool."""
    tasks = pool.live_tasks()
    queued = pool.waiting
    if pool.rolling:  # the new version is to have as many as what the old one does asks for, and one at least
        queued += max(1, sum(task.load for task in tasks if task.is_outdated))
        tasks = [task for task in tasks if not task.is_outdated]
    return scaling.PoolView(
        queued=queued,
        inputs_per_container=1 if pool.single_use else pool.concurrency * max(1, pool.batch_size),
        tasks=tuple(_task_view(task, now) for task in tasks),
        min_containers=0 if pool.closed else settings.min_containers,
        max_containers=0 if pool.closed else settings.max_containers or scaling.DEFAULT_MAX_CONTAINERS,
        buffer_containers=settings.buffer_containers,
        service_s=pool.service_s(now),
        scaledown_window_s=settings.scaledown_window,
    )


def _task_view(task: LiveTask, now: float) -> scaling.TaskView:
    starting = task.state is TaskState.STARTING
    idle_s = 0.0 if starting or task.load else max(0.0, now - task.idle_since)
    return scaling.TaskView(task.task_id, starting, task.load, idle_s)
