"""What of a platform's containers is on this machine: looked up from outside, in the kernel's own books.

A process is a function's if its root directory holds the socket by which a function's container speaks to its node; what the
platform keeps ready for whichever function comes next has none.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.processes import Failed
from pilotlight.config import Settings

GROUPS = Path("/sys/fs/cgroup")
GUEST_SOCKET = "__pilotlight/gateway.sock"
GONE_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.01


def groups(settings: Settings) -> dict[str, Path]:
    """The groups of this platform by their names, one directory of each."""
    found: dict[str, Path] = {}
    for parent in _parents(settings):
        for entry in os.scandir(parent):
            if entry.is_dir():
                found.setdefault(entry.name, Path(entry.path))
    return found


def _parents(settings: Settings) -> Iterator[Path]:
    name = f"pilotlight-{settings.instance}"
    for controller in (GROUPS, *GROUPS.iterdir()):
        if controller.is_dir():  # below the agent's own group, which is seldom deep
            yield from (path for depth in ("", "*/", "*/*/") for path in controller.glob(depth + name) if path.is_dir())


def processes(group: Path) -> list[int]:
    """Ids of what is in a group."""
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:  # it is gone, or goes in this moment
        return []


def containers(settings: Settings) -> dict[str, list[int]]:
    """The processes of each function's container, by its control group."""
    found = {name: [pid for pid in processes(path) if _is_of_function(pid)] for name, path in groups(settings).items()}
    return {name: pids for name, pids in found.items() if pids}


def _is_of_function(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/root", GUEST_SOCKET).exists()
    except OSError:  # it has ended
        return False


def wait_until_none(settings: Settings) -> None:
    """Return once no process of a function is there; raises Failed."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while left := containers(settings):
        if time.monotonic() > deadline:
            raise Failed(f"these containers do not end: {left}")
        time.sleep(LOOK_EVERY_S)


def private_mib(pids: list[int]) -> float:
    """Memory that is these processes' own and nobody else's, in MiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return total / 1024
