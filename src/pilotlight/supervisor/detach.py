"""Leaving the terminal: the supervisor goes on in a session of its own and keeps nothing of the caller's.

The caller waits on a pipe for one of two words, "ready" or "failed"; end of file without either means that it was killed.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pilotlight.supervisor.journal import open_log


@dataclass(frozen=True)
class Outcome:
    """What became of the background process: seconds until it was ready and what is to be known of it, or the error to show."""

    ready_s: float | None = None
    error: str = ""
    notes: Sequence[str] = ()


class Reporter:
    """The background's end of the pipe. Reporting twice does nothing the second time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def ready(self, seconds: float, notes: Sequence[str]) -> None:
        self._say({"ready_s": seconds, "notes": list(notes)})

    def failed(self, error: str) -> None:
        self._say({"error": error})

    def _say(self, document: dict[str, object]) -> None:
        if self._fd >= 0:
            with suppress(BrokenPipeError):  # the caller went away; the platform runs all the same
                os.write(self._fd, json.dumps(document).encode() + b"\n")
            os.close(self._fd)
            self._fd = -1


def _leave(log_path: Path, keep: Collection[int]) -> None:
    """Session leader's child, no terminal, no file descriptor but those to keep; output goes to the log."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o022)
    null, log = os.open(os.devnull, os.O_RDWR), open_log(log_path)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names only
        if int(name) > 2 and int(name) not in keep:
            with suppress(OSError):  # the listing's own descriptor
                os.close(int(name))


def run_in_background(body: Callable[[Reporter], int], log_path: Path, keep: Collection[int]) -> Outcome:
    """Run the body in a detached process, whose exit status it returns; come back when it has reported.

    A signal to the caller meanwhile (Ctrl-C) ends the background process too. `keep`: file descriptors that the body needs.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    if (intermediate := os.fork()) == 0:
        status = 1
        try:
            _leave(log_path, {writing, *keep})
            os.write(writing, f"{os.getpid()}\n".encode())
            status = body(Reporter(writing))
        finally:
            os._exit(status)  # never back into the caller's code
    os.close(writing)
    os.waitpid(intermediate, 0)
    with os.fdopen(reading) as answers:
        return _await_report(answers.readline, log_path)


def _await_report(readline: Callable[[], str], log_path: Path) -> Outcome:
    pid = int(readline() or 0)

    def pass_on(number: int, frame: FrameType | None) -> None:
        if pid:
            os.kill(pid, signal.SIGTERM)

    former = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        answer = readline()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if not answer:
        return Outcome(error=f"the start was interrupted; see {log_path}")
    return Outcome(**json.loads(answer))
