"""Containers and the GPUs that they have: what becomes of them when a GPU fails, or when others wait for it."""

import asyncio
from collections.abc import Sequence

import structlog

from pilotlight.control.autoscalers import Autoscalers
from pilotlight.control.live import LiveTask, Pool
from pilotlight.control.nodes import Nodes
from pilotlight.control.output_log import OutputLog
from pilotlight.control.pools import Pools
from pilotlight.control.tasks import Tasks
from pilotlight.core.gpus import Holder, to_end_for
from pilotlight.core.placement import Need
from pilotlight.core.tasks import TaskState
from pilotlight.wire import platform_pb2

log = structlog.get_logger()


class GpuTasks:
    """Ends containers for the sake of their GPUs. Lives on the event loop's thread."""

    def __init__(self, *, tasks: Tasks, nodes: Nodes, pools: Pools, autoscalers: Autoscalers, output_log: OutputLog) -> None:
        self._tasks = tasks
        self._nodes = nodes
        self._pools = pools
        self._autoscalers = autoscalers
        self._output_log = output_log
        nodes.gpus.on_free.append(pools.changed.set)

    @property
    def in_use(self) -> int:
        """Devices that containers and builds have."""
        return self._nodes.gpus.in_use

    def failed(self, node_id: str, event: platform_pb2.GpuHealth) -> None:
        """A device does not work as it should: nobody gets it any more, and who has it ends with what it works on."""
        for task_id in self._nodes.gpus.fail(node_id, event.uuid, event.problem):
            task = self._tasks.get(task_id)
            if task is None:
                continue
            function = task.pool.function
            text = f"GPU {event.uuid} of container {task_id} failed: {event.problem}. The container takes no more inputs.\n"
            self._output_log.say(function.app_id, function.function_id, task_id, text, function.parent_id or "")
            self._tasks.drain(task, "gpu_failed")
            self._pools.touch(task.pool)

    def make_room(self, needs: Sequence[Need]) -> int:
        """Have idle containers end whose GPUs one of these needs would run on; how many. They stay where it would not help."""
        wishes = [need.gpu for need in needs if need.gpu is not None]
        if not wishes:
            return 0
        chosen = to_end_for(wishes, self._nodes.gpus.free_by_node(), self._holders())
        for task_id in chosen:
            if (task := self._tasks.get(task_id)) is not None:
                log.info("gpu_reclaimed", task_id=task_id, function_id=task.pool.function_id)
                self._tasks.drain(task, "its GPU was needed elsewhere")
        return len(chosen)

    def _holders(self) -> list[Holder]:
        gpus = self._nodes.gpus
        spare: dict[Pool, set[LiveTask]] = {}
        holders: list[Holder] = []
        now = asyncio.get_running_loop().time()
        for holder, holding in gpus.holdings():
            if (task := self._tasks.get(holder)) is None:
                continue  # a build, or a container that nobody knows
            if task.pool not in spare:
                spare[task.pool] = self._spare(task.pool)
            kind = gpus.kind_of(holding.node_id, holding.uuids)
            leaving = task.state in (TaskState.STOPPING, TaskState.DRAINING)
            idle_s = now - task.idle_since if task in spare[task.pool] else None
            holders.append(Holder(task.task_id, holding.node_id, kind, len(holding.uuids), idle_s, leaving))
        return holders

    def _spare(self, pool: Pool) -> set[LiveTask]:
        """Containers that have nothing to do, less those that are to be kept warm."""
        if pool.waiting:
            return set()
        live = pool.live_tasks()
        idle = [task for task in live if task.state is TaskState.READY and not task.load]
        kept = 0 if pool.closed else self._autoscalers.settings_of(pool.function).min_containers
        idle.sort(key=lambda task: task.idle_since)
        return set(idle[: max(0, len(live) - kept)])
