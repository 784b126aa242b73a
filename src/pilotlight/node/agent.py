"""The node agent: what the server commands, done on this machine.

Invariant: the agent decides nothing about calls; it holds what it was given until it has given it back, and leaves nothing on the
machine when it ends.
"""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from pilotlight.config import Settings
from pilotlight.core import ids
from pilotlight.core.containers import ContainerSpec, TemplateState
from pilotlight.core.node_labels import parse_labels
from pilotlight.images.builder import Builder
from pilotlight.images.bytecode import Bytecode
from pilotlight.images.clients import ClientPackages
from pilotlight.images.layers import LayerStore, write_durably
from pilotlight.images.local import LocalImages
from pilotlight.images.mounts import LocalContent, Mounts
from pilotlight.images.surroundings import Surroundings, surroundings_of
from pilotlight.node.ahead import Ahead
from pilotlight.node.buckets import Buckets
from pilotlight.node.builds import Builds, ImageBuilder
from pilotlight.node.garbage import NodeGarbage
from pilotlight.node.gateway import Gateway, prepare_directory
from pilotlight.node.gpus import GpuRuntime, Gpus
from pilotlight.node.link import Link
from pilotlight.node.memory import offered_mib
from pilotlight.node.outbox import Outbox
from pilotlight.node.packing import ImagePacker, Packer, spec_of
from pilotlight.node.relay import Relay
from pilotlight.node.runtime import Runtime
from pilotlight.node.task import Task, TaskRuntime
from pilotlight.node.volumes import VolumeDirectories
from pilotlight.node.web import WebListener
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

CLOSE_GRACE_S = 4.0  # for all containers together when the agent ends
CLOSE_LIMIT_S = 5.0
LAST_WORDS_S = 0.5  # for what the server has not been told yet


class Agent:
    """The containers and builds of this node, at the command of one server."""

    def __init__(
        self,
        settings: Settings,
        runtime: TaskRuntime,
        packer: Packer,
        builder: ImageBuilder,
        surroundings: Surroundings,
        garbage: NodeGarbage,
        gpus: Gpus,
        buckets: Buckets,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._packer = packer
        self._surroundings = surroundings
        self._volumes = VolumeDirectories(settings.volumes_path)
        self._buckets = buckets
        self._outbox = Outbox()
        self._builds = Builds(builder, self._outbox)
        self._relay = Relay(settings)
        self._link = Link(settings, self._outbox, self._hello, self._welcomed, self._on_command)
        self._tasks: dict[str, Task] = {}
        self._garbage = garbage
        self._gpus = gpus
        garbage.running = lambda: [task.request for task in self._tasks.values()]
        self._web = WebListener(settings.web_socket_path, self._tasks)
        self._running: set[asyncio.Task[None]] = set()
        self._tasks_dir = settings.run_dir / "tasks"
        self._node_id = node_id_of(settings)
        self._is_closing = False
        self._templates: list[platform_pb2.Template] = []
        self.ahead: Ahead | None = None
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled, then end all containers and builds."""
        prepare_directory(self._settings.gateway_dir)
        shutil.rmtree(self._tasks_dir, ignore_errors=True)
        self._tasks_dir.mkdir(parents=True)
        self._tasks_dir.chmod(0o711)
        self._buckets.sweep()
        await self._web.open()
        loop = asyncio.get_running_loop()

        def failed(uuid: str, problem: str) -> None:
            loop.call_soon_threadsafe(self._gpu_failed, uuid, problem)

        self._gpus.watch(failed)
        link = asyncio.get_running_loop().create_task(self._link.run())
        try:
            await asyncio.shield(link)
        finally:
            await self._close()
            await self._web.close()
            self._outbox.close()
            await asyncio.wait((link,), timeout=LAST_WORDS_S)
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)
            self._relay.close()
            await asyncio.to_thread(self._gpus.close)

    def refused(self, container_id: str, faults: Sequence[str]) -> None:
        """The runtime has killed a container before it began."""
        event = platform_pb2.ContainerRefused(container_id=container_id, faults=faults, at_ns=time.time_ns())
        self._outbox.orderly(platform_pb2.NodeEvent(container_refused=event))

    def templates_changed(self, states: Sequence[TemplateState]) -> None:
        """A template has come, or gone."""
        self._templates = [
            platform_pb2.Template(
                image_id=state.name, memory_bytes=state.memory_bytes, modules=state.modules, ready_at=state.ready_at
            )
            for state in states
        ]
        self._outbox.orderly(platform_pb2.NodeEvent(templates=platform_pb2.Templates(templates=self._templates)))

    def _gpu_failed(self, uuid: str, problem: str) -> None:
        if self._gpus.fail(uuid, problem):
            log.error("gpu_failed", uuid=uuid, problem=problem)
            self._outbox.urgent(platform_pb2.NodeEvent(gpu_health=platform_pb2.GpuHealth(uuid=uuid, problem=problem)))

    async def _close(self) -> None:
        """Ask all containers to end, and see to it that they do."""
        self._is_closing = True
        for task in self._tasks.values():
            task.stop(grace_s=CLOSE_GRACE_S)
        await self._builds.close()
        if self.ahead is not None:
            await self.ahead.close()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=CLOSE_LIMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # ---- commands ----

    def _on_command(self, command: platform_pb2.NodeCommand) -> None:
        match command.WhichOneof("command"):
            case "deliver":
                if (task := self._tasks.get(command.deliver.task_id)) is not None:
                    task.deliver([command.deliver.leases])
            case "outputs_stored":
                stored = command.outputs_stored
                if (task := self._tasks.get(stored.task_id)) is not None:
                    task.settle(stored.batch, stored.error)
            case "logs_stored":
                self._outbox.logs_stored(command.logs_stored.number)
            case "start_task":
                self._start(command.start_task)
            case "stop_task":
                if (task := self._tasks.get(command.stop_task.task_id)) is not None:
                    task.stop(grace_s=_grace_of(command.stop_task))
            case "drain":
                if (task := self._tasks.get(command.drain.task_id)) is not None:
                    task.drain()
            case "cancel":
                if (task := self._tasks.get(command.cancel.task_id)) is not None:
                    task.cancel(command.cancel.input_ids, command.cancel.grace_s)
            case "recall":
                if (task := self._tasks.get(command.recall.task_id)) is not None:
                    task.recall(command.recall.input_ids)
            case "start_build":
                self._builds.start(command.start_build)
            case "stop_build":
                self._builds.stop(command.stop_build.build_id)
            case "collect_layers":
                self._spawn(self._collect(command.collect_layers))
            case "expect_task":
                if self.ahead is not None:
                    self.ahead.expect(command.expect_task.like)
            case other:
                log.warning("command_ignored", command=other)

    def _start(self, request: platform_pb2.StartTask) -> None:
        if request.task_id in self._tasks or self._is_closing:
            return
        task = self._tasks[request.task_id] = Task(request, self._outbox, self._runtime, self._prepare)
        self._spawn(self._run(task))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.get_running_loop().create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _collect(self, request: platform_pb2.CollectLayers) -> None:
        try:
            done = await self._garbage.collect(request)
        except Exception as error:  # the server must hear of its end, and nothing else here depends on it
            log.error("collect_failed", exc_info=error)
            done = platform_pb2.LayersCollected(
                request_id=request.request_id, error=f"{error}; `pilotlight logs node` has the cause"
            )
        self._outbox.orderly(platform_pb2.NodeEvent(layers_collected=done))

    async def _run(self, task: Task) -> None:
        try:
            await task.run(Gateway(self._settings, self._relay, task, self._volumes))
        except Exception as error:  # a fault of ours in one task must not take the others down
            log.error("task_crashed", task_id=task.task_id, exc_info=error)
        finally:
            del self._tasks[task.task_id]
            shutil.rmtree(self._tasks_dir / task.task_id, ignore_errors=True)
            await self._buckets.unmount(task.task_id)

    async def _prepare(self, request: platform_pb2.StartTask, socket_path: Path) -> ContainerSpec:
        packed = await self._packer.pack(request)
        directory = self._tasks_dir / request.task_id
        directory.mkdir()
        directory.chmod(0o711)
        arguments = directory / "arguments"
        arguments.write_bytes(request.arguments)
        arguments.chmod(0o644)
        edge_host = urlsplit(self._settings.container_edge_url).hostname or ""
        spec = spec_of(request, packed, socket_path, arguments, self._surroundings, edge_host)
        return await self._buckets.mounted(self._volumes.mounted(spec, request.volumes), request.buckets)

    # ---- the link ----

    def _hello(self) -> platform_pb2.NodeHello:
        hostname = socket.gethostname()
        return platform_pb2.NodeHello(
            node_id=self._node_id,
            hostname=hostname,
            node_name=hostname,
            milli_cpu=self._settings.milli_cpu or len(os.sched_getaffinity(0)) * 1000,
            memory_mib=offered_mib(self._settings),
            tasks=[*self._outbox.departed(), *(task.held() for task in self._tasks.values() if not task.ended.is_set())],
            edge_base_url=self._settings.container_edge_url,
            web_address=self._web.address,
            gpus=self._gpus.told(),
            builds=self._builds.held(),
            log_epoch=self._outbox.log_epoch,
            templates=platform_pb2.Templates(templates=self._templates),
            labels=parse_labels(self._settings.node_labels),
        )

    def _welcomed(self, unknown: Sequence[str]) -> None:
        self._outbox.renew(unknown)
        for task in self._tasks.values():
            if task.task_id in unknown:
                task.stop(grace_s=0)
            elif not task.ended.is_set():
                task.resend()
        self.connected.set()


async def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Run the agent of this machine; calls `ready` once the server knows it, returns after SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runtime = Runtime(settings)
    await runtime.open()
    take_temporary_directory(settings.node_dir / "temporary")
    try:
        layers = LayerStore(settings.layers_dir)
        layers.sweep()
        mounts = Mounts(settings, LocalContent(settings.objects_dir))
        mounts.sweep()
        surroundings = surroundings_of(settings)
        bytecode = Bytecode(settings.node_dir / "bytecode", runtime, surroundings, layers, mounts)
        bytecode.sweep()
        clients = ClientPackages(settings, runtime, layers)
        clients.sweep()
        packer = ImagePacker(settings, layers, mounts, clients, bytecode)
        garbage = NodeGarbage(layers, LocalImages(settings, layers), mounts, settings.probes_dir)
        gpus = await asyncio.to_thread(Gpus.open, settings, node_id_of(settings))
        starter = GpuRuntime(runtime, gpus)
        builder = Builder(settings, starter, layers, mounts)
        buckets = Buckets(
            settings.run_dir / "buckets",
            lambda: runtime.mount_namespace,
            surroundings.own_env(),
            allow_local=settings.bucket_allow_local,
        )
        agent = Agent(settings, starter, packer, builder, surroundings, garbage, gpus, buckets)
        loop = asyncio.get_running_loop()
        runtime.on_templates(agent.templates_changed)
        agent.ahead = Ahead(settings, packer, bytecode, surroundings, runtime.expect if runtime.is_warm else None)
        garbage.collect_bytecode = bytecode.collect
        garbage.collect_client_bytecode = clients.collect
        runtime.on_refused(lambda *told: loop.call_soon_threadsafe(agent.refused, *told))
        running = asyncio.get_running_loop().create_task(agent.run())
        known = asyncio.get_running_loop().create_task(agent.connected.wait())
        known.add_done_callback(lambda done: None if done.cancelled() else ready())
        stopped = asyncio.get_running_loop().create_task(stop.wait())
        await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in (running, known, stopped):
            task.cancel()
        outcome, *_ = await asyncio.gather(running, known, stopped, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome
    finally:
        await runtime.close()


def _grace_of(command: platform_pb2.StopTask) -> float | None:
    """Seconds that a container has for its exit hooks; None for what its function says."""
    if command.force:
        return 0
    return command.grace_ms / 1000 if command.grace_ms else None


def take_temporary_directory(directory: Path) -> None:
    """Have temporary files of this process lie here, on the state's disk, where what a killed agent left is cleared away."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)
    tempfile.tempdir = str(directory)


def node_id_of(settings: Settings) -> str:
    """This node's own id, made at its first start."""
    path = settings.node_dir / "node_id"
    if path.is_file() and (known := path.read_text().strip()):
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    node_id = ids.new(ids.NODE)
    write_durably(path, node_id)
    return node_id
