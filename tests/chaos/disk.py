"""A file system of its own for a platform's state, on which a disk's misfortunes can be had: full, stalled, without power.

It is ext4 in a file, mounted so that the kernel brings as little as possible to the disk unasked: no data with the journal
(`data=writeback`), none at a rename (`noauto_da_alloc`), a commit of the journal every minute. Power is cut by ext4's own shutdown
(EXT4_IOC_SHUTDOWN without a flush of the log): from that instant nothing reaches the disk, and what had not been synced, or
happened to have been written, is gone at the next mount. One leniency of the method: a sync of any file commits the journal, and
with it the names that others made before.
"""

import ctypes
import fcntl
import os
import struct
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

OPTIONS = "loop,commit=60,data=writeback,noauto_da_alloc"
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH: linux/ext4.h
_NEW_NAMESPACE = 0x00020000  # CLONE_NEWNS: linux/sched.h
_FREEZE, _THAW = 0xC0045877, 0xC0045878  # FIFREEZE, FITHAW: linux/fs.h
BLOCK_BYTES = 4096
ROOM_BYTES = 64 << 20  # of a disk that is being filled: written rather than allocated
PIECE = b"\0" * (64 << 10)
LET_GO_S = 5.0  # until the kernel has let go of a disk whose processes have all ended

_libc = ctypes.CDLL(None, use_errno=True)


def see_mounts_alone() -> None:
    """From now on what this process and its children mount is seen by them alone, and gone with them: namespaces that others on
    the machine make meanwhile would hold it. To be called before there are threads."""
    if _libc.unshare(_NEW_NAMESPACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _run("mount", "--make-rprivate", "/")


class Disk:
    """A file of `size_mib` at `image`, mounted at `path`."""

    def __init__(self, image: Path, path: Path) -> None:
        self.path = path
        self._image = image
        self._filler = path / "filler"
        self._lock = threading.Lock()
        self._is_frozen = False

    def make(self, size_mib: int) -> None:
        """Make the file system, with nothing in it."""
        self._image.unlink(missing_ok=True)
        with self._image.open("wb") as file:
            file.truncate(size_mib << 20)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))

    def mount(self) -> None:
        self.path.mkdir(exist_ok=True)
        _run("mount", "-o", OPTIONS, str(self._image), str(self.path))
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        self.thaw()
        _run("umount", "--lazy", str(self.path))

    def come_back(self) -> None:
        """The disk after a loss of power, mounted anew.

        Namespaces that others made meanwhile may hold the old mount for as long as they live, and a second mount of the same file
        would be that one: then what is on the disk goes to another file.
        """
        self.thaw()
        _run("umount", "--lazy", str(self.path))
        deadline = time.monotonic() + LET_GO_S
        while _run("losetup", "--associated", str(self._image)).strip():
            if time.monotonic() > deadline:
                copy = self._image.with_suffix(".new")
                _run("cp", "--sparse=always", str(self._image), str(copy))
                copy.replace(self._image)
                break
            time.sleep(0.05)
        self.mount()

    def fill(self) -> None:
        """Leave no room."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        try:
            # The most of it without a byte written. Asked for more than there is, ext4 would search for a long time.
            _allocate(descriptor, max(BLOCK_BYTES, _free_bytes(self.path) - ROOM_BYTES))
            for piece in (PIECE, PIECE[:BLOCK_BYTES], PIECE[:BLOCK_BYTES]):
                with suppress(OSError):  # no space left on device: that is the aim
                    while os.write(descriptor, piece):
                        pass
                os.fsync(descriptor)  # what was put by for the file system's own blocks is free now
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)

    def freeze(self) -> None:
        """From now on, whoever writes waits."""
        with self._lock:
            self._control(_FREEZE, b"\0\0\0\0")
            self._is_frozen = True

    def thaw(self) -> None:
        """Safe to repeat."""
        with self._lock:
            if self._is_frozen:
                self._control(_THAW, b"\0\0\0\0")
                self._is_frozen = False

    def cut_power(self) -> None:
        """From now on nothing reaches the disk, and all who write are told of an input/output error. Unmount, then mount again."""
        self._control(_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))

    def _control(self, request: int, argument: bytes) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, request, argument)
        finally:
            os.close(descriptor)


def _free_bytes(path: Path) -> int:
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def _allocate(descriptor: int, length: int) -> None:
    # fallocate(2) itself: posix_fallocate of a file system that can't writes zeros until it is full.
    if _libc.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
