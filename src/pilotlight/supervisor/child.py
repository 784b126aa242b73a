"""One process of the platform: started with its sockets, started again when it dies, stopped when asked.

    spawn ──► "ready" on its pipe ──► serving ──► exit ──► spawn again (at once, then 0.1, 0.2 … 5 s)
      └───── exit before it was ever ready, MAX_STARTS times, or once if it says that it refuses: give up

Events only: readiness is a line on a pipe, the end is a pidfd that becomes readable. Other lines on that pipe are notes for whoever
starts the platform, and the reason of one that refuses to serve.
"""

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.config import process_environment
from pilotlight.supervisor.journal import Journal, goes_nowhere, open_log
from pilotlight.supervisor.sockets import Listeners

MAX_STARTS = 5
STABLE_S = 10.0  # who served this long starts with a clean record
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
KILL_WAIT_S = 5.0
SAID_BYTES = 64 << 10  # of a process, before it serves
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


def restart_delay_s(deaths: int) -> float:
    """How long to wait before the next start after so many deaths in a row: 0 after the first."""
    return 0.0 if deaths <= 1 else min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (deaths - 2))


def _end_with(parent: int) -> None:
    """In the new process: ask the kernel to end it with the supervisor, which may be killed outright."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


@dataclass(frozen=True)
class Program:
    """What a child runs, with which listeners, and where its output goes."""

    role: str
    command: Sequence[str]
    listeners: Listeners
    log_path: Path


class Child:
    """Keeps one process running. `pid` is None between a death and the next start; `changed` is called whenever it changes."""

    def __init__(self, program: Program, journal: Journal, changed: Callable[[], None], give_up: Callable[["Child"], None]) -> None:
        self.program = program
        self.pid: int | None = None
        self.ready = asyncio.Event()
        self.notes: list[str] = []  # what it wants whoever started the platform to know
        self.refusal = ""  # why it will not serve, if it has said so
        self._journal = journal
        self._changed = changed
        self._give_up = give_up
        self._stopping = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._gone = asyncio.Event()
        self._gone.set()

    @property
    def role(self) -> str:
        return self.program.role

    async def run(self) -> None:
        """Start it and start it again until it is retired, or gives up before it was ever ready."""
        deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            deaths = 1 if time.monotonic() - started >= STABLE_S else deaths + 1
            if (deaths >= MAX_STARTS or self.refusal) and not self.ready.is_set():
                self._journal.log("process_gave_up", role=self.role, starts=deaths)
                self._give_up(self)
                return
            delay_s = restart_delay_s(deaths)
            self._journal.log("process_restarts", role=self.role, exit_code=code, delay_s=delay_s)
            await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        except TimeoutError:
            return

    async def _run_once(self) -> int:
        loop = asyncio.get_running_loop()
        ready_fd, process = self._spawn()
        self.notes, self.refusal = [], ""
        pidfd = os.pidfd_open(process.pid)
        self._process, self.pid = process, process.pid
        self._gone.clear()
        self._journal.log("process_started", role=self.role, pid=process.pid)
        self._changed()
        loop.add_reader(ready_fd, self._on_ready, ready_fd)
        loop.add_reader(pidfd, self._gone.set)
        try:
            await self._gone.wait()
            return process.wait()
        finally:
            loop.remove_reader(pidfd)
            if loop.remove_reader(ready_fd):
                self._on_ready(ready_fd)  # its last words
            os.close(pidfd)
            os.close(ready_fd)
            self._process, self.pid = None, None
            self._journal.log("process_ended", role=self.role, pid=process.pid, exit_code=process.returncode)
            self._changed()

    def _spawn(self) -> tuple[int, "subprocess.Popen[bytes]"]:
        """Start it: the reading end of its readiness pipe, and the process."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        log_fd = open_log(self.program.log_path)
        if goes_nowhere(log_fd):
            self._journal.log("no_room_for_log", role=self.role, path=self.program.log_path, until="its next start")
        numbers = {name: listener.fileno() for name, listener in self.program.listeners.items()}
        supervisor = os.getpid()
        try:
            process = subprocess.Popen(
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                env=process_environment(numbers, writing),
                pass_fds=[*numbers.values(), writing],
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which ends them in order
                preexec_fn=lambda: _end_with(supervisor),
            )
        finally:
            os.close(writing)
            os.close(log_fd)
        return reading, process

    def _on_ready(self, ready_fd: int) -> None:
        try:
            said = os.read(ready_fd, SAID_BYTES)
        except BlockingIOError:  # not a word
            return
        if not said:
            asyncio.get_running_loop().remove_reader(ready_fd)
        for line in said.decode().splitlines():  # a pipe takes each line in one piece
            word, _, text = line.partition(" ")
            if word == "ready":
                self.ready.set()
                self._journal.log("process_ready", role=self.role, pid=self.pid)
            elif word == "note":
                self.notes.append(json.loads(text))
                self._journal.log("process_notes", role=self.role, note=repr(self.notes[-1]))
            elif word == "refused":
                self.refusal = json.loads(text)
                self._journal.log("process_refuses", role=self.role, why=repr(self.refusal))

    def retire(self) -> None:
        """From now on, do not start it again."""
        self._stopping.set()

    async def stop(self, grace_s: float) -> None:
        """End it: SIGTERM, and after the grace SIGKILL. Safe to repeat, and when it never ran."""
        self.retire()
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
            if self._gone.is_set():
                return
            if number == signal.SIGKILL:
                self._journal.log("process_killed", role=self.role, pid=self.pid, grace_s=grace_s)
            self.signal(number)
            try:
                await asyncio.wait_for(self._gone.wait(), wait_s)
            except TimeoutError:
                continue

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self._process is not None:
            self._process.send_signal(number)
