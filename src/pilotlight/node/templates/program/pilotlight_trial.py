"""What a template finds out of modules before it imports them: in a fork that is thrown away.

It runs on every Python from 3.9 on, in the image's interpreter, with the standard library alone.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
from typing import Any

TRIAL_S = 20  # for what modules do at import


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
            signal.alarm(TRIAL_S)
            why = changed_by(modules)
        except BaseException as error:
            why = repr(error)[:200]
        finally:
            os.write(write, why.encode() or b"-")
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        why = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return "" if why == "-" else why or "it ended with status %d" % status


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
    return "keeps threads" if keeps_threads() else ""


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except OSError:  # the listing's own
            continue
    return sorted(link for link in found if not link.startswith("/proc/"))


def keeps_threads() -> bool:
    """Whether there are threads besides this one after a fork, for which those of OpenBLAS, say, are ended."""
    if len(os.listdir("/proc/self/task")) == 1:
        return False
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task")) > 1
