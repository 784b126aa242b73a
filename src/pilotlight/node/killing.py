"""Ending processes of containers, and waiting until they have ended.

Owns one invariant: whoever was seen once, by a pidfd, is never mistaken for another process that has its number by now.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Generator, Mapping

import structlog

log = structlog.get_logger()

KILL_TIMEOUT_S = 10.0
ROUNDS = 5  # kill and look again: what forks while it is being killed


def kill_and_wait(processes: set[int]) -> None:
    """SIGKILL to all of these numbers, and wait until each is dead (a zombie counts as dead)."""
    with _opened(processes) as held:
        kill_held(held)


def kill_all(members: Callable[[], set[int]], *, but: int = 0) -> None:
    """SIGKILL to whoever is a member, except one, until nobody else is; those that are our children are buried.

    All are killed before any is waited for: the end of one that another traces is told only when that one has ended.
    """
    for _ in range(ROUNDS):
        with _opened(members() - {but}) as held:
            if not held:
                return
            there = members()  # or the number is another's by now
            kill_held({pidfd: process for pidfd, process in held.items() if process in there})
            for pidfd in held:
                _bury(pidfd)


@contextlib.contextmanager
def _opened(processes: set[int]) -> Generator[dict[int, int]]:
    """Pidfds of those that there are, with their numbers."""
    held: dict[int, int] = {}
    try:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                held[os.pidfd_open(process)] = process
        yield held
    finally:
        for pidfd in held:
            os.close(pidfd)


def kill_child(pidfd: int, pid: int) -> None:
    """SIGKILL to a child of ours, which is buried where it has ended in time; a zombie is in no control group any more."""
    kill_held({pidfd: pid})
    _bury(pidfd)


def _bury(pidfd: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


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
