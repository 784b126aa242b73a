"""What is made ahead of tasks that may come: the template from which they are forked, the bytecode of what users mount.

Owns one invariant: nobody waits for any of it, and what fails costs a slower start. Bytecode comes second, one container at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import structlog

from pilotlight.config import Settings
from pilotlight.core.containers import Recipe
from pilotlight.core.errors import PilotlightError
from pilotlight.images.bytecode import Bytecode
from pilotlight.images.surroundings import Surroundings
from pilotlight.node.packing import Packer, recipe_of
from pilotlight.wire import platform_pb2

log = structlog.get_logger()

MOST_WAITING = 64  # kinds of tasks; of those that have their templates, as many again wait for their bytecode
MOST_WAITING_BYTES = 32 << 20  # of what is known of them


class Ahead:
    """Prepares for tasks like those that the server expects. `expect_recipe` is told of their templates; None: there are none."""

    def __init__(
        self,
        settings: Settings,
        packer: Packer,
        bytecode: Bytecode,
        surroundings: Surroundings,
        expect_recipe: Callable[[Recipe], object] | None,
    ) -> None:
        self._edge_host = urlsplit(settings.container_edge_url).hostname or ""
        self._packer = packer
        self._bytecode = bytecode
        self._surroundings = surroundings
        self._expect_recipe = expect_recipe
        self._templates = _Lane(self._begin_template)
        self._compiled = _Lane(self._bytecode.make)

    def expect(self, like: platform_pb2.StartTask) -> None:
        """Tasks like this may come. Where more are expected than can wait, those that were expected first are not prepared for."""
        self._templates.add(like)

    async def close(self) -> None:
        """Leave undone what is not done."""
        await self._templates.close()
        await self._compiled.close()

    async def _begin_template(self, like: platform_pb2.StartTask) -> None:
        if self._expect_recipe is not None:
            packed = await self._packer.pack(like)
            recipe = recipe_of(like, packed, self._surroundings, self._edge_host)
            if recipe is not None:
                self._expect_recipe(recipe)
        if like.mounts:
            self._compiled.add(like)


class _Lane:
    """Work of one kind, a piece at a time, each once. It goes on while there is some."""

    def __init__(self, work: Callable[[platform_pb2.StartTask], Awaitable[None]]) -> None:
        self._work = work
        self._waiting: dict[bytes, None] = {}
        self._waiting_bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self._is_closed = False

    def add(self, like: platform_pb2.StartTask) -> None:
        data = like.SerializeToString(deterministic=True)
        if self._is_closed or data in self._waiting:
            return
        self._waiting[data] = None
        self._waiting_bytes += len(data)
        while len(self._waiting) > MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES:
            dropped = platform_pb2.StartTask.FromString(self._take())
            log.info("not_prepared", image_id=dropped.image_id, error="too much is expected")
        if self._worker is None and self._waiting:
            self._worker = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        self._is_closed = True
        self._waiting.clear()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                like = platform_pb2.StartTask.FromString(self._take())
                try:
                    await self._work(like)
                except (PilotlightError, OSError) as error:  # a start would say so; this is none. A time-out is an OSError
                    log.info("not_prepared", image_id=like.image_id, error=str(error))
                except Exception as error:  # a fault of ours: the others are prepared for nonetheless
                    log.error("preparing_failed", image_id=like.image_id, exc_info=error)
        finally:
            self._worker = None

    def _take(self) -> bytes:
        oldest = next(iter(self._waiting))
        del self._waiting[oldest]
        self._waiting_bytes -= len(oldest)
        return oldest
