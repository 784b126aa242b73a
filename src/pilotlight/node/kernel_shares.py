"""What the kernel counts for a user and not for a control group, shared out so that no container can take it all.

Each container has a user namespace, and the kernel counts inotify instances, pending signals, message queues and processes of a
user in every namespace up to ours: there, all containers are one user, the one that we are ourselves. So the bound that holds for
us is raised to where it holds for nobody, and each container's own namespace gets a bound. Sources: namespaces(7) on
/proc/sys/user, getrlimit(2), Documentation/filesystems/devpts.rst.
"""

import contextlib
import resource
import subprocess
from pathlib import Path

from pilotlight.core import errors

INOTIFY_INSTANCES = 128  # of one container; as much as a whole machine has by default
INOTIFY_WATCHES = 65_536
TERMINALS = 64
PENDING_SIGNALS = 16_384
MESSAGE_QUEUES_BYTES = 819_200
FEW = 8  # shares of what can't be raised: fewer than there may be containers, or each would have next to nothing
MOST_CONTAINERS = 256  # as many shares as the machine's own bounds are raised for
NO_CORE_BYTES = 1  # less than any core; with 0 the kernel would still start a handler on the machine (core(5), by a pipe)

_OURS = (resource.RLIMIT_SIGPENDING, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_NPROC)
_INOTIFY = Path("/proc/sys/fs/inotify")
_PROCESSES_SHARE = 0.75  # of the machine's process numbers, for all containers
_WRITE = (
    f"echo {INOTIFY_INSTANCES} >/proc/sys/user/max_inotify_instances; echo {INOTIFY_WATCHES} >/proc/sys/user/max_inotify_watches"
)


def user_limits() -> dict[str, str]:
    """The files of /proc/sys/user by which a container's user namespace is bounded, for who writes them from within."""
    return {"max_inotify_instances": str(INOTIFY_INSTANCES), "max_inotify_watches": str(INOTIFY_WATCHES)}


def lower_limits(pid: int) -> None:
    """Bound a container's first process, and so all that come from it, from outside and before it runs anything.

    Not in its bundle: the limits with which a user namespace is made are those that bound all containers together.
    """
    for kind, value in _bounds():
        resource.prlimit(pid, kind, (value, value))


def _bounds() -> list[tuple[int, int]]:
    """(resource, value) for one container: less than is wanted where we could not raise what bounds all of them together."""
    bounds: list[tuple[int, int]] = []
    for kind, wanted in ((resource.RLIMIT_SIGPENDING, PENDING_SIGNALS), (resource.RLIMIT_MSGQUEUE, MESSAGE_QUEUES_BYTES)):
        _, together = resource.getrlimit(kind)
        bounds.append((kind, wanted if together == resource.RLIM_INFINITY else min(wanted, together // FEW)))
    return bounds


def processes_together() -> int:
    """How many processes and threads all containers may have: never all numbers of the machine, or nobody could log in to it."""
    most = min(int(Path("/proc/sys/kernel", name).read_text()) for name in ("pid_max", "threads-max"))
    return int(most * _PROCESSES_SHARE)


def make_room() -> None:
    """Raise what bounds all containers together: our own limits, which their namespaces take over, and the machine's inotify."""
    for kind in _OURS:
        with contextlib.suppress(ValueError, PermissionError):  # less than root in the machine's own namespace
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for name, share in (("max_user_instances", INOTIFY_INSTANCES), ("max_user_watches", INOTIFY_WATCHES)):
        file = _INOTIFY / name
        with contextlib.suppress(FileNotFoundError, PermissionError):  # read-only inside another container
            if int(file.read_text()) < share * MOST_CONTAINERS:
                file.write_text(str(share * MOST_CONTAINERS))


class Share:
    """A container's bounds, being set while something else is done; `settle` waits for it."""

    def __init__(self, pid: int) -> None:
        """Begin for the user namespace of that process, the first of its container."""
        lower_limits(pid)
        command = ("nsenter", f"--user=/proc/{pid}/ns/user", "/bin/sh", "-ec", _WRITE)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def settle(self) -> None:
        """Wait until they hold; raises PilotlightError, since without them this container could starve all others."""
        _, said = self._process.communicate()
        if self._process.returncode:
            raise errors.PilotlightError(
                f"A container's share of the kernel's inotify instances could not be set: {said.decode(errors='replace').strip()}. "
                "Is /proc/sys/user there, and writable for root?"
            )
