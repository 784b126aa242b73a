"""What a process is, as the host's kernel tells it: namespaces, ids, mounts, rights, filters, open files.

Owns one invariant: nothing here asks the process, or follows a path that it could have laid: all is read from the host's own /proc,
once a file, through one descriptor of /proc/PID, which names that process even if its number is given out anew. A value of this
module judges nothing; `verifier` does. Sources: proc(5), namespaces(7), ioctl_ns(2), cgroups(7).
"""

import contextlib
import fcntl
import functools
import os
import re
import struct
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pilotlight.node import syscalls
from pilotlight.node.tracing import Held

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts")
_NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB702, 0xB704
_SHARABLE = {"its memory": 1, "its open files": 2, "its working directory": 3, "its signal handlers": 4}  # linux/kcmp.h
_SHARED_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ [^ ]*s .*$", re.MULTILINE)
_READ_BYTES = 1 << 20
MOST_BYTES = 4 << 20  # of one file that is read: who has more mounts or mappings than that says is no container of ours
MOST_DESCRIPTORS = 1024
KEPT_BYTES = 256 << 10  # of the text of mounts that is parsed once for two processes
SEEN_AT_A_TIME = 4  # containers that are looked at beside each other
_NOWHERE = -1  # for paths that begin at the root

IdRanges = tuple[tuple[int, int, int], ...]
"""(first inside, first outside, count) for each line of a user namespace's map."""


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo. `root` is the path within the file system on `device` ("major:minor") that shows at `point`."""

    mount_id: int
    device: str
    root: str
    point: str
    options: frozenset[str]
    propagation: frozenset[str]
    kind: str


@dataclass(frozen=True)
class Descriptor:
    """An open file: its link as /proc shows it ("pipe:[7]", "/a/path"), and the mount that a path is on."""

    link: str
    mount_id: int


@dataclass(frozen=True)
class Observed:
    """One process. `mounts` are all that its mount namespace can reach, seen from that namespace's own root.

    `filters` are seccomp programs, the oldest first; None where the kernel was not asked, or would not tell: `filters_why`.
    """

    pid: int
    status: Mapping[str, str]
    namespaces: Mapping[str, int]
    user_parent: int
    user_owner: int
    uid_map: IdRanges
    gid_map: IdRanges
    groups: Mapping[str, str]
    mounts: tuple[Mount, ...]
    is_root_of_namespace: bool
    cwd_mount: int
    program: tuple[int, int]
    interfaces: frozenset[str]
    descriptors: tuple[Descriptor, ...]
    tracer: int = 0  # who else holds it by ptrace
    shared_memory: tuple[str, ...] = ()
    shared_with: tuple[str, ...] = ()  # "its memory with process 7"
    filters: tuple[bytes, ...] | None = None
    filters_why: str = ""
    mountinfo: str = ""  # the text of `mounts`
    unread: tuple[str, ...] = ()  # of what there was more than is looked at

    def field(self, name: str) -> str:
        """A line of /proc/PID/status, without its name; empty if this kernel has none."""
        return self.status.get(name, "")


def observe(
    pid: int,
    *,
    held: Held | None = None,
    memory: bool = False,
    apart_from: Iterable[int] = (),
    beside: Observed | None = None,
) -> Observed:
    """Read it all. With `held`, a stopped process's filters too; with `memory`, what of its memory is shared by mappings; with
    `apart_from`, what it shares with those processes as threads do. `beside`: what was seen of a process that is held still since:
    if both have one mount namespace, that is not looked at again.

    Takes about half a millisecond. It visits the process's mount namespace, and so wants a thread that has its working directory to
    itself (unshare(2) with CLONE_FS), as those have that set containers up. Raises ProcessLookupError or FileNotFoundError if there
    is no such process (any more).
    """
    place = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    unread: list[str] = []
    try:
        status = parse_status(_text(place, "status", unread))
        user_parent, user_owner = _user_namespace_of(place)
        namespaces = {name: os.stat(f"ns/{name}", dir_fd=place).st_ino for name in NAMESPACES}
        is_known = beside is not None and beside.namespaces["mnt"] == namespaces["mnt"]
        own_view = _text(place, "mountinfo", unread)
        whole = beside.mountinfo if beside is not None and is_known else _mountinfo_of_namespace(place, unread)
        program = os.stat("exe", dir_fd=place)
        filters, why = _filters(held)
        return Observed(
            pid=pid,
            status=status,
            namespaces=namespaces,
            user_parent=user_parent,
            user_owner=user_owner,
            uid_map=parse_id_map(_text(place, "uid_map", unread)),
            gid_map=parse_id_map(_text(place, "gid_map", unread)),
            groups=parse_groups(_text(place, "cgroup", unread)),
            mounts=parse_mounts(whole),
            is_root_of_namespace=own_view == whole,
            cwd_mount=_mount_of(place, "cwd"),
            program=(program.st_dev, program.st_ino),
            interfaces=parse_interfaces(_text(place, "net/dev", unread)),
            descriptors=tuple(_descriptors(place, unread)),
            tracer=_other_tracer(status, held),
            shared_memory=shared_mappings(_text(place, "maps", unread)) if memory else (),
            shared_with=tuple(_shared_with(pid, apart_from)),
            filters=filters,
            filters_why=why,
            mountinfo=whole,
            unread=tuple(dict.fromkeys(unread)),
        )
    finally:
        os.close(place)


def own_namespaces() -> dict[str, int]:
    """Those of the calling thread's process, by kind."""
    return {name: Path(f"/proc/self/ns/{name}").stat().st_ino for name in NAMESPACES}


def own_mounts(points: Collection[str]) -> tuple[Mount, ...]:
    """Those that the calling thread sees at these paths."""
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    return parse_mounts("\n".join(line for line in lines if _unescaped(line.split(" ", 5)[4]) in points))


# ---- parsing ----


def parse_status(text: str) -> dict[str, str]:
    """/proc/PID/status by field."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def parse_id_map(text: str) -> IdRanges:
    """/proc/PID/uid_map or gid_map."""
    rows = (line.split() for line in text.splitlines())
    return tuple((int(inside), int(outside), int(count)) for inside, outside, count in rows)


def parse_groups(text: str) -> dict[str, str]:
    """/proc/PID/cgroup by controller; the v2 hierarchy is "", and named v1 ones "name=…"."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def parse_interfaces(text: str) -> frozenset[str]:
    """The names in /proc/PID/net/dev."""
    return frozenset(line.partition(":")[0].strip() for line in text.splitlines()[2:])


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """/proc/PID/mountinfo; two processes of one namespace have the same text."""
    return _kept_mounts(text) if len(text) <= KEPT_BYTES else _mounts(text)


@functools.lru_cache(maxsize=2 * SEEN_AT_A_TIME)
def _kept_mounts(text: str) -> tuple[Mount, ...]:
    return _mounts(text)


def _mounts(text: str) -> tuple[Mount, ...]:
    found: list[Mount] = []
    for line in filter(None, text.split("\n")):  # a name may have any other character that ends lines elsewhere
        left, _, right = line.partition(" - ")
        mount_id, _, device, root, point, options, *propagation = left.split(" ")
        kind = right.partition(" ")[0]
        options, propagation = frozenset(options.split(",")), frozenset(propagation)
        found.append(Mount(int(mount_id), device, _unescaped(root), _unescaped(point), options, propagation, kind))
    return tuple(found)


def _unescaped(path: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    if "\\" not in path:
        return path
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def shared_mappings(text: str) -> tuple[str, ...]:
    """The lines of /proc/PID/maps whose memory is shared with whoever else maps it."""
    return tuple(_SHARED_MAPPING.findall(text))


# ---- reading ----


def _text(place: int, name: str, unread: list[str]) -> str:
    """A file's whole lines, up to a limit; one that has more is named in `unread`."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    try:
        pieces: list[bytes] = []
        left = MOST_BYTES
        while piece := os.read(fd, _READ_BYTES):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                unread.append(f"{name} has more than {MOST_BYTES >> 20} MiB")
                pieces = [b"".join(pieces).rpartition(b"\n")[0]]
                break
        return b"".join(pieces).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def _user_namespace_of(place: int) -> tuple[int, int]:
    """The parent's inode and the owner's id, as this process sees it, of a user namespace; 0 where it has none that we may see."""
    fd = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    try:
        (owner,) = struct.unpack("I", fcntl.ioctl(fd, _NS_GET_OWNER_UID, bytes(4)))
        parent = -1
        with contextlib.suppress(PermissionError):  # ours, or one above it
            parent = fcntl.ioctl(fd, _NS_GET_PARENT)
        if parent < 0:
            return 0, owner
        try:
            return os.fstat(parent).st_ino, owner
        finally:
            os.close(parent)
    finally:
        os.close(fd)


def _mountinfo_of_namespace(place: int, unread: list[str]) -> str:
    """The mount namespace as seen from its own root: a process that only changed its root can't hide what lies beside it."""
    opened: list[int] = []
    try:
        own = os.open("/proc/thread-self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(own)
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(here)
        home = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
        opened.append(home)
        there = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
        opened.append(there)
        syscalls.unshare(syscalls.CLONE_FS)  # nothing, unless a thread that this one began shares its working directory
        syscalls.setns(there, syscalls.CLONE_NEWNS)
        try:
            return _text(own, "mountinfo", unread)  # between the two this thread names no path
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNS)
            os.fchdir(here)
    finally:
        for fd in opened:
            os.close(fd)


def _mount_of(place: int, name: str) -> int:
    """The mount on which a link of /proc/PID leads; nothing is opened, so no file system is asked."""
    fd = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=place)
    try:
        return _mount_id(_text(_NOWHERE, f"/proc/self/fdinfo/{fd}", []))
    finally:
        os.close(fd)


def _mount_id(text: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("mnt_id:")), 0)


def _descriptors(place: int, unread: list[str]) -> list[Descriptor]:
    directory = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    try:
        found: list[Descriptor] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if len(found) == MOST_DESCRIPTORS:
                    unread.append(f"more than {MOST_DESCRIPTORS} files are open")
                    break
                link = os.readlink(entry.name, dir_fd=directory)
                # What has no path (a pipe, a socket) is on no mount that could matter.
                mount_id = _mount_id(_text(place, f"fdinfo/{entry.name}", unread)) if link.startswith("/") else 0
                found.append(Descriptor(link, mount_id))
        return found
    finally:
        os.close(directory)


def _other_tracer(status: Mapping[str, str], held: Held | None) -> int:
    tracer = int(status.get("TracerPid", "0"))
    return 0 if held is not None and tracer == threading.get_native_id() else tracer


def _shared_with(pid: int, others: Iterable[int]) -> Iterable[str]:
    for other in others:
        for what, kind in _SHARABLE.items():
            with contextlib.suppress(ProcessLookupError):  # the other has ended, and shares nothing
                if syscalls.compare(pid, other, kind):
                    yield f"{what} with process {other}"


def _filters(held: Held | None) -> tuple[tuple[bytes, ...] | None, str]:
    if held is None:
        return None, "nobody asked"
    try:
        return held.filters(), ""
    except ProcessLookupError:
        raise
    except OSError as error:
        return None, str(error)
