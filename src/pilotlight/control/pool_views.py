"""A pool as the policies of scaling see it."""

from modal_proto import api_pb2

from pilotlight.control.live import LiveTask, Pool
from pilotlight.core import scaling
from pilotlight.core.tasks import TaskState


def view_of(pool: Pool, settings: api_pb2.AutoscalerSettings, now: float) -> scaling.PoolView:
    """What the policy needs to know of a pool. `now` is on the loop's clock."""
    tasks = pool.live_tasks()
    queued = pool.waiting
    if pool.rolling:  # the new version is to have as many as what the old one does asks for, and one at least
        queued += max(1, sum(task.load for task in tasks if task.is_outdated))
        tasks = [task for task in tasks if not task.is_outdated]
    # One that has had its only input and is about to end does nothing more for those who wait, but is there as far as limits go.
    spent = sum(_is_spent(task) for task in tasks)
    tasks = [task for task in tasks if not _is_spent(task)]
    most = settings.max_containers or scaling.DEFAULT_MAX_CONTAINERS
    return scaling.PoolView(
        queued=queued,
        inputs_per_container=1 if pool.single_use else pool.concurrency * max(1, pool.batch_size),
        tasks=tuple(_task_view(task, now) for task in tasks),
        min_containers=0 if pool.closed else settings.min_containers,
        max_containers=0 if pool.closed else max(0, most - spent),
        buffer_containers=settings.buffer_containers,
        service_s=pool.service_s(now),
        startup_s=pool.mean_startup_s or scaling.STARTUP_S,
        scaleup_window_s=settings.scaleup_window,
        short_s=now - pool.short_since if pool.short_since is not None else 0.0,
        scaledown_window_s=settings.scaledown_window,
    )


def _is_spent(task: LiveTask) -> bool:
    return task.pool.single_use and task.state is TaskState.READY and task.taken > 0 and not task.load


def _task_view(task: LiveTask, now: float) -> scaling.TaskView:
    starting = task.state is TaskState.STARTING
    idle_s = 0.0 if starting or task.load else max(0.0, now - task.idle_since)
    return scaling.TaskView(task.task_id, starting, task.load, idle_s, task.is_outdated, task.taken)
