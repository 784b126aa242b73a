"""The stream of a node agent: what it reports goes to the use cases, what they decide goes back to it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from pilotlight.control.garbage import Garbage
from pilotlight.control.gpu_tasks import GpuTasks
from pilotlight.control.images import Images
from pilotlight.control.node_output import NodeOutput
from pilotlight.control.nodes import NodeSession
from pilotlight.control.recovery import Recovery
from pilotlight.control.refusals import Refusals
from pilotlight.control.tasks import Tasks
from pilotlight.rpc.streams import converse, is_ours
from pilotlight.wire import platform_pb2
from pilotlight.wire.frames import Frames

log = structlog.get_logger()


NodeFrames = Frames[platform_pb2.FromNode]


class NodeService:
    """Serves the streams of node agents."""

    def __init__(
        self,
        *,
        recovery: Recovery,
        tasks: Tasks,
        images: Images,
        node_output: NodeOutput,
        garbage: Garbage,
        gpu_tasks: GpuTasks,
        refusals: Refusals,
        node_token: bytes,
        max_containers: int,
    ) -> None:
        self._recovery = recovery
        self._tasks = tasks
        self._images = images
        self._node_output = node_output
        self._garbage = garbage
        self._gpu_tasks = gpu_tasks
        self._refusals = refusals
        self._node_token = node_token
        self._max_containers = max_containers

    async def serve(self, frames: NodeFrames) -> None:
        """Serve one node for as long as its stream lasts."""
        first = await frames.receive()
        if first is None:
            return
        hello = first.events[0].hello if first.events else platform_pb2.NodeHello()

        async def refuse(refused: platform_pb2.Refused) -> None:
            await frames.send(platform_pb2.ToNode(commands=[platform_pb2.NodeCommand(refused=refused)]))

        if not await is_ours(hello.token, self._node_token, refuse):
            return
        session = NodeSession(
            node_id=hello.node_id,
            name=hello.node_name or hello.hostname,
            milli_cpu=hello.milli_cpu,
            memory_mib=hello.memory_mib,
            edge_base_url=hello.edge_base_url,
            max_containers=self._max_containers,
            labels=dict(hello.labels),
            web_address=hello.web_address,
            gpus=list(hello.gpus),
            builds=list(hello.builds),
            templates=hello.templates.templates,
            log_epoch=hello.log_epoch,
        )
        session.send(platform_pb2.NodeCommand(welcome=platform_pb2.Welcome()))
        try:
            unknown = await self._recovery.join(session, hello.tasks)
            session.outgoing[0].welcome.unknown_tasks.extend(unknown)
            await self._converse(session, frames, first.events[1:])
        finally:
            await self._recovery.leave(session)

    async def _converse(self, session: NodeSession, frames: NodeFrames, events: Sequence[platform_pb2.NodeEvent]) -> None:
        work: set[asyncio.Task[None]] = set()
        try:
            await converse(session, frames, events, lambda event: self._handle(session, event, work))
        finally:
            if work:
                await asyncio.wait(work)

    def _handle(self, session: NodeSession, event: platform_pb2.NodeEvent, work: set[asyncio.Task[None]]) -> None:
        """Act on an event. What has to wait for the disk goes on by itself, in the order in which it began."""
        kind = event.WhichOneof("event")
        match kind:
            case "task_started":
                self._tasks.started(event.task_started)
            case "task_ready":
                self._tasks.ready(event.task_ready.task_id, event.task_ready.address)
            case "task_failure":
                self._tasks.failed(event.task_failure)
            case "inputs_returned":
                _spawn(work, self._tasks.returned(event.inputs_returned))
            case "logs":
                self._node_output.take(session, event.logs)
            case "layers_collected":
                self._garbage.layers_collected(event.layers_collected)
            case "gpu_health":
                self._gpu_tasks.failed(session.node_id, event.gpu_health)
            case "templates":
                session.templates = event.templates.templates
            case "container_refused":
                self._refusals.add(session.name, event.container_refused)
            case "build_progress":
                self._images.progress(event.build_progress)
            case "outputs":
                _spawn(work, self._tasks.outputs(event.outputs))
            case "input_timed_out":
                _spawn(work, self._tasks.timed_out(event.input_timed_out))
            case "task_exited":
                _spawn(work, self._node_output.exited(event.task_exited))
            case "build_finished":
                _spawn(work, self._images.finished(event.build_finished))
            case _:
                log.debug("node_event_ignored", kind=kind)


def _spawn(work: set[asyncio.Task[None]], coroutine: Any) -> None:
    task = asyncio.get_running_loop().create_task(coroutine)
    work.add(task)

    def done(finished: asyncio.Task[None]) -> None:
        work.discard(finished)
        if not finished.cancelled() and (error := finished.exception()) is not None:
            log.error("node_event_failed", exc_info=error)

    task.add_done_callback(done)
