"""What is made ahead of tasks that may come: the template from which they are forked, the bytecode of what users mount.

Owns one invariant: nobody waits for any of it, and what fails costs a slower start. Bytecode comes second, and one at a time.
"""

from collections.abc import Callable
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


class Ahead:
    """Prepares for tasks like those that the server expects. `expect` is told of their templates; None: there are none."""

    def __init__(
        self,
        settings: Settings,
        packer: Packer,
        bytecode: Bytecode,
        surroundings: Surroundings,
        expect: Callable[[Recipe], object] | None,
    ) -> None:
        self._edge_host = urlsplit(settings.container_edge_url).hostname or ""
        self._packer = packer
        self._bytecode = bytecode
        self._surroundings = surroundings
        self._expect = expect

    async def prepare(self, like: platform_pb2.StartTask) -> None:
        """Never fails."""
        try:
            if self._expect is not None:
                packed = await self._packer.pack(like)
                recipe = recipe_of(like, packed, self._surroundings, self._edge_host)
                if recipe is not None:
                    self._expect(recipe)
            await self._bytecode.make(like)
        except (PilotlightError, OSError) as error:  # a start would say so; this is none. A time-out is an OSError
            log.info("not_prepared", image_id=like.image_id, error=str(error))
