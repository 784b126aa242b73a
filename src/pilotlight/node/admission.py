"""Who may begin: containers are looked at from outside while they are held still, and those that are not as wanted get nothing.

Owns one invariant: between the look and the container's first instruction nothing can change. So the look is at the moment when all
that a container is has been done to it, and its own program has not run: for one that an OCI runtime makes, the kernel stops it on
its way into our init (the system call filter is the last thing that the runtime applies, just before).
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from pilotlight.core.errors import NotIsolated
from pilotlight.node import observed, seccomp, syscalls, tracing, verifier
from pilotlight.node.cgroups import Group
from pilotlight.node.observed import Mount
from pilotlight.node.tracing import Held
from pilotlight.node.verifier import Expected

log = structlog.get_logger()


class Admission:
    """The check, and what it must know of all live containers. Its calls block for a millisecond."""

    def __init__(self) -> None:
        self.on_refused: Callable[[str, Sequence[str]], object] = lambda *_: None
        """Told the container and its faults, on the thread that looked at it."""
        self.host: dict[str, int] = {}
        self._stage = 0
        self._users: dict[tuple[str, int], tuple[str, int]] = {}  # (kind, inode) → (container, pid of its init)
        self._own: dict[str, list[tuple[str, int]]] = {}

    def open(self, mount_namespace: int) -> None:
        """Learn the agent's own namespaces; `mount_namespace` is a descriptor of the one in which containers are put together."""
        seccomp.program()  # or say now what is missing to make it
        tracing.prepare()
        self.host = observed.own_namespaces()
        self._stage = os.fstat(mount_namespace).st_ino

    def admit(
        self,
        container_id: str,
        held: Held,
        expected: Expected,
        group: Group,
        *,
        init: Held | None = None,
        apart_from: Sequence[int] = (),
        outside: Group | None = None,
    ) -> None:
        """Return if the held process is as expected; raises NotIsolated, whose message names every fault.

        On one of the threads that set containers up. `init`, where it is another process, is held too, and must be the same; the
        container's control groups hold nobody else. With the processes `apart_from`, from which they were forked, they may share
        nothing; whoever is in the control groups `outside` must be in none of its namespaces.
        """
        is_forked = not expected.from_runtime
        seen = verifier.observe(held.pid, held=held, memory=is_forked, apart_from=apart_from)
        expected = replace(expected, others=self._others(container_id, seen))
        found = verifier.faults(seen, expected)
        if init is not None:
            beside = verifier.observe(init.pid, held=init, memory=is_forked, apart_from=apart_from, beside=seen)
            found += [f"of its init: {fault}" for fault in verifier.faults(beside, expected)]
        if strangers := group.processes() - {held.pid, held.pid if init is None else init.pid}:
            found.append(f"processes that are not its own are in its control group: {sorted(strangers)}")
        if outside is not None:
            found += _intruders(seen, outside)
        if found:
            log.error("container.not_isolated", container=container_id, faults=found)
            self.on_refused(container_id, found)
            raise NotIsolated(
                f"Container {container_id} was stopped before it began, for it is not isolated as it should be: {'; '.join(found)}."
                " `pilotlight doctor` looks for causes on this machine; docs/security.md tells what is checked.",
                faults=tuple(found),
            )
        self._own[container_id] = list(seen.namespaces.items())
        self._users.update(dict.fromkeys(self._own[container_id], (container_id, held.pid)))

    def forget(self, container_id: str) -> None:
        """The container has ended."""
        for namespace in self._own.pop(container_id, ()):
            if self._users.get(namespace, ("", 0))[0] == container_id:
                del self._users[namespace]

    def _others(self, container_id: str, seen: observed.Observed) -> dict[int, str]:
        """Of its namespaces, those that somebody else is in, with whose they are."""
        found = {self._stage: "the agent"}
        for kind, inode in seen.namespaces.items():
            user, pid = self._users.get((kind, inode), ("", 0))
            # The kernel gives numbers out anew once a container has ended, of which we may not have heard yet.
            if pid and user != container_id and _is_in(pid, kind, inode):
                found[inode] = user
        return found


def _intruders(seen: observed.Observed, group: Group) -> list[str]:
    """Processes of a group that are in a container's namespaces, within reach of what runs there and not within its limits."""
    kinds = ("mnt", "pid", "user")
    return [
        f"process {pid}, which is not its own, is in its {kind} namespace"
        for pid in group.processes()
        for kind in kinds
        if _is_in(pid, kind, seen.namespaces[kind])
    ]


def _is_in(pid: int, kind: str, inode: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino == inode
    except (FileNotFoundError, ProcessLookupError):
        return False


def at(points: Sequence[Path]) -> tuple[Mount, ...]:
    """What the calling thread sees mounted at these paths."""
    return observed.own_mounts(set(map(str, points)))


def resolved(root: Path, targets: Iterable[str]) -> list[str]:
    """Where paths of a container lead, with the links of its image; what does not exist keeps its name."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        prefix = len(_name_of(directory))
        return [_resolved(directory, prefix, os.path.normpath("/" + target.lstrip("/"))) for target in targets]
    finally:
        os.close(directory)


def _resolved(root: int, prefix: int, path: str) -> str:
    if path == "/":
        return path
    try:
        fd = syscalls.open_path_in_root(root, path)
    except FileNotFoundError:
        parent, _, name = path.rpartition("/")
        return f"{_resolved(root, prefix, parent or '/').rstrip('/')}/{name}"
    try:
        return _name_of(fd)[prefix:] or "/"
    finally:
        os.close(fd)


def _name_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 (no path of ours, but what the kernel calls it)
