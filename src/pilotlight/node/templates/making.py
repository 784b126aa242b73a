"""What the keeper has done on the set-up threads: templates and spares, made and unmade."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import structlog

from pilotlight.core.containers import Recipe
from pilotlight.core.errors import PilotlightError
from pilotlight.node.setup import Setup
from pilotlight.node.templates.channel import TemplateFault
from pilotlight.node.templates.spare import Spare, discard, make_spare
from pilotlight.node.templates.template import Template

log = structlog.get_logger()
T = TypeVar("T")

AT_A_TIME = 2  # templates that begin: they take threads that others want too


class Making(Protocol):
    """Makes and unmakes them; what fails raises PilotlightError or OSError, with everything undone."""

    async def template(self, recipe: Recipe, number: int) -> Template:
        """One that waits to be forked."""
        ...

    async def spare(self, template: Template) -> Spare:
        """A child of it."""
        ...

    async def discard(self, spare: Spare) -> None:
        """Remove one that became nothing."""
        ...

    async def end(self, template: Template) -> None:
        """End its interpreter; its children live on."""
        ...

    async def close(self, template: Template) -> None:
        """Remove it, and whatever came from it."""
        ...

    def hurry(self) -> None:
        """Have templates fail that are not ready yet, from now on."""
        ...


class OnThreads:
    """The real ones."""

    def __init__(self, setup: Setup, memory_mib: int = 0) -> None:
        """`memory_mib`: that one template may have, with all that it tries; 0: no limit."""
        self._setup = setup
        self._memory_mib = memory_mib
        self._few = asyncio.Semaphore(AT_A_TIME)
        self._loading: set[Template] = set()
        self._is_hurried = False

    async def template(self, recipe: Recipe, number: int) -> Template:
        async with self._few:
            if self._is_hurried:
                raise TemplateFault("All templates are being closed.")
            template = await self._run(Template.room, self._setup, recipe, number, self._memory_mib)
            self._loading.add(template)
            if self._is_hurried:
                template.kill()
            try:
                await _known(asyncio.to_thread(template.load))  # may take long: the set-up threads are for containers
            finally:
                self._loading.discard(template)
            return template

    def hurry(self) -> None:
        self._is_hurried = True
        for template in self._loading:
            template.kill()

    async def spare(self, template: Template) -> Spare:
        return await self._run(make_spare, self._setup, template)

    async def discard(self, spare: Spare) -> None:
        await self._run(discard, self._setup, spare)

    async def end(self, template: Template) -> None:
        await self._run(template.end)

    async def close(self, template: Template) -> None:
        await self._run(template.close)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await _known(asyncio.get_running_loop().run_in_executor(self._setup.threads, work, *arguments))


async def _known(work: Awaitable[T]) -> T:
    """A fault of ours in this must not be one of a container, which would start the ordinary way."""
    try:
        return await work
    except (PilotlightError, OSError):
        raise
    except Exception as error:
        log.error("template_crashed", exc_info=error)
        raise TemplateFault(f"It failed inside Pilotlight: {error!r}.") from error
