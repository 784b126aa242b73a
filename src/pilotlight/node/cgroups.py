"""Control groups: what a container may use, what it used, and which processes are its own.

Owns one invariant: every process of a container is in the container's groups, and they are gone when it has ended. Each controller
is taken from where this machine has it, a v1 hierarchy or the v2 one, so pure v1, pure v2 and hybrid layouts are one case. In v1
hierarchies groups are made below the agent's own; in v2 below the root of what is visible, since a v2 group can't have both
processes and children with limits. Sources: cgroups(7), Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
"""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")  # v2 accounts CPU time without a controller
CPU_PERIOD_US = 100_000
ORDINARY_MILLI_CPU = 125  # what a function requests that requests nothing
MIN_CPU_QUOTA_US = 1_000
_HOST_GROUP = "pilotlight-host"  # where the processes of a v2 root go that must have none


@dataclass(frozen=True)
class Limits:
    """What a container may use; 0 is no limit."""

    milli_cpu: int = 0
    milli_cpu_limit: int = 0
    memory_mib: int = 0
    pids: int = 0
    memory_request_mib: int = 0  # what it is left with when memory is short, while others have more than theirs


@dataclass(frozen=True)
class Usage:
    """What a container used in its life."""

    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    oom_kills: int = 0


@dataclass(frozen=True)
class Place:
    """Where a controller lives: version 1 or 2, and the directory below which groups are made."""

    version: int
    base: Path


def find_places(mountinfo: str, own_groups: str) -> dict[str, Place]:
    """Where each controller lives, from the text of /proc/self/mountinfo and /proc/self/cgroup. What is missing has no entry."""
    own: dict[str, str] = {}
    for line in own_groups.splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    places: dict[str, Place] = {}
    unified: Path | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split()[:3]
        if kind == "cgroup2":
            unified = Path(point)
        elif kind == "cgroup":
            for name in set(options.split(",")) & set(CONTROLLERS):
                relative = os.path.relpath(own.get(name, "/"), root)
                places[name] = Place(1, Path(point) if relative.startswith("..") else Path(point, relative))
    if unified is not None:
        for name in CONTROLLERS:
            if name not in places and name != "cpuacct":
                places[name] = Place(2, unified)
    return places


def own_places() -> dict[str, Place]:
    """Where each controller lives on this machine."""
    return find_places(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


class Groups:
    """The parent groups of one platform on this machine."""

    def __init__(self, name: str, places: Mapping[str, Place], memory_mib: int = 0, pids: int = 0) -> None:
        self._places = dict(places)
        self._together = Limits(memory_mib=memory_mib, pids=pids)  # of all containers; 0: no limit
        self._name = name
        self._milli_cpu: dict[str, int] = {}  # by container: what each weighs
        self._lock = threading.Lock()  # containers are set up on threads

    def open(self) -> list[str]:
        """Make the parents; returns the controllers that this machine doesn't offer, whose limits can't be kept."""
        unified = {place.base for place in self._places.values() if place.version == 2}
        for base in unified:
            offered = (base / "cgroup.controllers").read_text().split()
            for name, place in list(self._places.items()):
                if place.base == base and name not in offered:
                    del self._places[name]
        for base in {place.base for place in self._places.values()}:
            (base / self._name).mkdir(exist_ok=True)
        for base in unified:
            wanted = " ".join(f"+{name}" for name, place in self._places.items() if place.base == base)
            if wanted:
                _enable(base, wanted)
                _write(base / self._name / "cgroup.subtree_control", wanted)
        for controller, place in self._places.items():
            for file, value in settings(controller, place.version, self._together):
                _write(place.base / self._name / file, value)
        return [name for name in ("memory", "cpu", "pids") if name not in self._places]

    def weigh(self, container_id: str, milli_cpu: int | None) -> None:
        """Count a container's request of CPU (0: the usual one) to the parents' weight; None: it has ended.

        The parents weigh as much as all containers together: else these would share what one process of the host gets.
        """
        if "cpu" not in self._places:
            return
        place = self._places["cpu"]
        with self._lock:
            if milli_cpu is None:
                self._milli_cpu.pop(container_id, None)
            else:
                self._milli_cpu[container_id] = milli_cpu or ORDINARY_MILLI_CPU
            file, weight = weight_of(place.version, sum(self._milli_cpu.values()) or ORDINARY_MILLI_CPU)
            with contextlib.suppress(FileNotFoundError):  # the parents are gone at the very end
                _write(place.base / self._name / file, weight)

    def of(self, container_id: str) -> "Group":
        """The groups of a container, which need not exist yet."""
        return Group({name: (place.version, place.base / self._name / container_id) for name, place in self._places.items()})

    def leftovers(self) -> list["Group"]:
        """Groups that a former agent of this platform made."""
        names: set[str] = set()
        for place in self._places.values():
            with contextlib.suppress(FileNotFoundError):
                names.update(entry.name for entry in (place.base / self._name).iterdir() if entry.is_dir())
        return [self.of(name) for name in names]

    def close(self) -> None:
        """Remove the parents; groups of containers must be gone."""
        for base in {place.base for place in self._places.values()}:
            with contextlib.suppress(FileNotFoundError):
                (base / self._name).rmdir()


class Group:
    """The groups of one container, one directory per hierarchy."""

    def __init__(self, paths: Mapping[str, tuple[int, Path]]) -> None:
        self._paths = paths
        self._directories = sorted({path for _, path in paths.values()})

    @property
    def entrances(self) -> list[Path]:
        """Files to which a process writes "0" to step in, one per hierarchy."""
        return [directory / "cgroup.procs" for directory in self._directories]

    @property
    def endings(self) -> dict[str, str]:
        """By controller ("": the v2 hierarchy), how the paths of its processes end in /proc/PID/cgroup."""
        return {
            name if version == 1 else "": f"/{directory.parent.name}/{directory.name}"
            for name, (version, directory) in self._paths.items()
        }

    def create(self, limits: Limits) -> None:
        """Make the groups with their limits set, before any process is in them."""
        for directory in self._directories:
            directory.mkdir(exist_ok=True)
        for name, (version, directory) in self._paths.items():
            for file, value in settings(name, version, limits):
                _write(directory / file, value)
        if limits.memory_mib:
            self._forbid_swap(limits.memory_mib << 20)
        if limits.memory_request_mib:
            self._protect(limits.memory_request_mib << 20)

    def _protect(self, request_bytes: int) -> None:
        version, directory = self._paths.get("memory", (0, Path()))
        with contextlib.suppress(FileNotFoundError, PermissionError):  # kernels for real time have none of it
            if version:
                _write(directory / ("memory.low" if version == 2 else "memory.soft_limit_in_bytes"), str(request_bytes))

    def _forbid_swap(self, limit_bytes: int) -> None:
        version, directory = self._paths.get("memory", (0, Path()))
        file, value = ("memory.swap.max", 0) if version == 2 else ("memory.memsw.limit_in_bytes", limit_bytes)
        with contextlib.suppress(FileNotFoundError, PermissionError):  # a kernel that doesn't count swap has no such file
            if version:
                _write(directory / file, str(value))

    def free_memory(self) -> None:
        """Take the limit of memory off, for another to be set."""
        version, directory = self._paths.get("memory", (0, Path()))
        if not version:
            return
        # In v1 the limit of both together is never the lower one, so it goes first.
        files = ("memory.swap.max", "memory.max") if version == 2 else ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes")
        with contextlib.suppress(FileNotFoundError, PermissionError):
            _write(directory / files[0], "max" if version == 2 else "-1")
        _write(directory / files[1], "max" if version == 2 else "-1")

    def take_in(self, process: int) -> None:
        """Move a process in; raises ProcessLookupError if it has ended. The kernel may take some milliseconds for the first."""
        for entrance in self.entrances:
            _write(entrance, str(process))

    def usage(self) -> Usage:
        """What was used so far; zero where the kernel doesn't say."""
        version, memory = self._paths.get("memory", (0, Path()))
        peak, events = ("memory.peak", "memory.events") if version == 2 else ("memory.max_usage_in_bytes", "memory.oom_control")
        seconds = 0.0
        if "cpuacct" in self._paths:
            seconds = _read_number(self._paths["cpuacct"][1] / "cpuacct.usage") / 1e9
        elif self._directories:
            unified = next((path for version, path in self._paths.values() if version == 2), Path("/nonexistent"))
            seconds = _read_field(unified / "cpu.stat", "usage_usec") / 1e6
        return Usage(_read_number(memory / peak), seconds, _read_field(memory / events, "oom_kill"))

    def processes(self) -> set[int]:
        """Ids of what is in any of the groups."""
        found: set[int] = set()
        for entrance in self.entrances:
            with contextlib.suppress(FileNotFoundError):
                found.update(int(line) for line in entrance.read_text().split())
        return found

    def has(self, process: int) -> bool:
        """Whether a process is in the groups, by the first of them."""
        for entrance in self.entrances[:1]:
            with contextlib.suppress(FileNotFoundError):
                return str(process) in entrance.read_text().split()
        return False

    def forbid_forks(self) -> None:
        """Have no process in the groups begin another."""
        _, directory = self._paths.get("pids", (0, Path("/nonexistent")))
        with contextlib.suppress(FileNotFoundError):
            _write(directory / "pids.max", "0")

    def kill(self) -> int:
        """SIGKILL to every process in the groups; returns how many there were."""
        found = self.processes()
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return len(found)

    def remove(self) -> bool:
        """Remove the directories. False if one still holds a process: ask again later."""
        gone = True
        for directory in self._directories:
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                gone = False
        return gone


def settings(controller: str, version: int, limits: Limits) -> Iterable[tuple[str, str]]:
    """The (file, value) pairs by which a controller learns the limits."""
    if controller == "memory" and limits.memory_mib:
        yield "memory.max" if version == 2 else "memory.limit_in_bytes", str(limits.memory_mib << 20)
    if controller == "pids" and limits.pids:
        yield "pids.max", str(limits.pids)
    if controller == "cpu":
        if limits.milli_cpu:
            yield weight_of(version, limits.milli_cpu)
        if limits.milli_cpu_limit:
            quota = max(MIN_CPU_QUOTA_US, limits.milli_cpu_limit * CPU_PERIOD_US // 1000)
            if version == 2:
                yield "cpu.max", f"{quota} {CPU_PERIOD_US}"
            else:
                yield "cpu.cfs_period_us", str(CPU_PERIOD_US)
                yield "cpu.cfs_quota_us", str(quota)


def weight_of(version: int, milli_cpu: int) -> tuple[str, str]:
    """The file and the value that give a group its weight among its neighbours.

    The smallest usual request weighs as much as any process of the host, so that a container does not starve beside the very
    processes that serve it; larger requests weigh more, in proportion.
    """
    least, default, most = (1, 100, 10_000) if version == 2 else (2, 1024, 262_144)
    weight = min(most, max(least, milli_cpu * default // ORDINARY_MILLI_CPU))
    return ("cpu.weight" if version == 2 else "cpu.shares"), str(weight)


def _enable(base: Path, wanted: str) -> None:
    """Offer controllers to the children of a v2 group; where it has processes (we are in a container), those move down."""
    try:
        _write(base / "cgroup.subtree_control", wanted)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        (base / _HOST_GROUP).mkdir(exist_ok=True)
        for process in (base / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                _write(base / _HOST_GROUP / "cgroup.procs", process)
        _write(base / "cgroup.subtree_control", wanted)


def _write(path: Path, value: str) -> None:
    # Not write_text: it would create the file, and truncating is more than a control file is asked for.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


def _read_field(path: Path, field: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == field:
                return int(value)
    return 0
