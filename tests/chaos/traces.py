"""What a platform has on a machine: counted before a campaign and after it, in the same state of rest."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.chaos.target import Target, groups_below

ALLOWED = 0.05  # more than before
RSS_GRAIN_MIB = 2.0  # of a process; what a new interpreter takes differs by so much from start to start
FDS_GRAIN = 2.0  # of a process, which has connections that come and go
ROLES = ("supervisor", "server", "edge", "node")


def count(target: Target) -> dict[str, float]:
    """Name → number, of everything that could be left behind."""
    settings = target.settings
    pids = target.pids()
    marks = (settings.instance, str(settings.state))
    found: dict[str, float] = {
        "processes": len(_processes(marks)),
        "mounts": _mounts("self", marks),
        "mounts of the agent": _mounts(str(pids["node"]), marks),
        "namespaces": len({name for pid in _processes(marks) for name in _namespaces(pid)}),
        "cgroups": sum(1 for path in groups_below(Path("/sys/fs/cgroup"), settings.instance) for _ in os.walk(path)),
        "interfaces": sum(settings.instance in name for name in os.listdir("/sys/class/net")),  # noqa: PTH208 - names only
        "on the bridge": _entries(Path("/sys/class/net", settings.bridge_name, "brif")),
        "in the run directory": sum(1 for _ in settings.run_dir.rglob("*")),
    }
    for role in ROLES:
        found[f"fds of the {role}"] = _entries(Path(f"/proc/{pids[role]}/fd"))
        found[f"MiB of the {role}"] = _resident_mib(pids[role])
    for directory in sorted(path for path in settings.state.iterdir() if path.is_dir() and path.name != "lost+found"):
        found[f"files in {directory.name}"] = sum(1 for _ in directory.rglob("*"))
    return found


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """What there is more of than ALLOWED, with both numbers."""
    return {
        name: (before.get(name, 0.0), number)
        for name, number in after.items()
        if number > before.get(name, 0.0) * (1 + ALLOWED) + _grain(name)
    }


def _grain(name: str) -> float:
    return RSS_GRAIN_MIB if name.startswith("MiB") else FDS_GRAIN if name.startswith("fds") else 0.0


def _processes(marks: tuple[str, ...]) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            said = (entry / "cmdline").read_bytes() + (entry / "cgroup").read_bytes()
            if any(os.fsencode(mark) in said for mark in marks) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def _mounts(pid: str, marks: tuple[str, ...]) -> int:
    return sum(any(mark in line for mark in marks) for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines())


def _namespaces(pid: int) -> list[str]:
    with suppress(OSError):
        return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/ns").iterdir()]
    return []


def _entries(directory: Path) -> int:
    with suppress(FileNotFoundError):
        return len(list(directory.iterdir()))
    return 0


def _resident_mib(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return round(int(match[1]) / 1024, 1) if match else 0.0
