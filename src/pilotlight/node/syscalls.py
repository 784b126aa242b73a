"""The Linux calls that Python 3.11 has no door to: mounts, namespaces and a thread's own credentials, through ctypes.

Owns one invariant: a failed call raises `OSError` with the kernel's errno and the name of what failed; nothing returns -1. All of
them act on the calling *thread* (mount namespace, network namespace, file-system ids, capabilities), so callers use threads that
are theirs alone. Sources: mount_setattr(2), open_tree(2), setns(2), capset(2), openat2(2), prctl(2).
"""

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWUSER, CLONE_FS = 0x20000, 0x40000000, 0x10000000, 0x200
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2

_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
_MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_PR_SET_CHILD_SUBREAPER = 36
_CAPABILITY_VERSION_3 = 0x20080522

# Numbers at or above 424 are the same on all architectures; the older ones that we need are in libc.
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
_KCMP = {"x86_64": 312, "aarch64": 272}
# Raw, since libc's setfsuid can't report failure; (setfsuid, setfsgid) by machine.
_SETFS = {"x86_64": (122, 123), "aarch64": (151, 152)}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _name(path: str | Path | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def mount(source: str | Path | None, target: str | Path, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2)."""
    arguments = (_name(source), _name(target), _name(kind), ctypes.c_ulong(flags), _name(options))
    _checked(_libc.mount(*arguments), f"mount {kind or source} on {target}")


def unmount(target: str | Path, flags: int = 0) -> None:
    """umount2(2)."""
    _checked(_libc.umount2(_name(target), flags), f"unmount {target}")


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread."""
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2), for the calling thread."""
    _checked(_libc.setns(fd, kind), "setns")


def become_subreaper(on: bool = True) -> None:
    """Orphans among our descendants become our children, so that their end and exit code reach us."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0), "become subreaper")


def ptrace(request: int, pid: int, address: int = 0, data: Any = 0) -> int:
    """ptrace(2), by the calling thread; `data` is a number, a ctypes buffer or None."""
    what = data if data is None or isinstance(data, ctypes.Array) else ctypes.c_void_p(data)
    return _checked(_libc.ptrace(request, pid, ctypes.c_void_p(address), what), f"ptrace process {pid}")


def compare(pid: int, other: int, kind: int) -> bool:
    """Whether two processes share something, as kcmp(2) tells."""
    return _checked(_libc.syscall(_KCMP[platform.machine()], pid, other, kind, 0, 0), "kcmp") == 0


def open_path_in_root(root: int, path: str) -> int:
    """A descriptor that names `path` and opens nothing (O_PATH), symlinks resolved as if the directory `root` were `/`."""
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _checked(_libc.syscall(_OPENAT2, root, _name(path), how, size), f"find {path}")


def bind(source: str | Path, target: str | Path | int, *, idmap_fd: int | None = None, attributes: int = 0) -> None:
    """Attach a clone of the mount at source, seen through the id map of a user namespace if one is given (kernel >= 5.12).

    `target` may be an open file. `attributes`, MOUNT_ATTR_…, are added to those that the mount has. What is mounted below source
    stays out.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    tree = _checked(_libc.syscall(_OPEN_TREE, _AT_FDCWD, _name(source), flags), f"open {source}")
    try:
        if idmap_fd is not None or attributes:
            added = attributes if idmap_fd is None else attributes | _MOUNT_ATTR_IDMAP
            mount_attr = (ctypes.c_uint64 * 4)(added, 0, 0, 0 if idmap_fd is None else idmap_fd)  # set, clear, propagation, fd
            size = ctypes.c_size_t(ctypes.sizeof(mount_attr))
            _checked(_libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, mount_attr, size), f"map the ids of {source}")
        if isinstance(target, int):
            moved = _libc.syscall(_MOVE_MOUNT, tree, b"", target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
        else:
            moved = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, _name(target), _MOVE_MOUNT_F_EMPTY_PATH)
        _checked(moved, f"attach {source} at {target}")
    finally:
        os.close(tree)


def set_filesystem_ids(first_id: int) -> None:
    """Make file accesses of this thread those of user and group `first_id`, with all capabilities that it may have.

    The kernel drops the file capabilities when the file-system user stops being root; they are raised again from the permitted set.
    """
    by_user, by_group = _SETFS[platform.machine()]
    _libc.syscall(by_group, first_id)
    _libc.syscall(by_user, first_id)
    if _libc.syscall(by_user, -1) != first_id:  # an invalid id changes nothing and returns the present one
        raise OSError(f"this thread can't take file-system user id {first_id}")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(header, data), "read capabilities")
    data[0], data[3] = data[1], data[4]  # effective = permitted, in both words
    _checked(_libc.capset(header, data), "raise capabilities")


def open_in_root(root: str | Path, path: str) -> int:
    """A readable descriptor of `path` with every symlink resolved as if `root` were `/` (openat2(2), kernel >= 5.6)."""
    how = (ctypes.c_uint64 * 3)(os.O_RDONLY | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        size = ctypes.c_size_t(ctypes.sizeof(how))
        return _checked(_libc.syscall(_OPENAT2, directory, _name(path), how, size), f"open {path}")
    finally:
        os.close(directory)


def clone_tree(path: str | Path) -> int:
    """A descriptor of a copy of the mount at path with all that is mounted below it; attached nowhere, gone when it is closed."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    return _checked(_libc.syscall(_OPEN_TREE, _AT_FDCWD, _name(path), flags), f"copy the mounts at {path}")
