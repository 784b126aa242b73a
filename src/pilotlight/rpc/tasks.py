"""RPCs about running containers, and those that containers make which their node does not answer itself."""

from modal_proto import api_pb2

from pilotlight.control.apps import Apps
from pilotlight.control.environments import Environments
from pilotlight.control.live import LiveTask
from pilotlight.control.tasks import Tasks
from pilotlight.core import errors
from pilotlight.rpc.framework import Caller


class TaskHandlers:
    """Tasks as the client sees them."""

    def __init__(self, tasks: Tasks, apps: Apps, environments: Environments) -> None:
        self._tasks = tasks
        self._apps = apps
        self._environments = environments

    async def TaskList(self, caller: Caller, request: api_pb2.TaskListRequest) -> api_pb2.TaskListResponse:
        environment_id = self._environments.resolve(request.environment_name).environment_id
        reply = api_pb2.TaskListResponse()
        for task in sorted(self._tasks.all(), key=lambda task: task.created_at):
            app_id = task.pool.function.app_id
            app = await self._apps.row(app_id)
            if request.app_id not in ("", app_id) or app.environment_id != environment_id:
                continue
            reply.tasks.add(
                task_id=task.task_id,
                app_id=app_id,
                app_description=app.name or app.description,
                started_at=task.started_at,
                enqueued_at=task.created_at,
            )
        return reply

    async def TaskGetInfo(self, caller: Caller, request: api_pb2.TaskGetInfoRequest) -> api_pb2.TaskGetInfoResponse:
        row = await self._tasks.row(request.task_id)
        info = api_pb2.TaskInfo(
            id=row.task_id, started_at=row.started_at or 0.0, finished_at=row.finished_at or 0.0, enqueued_at=row.created_at
        )
        if row.finished_at is not None:
            ok = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
            failed = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
            info.result.status = failed if row.exit_code else ok
            info.result.exitcode, info.result.exception = row.exit_code or 0, row.message or ""
        return api_pb2.TaskGetInfoResponse(app_id=row.app_id, info=info)

    async def TaskCurrentInputs(self, caller: Caller, request: object) -> api_pb2.TaskCurrentInputsResponse:
        if caller.task_id is None:
            raise errors.InvalidInput("TaskCurrentInputs can only be asked from within a container.")
        task = self._tasks.get(caller.task_id)
        return api_pb2.TaskCurrentInputsResponse(input_ids=list(task.held) if task is not None else [])

    async def ContainerStop(self, caller: Caller, request: api_pb2.ContainerStopRequest) -> api_pb2.ContainerStopResponse:
        task = await self._live(request.task_id)
        if task is not None and request.graceful:
            self._tasks.drain(task, "it was asked to stop when its inputs are done")
        elif task is not None:
            self._tasks.stop(task, "it was stopped")
        return api_pb2.ContainerStopResponse()

    async def _live(self, task_id: str) -> LiveTask | None:
        """A task that runs; None for one that has ended. Raises NotFound."""
        if (task := self._tasks.get(task_id)) is None:
            await self._tasks.row(task_id)
        return task
