"""A node agent with GPUs whose driver a test plays: what it tells the server of them, at first and when they fail."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from support.scripted_nvml import Card, ScriptedNvml
from support.scripted_server import ScriptedServer
from support.simulated_runtime import SimulatedRuntime, SimulatedSettings, simulated_agent, simulated_settings

from pilotlight.node.cdi import Specs
from pilotlight.node.gpus import Gpus
from pilotlight.node.nvml import discover
from pilotlight.wire import platform_pb2

SPEC = "{kind: nvidia.com/gpu, devices: [{name: '0', containerEdits: {env: [FROM=specification]}}]}"


@pytest.fixture
def settings() -> Iterator[SimulatedSettings]:
    made = simulated_settings()
    yield made
    shutil.rmtree(made.state)


def play(
    settings: SimulatedSettings, scenario: Callable[[ScriptedServer, ScriptedNvml, SimulatedRuntime], Awaitable[None]]
) -> None:
    async def run() -> None:
        library = ScriptedNvml([Card("GPU-1", "NVIDIA L4", 23034), Card("GPU-2", "NVIDIA H100 80GB HBM3", 81559)])
        server, runtime = ScriptedServer(settings), SimulatedRuntime(settings.state / "c")
        await server.start()
        specs = Specs([settings.state / "cdi"])
        gpus = Gpus(discover(library), library=library, specs=specs, hook="")
        running = asyncio.create_task(simulated_agent(settings, settings.state / "c", runtime, gpus).run())
        try:
            await server.until(lambda: server.hellos)
            await scenario(server, library, runtime)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await runtime.close()
            await server.stop()
        assert library.freed == 1

    uvloop.run(run())


def test_what_the_driver_reports_is_in_the_hello(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, library: ScriptedNvml, runtime: SimulatedRuntime) -> None:
        told = [(gpu.uuid, gpu.kind, gpu.memory_mib, gpu.shares, gpu.problem) for gpu in server.hellos[0].gpus]
        assert told == [("GPU-1", "L4", 23034, 1, ""), ("GPU-2", "H100", 81559, 1, "")]

    play(settings, scenario)


def test_a_failure_is_told_at_once_and_again_to_a_server_that_comes_anew(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, library: ScriptedNvml, runtime: SimulatedRuntime) -> None:
        library.break_with(library.cards[1], xid=79)
        health = await server.event("gpu_health")
        assert (health.uuid, health.problem) == ("GPU-2", "Xid 79")
        await server.stop()
        await server.start()
        await server.until(lambda: len(server.hellos) == 2)
        assert [gpu.problem for gpu in server.hellos[1].gpus] == ["", "Xid 79"]

    play(settings, scenario)


def test_a_container_that_can_not_be_shown_its_gpu_ends_with_the_words_of_what_to_do(settings: SimulatedSettings) -> None:
    async def scenario(server: ScriptedServer, library: ScriptedNvml, runtime: SimulatedRuntime) -> None:
        await server.send(start_task=platform_pb2.StartTask(task_id="ta-1", gpu_uuids=["GPU-1"]))
        ended = await server.event("task_exited")
        assert ended.reason == "setup_failed" and "nvidia-ctk cdi generate" in ended.message and not runtime.started
        write(settings.state / "cdi" / "nvidia.yaml", SPEC)  # found without a restart
        await server.send(start_task=platform_pb2.StartTask(task_id="ta-2", gpu_uuids=["GPU-1"]))
        await server.event("task_exited", 2)
        env = runtime.started[0].env
        assert (env["FROM"], env["CUDA_VISIBLE_DEVICES"], env["MODAL_GPU_TYPE"]) == ("specification", "GPU-1", "L4")

    play(settings, scenario)


def write(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
