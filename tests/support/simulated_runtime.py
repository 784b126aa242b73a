"""A node without isolation: "containers" are plain processes of this Python, and images hold nothing but the user's mounts.

    agent = simulated_agent(settings, directory)    # then run agent.run() beside a server on the same settings

Programs run as they would in a container as far as the official client can see: arguments, environment, mounts below /root and the
gateway's socket are where it looks for them, by rewriting of paths. Needs neither root nor images; limits are not kept.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pilotlight.config import Settings
from pilotlight.core.containers import ContainerSpec, Exit, OnOutput
from pilotlight.images.layers import LayerStore
from pilotlight.images.local import LocalImages
from pilotlight.images.mounts import LocalContent, Mounts
from pilotlight.images.steps import Say
from pilotlight.images.surroundings import Surroundings
from pilotlight.node.agent import Agent, node_id_of
from pilotlight.node.buckets import Buckets
from pilotlight.node.garbage import NodeGarbage
from pilotlight.node.gpus import GpuRuntime, Gpus
from pilotlight.node.output import OutputPipe
from pilotlight.node.packing import Packed
from pilotlight.wire import platform_pb2

PYTHON_VERSION = ".".join(map(str, sys.version_info[:3]))
# Of this process, so that the interpreter finds itself; all else comes from the container's specification.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")


class SimulatedSettings(Settings):
    """Settings whose run directory lies beside the state (sockets need a short path), and whose edge is on the loopback."""

    @property
    def run_dir(self) -> Path:
        return self.state / "run"

    @property
    def container_edge_url(self) -> str:
        return f"http://{self.web}"


def simulated_settings(state: Path | None = None, **values: object) -> SimulatedSettings:
    """Settings for a platform in this process, in a directory of its own unless one (with a short path) is given."""
    state = state or Path(tempfile.mkdtemp(prefix="pl-"))
    settings = SimulatedSettings.model_validate({"state": state, "cache": state / "cache", "network_slot": 0, **values})
    for directory in (settings.run_dir, settings.node_dir, settings.gateway_dir):
        directory.mkdir(parents=True, exist_ok=True)
    return settings


class SimulatedContainer:
    """One process group. Its ports are this machine's."""

    address = "127.0.0.1"
    setup_ms: dict[str, float] = {}
    is_warm = False
    told_ns = 0

    def __init__(self, process: "subprocess.Popen[bytes]", pipes: tuple[OutputPipe, OutputPipe], root: Path) -> None:
        self._process = process
        self.pid = process.pid
        self._pipes = pipes
        self._root = root
        self._pidfd = os.pidfd_open(process.pid)
        loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._finishing: asyncio.Task[None] | None = None
        loop.add_reader(self._pidfd, self._on_exit)

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.wait()

    def signal(self, signum: int) -> None:
        if self._process.returncode is not None:
            return
        if signum == signal.SIGKILL:
            os.killpg(self._process.pid, signum)
        else:
            self._process.send_signal(signum)

    def hold_output(self, held: bool) -> None:
        for pipe in self._pipes:
            pipe.hold(held)

    def read_output(self) -> None:
        for pipe in self._pipes:
            pipe.read_now()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._finishing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        code = self._process.wait()
        await asyncio.gather(*(pipe.drain() for pipe in self._pipes))
        shutil.rmtree(self._root, ignore_errors=True)
        self._exit.set_result(Exit(128 - code if code < 0 else code, False, 0, 0.0, ""))


class SimulatedRuntime:
    """Starts "containers" below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._containers: list[SimulatedContainer] = []
        self.started: list[ContainerSpec] = []

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> SimulatedContainer:
        root = self._directory / spec.container_id
        container = self._spawn(spec, on_output, root)
        self._containers.append(container)
        self.started.append(spec)
        return container

    def _spawn(self, spec: ContainerSpec, on_output: OnOutput, root: Path) -> SimulatedContainer:
        for layer in spec.layers:
            shutil.copytree(layer, root, symlinks=True, dirs_exist_ok=True)
        for place in ("root", "tmp"):
            (root / place).mkdir(parents=True, exist_ok=True)
        pipes = (OutputPipe(1, on_output), OutputPipe(2, on_output))
        cwd = root / spec.cwd.strip("/")
        process = subprocess.Popen(
            [sys.executable, *spec.args[spec.args.index("-m") :]],
            stdin=subprocess.DEVNULL,
            stdout=pipes[0].write_end,
            stderr=pipes[1].write_end,
            env=_environment(spec, root),
            cwd=cwd if cwd.is_dir() else root,
            start_new_session=True,
        )
        for pipe in pipes:
            pipe.close_write_end()
        return SimulatedContainer(process, pipes, root)

    async def close(self) -> None:
        """Kill all that still run."""
        await asyncio.gather(*(container.kill() for container in self._containers))


def _environment(spec: ContainerSpec, root: Path) -> dict[str, str]:
    """The container's environment with paths of this machine."""

    def here(value: str) -> str:
        for bind in spec.binds:
            value = value.replace(bind.target, str(bind.source))
        return value

    def below_root(paths: str) -> str:
        places = [root / path.strip("/") for path in paths.split(":")]
        return ":".join(str(place) for place in places if place.is_dir())

    env: Mapping[str, str] = {name: here(value) for name, value in spec.env.items()}
    rewritten = {"PYTHONPATH": below_root(env.get("PYTHONPATH", "")), "HOME": below_root(env.get("HOME", "/root"))}
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**env, **inherited, **rewritten}


class SimulatedPacker:
    """Root file systems of nothing but mounts."""

    def __init__(self, settings: Settings) -> None:
        self.mounts = Mounts(settings, LocalContent(settings.objects_dir))

    async def pack(self, request: platform_pb2.StartTask) -> Packed:
        return Packed(tuple([await self.mounts.layer(mount) for mount in request.mounts]), sys.executable)


class SimulatedBuilder:
    """Every image is built at once, and is this Python."""

    def __init__(self) -> None:
        self.requests: list[platform_pb2.StartBuild] = []

    async def build(self, request: platform_pb2.StartBuild, say: Say) -> platform_pb2.BuildFinished:
        self.requests.append(request)
        say(1, f"Built image {request.build_id} (simulated)\n")
        return platform_pb2.BuildFinished(
            build_id=request.build_id, ok=True, python_version=PYTHON_VERSION, libc_version="glibc 2.36"
        )


def simulated_agent(
    settings: Settings, directory: Path, runtime: SimulatedRuntime | None = None, gpus: Gpus | None = None
) -> Agent:
    """An agent whose containers live below `directory`; run it as a task, cancel that to end all its containers."""
    runtime = runtime or SimulatedRuntime(directory)
    packer = SimulatedPacker(settings)
    layers = LayerStore(settings.layers_dir)
    garbage = NodeGarbage(layers, LocalImages(settings, layers), packer.mounts, settings.probes_dir)
    gpus = gpus or Gpus.open(settings, node_id_of(settings))
    buckets = Buckets(directory / "buckets", lambda: -1, {})
    return Agent(settings, GpuRuntime(runtime, gpus), packer, SimulatedBuilder(), Surroundings(), garbage, gpus, buckets)
