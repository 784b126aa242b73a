"""Ending processes of containers, and waiting until they have ended.

Owns one invariant: whoever was seen once, by a pidfd, is never mistaken for another process that has its number by now.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping

import structlog

log = structlog.get_logger()

KILL_TIMEOUT_S = 10.0


def kill_and_wait(processes: set[int]) -> None:
    """SIGKILL to all of these numbers, and wait until each is dead (a zombie counts as dead)."""
    held: dict[int, int] = {}
    try:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                held[os.pidfd_open(process)] = process
        kill_held(held)
    finally:
        for pidfd in held:
            os.close(pidfd)


def kill_held(held: Mapping[int, int]) -> None:
    """The same for processes of which there are pidfds, by which it goes; their numbers are for the log."""
    poll = select.poll()
    for pidfd in held:
        poll.register(pidfd, select.POLLIN)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    waiting = set(held)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left_s * 1000):
            poll.unregister(pidfd)
            waiting.discard(pidfd)
    if waiting:
        log.error("processes.survived", pids=sorted(held[pidfd] for pidfd in waiting))
