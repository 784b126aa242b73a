"""What a template finds out of modules: before it imports them, in a fork that is thrown away, and while it does.

It runs on every Python from 3.9 on, in the image's interpreter, with the standard library alone.
"""

from __future__ import annotations

import importlib
import os
import random
import select
import signal
import sys
import time
from typing import Any

TRIAL_S = 10.0  # for what modules do at import, while they don't wait for a processor
MOST_S = 10 * TRIAL_S
LOOK_S = 0.5
ANSWER_BYTES = 1000  # written at once
TOO_LONG, KILLED = "it took too long", "it was killed"


class ReadNames:
    """Records which environment variables are read while modules are imported: whoever needs others can't be forked from here."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._kind = type(os.environ)
        self._read = self._kind.__getitem__

    def __enter__(self) -> ReadNames:
        names, read = self.names, self._read

        def getitem(environ: Any, name: Any) -> Any:
            if type(name) in (str, bytes):  # `os.environb` is of the same class; all else is refused
                names.add(os.fsdecode(name))
            return read(environ, name)

        setattr(self._kind, "__getitem__", getitem)  # noqa: B010
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self._kind, "__getitem__", self._read)  # noqa: B010


def import_all(modules: list[str]) -> None:
    """Import in order; what can't be is left to whoever wants it."""
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException:  # a module may raise what it likes
            if name in sys.modules:
                raise


def try_out(modules: list[str]) -> str:
    """Import in a fork that is thrown away; returns why that must not be done ahead of forks, empty if it may."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        why = "it ended"
        try:
            os.setpgid(0, 0)
            why = changed_by(modules)
        except BaseException as error:
            why = repr(error)[:200]
        finally:
            os.write(write, why.encode() or b"-")
            os._exit(0)
    os.close(write)
    answers = answers_in_time(read, pid)
    why = os.read(read, ANSWER_BYTES).decode(errors="replace") if answers else TOO_LONG
    os.close(read)
    try:
        os.killpg(pid, signal.SIGKILL)  # with what it began
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # it has not come to be a group
    _, status = os.waitpid(pid, 0)
    if not why and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return KILLED
    return "" if why == "-" else why or "it ended with status %d" % status


def was_prevented(why: str) -> bool:
    """Whether that says more of the machine, or of the memory that a template may have, than of what was tried."""
    return why in (TOO_LONG, KILLED)


def answers_in_time(read: int, pid: int) -> bool:
    """On a machine that has more to do than it can, others may run most of the time: that is not held against modules."""
    begun = at = time.monotonic()
    counted_s, delay_s = 0.0, waited_for_processors_s(pid)
    while counted_s < TRIAL_S and at - begun < MOST_S:
        if select.select([read], [], [], LOOK_S)[0]:
            return True
        before, now, delay_before_s, delay_s = at, time.monotonic(), delay_s, waited_for_processors_s(pid)
        counted_s += max(0.0, (now - before) - (delay_s - delay_before_s))
        at = now
    return False


def waited_for_processors_s(pid: int) -> float:
    try:
        with open("/proc/%d/schedstat" % pid) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):  # it has ended, or the kernel does not count
        return 0.0


def changed_by(modules: list[str]) -> str:
    """What of this process is not as it was after these are imported, or would not be the same in a fork; empty for nothing."""

    def state() -> dict[str, Any]:
        return {
            "opens files, sockets or devices": open_files(),
            "seeds random numbers": random.getstate(),
            "sets signal handlers": [signal.getsignal(number) for number in signal.valid_signals()],
            "changes the environment": dict(os.environ),
            "changes the directory": os.getcwd(),
        }

    before = state()
    import_all(modules)
    after = state()
    for what, then in before.items():
        if then != after[what]:
            return what
    return "keeps processes" if keeps_processes() else "keeps threads" if keeps_threads() else ""


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except OSError:  # the listing's own
            continue
    return sorted(link for link in found if not link.startswith("/proc/"))


def keeps_processes() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def keeps_threads() -> bool:
    """Whether there are threads besides this one after a fork, for which those of OpenBLAS, say, are ended."""
    if len(os.listdir("/proc/self/task")) == 1:
        return False
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task")) > 1
