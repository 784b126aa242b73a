"""Containers that have nothing to do end before their time where others wait for their room."""

import asyncio
from collections.abc import Sequence

import structlog

from pilotlight.control.autoscalers import Autoscalers
from pilotlight.control.gpu_tasks import GpuTasks
from pilotlight.control.live import LiveTask, Pool
from pilotlight.control.tasks import Tasks
from pilotlight.core.placement import Need
from pilotlight.core.room import Occupant, longest_idle, to_end_for_room
from pilotlight.core.tasks import TaskState

log = structlog.get_logger()

LEAVING = (TaskState.STOPPING, TaskState.DRAINING)


class SpareTasks:
    """Lives on the event loop's thread."""

    def __init__(self, *, tasks: Tasks, autoscalers: Autoscalers, gpu_tasks: GpuTasks) -> None:
        self._tasks = tasks
        self._autoscalers = autoscalers
        self._gpu_tasks = gpu_tasks

    def make_room(self, needs: Sequence[Need]) -> int:
        """Have containers end so that one of these needs can be met; how many. None does where it would not help."""
        if any(need.gpu is not None for need in needs):
            return self._gpu_tasks.make_room(needs)
        return self._end(to_end_for_room(needs[0], self._tasks.occupancy.views(), self._occupants()))

    def end_one(self) -> int:
        """Have the container end that has been idle longest, unless one is about to end anyway; how many."""
        occupants = self._occupants()
        if any(one.is_leaving for one in occupants):
            return 0
        return self._end([one.task_id for one in longest_idle(occupants)[:1]])

    def _end(self, chosen: Sequence[str]) -> int:
        for task_id in chosen:
            if (task := self._tasks.get(task_id)) is not None:
                log.info("room_reclaimed", task_id=task_id, function_id=task.pool.function_id)
                self._tasks.drain(task, "its room was needed elsewhere")
        return len(chosen)

    def _occupants(self) -> list[Occupant]:
        now = asyncio.get_running_loop().time()
        spare: dict[Pool, set[LiveTask]] = {}
        found: list[Occupant] = []
        for task in self._tasks.all():
            if task.pool not in spare:
                spare[task.pool] = self._spare(task.pool)
            idle_s = now - task.idle_since if task in spare[task.pool] else None
            leaving = task.state in LEAVING
            found.append(Occupant(task.task_id, task.node_id, task.milli_cpu, task.memory_mib, idle_s, leaving))
        return found

    def _spare(self, pool: Pool) -> set[LiveTask]:
        """Those without anything to do, less those that are to be kept warm."""
        if pool.waiting:
            return set()
        live = pool.live_tasks()
        idle = sorted((task for task in live if task.is_idle), key=lambda task: task.idle_since)
        kept = 0 if pool.closed else self._autoscalers.settings_of(pool.function).min_containers
        return set(idle[: max(0, len(live) - kept)])
