"""Tasks: containers from the wish to their end; what follows from that is in `task_ends`."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from modal_proto import api_pb2
from sqlalchemy import Row

from pilotlight.control.apps import Apps
from pilotlight.control.bucket_mounts import look_up_buckets
from pilotlight.control.calls import Calls
from pilotlight.control.images import Images
from pilotlight.control.live import LiveInput, LiveTask, Pool
from pilotlight.control.mounts import Mounts
from pilotlight.control.needs import needs_of
from pilotlight.control.nodes import Nodes
from pilotlight.control.occupancy import Occupancy
from pilotlight.control.output_log import OutputLog
from pilotlight.control.pools import Pools
from pilotlight.control.secrets import Secrets
from pilotlight.control.task_ends import TaskEnds
from pilotlight.control.volume_mounts import look_up_mounts, mounts_of
from pilotlight.core import errors, ids
from pilotlight.core.placement import Placed
from pilotlight.core.tasks import TaskEvent, TaskState
from pilotlight.store import tasks as store
from pilotlight.store.database import Database
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

Result = api_pb2.GenericResult

DEFAULT_INPUT_TIMEOUT_S = 300
DEFAULT_STARTUP_TIMEOUT_S = 300
GRACE_PERIOD_S = 10  # for a container that was asked to end
APP_STOPPED = "its app has stopped"


class Tasks:
    """All containers that run or are about to."""

    def __init__(
        self,
        *,
        database: Database,
        pools: Pools,
        calls: Calls,
        nodes: Nodes,
        apps: Apps,
        images: Images,
        mounts: Mounts,
        secrets: Secrets,
        output_log: OutputLog,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._pools = pools
        self._calls = calls
        self._nodes = nodes
        self._apps = apps
        self._images = images
        self._mounts = mounts
        self._secrets = secrets
        self._now = now
        self.occupancy = Occupancy(nodes)
        self.ends = TaskEnds(database=database, pools=pools, calls=calls, output_log=output_log, now=now)
        self.starts: Counter[str] = Counter(warm=0, ordinary=0)  # containers, by the way of their start
        self._live: dict[str, LiveTask] = {}
        self._storing: set[tuple[str, int]] = set()  # (task, batch) of outputs on their way to the disk
        self.on_serving: Callable[[Pool], None] = lambda pool: None  # a container takes requests now, or takes no more
        self.on_end: Callable[[LiveTask], None] = lambda task: None
        pools.force_stop = lambda task, reason: self.stop(task, reason, force=True)

    # ---- looking ----

    def get(self, task_id: str) -> LiveTask | None:
        return self._live.get(task_id)

    def all(self) -> list[LiveTask]:
        return list(self._live.values())

    def of_app(self, app_id: str) -> list[LiveTask]:
        return [task for task in self._live.values() if task.pool.function.app_id == app_id]

    def may_speak(self, app_id: str) -> bool:
        """Whether a container of the app may still print something: it works, or has exit hooks (which only classes have)."""
        return any(task.load or task.pool.definition.is_class for task in self.of_app(app_id))

    async def row(self, task_id: str) -> Row[*tuple[Any, ...]]:
        """The books of a task, running or not. Raises NotFound."""
        row = await self._database.read(lambda connection: store.task_row(connection, task_id))
        if row is None:
            raise errors.NotFound(f"There is no container {task_id}. `modal container list` shows those that run.")
        return row

    # ---- starting and stopping ----

    def reserve(self, pool: Pool, placed: Placed) -> LiveTask:
        """Take the place of one more container on a node, and the GPUs there."""
        need = needs_of(pool.function)[placed.rank]
        task = LiveTask(
            task_id=ids.new(ids.TASK),
            pool=pool,
            node_id=placed.node_id,
            definition_id=pool.function.definition_id,
            definition=pool.definition,
            milli_cpu=need.milli_cpu,
            memory_mib=need.memory_mib,
            created_at=self._now(),
            slots=pool.concurrency * max(1, pool.batch_size),
        )
        if need.gpu is not None:
            taken = self._nodes.gpus.take(task.task_id, placed.node_id, placed.gpu_kind, need.gpu.count)
            assert taken, f"{placed} has no {need.gpu}"  # a container without its GPU would be worse than none
        self._hold(task)
        return task

    def _hold(self, task: LiveTask) -> None:
        self._live[task.task_id] = task
        task.pool.tasks[task.task_id] = task
        self.occupancy.take(task)

    def _move(self, task: LiveTask, event: TaskEvent) -> bool:
        moved = task.move(event)
        if moved:
            self.occupancy.begun(task)
        return moved

    async def start(self, task: LiveTask) -> None:
        """Send a reserved container to its node."""
        pool, node_id = task.pool, task.node_id
        try:
            command = await self._start_command(task)
        except errors.PilotlightError as error:
            await self._never_started(task, str(error))
            return
        row = {
            "task_id": task.task_id,
            "function_id": pool.function_id,
            "definition_id": task.definition_id,
            "app_id": pool.function.app_id,
            "node_id": node_id,
            "state": task.state.value,
            "created_at": task.created_at,
            "milli_cpu": task.milli_cpu,
            "memory_mib": task.memory_mib,
            "gpu_uuids": list(command.gpu_uuids),
        }
        self._database.write_unattended(lambda connection: store.insert_task(connection, row), "a container")
        if self._nodes.get(node_id) is None or task.state is not TaskState.STARTING:
            await self._never_started(task, "its node has gone" if task.state is TaskState.STARTING else "it was stopped")
            return
        command.first_inputs.extend(self._pools.first_inputs(task))
        self._nodes.send(node_id, platform_pb2.NodeCommand(start_task=command))
        log.info("task_sent", task_id=task.task_id, function_id=pool.function_id, node_id=node_id)

    async def _start_command(self, task: LiveTask) -> platform_pb2.StartTask:
        pool, function = task.pool, task.pool.definition
        app = await self._apps.get(pool.function.app_id)
        image = await self._images.built(function.image_id)
        dependencies = [dependency.object_id for dependency in function.object_dependencies]
        arguments = api_pb2.ContainerArguments(
            task_id=task.task_id,
            function_id=pool.function_id,
            app_id=pool.function.app_id,
            function_def=function,
            serialized_params=pool.function.params,
            environment_name=app.environment_name,
            app_layout=await self._apps.layout(pool.function.app_id, dependencies),
        )
        resources = function.resources
        gpus = self._nodes.gpus.held_by(task.task_id)
        return platform_pb2.StartTask(
            task_id=task.task_id,
            arguments=arguments.SerializeToString(),
            layers=image.layers,
            image_config=image.config,
            image_id=function.image_id,
            mounts=[await self._mounts.get(mount_id) for mount_id in function.mount_ids],
            volumes=await look_up_mounts(self._database, mounts_of(function), f"Function {pool.function.tag!r}"),
            buckets=await look_up_buckets(self._secrets, function.cloud_bucket_mounts, f"Function {pool.function.tag!r}"),
            secrets=await self._secrets.environment_of(list(function.secret_ids)),
            client_version=pool.function.client_version,
            image_builder_version=image.builder_version,
            mount_client_dependencies=function.mount_client_dependencies,
            environment_name=app.environment_name,
            milli_cpu=task.milli_cpu,
            milli_cpu_limit=resources.milli_cpu_max,
            memory_mib=task.memory_mib,
            memory_limit_mib=resources.memory_mb_max,
            ephemeral_disk_mib=resources.ephemeral_disk_mb,
            startup_timeout_s=function.startup_timeout_secs or function.timeout_secs or DEFAULT_STARTUP_TIMEOUT_S,
            input_timeout_s=function.timeout_secs or DEFAULT_INPUT_TIMEOUT_S,
            block_network=function.block_network,
            max_concurrent_inputs=pool.max_concurrency,
            batch_max_size=function.batch_max_size,
            batch_linger_ms=function.batch_linger_ms,
            grace_period_s=GRACE_PERIOD_S,
            single_use=pool.single_use,
            server=server_of(function),
            gpu_uuids=gpus.uuids if gpus is not None else (),
        )

    def stop(self, task: LiveTask, reason: str, *, force: bool = False, grace_s: float = 0.0) -> None:
        """End a container: at once, or after asking it. `grace_s` may shorten the time that its function gives it for that."""
        if not self._move(task, TaskEvent.STOP) and not force and not grace_s:
            return
        self.on_serving(task.pool)
        task.stop_reason = task.stop_reason or reason
        command = platform_pb2.StopTask(task_id=task.task_id, reason=reason, force=force, grace_ms=round(grace_s * 1000))
        self._nodes.send(task.node_id, platform_pb2.NodeCommand(stop_task=command))
        self._record_leaving(task)

    def drain(self, task: LiveTask, reason: str) -> None:
        """Let a container finish what it has, and then end."""
        if not self._move(task, TaskEvent.DRAIN):
            return
        self.on_serving(task.pool)
        task.stop_reason = reason
        if task.state is TaskState.STOPPING:
            command = platform_pb2.NodeCommand(stop_task=platform_pb2.StopTask(task_id=task.task_id, reason=reason))
        else:
            command = platform_pb2.NodeCommand(drain=platform_pb2.DrainTask(task_id=task.task_id))
        self._nodes.send(task.node_id, command)
        self._record_leaving(task)

    def _record_leaving(self, task: LiveTask) -> None:
        """The next server is to know that this container was told to end, and why."""
        values = {"state": task.state.value, "reason": task.stop_reason}
        self._database.write_unattended(
            lambda connection: store.update_task(connection, task.task_id, **values), "that a container is to end"
        )

    # ---- what nodes report ----

    def started(self, event: platform_pb2.TaskStarted) -> None:
        if (task := self._live.get(event.task_id)) is not None:
            task.address = event.address
            self.starts["warm" if event.warm else "ordinary"] += 1
            at = task.started_at = self._now()
            self._database.write_unattended(
                lambda connection: store.update_task(connection, event.task_id, started_at=at), "the start of a container"
            )

    def ready(self, task_id: str, address: str = "") -> None:
        """The container has imported the user's code and asks for its first input; or its port answers."""
        task = self._live.get(task_id)
        if task is None or not self._move(task, TaskEvent.ASK):
            return
        node = self._nodes.get(task.node_id)
        task.address, task.web_node = address, node.web_address if node is not None else ""
        self.on_serving(task.pool)
        if task.pool.rolling and not task.is_outdated:
            self.replace(task.pool, gently=False)
        at = task.ready_at = self._now()
        task.pool.started_up(max(0.0, at - task.created_at))
        task.idle_since = asyncio.get_running_loop().time()
        for item in task.held.values():
            item.leased_at = task.idle_since  # what it took along begins now
        task.pool.startup_failures = task.pool.startup_faults = 0
        self._pools.pump(task.pool)
        self._pools.touch(task.pool)
        self._database.write_unattended(
            lambda connection: store.update_task(connection, task_id, ready_at=at, state=TaskState.READY.value),
            "the readiness of a container",
        )

    def replace(self, pool: Pool, *, gently: bool) -> None:
        """A newer version is live: containers of the one before finish what they have.

        Gently: where they serve the web, they go on until a container of the new version can.
        """
        outdated = [task for task in pool.live_tasks() if task.is_outdated]
        pool.rolling = gently and pool.is_web and any(task.state is TaskState.READY for task in outdated)
        for task in outdated:
            if not pool.rolling or task.state is TaskState.STARTING:
                self.drain(task, "a newer version was deployed")

    def failed(self, event: platform_pb2.TaskFailure) -> None:
        """The container says itself why it can't run (an import that fails, an enter hook that raises)."""
        if (task := self._live.get(event.task_id)) is not None:
            task.failure = Result.FromString(event.result)

    async def outputs(self, event: platform_pb2.Outputs) -> None:
        """Keep what a container computed, then let it know."""
        request = api_pb2.FunctionPutOutputsRequest.FromString(event.request)
        stored = platform_pb2.OutputsStored(task_id=event.task_id, batch=event.batch)
        task = self._live.get(event.task_id)
        if task is not None:
            key = (event.task_id, event.batch)
            if key in self._storing:
                return  # sent again while it is on its way to the disk: the first of them is answered
            self._storing.add(key)
            try:
                await self._calls.record(task, request.outputs)
            except errors.DiskFull as error:
                log.error("outputs_not_stored", task_id=event.task_id, cause=str(error))
                stored.error = str(error)
            except Exception as error:
                log.error("outputs_not_stored", task_id=event.task_id, exc_info=error)
                stored.error = "The platform could not store the outputs."
            finally:
                self._storing.discard(key)
            self._nodes.send_along(task.node_id, platform_pb2.NodeCommand(outputs_stored=stored))

    async def returned(self, event: platform_pb2.InputsReturned) -> None:
        """Inputs that were given ahead come back, for whoever can start them sooner."""
        if (task := self._live.get(event.task_id)) is not None:
            await self.take_back(task, [task.held[input_id] for input_id in event.input_ids if input_id in task.held])
            self._pools.pump(task.pool)

    async def take_back(self, task: LiveTask, items: Sequence[LiveInput]) -> None:
        """A container does not have these and never began them: they go to the head of the queue, or end if they were cancelled."""
        ended = [item for item in items if item.call.cancelled or task.pool.closed]
        for item in reversed(items):
            if item not in ended:
                self._pools.give_back(item)
                task.taken -= 1
        await self._calls.fail(ended, Result(status=Result.GENERIC_STATUS_TERMINATED), task.task_id)

    async def timed_out(self, event: platform_pb2.InputTimedOut) -> None:
        """Inputs ran longer than their function allows; their container is being killed by its node."""
        task = self._live.get(event.task_id)
        if task is None:
            return
        late = [task.held[input_id] for input_id in event.input_ids if input_id in task.held]
        task.stop_reason = "input_timeout"
        self._move(task, TaskEvent.STOP)
        self.on_serving(task.pool)
        message = f"Task's current input in {task.task_id} hit its timeout of {event.timeout_s}s"
        self.ends.say(task, message + "\n")
        result = Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=message)
        await self._calls.fail(late, result, task.task_id, may_retry=True)

    async def exited(self, event: platform_pb2.TaskExited) -> None:
        """A container is gone: give back what it held, learn from it, close its books."""
        self._nodes.gpus.release(event.task_id)
        task = self._live.pop(event.task_id, None)
        if task is None:
            return
        self.occupancy.release(task)
        pool = task.pool
        pool.tasks.pop(task.task_id, None)
        self.on_serving(pool)
        self.on_end(task)
        self._move(task, TaskEvent.EXIT)
        if task.recall is not None:
            task.recall.cancel()
        await self.ends.settle(task, event)

    async def _never_started(self, task: LiveTask, message: str) -> None:
        await self.exited(
            platform_pb2.TaskExited(task_id=task.task_id, exit_code=1, reason="setup_failed", message=message, at_ns=time.time_ns())
        )

    # ---- nodes that come and go ----

    def adopt(
        self, node_id: str, held: Sequence[platform_pb2.HeldTask], waiting: dict[str, LiveInput], web_address: str = ""
    ) -> list[str]:
        """Take over the containers that a node has kept through a restart of ours; returns those that nobody knows."""
        unknown: list[str] = []
        for kept in held:
            task = self._live.get(kept.task_id)
            self._nodes.gpus.keep(kept.task_id, node_id, kept.gpu_uuids)  # until it has ended, even if nobody knows it
            if task is None:
                unknown.append(kept.task_id)
                continue
            task.node_id, task.web_node, task.address = node_id, web_address, kept.address
            if kept.ready and self._move(task, TaskEvent.ASK):
                task.idle_since = asyncio.get_running_loop().time()
                task.ready_at = task.ready_at or self._now()
                self._pools.touch(task.pool)  # it may never get an input, whose end would have its pool thought over
            if task.state is TaskState.READY:
                self.on_serving(task.pool)
                if task.is_outdated:
                    self.replace(task.pool, gently=True)
            for entry in kept.inputs:
                item = waiting.get(entry.input_id)
                if item is not None and item.retry_count == entry.attempt:
                    self._pools.adopt(task, waiting.pop(entry.input_id))
        return unknown

    def repeat_commands(self, node_id: str) -> None:
        """Tell a node that was away what it may have missed: which of its containers shall end, which inputs were cancelled."""
        for task in [task for task in self._live.values() if task.node_id == node_id]:
            if task.state is TaskState.STOPPING:
                command = platform_pb2.StopTask(task_id=task.task_id, reason=task.stop_reason)
                self._nodes.send(node_id, platform_pb2.NodeCommand(stop_task=command))
            elif task.state is TaskState.DRAINING:
                self._nodes.send(node_id, platform_pb2.NodeCommand(drain=platform_pb2.DrainTask(task_id=task.task_id)))
            self._pools.interrupt([item for item in task.held.values() if item.call.cancelled], terminate_containers=False)

    async def restore(self) -> None:
        """Rebuild the live tasks from the rows; those that no node reports are lost (see `lose`)."""
        for row in await self._database.read(store.unfinished_tasks):
            try:
                pool = await self._pools.even_of_stopped(row.function_id)
            except errors.PilotlightError as error:
                log.warning("task_without_function", task_id=row.task_id, error=str(error))
                continue
            task = LiveTask(
                task_id=row.task_id,
                pool=pool,
                node_id=row.node_id,
                definition_id=row.definition_id,
                definition=await self._pools.definition_of(pool, row.definition_id),
                milli_cpu=row.milli_cpu,
                memory_mib=row.memory_mib,
                created_at=row.created_at,
                slots=pool.concurrency * max(1, pool.batch_size),
                started_at=row.started_at or 0.0,
                ready_at=row.ready_at or 0.0,
            )
            if (state := TaskState(row.state)) in (TaskState.DRAINING, TaskState.STOPPING):
                task.state, task.stop_reason = state, row.reason or "stopped"
            if pool.closed and task.move(TaskEvent.STOP):
                task.stop_reason = task.stop_reason or APP_STOPPED
            self._nodes.gpus.keep(task.task_id, task.node_id, row.gpu_uuids)
            self._hold(task)

    async def lose(self, node_id: str, kept: Sequence[str]) -> None:
        """A node does not have these tasks (any more): they died with all they held."""
        for task in [task for task in self._live.values() if task.node_id == node_id and task.task_id not in kept]:
            task.stop_reason = task.stop_reason or "lost with its node"
            lost = platform_pb2.TaskExited(task_id=task.task_id, exit_code=137, reason="lost", message="its node agent went away")
            await self.exited(lost)


def server_of(function: api_pb2.Function) -> platform_pb2.ContainerServer | None:
    """What a container of a modal.Server listens on; None for one that asks for inputs."""
    if not function.is_server:
        return None
    http = function.http_config
    return platform_pb2.ContainerServer(
        port=http.port, startup_timeout_s=http.startup_timeout, exit_grace_period_s=http.exit_grace_period
    )
