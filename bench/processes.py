"""Processes under measurement: they answer in JSON lines, their CPU time is read from outside, and none outlives this one."""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPLY_TIMEOUT_S = 300.0
LOG_TAIL_CHARACTERS = 3000
MEMORY_INTERVAL_S = 0.02
# util-linux's own: the kernel ends the child even if we are killed outright. It executes the command in its own place.
_BOUND_TO_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Failed(RuntimeError):
    """A process died or fell silent; the message holds the end of its log."""


class Process:
    """A child with pipes for questions and answers; use as a context manager."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                [*_BOUND_TO_US, *command],
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def reply(self, timeout_s: float = REPLY_TIMEOUT_S) -> dict[str, Any]:
        """Its next line; raises Failed."""
        assert self._child.stdout
        ready, _, _ = select.select([self._child.stdout], [], [], timeout_s)
        line = self._child.stdout.readline() if ready else b""
        if not line:
            fate = "ended" if ready else f"said nothing for {timeout_s:g} s"
            raise Failed(f"the {self.name} {fate}{self._logs()}")
        return json.loads(line)

    def _logs(self) -> str:
        """The ends of all logs: who falls silent often waits for another."""
        logs = sorted(self._log.parent.glob("*.log"))
        return "".join(f"\n--- {log.name}\n{log.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}" for log in logs)

    def ask(self, **question: object) -> dict[str, Any]:
        """Send it a line and wait for its answer."""
        assert self._child.stdin
        self._child.stdin.write(json.dumps(question).encode() + b"\n")
        return self.reply()

    def cpu_s(self) -> float:
        """User and system time of all its threads so far."""
        return cpu_s(self.pid)


def cpu_s(pid: int) -> float:
    """CPU seconds of any process: its clock, by the formula of clock_getcpuclockid(3), to the nanosecond."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_bytes(pid: int) -> int:
    """Resident memory of a process that is its own: anonymous pages, from /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"process {pid} has no memory of its own: it has ended")


@contextmanager
def watched(pids: Mapping[str, int]) -> Generator[dict[str, int], None, None]:
    """By how many bytes the memory of the processes grew, at most, in the block. The dict is filled at its end."""
    start = {name: memory_bytes(pid) for name, pid in pids.items()}
    peak, growth, is_over = dict(start), dict[str, int](), threading.Event()

    def look() -> None:
        while not is_over.wait(MEMORY_INTERVAL_S):
            for name, pid in pids.items():
                peak[name] = max(peak[name], memory_bytes(pid))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield growth
    finally:
        is_over.set()
        watcher.join()
        growth.update((name, peak[name] - start[name]) for name in pids)


def clean_environment(**added: str) -> dict[str, str]:
    """Our environment without settings of the client or the interpreter that could change what is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "PYTHON", "PILOTLIGHT_"))}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "MODAL_CONFIG_PATH": "/nonexistent", "MODAL_DISABLE_API_PROXY": "1"} | added


def say(**answer: object) -> None:
    """In the child: answer, or tell that something is ready."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
