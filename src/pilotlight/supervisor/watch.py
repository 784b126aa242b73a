"""The supervisor at work: three children started together, watched, and stopped in order.

Owns `processes.json` in the run directory: it always names the processes that run now.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from pilotlight.config import SETTINGS_FILE, Settings
from pilotlight.core.errors import Busy, PilotlightError, WrongState
from pilotlight.supervisor.child import Child, Program
from pilotlight.supervisor.journal import Journal, tail
from pilotlight.supervisor.sockets import Listeners

ROLES = ("server", "edge", "node")
PROCESSES_FILE = "processes.json"
STOP_GRACE_S = {"node": 15.0, "server": 5.0, "edge": 5.0}  # in the order of stopping: the node removes its containers first
START_LIMIT_S = 60.0
SHOWN_LINES = 12

ReadyCallback = Callable[[float, Sequence[str]], None]


class Supervisor:
    """Runs the processes of one platform until a signal, or until one of them can't be started."""

    def __init__(self, settings: Settings, listeners: Mapping[str, Listeners], journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._stop = asyncio.Event()
        self._failure: PilotlightError | None = None
        self._children = [Child(self._program(role, listeners[role]), journal, self._record, self._gave_up) for role in ROLES]

    def _program(self, role: str, listeners: Listeners) -> Program:
        settings_path = self._settings.run_dir / SETTINGS_FILE
        command = [sys.executable, "-m", self._settings.main_module, role, "--settings", str(settings_path)]
        return Program(role, command, listeners, self._settings.process_logs_dir / f"{role}.log")

    async def run(self, on_ready: ReadyCallback) -> None:
        """Start all, say when all serve (seconds it took, and what they want to be known), wait for the end.

        Raises Busy when one can't be started, WrongState when one refuses to.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        self._record()
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.run(), name=child.role)
            announcing = group.create_task(self._announce(on_ready), name="announce")
            try:
                await self._stop.wait()
            finally:
                announcing.cancel()
                await self._stop_children()
        if self._failure:
            raise self._failure

    async def _announce(self, on_ready: ReadyCallback) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(START_LIMIT_S):
                for child in self._children:
                    await child.ready.wait()
        except TimeoutError:
            late = [child for child in self._children if not child.ready.is_set()]
            self._fail(late[0], f"did not say that it serves within {START_LIMIT_S:.0f} s")
            return
        self._journal.log("platform_ready", seconds=round(time.monotonic() - started, 3))
        on_ready(time.monotonic() - started, [note for child in self._children for note in child.notes])

    def _gave_up(self, child: Child) -> None:
        if child.refusal:
            self._failure = WrongState(child.refusal)
            self._stop.set()
            return
        self._fail(child, "ended each time it was started")

    def _fail(self, child: Child, what: str) -> None:
        lines = "\n".join(f"  {line}" for line in tail(child.program.log_path, SHOWN_LINES))
        self._failure = Busy(
            f"the {child.role} process {what}. The last lines of {child.program.log_path}:\n{lines}\n"
            f"Run `pilotlight doctor` to see what this machine lacks."
        )
        self._stop.set()

    def _on_signal(self, number: int) -> None:
        self._journal.log("signal_received", signal=signal.Signals(number).name)
        if self._stop.is_set() and number == signal.SIGINT:  # a second Ctrl-C: no more patience
            for child in self._children:
                child.signal(signal.SIGKILL)
        self._stop.set()

    async def _stop_children(self) -> None:
        for child in self._children:
            child.retire()
        by_role = {child.role: child for child in self._children}
        for role, grace_s in STOP_GRACE_S.items():
            await by_role[role].stop(grace_s)

    def _record(self) -> None:
        """Write who runs now; readers see the old or the new file, never a half one."""
        path = self._settings.run_dir / PROCESSES_FILE
        pids = {"supervisor": os.getpid()} | {child.role: child.pid for child in self._children}
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(pids))
        fresh.replace(path)
