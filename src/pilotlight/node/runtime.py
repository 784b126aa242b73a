"""Containers: started by an OCI runtime from layers, watched, ended, and cleaned up after.

Owns one invariant: when a container's end is reported, its processes are gone and its output is complete; when the runtime is
closed, or opened again after the agent died, nothing of it is left: no process, mount, namespace, cgroup, interface or rule. An end
is noticed by the kernel's own event (a pidfd becomes readable), never by asking repeatedly.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from pilotlight.config import Settings
from pilotlight.core import errors
from pilotlight.core.containers import Bind, ContainerSpec, Exit, OnOutput, Recipe, TemplateState
from pilotlight.node import syscalls
from pilotlight.node.container import Container
from pilotlight.node.dns import Forwarder
from pilotlight.node.output import OutputPipe
from pilotlight.node.quiet import Quiet
from pilotlight.node.rootfs import IdMap
from pilotlight.node.setup import Setup, Started
from pilotlight.node.templates import warm
from pilotlight.node.templates.imports import LOOK_S, Imports
from pilotlight.node.templates.keeper import LEAST_MIB, Keeper, budget_of
from pilotlight.node.templates.making import OnThreads
from pilotlight.node.templates.pages import written
from pilotlight.node.templates.spare import Spare

__all__ = ["Bind", "Container", "ContainerSpec", "Exit", "OnOutput", "Runtime", "sweep"]

log = structlog.get_logger()
T = TypeVar("T")
CLEAN_UP_AT_LATEST_S = 1.0  # after a container's end, however many begin
_FAULTS = tuple(128 + number for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT))


def sweep(settings: Settings) -> None:
    """Kill and remove all that a platform's dead agent left on this machine. Blocks; safe where there is nothing, or to repeat."""
    Setup(settings, IdMap()).close()


class Runtime:
    """All containers of one platform on this machine. Must run as root, one per platform."""

    def __init__(self, settings: Settings, ids: IdMap | None = None) -> None:
        self._setup = Setup(settings, ids or IdMap())
        budget_bytes = budget_of(settings)
        making = OnThreads(self._setup, max(LEAST_MIB, budget_bytes >> 20))
        self._quiet = Quiet()
        self._keeper = Keeper(making, budget_bytes=budget_bytes, quiet=self._quiet, memory=settings.node_dir / "templates.json")
        self._imports = Imports()
        self.is_warm = budget_bytes > 0  # containers may be forked from templates
        if budget_bytes:
            self._setup.on_root = self._imports.watch
        self._forwarder = Forwarder(self._setup.network.link_local)
        self._containers: dict[str, Container] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}  # ended and reported, being cleaned up
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_open = False

    @property
    def mount_namespace(self) -> int:
        """A descriptor of the mount namespace in which containers are put together; what is mounted there ends with us."""
        return self._setup.namespace

    def on_refused(self, told: Callable[[str, Sequence[str]], object]) -> None:
        """Be told (on some thread) of each container that was killed before it began: its id, and what was wrong with it."""
        self._setup.admission.on_refused = told

    def on_templates(self, told: Callable[[list[TemplateState]], object]) -> None:
        """Be told of all templates, now and whenever one comes or goes."""
        self._keeper.on_change = told
        told(self._keeper.states())

    def expect(self, recipe: Recipe) -> None:
        """Containers by this recipe may be started soon: have a template begin, if there is memory left for it."""
        self._keeper.expect(recipe)

    async def open(self) -> None:
        """Sweep away what a former agent left, then make bridge, rules, groups and the DNS forwarder."""
        syscalls.become_subreaper()  # a started container's first process is then our child, and its exit code ours to collect
        try:
            await asyncio.to_thread(self._setup.open)
            await self._forwarder.open()
        except BaseException:
            await asyncio.to_thread(self._setup.close)
            raise
        self._is_open = True
        await self._keeper.open()

    async def start(self, spec: ContainerSpec, on_output: OnOutput) -> Container:
        """Start a container; its program runs when this returns. Raises a PilotlightError that says why it couldn't."""
        if not self._is_open:
            raise errors.WrongState("The container runtime is not open.")
        if spec.container_id in self._containers:
            raise errors.AlreadyExists(f"Container {spec.container_id} is running already.")
        if leaving := self._leaving.get(spec.container_id):
            await asyncio.wait([leaving])
        starting = self._own(self._start(spec, on_output))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Set-up is under way on a thread and can't be interrupted: let it finish, then undo it.
            self._own(self._abandon(starting))
            raise

    async def settled(self, timeout_s: float) -> None:
        """Return when no template is being made or ended, or after that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._keeper.settled()

    async def close(self) -> None:
        """Kill every container and remove everything. Safe to repeat."""
        if not self._is_open:
            return
        self._is_open = False
        while self._containers or self._tasks:
            await asyncio.gather(*(container.kill() for container in tuple(self._containers.values())))
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._keeper.close()
        await self._forwarder.close()
        self._imports.close()
        await asyncio.to_thread(self._setup.close)

    async def _start(self, spec: ContainerSpec, on_output: OnOutput) -> Container:
        pipes = (OutputPipe(1, on_output), OutputPipe(2, on_output))
        self._quiet.begins(spec.container_id)
        try:
            started = await self._set_up(spec, pipes[0].write_end, pipes[1].write_end)
        except BaseException:
            self._quiet.has_begun(spec.container_id)
            self._imports.forget(spec.container_id)
            await asyncio.gather(*(pipe.drain() for pipe in pipes))
            raise
        address = str(started.port.address) if started.port is not None else ""
        container = Container(
            spec.container_id,
            started.pid,
            started.pidfd,
            started.setup_ms,
            pipes,
            address,
            is_warm=started.forked is not None,
            told_ns=started.told_ns,
            on_answer=lambda: self._has_answered(started),
            on_stuck=lambda: self._is_stuck(started),
        )
        self._containers[spec.container_id] = container
        for pipe in pipes:
            pipe.close_write_end()
        loop = asyncio.get_running_loop()
        loop.add_reader(started.pidfd, self._on_exit, container, started, pipes)
        if spec.recipe is not None:
            learning = loop.call_later(LOOK_S, lambda: self._own(self._learn(spec)))
            container.on_end(lambda ended: self._begun_badly(spec, started, ended, learning))
        return container

    async def _learn(self, spec: ContainerSpec) -> None:
        names = await asyncio.to_thread(self._imports.finish, spec)
        if names and spec.recipe is not None and self._keeper.learn(spec.recipe, names):
            self._imports.learned(spec)

    def _is_stuck(self, started: Started) -> None:
        """It was killed and is still there: a process of its template may trace one of it, and who is traced does not end."""
        log.error("container.stuck", container=started.container_id, is_forked=started.forked is not None)
        if isinstance(started.forked, Spare):
            self._keeper.condemn(started.forked.template)

    def _has_answered(self, started: Started) -> None:
        self._quiet.has_begun(started.container_id)
        self._own(self._learn_pages(started))

    async def _learn_pages(self, started: Started) -> None:
        spare = started.forked
        if isinstance(spare, Spare) and not spare.template.pages.is_known and started.group.has(spare.program):
            template = spare.template.pid
            program = await asyncio.to_thread(written, spare.program, template)
            spare.template.pages.add(program, await asyncio.to_thread(written, spare.pid, template))

    def _begun_badly(self, spec: ContainerSpec, started: Started, ended: Exit, learning: asyncio.TimerHandle) -> None:
        """The container has ended: what was learned of it is learned now, be it that forks of its template crash."""
        is_young = learning.when() > asyncio.get_running_loop().time()
        learning.cancel()
        if is_young and isinstance(started.forked, Spare) and ended.code in _FAULTS:
            self._keeper.crashed(started.forked)
        self._own(self._learn(spec))

    async def _set_up(self, spec: ContainerSpec, stdout: int, stderr: int) -> Started:
        """Forked from a template where there is one that fits; whatever goes wrong with that, the ordinary way is left."""
        loop, threads = asyncio.get_running_loop(), self._setup.threads
        if (spare := await self._keeper.take(spec)) is not None:
            try:
                started = await loop.run_in_executor(threads, warm.start, self._setup, spec, spare, stdout, stderr)
            except (errors.PilotlightError, OSError) as error:
                self._keeper.failed(spare, error)
            except Exception as error:  # a fault of ours in this must not be one of the container
                log.error("warm_start_crashed", container=spec.container_id, exc_info=error)
                self._keeper.failed(spare, error)
            else:
                self._keeper.began(spare)
                return started
        return await loop.run_in_executor(threads, self._setup.start, spec, stdout, stderr)

    def _on_exit(self, container: Container, started: Started, pipes: tuple[OutputPipe, OutputPipe]) -> None:
        asyncio.get_running_loop().remove_reader(started.pidfd)
        self._quiet.has_begun(started.container_id)
        self._own(self._finish(container, started, pipes))

    async def _finish(self, container: Container, started: Started, pipes: tuple[OutputPipe, OutputPipe]) -> None:
        code = _collect(started.pidfd) if started.forked is None else started.forked.exit_code()
        await asyncio.gather(*(pipe.drain() for pipe in pipes))
        usage = started.group.usage()
        # A process that was shot for memory and not missed did not end the container.
        oom_killed = usage.oom_kills > 0 and code != 0
        if started.upper.durable:  # the caller takes it over: nothing of ours may be left beside it
            await asyncio.to_thread(self._setup.clean_upper, started)
        del self._containers[container.container_id]
        self._leaving[started.container_id] = self._own(self._clean_up(started))
        container.report(Exit(code, oom_killed, usage.peak_memory_bytes, usage.cpu_seconds))

    async def _clean_up(self, started: Started) -> None:
        try:
            if self._is_open:
                await self._quiet.wait(CLEAN_UP_AT_LATEST_S)
            await asyncio.get_running_loop().run_in_executor(self._setup.cleaners, self._setup.clean_up, started)
        except (OSError, errors.PilotlightError) as error:
            # The next open() sweeps; meanwhile it costs a directory or an address.
            log.error("container.clean_up_failed", container=started.container_id, error=str(error))
        finally:
            del self._leaving[started.container_id]
            if isinstance(started.forked, Spare):
                self._keeper.released(started.forked)

    async def _abandon(self, starting: "asyncio.Task[Container]") -> None:
        with contextlib.suppress(errors.PilotlightError):
            await (await starting).kill()

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _collect(pidfd: int) -> int:
    """The exit code of a child that has ended, 128 + signal if one killed it."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
