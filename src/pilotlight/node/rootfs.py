"""A container's root file system: an overlay of id-mapped layers, put together in a mount namespace of its own.

Owns one invariant: no mount of a container is ever visible in, or outlives, anything but that container. Each is put together on a
thread that has left for a fresh mount namespace; the OCI runtime started from there takes a copy, and the thread's own goes away
with all that is in it. So there is nothing to unmount, neither after an error nor after the agent's death, and all containers
share one set of mount points.

Layers keep their ids on disk, upper directory included, and are seen through the map of a user namespace (kernel >= 5.19).
Overlayfs works with the credentials of whoever mounts it, and host root has no id inside an id-mapped upper directory: the mount
would come out read-only. So the thread takes the file-system ids of the container's root while it mounts.
"""

import contextlib
import errno
import os
import platform
import subprocess
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pilotlight.core import errors
from pilotlight.core.containers import Bind
from pilotlight.node import syscalls
from pilotlight.volumes import walking

MAX_LAYERS = 500  # of overlayfs
OLDEST_KERNEL = "5.19"
SETUP_THREADS = 4
CLEANING_THREADS = 2  # of their own: who waits for a container does not wait for the remains of others
_OVERLAY_OPTIONS = (
    "redirect_dir=off,index=off,metacopy=off"  # a layer must stay meaningful below other stacks, whatever the host's defaults
)


@dataclass(frozen=True)
class IdMap:
    """Ids 0..count-1 of a container are first..first+count-1 on the host, which no user there may be or have been given.

    Users are given ranges from 100,000 on (login.defs), systemd takes up to 0x6fffffff and podman starts at 0x7fffffff.
    """

    first: int = 0x7000_0000
    count: int = 65_536


@dataclass(frozen=True)
class Upper:
    """Where a container's writes go: `parent/name`, with the overlay's working directory `parent/work` on the same file system."""

    parent: Path
    name: str
    work: str
    durable: bool


class Stage:
    """The threads that set containers up, their way to a private mount namespace, and the shared mount points."""

    def __init__(self, directory: Path, ids: IdMap) -> None:
        self.root = directory / "root"
        self.threads = ThreadPoolExecutor(SETUP_THREADS, "container-setup", self._enter_base)
        self.cleaners = ThreadPoolExecutor(CLEANING_THREADS, "container-cleaning", self._enter_base)
        self._directory = directory
        self._ids = ids
        self._base = -1
        self._user_namespace = -1

    def open(self) -> None:
        """Make the base namespace, which sees the host's mounts and hides ours, and the one that carries the id map."""
        for name in ("root", "upper"):
            (self._directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        self._user_namespace = _user_namespace(self._ids)
        with ThreadPoolExecutor(1) as maker:  # a thread that enters another mount namespace can't be used for anything else again
            self._base = maker.submit(_base_namespace).result()

    def close(self) -> None:
        self.cleaners.shutdown()
        self.threads.shutdown()
        for fd in (self._base, self._user_namespace):
            if fd >= 0:
                os.close(fd)
        self._base = self._user_namespace = -1

    @property
    def namespace(self) -> int:
        """A descriptor of the base mount namespace: what is mounted there, each container can be given."""
        return self._base

    def _enter_base(self) -> None:
        syscalls.unshare(syscalls.CLONE_FS)
        syscalls.setns(self._base, syscalls.CLONE_NEWNS)

    @contextlib.contextmanager
    def private(self, *, gone_later: bool = False) -> Generator[None]:
        """On one of `threads`: a mount namespace of its own for the body, gone with all its mounts afterwards.

        Taking mounts down waits for all processors to notice, tens of milliseconds on a busy machine: with `gone_later`, on one of
        `cleaners`.
        """
        syscalls.unshare(syscalls.CLONE_NEWNS)
        left = -1
        try:
            os.chdir(self._directory)  # the thread's own: lets the overlay name its layers by a few characters
            if gone_later:
                left = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            yield
        finally:
            syscalls.setns(self._base, syscalls.CLONE_NEWNS)
            if left >= 0:
                self.cleaners.submit(os.close, left)

    def mount_root(self, layers: Sequence[Path], upper: Upper) -> None:
        """Inside `private`: lay the layers (lowest first) and the upper directory over each other at `root`."""
        if len(layers) > MAX_LAYERS:
            raise errors.OverLimit(
                f"This image has {len(layers)} layers, and overlayfs takes {MAX_LAYERS}. Merge some of its steps."
            )
        for index, layer in enumerate(layers):
            point = self._point(str(index), is_dir=True)
            self._bind_mapped(layer, point)
        self._bind_mapped(upper.parent, self._directory / "upper")
        lower = ":".join(str(index) for index in reversed(range(len(layers))))
        options = f"lowerdir={lower},upperdir=upper/{upper.name},workdir=upper/{upper.work},{_OVERLAY_OPTIONS}"
        if not upper.durable:
            options += ",volatile"  # what is thrown away need not be synced
        syscalls.set_filesystem_ids(self._ids.first)
        try:
            # Device nodes in a layer are anybody's invention: the kernel must not honour them.
            syscalls.mount("overlay", "root", "overlay", syscalls.MS_NODEV, options)
        except OSError as error:
            raise errors.PilotlightError(
                f"The container's file system could not be mounted ({error}). `pilotlight doctor` says whether this kernel "
                f"({platform.release()}, {OLDEST_KERNEL} or newer is needed) and the file system of {upper.parent} can carry one.",
                options=options,
            ) from error
        finally:
            syscalls.set_filesystem_ids(0)
        _require_writable(self.root, upper.parent)

    @contextlib.contextmanager
    def as_container_root(self) -> Generator[None]:
        """On one of `threads`: what the body makes below `root` belongs to the container's root."""
        syscalls.set_filesystem_ids(self._ids.first)
        try:
            yield
        finally:
            syscalls.set_filesystem_ids(0)

    def bind_source(self, bind: Bind, index: int) -> Path:
        """Inside `private`: a path by which the container's root reaches the source, ids mapped where its file system can."""
        if not bind.inside:
            return self._bind_source(bind, bind.source, index)
        # By its descriptor, so that what was found is what is mounted, whatever programs do to the path meanwhile.
        with walking.directory(bind.source, bind.inside, make=True) as descriptor:
            return self._bind_source(bind, Path(f"/proc/self/fd/{descriptor}"), index)

    def _bind_source(self, bind: Bind, source: Path, index: int) -> Path:
        is_dir = source.is_dir()
        point = self._point(f"{'d' if is_dir else 'f'}{index}", is_dir=is_dir)
        # Here, since the runtime applies such options to read-only binds alone.
        flags = syscalls.MOUNT_ATTR_NOSUID | (syscalls.MOUNT_ATTR_NOEXEC if bind.is_device else syscalls.MOUNT_ATTR_NODEV)
        try:
            syscalls.bind(source, point, idmap_fd=self._user_namespace, attributes=flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise errors.NotFound(f"{source} could not be put into the container: {error}.") from error
            if bind.needs_ids:
                raise errors.WrongState(
                    f"The file system of {bind.source} can't map ids, so the container could not write there. Put it on one that "
                    f"can (ext4, xfs, btrfs) under Linux {OLDEST_KERNEL} or newer."
                ) from error
            # tmpfs before Linux 6.3, network file systems: visible with the ids it has.
            syscalls.bind(source, point, attributes=flags)
        return point

    def show(self, file: Path, name: str) -> Path:
        """Inside `private`: a path by which the container's root reaches a file of ours, whose ids are the container's on disk."""
        point = self._point(name, is_dir=False)
        syscalls.bind(file, point, attributes=syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV)
        return point

    def _bind_mapped(self, source: Path, point: Path) -> None:
        try:
            syscalls.bind(source, point, idmap_fd=self._user_namespace)
        except OSError as error:
            raise errors.PilotlightError(
                f"The layer {source} could not be mounted with mapped ids ({error}). It must be there, on a file system that "
                f"supports id-mapped mounts (ext4, xfs, btrfs) under Linux {OLDEST_KERNEL} or newer; this is {platform.release()}."
            ) from error

    def _point(self, name: str, *, is_dir: bool) -> Path:
        point = self._directory / name
        if is_dir:
            point.mkdir(mode=0o755, exist_ok=True)
        else:
            point.touch(mode=0o644)
        return point


def _require_writable(root: Path, place: Path) -> None:
    """Where overlayfs can't make its working directory it mounts all the same, read-only: programs would fail of it in odd ways."""
    if not os.statvfs(root).f_flag & os.ST_RDONLY:
        return
    room = os.statvfs(place)
    if not room.f_bavail or not room.f_favail:
        raise errors.DiskFull(f"The disk of the node is full. Make room on the file system of {place}.")
    raise errors.PilotlightError(
        f"The container's file system came out read-only, though {place} has room. The kernel's log (dmesg) says why."
    )


def _base_namespace() -> int:
    """Leave the host's mount namespace and return a descriptor of the new one; the thread that ran this is spoilt for others."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)  # the host's mounts come in, ours don't go out
    mounts = [line.split() for line in Path("/proc/thread-self/mounts").read_text().splitlines()]
    if any(entry[2] == "cgroup" for entry in mounts):
        # crun refuses a v2 hierarchy beside v1 ones, even when told to leave cgroups alone.
        for entry in mounts:
            if entry[2] == "cgroup2":
                syscalls.unmount(entry[1], syscalls.MNT_DETACH)
    return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _user_namespace(ids: IdMap) -> int:
    """A descriptor of a user namespace with this map; the process that made it is gone when this returns."""
    command = ("unshare", "--user", "sh", "-c", "echo; read _")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        if not maker.stdout.readline():
            raise errors.PilotlightError(
                "This kernel lets nobody make user namespaces, which every container needs. Raise the sysctl "
                "user.max_user_namespaces, or start the machine with a kernel that has them."
            )
        process = Path(f"/proc/{maker.pid}")
        for name in ("uid_map", "gid_map"):
            (process / name).write_text(f"0 {ids.first} {ids.count}\n")
        fd = os.open(process / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
        maker.communicate(b"\n")
        return fd
