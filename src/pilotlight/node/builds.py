"""Image builds on this machine.

Invariant: each StartBuild is followed by exactly one BuildFinished, after the last line of its output.
"""

import asyncio
import time
from typing import Protocol

import structlog

from pilotlight.core.errors import PilotlightError
from pilotlight.images.steps import Say
from pilotlight.node.outbox import Outbox
from pilotlight.node.task import FILE_DESCRIPTORS
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

NodeEvent = platform_pb2.NodeEvent


class ImageBuilder(Protocol):
    """What makes images."""

    async def build(self, request: platform_pb2.StartBuild, say: Say) -> platform_pb2.BuildFinished:
        """Build; a build that fails is an answer. Cancelled, it leaves nothing behind."""
        ...


class Builds:
    """Builds under way, by image id."""

    def __init__(self, builder: ImageBuilder, outbox: Outbox) -> None:
        self._builder = builder
        self._outbox = outbox
        self._running: dict[str, asyncio.Task[None]] = {}
        self._gpus: dict[str, list[str]] = {}  # by image id: those of builds under way

    def start(self, request: platform_pb2.StartBuild) -> None:
        """Begin a build; one that is under way goes on, and answers for both requests."""
        if request.build_id not in self._running:
            self._gpus[request.build_id] = list(request.gpu_uuids)
            self._running[request.build_id] = asyncio.get_running_loop().create_task(self._run(request))

    def stop(self, build_id: str) -> None:
        """End a build, if it is under way."""
        if (task := self._running.get(build_id)) is not None:
            task.cancel()

    def held(self) -> list[platform_pb2.HeldBuild]:
        """Builds under way that have GPUs."""
        return [platform_pb2.HeldBuild(build_id=build_id, gpu_uuids=gpus) for build_id, gpus in self._gpus.items() if gpus]

    async def close(self) -> None:
        """End all."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, request: platform_pb2.StartBuild) -> None:
        build_id = request.build_id
        finished = platform_pb2.BuildFinished(build_id=build_id, error=f"The build of {build_id} was stopped.")

        def say(fd: int, data: str) -> None:
            progress = platform_pb2.BuildProgress(
                build_id=build_id, file_descriptor=FILE_DESCRIPTORS[fd], data=data, at_ns=time.time_ns()
            )
            self._outbox.orderly(NodeEvent(build_progress=progress))

        try:
            finished = await self._builder.build(request, say)
        except PilotlightError as error:
            finished.error = str(error)
        except asyncio.CancelledError:
            log.info("build_stopped", build_id=build_id)
        except Exception as error:  # whoever waits for the image must hear of its end, whatever went wrong
            log.error("build_crashed", build_id=build_id, exc_info=error)
            finished.error = f"The build of {build_id} failed inside Pilotlight: {error}. `pilotlight logs node` has the cause."
        finally:
            del self._running[build_id], self._gpus[build_id]
            self._outbox.orderly(NodeEvent(build_finished=finished))
