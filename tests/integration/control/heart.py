"""The server's use cases over a real database, and a node that does what a test says."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from modal_proto import api_pb2

from pilotlight.config import Settings
from pilotlight.control.apps import AppRecord
from pilotlight.control.live import LiveCall, LiveTask, Pool
from pilotlight.control.nodes import NodeSession
from pilotlight.control.outputs import Outputs, Wish
from pilotlight.core import ids
from pilotlight.core.placement import Placed
from pilotlight.server import Server
from pilotlight.store import images as image_rows
from pilotlight.wire import platform_pb2

DEADLINE_S = 60
Result = api_pb2.GenericResult
SYNC = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
ASYNC = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
UNARY = api_pb2.FUNCTION_CALL_TYPE_UNARY
MAP = api_pb2.FUNCTION_CALL_TYPE_MAP
IMAGE_ID = ids.derived(ids.IMAGE, "test")


class Heart:
    """A server that listens to nobody."""

    def __init__(self, state: Path) -> None:
        self.settings = Settings(state=state, synchronous="NORMAL")
        self.server: Server

    async def open(self) -> None:
        self.server = await Server.open(self.settings)

    async def close(self) -> None:
        await self.server.close()

    async def restart(self) -> None:
        """New objects on the same rows, as after a crash."""
        await self.close()
        await self.open()

    async def define(self, name: str = "f", ranked: Sequence[api_pb2.FunctionData.RankedFunction] = (), **fields: Any) -> str:
        """A function of an app of its own, published; returns its id. `ranked` hold what differs by rank, such as GPUs."""
        await self._image()
        request = api_pb2.AppCreateRequest(description=name, app_state=api_pb2.APP_STATE_DETACHED)
        app = await self.server.apps.create(request, "1.6.4", f"app {name}")
        function = api_pb2.Function(function_name=name, image_id=IMAGE_ID, **fields)
        create = api_pb2.FunctionCreateRequest(app_id=app.app_id, function=function)
        for entry in ranked:
            entry.function.MergeFrom(function)
            create.function_data.ranked_functions.append(entry)
        return await self._publish(name, app, create, f"function {name}")

    async def redefine(self, name: str, function_id: str, **fields: Any) -> None:
        """A newer version of a function, published."""
        record = await self.server.functions.get(function_id)
        app = await self.server.apps.get(record.app_id)
        function = api_pb2.Function(function_name=name, image_id=IMAGE_ID, **fields)
        create = api_pb2.FunctionCreateRequest(app_id=app.app_id, function=function, existing_function_id=function_id)
        await self._publish(name, app, create, ids.new("key"))

    async def _publish(self, name: str, app: AppRecord, create: api_pb2.FunctionCreateRequest, key: str) -> str:
        naming = self.server.web_routes.naming(app)
        function_id, _, handle = await self.server.functions.create(create, "1.6.4", key, naming=naming)
        await self.server.apps.publish(
            api_pb2.AppPublishRequest(
                app_id=app.app_id,
                app_state=app.state,
                name=app.title,
                function_ids={name: function_id},
                definition_ids={function_id: handle.definition_id},
            ),
            "test",
            "1.6.4",
        )
        return function_id

    async def _image(self) -> None:
        row = {
            "image_id": IMAGE_ID,
            "definition": b"",
            "builder_version": "2025.06",
            "client_version": "1.6.4",
            "state": "built",
            "layers": [],
            "config": b"",
            "metadata": b"",
            "created_at": 1.0,
        }
        await self.server.database.write(lambda connection: image_rows.insert_image(connection, row))

    async def pool(self, function_id: str) -> Pool:
        return await self.server.pools.of_function(function_id)

    async def call(
        self, function_id: str, count: int = 1, key: str = "key", kind: int = UNARY, invocation: int = SYNC, **options: Any
    ) -> LiveCall:
        """A call with that many inputs, whose arguments are their numbers."""
        request = api_pb2.FunctionMapRequest(
            function_id=function_id,
            function_call_type=kind,  # type: ignore[arg-type]
            function_call_invocation_type=invocation,  # type: ignore[arg-type]
            pipelined_inputs=[put_item(number) for number in range(count)],
        )
        call, _ = await self.server.calls.start(request, key, **options)
        return call

    async def outputs(self, call_id: str, after: int = 0, timeout_s: float = 0.0) -> Outputs:
        return await self.server.calls.outputs(call_id, Wish(after_seq=after, timeout_s=timeout_s))


def put_item(idx: int) -> api_pb2.FunctionPutInputsItem:
    return api_pb2.FunctionPutInputsItem(idx=idx, input=api_pb2.FunctionInput(args=str(idx).encode()))


class FakeNode:
    """A node agent whose containers do nothing by themselves."""

    def __init__(self, heart: Heart, node_id: str = "no-1", gpus: Sequence[platform_pb2.GpuDevice] = ()) -> None:
        self._heart = heart
        self.node_id = node_id
        self._gpus = gpus
        self._builds: Sequence[platform_pb2.HeldBuild] = ()
        self._batch = 0
        self.session: NodeSession

    @property
    def _tasks(self) -> Any:
        return self._heart.server.tasks

    async def connect(self, held: Sequence[platform_pb2.HeldTask] = ()) -> list[str]:
        self.session = NodeSession(self.node_id, self.node_id, 8_000, 16_384, "http://127.0.0.1:1", 100, "unix:/run/web.sock")
        self.session.gpus, self.session.builds = self._gpus, self._builds
        return await self._heart.server.recovery.join(self.session, held)

    async def leave(self) -> None:
        await self._heart.server.recovery.leave(self.session)

    async def start(self, function_id: str) -> LiveTask:
        """A container of a function that has been sent here, and is not ready yet."""
        task = self._tasks.reserve(await self._heart.pool(function_id), Placed(self.node_id))
        await self._tasks.start(task)
        return task

    async def ready(self, function_id: str) -> LiveTask:
        task = await self.start(function_id)
        self._tasks.ready(task.task_id)
        return task

    def commands(self, kind: str) -> list[Any]:
        """What was sent of this kind since the last look; the rest stays."""
        mine = [command for command in self.session.outgoing if command.HasField(kind)]
        self.session.outgoing = [command for command in self.session.outgoing if not command.HasField(kind)]
        return [getattr(command, kind) for command in mine]

    def delivered(self) -> list[list[tuple[str, int]]]:
        """(input id, attempt) of what was delivered since the last look, by message; first what starts took along."""
        messages: list[platform_pb2.DeliverInputs] = []
        for command in self.session.outgoing:
            if command.HasField("start_task"):
                messages += command.start_task.first_inputs
                command.start_task.ClearField("first_inputs")
        return [[(lease.input_id, lease.attempt) for lease in message.leases] for message in messages + self.commands("deliver")]

    async def next_delivered(self) -> list[list[tuple[str, int]]]:
        """Wait for inputs: some are delivered at once, others after a delay or a look at the disk."""
        while not (found := self.delivered()):
            self.session.wake.clear()
            await self.session.wake.wait()
        return found

    async def answer(
        self,
        task: LiveTask,
        input_id: str,
        attempt: int = 0,
        status: int = Result.GENERIC_STATUS_SUCCESS,
        took_s: float = 1.0,
    ) -> str:
        """A container's output, after so much work; returns the error that the server answers with, mostly empty."""
        self._batch += 1
        now = time.time()
        item = api_pb2.FunctionPutOutputsItem(
            input_id=input_id,
            retry_count=attempt,
            result=Result(status=status, data=input_id.encode()),  # type: ignore[arg-type]
            input_started_at=now - took_s,
            output_created_at=now,
        )
        request = api_pb2.FunctionPutOutputsRequest(outputs=[item]).SerializeToString()
        await self._tasks.outputs(platform_pb2.Outputs(task_id=task.task_id, batch=self._batch, request=request))
        return "".join(stored.error for stored in self.commands("outputs_stored"))

    async def exit(self, task: LiveTask, exit_code: int = 137, reason: str = "exited", **fields: Any) -> None:
        await self._tasks.exited(platform_pb2.TaskExited(task_id=task.task_id, exit_code=exit_code, reason=reason, **fields))


def beat(state: Path, scenario: Callable[[Heart], Awaitable[None]]) -> None:
    """Run a scenario over a fresh state, within a deadline."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            heart = Heart(state)
            await heart.open()
            try:
                await scenario(heart)
            finally:
                await heart.close()

    asyncio.run(run())
