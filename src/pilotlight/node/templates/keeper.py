"""Which templates there are: begun at the first use of an image, kept while they are useful, ended when memory is wanted.

Owns one invariant: nobody ever waits for a template. A container whose template is not ready starts the ordinary way, and so does
one whose fork fails; a template that failed is ended, and tried again only after a while. A template that is ended takes no
container with it: what is left of it goes with its last one. All of it runs on the event loop; what blocks runs on threads.
"""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from pilotlight.config import Settings
from pilotlight.core.containers import ContainerSpec, Recipe, TemplateState
from pilotlight.core.errors import DiskFull, InvalidInput, NotIsolated, PilotlightError
from pilotlight.node.memory import offered_mib
from pilotlight.node.quiet import Quiet
from pilotlight.node.templates import remembered
from pilotlight.node.templates.bursts import BURST_S, BURSTS_KEPT_S, SPARES, Bursts
from pilotlight.node.templates.channel import LoadFault
from pilotlight.node.templates.fitness import misfit
from pilotlight.node.templates.learned import MOST_REJECTED, fitting, package_of, without
from pilotlight.node.templates.making import Making
from pilotlight.node.templates.spare import Spare
from pilotlight.node.templates.template import Template

log = structlog.get_logger()
T = TypeVar("T")

MAX_FORKS = 5_000  # of one template, before a new one takes its place
MAX_AGE_S = 6 * 3600.0
REFILL_AT_LATEST_S = 1.0  # however many containers begin: the processors are theirs first
SPARE_BYTES = 3 << 20  # besides the pages that it has copied ahead
MAX_IDLE_S = 12 * 3600.0  # an image of which nobody starts anything may go, and its layers with it
RETRY_S = 5.0  # after a template failed, before its recipe is tried again; doubles each time
MAX_RETRY_S = 3600.0
MOST_EXPECTED = 64  # recipes that wait for their templates to begin, ahead of any use
EXPECTED_BYTES = 45 << 20  # that a template is thought to take before it is there
MAX_FAULTS = 3  # failed forks, before a template is ended
SPARES_AT_A_TIME = 2  # that are made ahead: they take threads on which others begin
MOST_POSTPONED = 3  # templates in which a package may fail by circumstances, before that is its own fault
LEAST_MIB = 256  # that a template may have in all, its trials and what it reads from disk included, however little there is

Key = tuple[Any, ...]


@dataclass
class Kept:
    """A recipe, and its template if there is one."""

    recipe: Recipe
    template: Template | None = None
    opening: "asyncio.Task[None] | None" = None
    spares: deque[Spare] = field(default_factory=deque[Spare])
    making: int = 0
    bursts: Bursts = field(default_factory=Bursts)
    forks: int = 0
    faults: int = 0
    failures: int = 0
    opened_at: float = 0.0
    used_at: float = 0.0
    blocked_until: float = 0.0
    ready_at: float = 0.0  # since the epoch, for people
    memory_bytes: int = 0
    is_ahead: bool = False  # nothing was started by it yet
    learns: bool = True  # modules that its containers import are imported ahead
    is_outdated: bool = False  # the one that should have taken the template's place could not be made
    postponed: Counter[str] = field(default_factory=Counter[str])  # packages that could not be tried, and how often
    trimming: asyncio.TimerHandle | None = None

    @property
    def spare_bytes(self) -> int:
        """What one spare takes."""
        return SPARE_BYTES + (self.template.pages.own_bytes if self.template is not None else 0)

    @property
    def own_bytes(self) -> int:
        """What the template takes, with its spares."""
        return self.memory_bytes + (len(self.spares) + self.making) * self.spare_bytes if self.template is not None else 0


class Keeper:
    """All templates of this machine."""

    def __init__(
        self,
        making: Making,
        *,
        budget_bytes: int,
        quiet: Quiet,
        memory: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory`: the file in which the recipes of this machine are kept."""
        self._quiet = quiet
        self._making = making
        self._memory = memory
        self._budget_bytes = budget_bytes
        self._clock = clock
        self._kept: dict[Key, Kept] = {}
        self._children: dict[int, int] = {}  # by id of the template: how many containers came from it
        self._ended: dict[int, Template] = {}  # that still have children
        self._expected: dict[Key, Recipe] = {}
        self._ahead: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._few = asyncio.Semaphore(SPARES_AT_A_TIME)
        self._refilling: asyncio.Task[None] | None = None
        self._remembering = asyncio.Lock()  # two at a time would spoil each other's file
        self._is_closing = False
        self.on_change: Callable[[list[TemplateState]], object] = lambda _: None  # told of all, when one comes or goes

    def states(self) -> list[TemplateState]:
        """Those that are there."""
        return [
            TemplateState(kept.recipe.name, kept.memory_bytes, len(kept.recipe.modules), kept.ready_at)
            for kept in self._kept.values()
            if kept.template is not None
        ]

    async def open(self) -> None:
        """Begin the templates that were used last."""
        if self._budget_bytes and self._memory is not None:
            for recipe in await asyncio.to_thread(remembered.load, self._memory):
                self.want(recipe)

    def want(self, recipe: Recipe) -> Kept:
        """See to it that there is a template by this recipe soon."""
        kept = self._kept.setdefault(key_of(recipe), Kept(recipe))
        kept.used_at = self._clock()
        is_free = kept.template is None and kept.opening is None and self._clock() >= kept.blocked_until
        if is_free and not self._is_closing and self._budget_bytes:
            kept.opening = self._spawn(self._open(kept))
        return kept

    def expect(self, recipe: Recipe) -> None:
        """Containers by this recipe may come: its template begins once no other does that is ahead of need, if memory is left."""
        if self._budget_bytes and not self._is_closing and len(self._expected) < MOST_EXPECTED:
            self._expected[key_of(recipe)] = recipe
            if self._ahead is None:
                self._ahead = self._spawn(self._begin_ahead())

    async def take(self, spec: ContainerSpec) -> Spare | None:
        """A child that may become this container; None if it has to start the ordinary way."""
        if spec.recipe is None or not self._budget_bytes or self._is_closing or misfit(spec, spec.recipe):
            return None
        kept = self.want(spec.recipe)
        kept.is_ahead = False
        template = kept.template
        if template is None or misfit(spec, spec.recipe, template.loaded.read):
            return None
        while kept.spares:
            spare = kept.spares.popleft()
            if spare.is_alive:
                return self._given(kept, spare)
            self._spawn(self._making.discard(spare))
        try:
            return self._given(kept, await self._making.spare(template))
        except (PilotlightError, OSError) as error:
            self._fault(kept, template, error)
            return None

    def began(self, spare: Spare) -> None:
        """It has become a container, and another may take its place."""
        if (kept := self._kept.get(key_of(spare.template.recipe))) is not None:
            kept.faults = 0
            if not kept.is_outdated:
                kept.failures = 0
            self._renew(kept)
        if self._refilling is None:
            self._refilling = self._spawn(self._refill_when_quiet())

    def failed(self, spare: Spare, error: Exception) -> None:
        """It could not become one; it is gone."""
        self.released(spare)
        if (kept := self._kept.get(key_of(spare.template.recipe))) is not None:
            self._fault(kept, spare.template, error)
            self._refill(kept)

    def released(self, spare: Spare) -> None:
        """The container that it became has ended, or never began."""
        template = spare.template
        left = self._children[id(template)] = self._children.get(id(template), 1) - 1
        if not left:
            del self._children[id(template)]
            if self._ended.pop(id(template), None) is not None:
                self._spawn(self._making.close(template))

    def condemn(self, template: Template) -> None:
        """It holds back one of its containers: everything of it is ended but them."""
        log.error("template.condemned", template=template.started.container_id)
        kept = self._kept.get(key_of(template.recipe))
        if kept is not None and kept.template is template:
            self._pause(kept)
            self._retire(kept)
        else:
            self._spawn(self._making.end(template))

    async def settled(self) -> None:
        """Return when nothing is being made or ended."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def learn(self, recipe: Recipe, names: Sequence[str]) -> bool:
        """Containers of this recipe import these: the next template has them. False if there is nothing new."""
        kept = self._kept.get(key_of(recipe))
        if kept is None or not kept.learns or self._is_closing or len(kept.recipe.rejected) >= MOST_REJECTED:
            return False
        wanted = [name for name in names if package_of(name) not in kept.recipe.rejected]
        modules = tuple(fitting(dict.fromkeys((*kept.recipe.modules, *wanted))))
        if len(modules) == len(kept.recipe.modules):
            return False
        kept.recipe = replace(kept.recipe, modules=modules)
        if kept.template is not None and kept.opening is None:
            kept.is_outdated = True
            self._renew(kept)
        return True

    def crashed(self, spare: Spare) -> None:
        """A container that was forked was killed by a fault at its start, as an ordinary one may not be: no more is imported."""
        kept = self._kept.get(key_of(spare.template.recipe))
        if kept is not None and spare.template.recipe.modules:
            self._unlearn(kept, "a container crashed at its start")
            if kept.template is spare.template:
                self._retire(kept)

    def _unlearn(self, kept: Kept, why: str) -> None:
        log.warning("template.imports_nothing", why=why)
        kept.recipe, kept.learns = replace(kept.recipe, modules=()), False

    async def close(self) -> None:
        """End all templates; their containers must be gone."""
        self._is_closing = True
        self._making.hurry()
        for kept in self._kept.values():
            self._retire(kept)
        await self.settled()
        for template in self._ended.values():
            await self._making.close(template)
        self._kept.clear()
        self._ended.clear()

    # ---- within ----

    async def _begin_ahead(self) -> None:
        try:
            while self._expected and not self._is_closing:
                recipe = self._expected.pop(next(iter(self._expected)))
                kept = self._kept.get(key_of(recipe))
                if kept is not None and (kept.template is not None or kept.opening is not None):
                    continue
                if not self._has_room():
                    log.info("template.not_begun_ahead", waiting=len(self._expected) + 1, budget_mib=self._budget_bytes >> 20)
                    self._expected.clear()
                    return
                is_ahead = kept is None or kept.is_ahead
                kept = self.want(recipe)
                kept.is_ahead = is_ahead
                if kept.opening is not None:
                    await asyncio.wait([kept.opening])
        finally:
            self._ahead = None

    def _has_room(self) -> bool:
        """Whether one more fits into the budget without another having to go."""
        beginning = sum(kept.opening is not None and kept.template is None for kept in self._kept.values())
        return self._used_bytes() + (beginning + 1) * EXPECTED_BYTES <= self._budget_bytes

    async def _open(self, kept: Kept) -> None:
        number, recipe = next(self._numbers), kept.recipe
        try:
            template = await self._making.template(recipe, number)
        except (PilotlightError, OSError) as error:
            if self._is_closing:  # it was told to fail
                return
            if recipe.modules and isinstance(error, LoadFault):
                self._unlearn(kept, str(error))
                kept.is_outdated = False
            else:
                kept.is_outdated = kept.template is not None
            self._pause(kept)
            log.warning("template.failed", template=number, error=str(error), again_after_s=kept.blocked_until - self._clock())
            return
        finally:
            kept.opening = None
        if self._is_closing:
            await self._making.close(template)
            return
        self._retire(kept)  # the one before it, which is old, or has imported less
        if rejected := self._rejected(kept, template):
            recipe, kept.recipe = without(recipe, rejected), without(kept.recipe, rejected)
        kept.template, kept.opened_at, kept.forks, kept.faults = template, self._clock(), 0, 0
        kept.is_outdated = False
        kept.memory_bytes = template.memory_bytes()
        log.info("template.ready", template=number, took_ms=round(template.loaded.took_ms), memory_mib=kept.memory_bytes >> 20)
        kept.ready_at = time.time()
        self._refill(kept)
        self._make_room(kept)
        self.on_change(self.states())
        if kept.recipe.modules != recipe.modules and not self._is_closing:  # something was learned meanwhile
            kept.opening = self._spawn(self._open(kept))
        await self._remember()

    def _rejected(self, kept: Kept, template: Template) -> set[str]:
        """Packages that are not to be tried again: by what they do, or for they could not be tried several times."""
        packages = set(map(package_of, template.recipe.modules))
        failed, postponed = template.loaded.failed, template.loaded.postponed
        if left_out := packages & (failed.keys() | postponed.keys()):
            reasons = {**failed, **postponed}
            log.info(
                "template.left_out",
                template=template.started.container_id,
                packages={name: reasons[name] for name in sorted(left_out)[:MOST_REJECTED]},
            )
        kept.postponed.update(packages & postponed.keys())
        return packages & {*failed, *(name for name in postponed if kept.postponed[name] >= MOST_POSTPONED)}

    async def _remember(self) -> None:
        if self._memory is None:
            return
        async with self._remembering:
            recent = sorted(self._kept.values(), key=lambda kept: (kept.is_ahead, -kept.used_at))
            try:
                await asyncio.to_thread(remembered.save, self._memory, [kept.recipe for kept in recent])
            except OSError as error:  # costs a slower start, when this agent is gone
                log.warning("templates.not_remembered", path=str(self._memory), error=str(error))

    def _pause(self, kept: Kept) -> None:
        kept.failures += 1
        kept.blocked_until = self._clock() + min(MAX_RETRY_S, RETRY_S * 2 ** (kept.failures - 1))

    def _make_room(self, newest: Kept) -> None:
        """Until all fit into the budget: spares for bursts go, then what was not used for the longest time."""
        for key, kept in tuple(self._kept.items()):
            if kept is not newest and kept.opening is None and self._clock() - kept.used_at > MAX_IDLE_S:
                self._retire(kept)
                del self._kept[key]
        while True:
            if self._used_bytes() <= self._budget_bytes:
                return
            alive = [kept for kept in self._kept.values() if kept.template is not None]
            most = max(alive, key=lambda kept: len(kept.spares))
            if len(most.spares) > SPARES:
                self._spawn(self._making.discard(most.spares.pop()))
                continue
            # What nothing was started by makes no room for itself.
            victims = [kept for kept in alive if kept is not newest or kept.is_ahead] or alive
            victim = min(victims, key=lambda kept: (not kept.is_ahead, kept.used_at))
            log.info("template.evicted", memory_mib=victim.memory_bytes >> 20, budget_mib=self._budget_bytes >> 20)
            if victim is newest and not victim.is_ahead:  # larger than all that there is for templates
                victim.blocked_until = self._clock() + MAX_RETRY_S
            self._retire(victim)

    def _renew(self, kept: Kept) -> None:
        """What all children of a template share, such as the order of hashes, must not last."""
        is_due = kept.is_outdated or kept.forks >= MAX_FORKS or self._clock() - kept.opened_at >= MAX_AGE_S
        if kept.template is not None and kept.opening is None and is_due and not self._is_closing:
            if self._clock() < kept.blocked_until:
                kept.is_outdated = True
                return
            log.info("template.renewed", forks=kept.forks)
            kept.opening = self._spawn(self._open(kept))  # the old one serves until then

    def _given(self, kept: Kept, spare: Spare) -> Spare:
        kept.forks += 1
        kept.bursts.took(self._clock())
        self._children[id(spare.template)] = self._children.get(id(spare.template), 0) + 1
        return spare

    async def _refill_when_quiet(self) -> None:
        await self._quiet.wait(REFILL_AT_LATEST_S)
        self._refilling = None
        self._measure()
        for kept in tuple(self._kept.values()):
            self._refill(kept)
            self._trim_later(kept)

    def _measure(self) -> None:
        """Those that have grown count as what they are now, and may have to go for it."""
        alive = [kept for kept in self._kept.values() if kept.template is not None]
        for kept in alive:
            assert kept.template is not None
            kept.memory_bytes = kept.template.memory_bytes()
        if alive:
            self._make_room(max(alive, key=lambda kept: kept.used_at))

    def _trim_later(self, kept: Kept) -> None:
        if kept.trimming is None and len(kept.spares) + kept.making > SPARES:
            kept.trimming = asyncio.get_running_loop().call_later(BURSTS_KEPT_S + BURST_S, self._trim, kept)

    def _trim(self, kept: Kept) -> None:
        """No burst came again: what waited for it goes."""
        kept.trimming = None
        while len(kept.spares) > kept.bursts.wanted(self._clock()):
            self._spawn(self._making.discard(kept.spares.pop()))
        self._trim_later(kept)

    def _refill(self, kept: Kept) -> None:
        """Have as many spares as are wanted, and one at least; more than one only if there is memory for them."""
        if kept.template is None or self._is_closing:
            return
        room = max(0, self._budget_bytes - self._used_bytes()) // kept.spare_bytes
        there = len(kept.spares) + kept.making
        for _ in range(max(SPARES - there, min(kept.bursts.wanted(self._clock()) - there, room))):
            kept.making += 1
            self._spawn(self._make(kept, kept.template))

    def _used_bytes(self) -> int:
        return sum(kept.own_bytes for kept in self._kept.values())

    async def _make(self, kept: Kept, template: Template) -> None:
        try:
            async with self._few:
                if kept.template is not template or self._is_closing:
                    return
                spare = await self._making.spare(template)
        except (PilotlightError, OSError) as error:
            self._fault(kept, template, error)
            return
        finally:
            kept.making -= 1
        if kept.template is template and not self._is_closing:
            kept.spares.append(spare)
        else:
            await self._making.discard(spare)

    def _fault(self, kept: Kept, template: Template, error: Exception) -> None:
        if isinstance(error, InvalidInput | DiskFull):  # of what was asked of it, and no other way does better
            return
        log.warning("template.fault", template=template.started.container_id, error=str(error))
        kept.faults += 1
        if kept.template is not template:
            return
        if isinstance(error, NotIsolated) or kept.faults >= MAX_FAULTS or not template.is_alive:
            self._pause(kept)
            self._retire(kept)

    def _retire(self, kept: Kept) -> "asyncio.Task[None] | None":
        """No more children from now on; those that became containers live on. What is to be done for it goes on by itself."""
        template, kept.template = kept.template, None
        spares, kept.spares = kept.spares, deque[Spare]()
        if kept.trimming is not None:
            kept.trimming.cancel()
            kept.trimming = None
        if template is None:
            return None
        self.on_change(self.states())
        return self._spawn(self._end(template, spares))

    async def _end(self, template: Template, spares: Iterable[Spare]) -> None:
        for spare in spares:
            await self._making.discard(spare)
        if self._children.get(id(template)):
            self._ended[id(template)] = template
            await self._making.end(template)
        else:
            await self._making.close(template)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def budget_of(settings: Settings) -> int:
    """Bytes that templates may have for themselves; 0: there are to be none."""
    if not settings.warm_starts or settings.isolation != "ordinary" or Path(settings.oci_runtime).name != "crun":
        return 0
    return (settings.warm_memory_mib or offered_mib(settings) // 10) << 20


def key_of(recipe: Recipe) -> Key:
    """What two containers must have in common to come from one template."""
    return (recipe.layers, recipe.args, tuple(sorted(recipe.env.items())))
