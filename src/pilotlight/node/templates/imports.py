"""Which modules of an image's packages, and of the client, its functions import: learned, for templates to import them ahead.

Owns one invariant: nothing is put into a container for it, and only names are learned. The kernel tells which files of the
container's root are opened; those that are modules of installed packages have names. A few starts of an image are looked at, for a
while each. Sources: fanotify(7), PEP 3147.
"""

import contextlib
import ctypes
import os
import re
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog

from pilotlight.core.containers import ContainerSpec

log = structlog.get_logger()

LOOKS = 8  # at starts on one image, since something new was seen
LOOK_S = 5.0  # at one start
MOST_NAMES = 3000  # of one image
_EVENT = struct.Struct("=IBBHQii")
_NOTIFY, _FILESYSTEM, _OPENED = 0x3, 0x101, 0x20  # (close on exec, not blocking), (add, a whole file system)
_READ_BYTES = 64 * 1024
# Of the image's packages; of the client and what it needs, which it partly imports when a function asks for it.
_PLACES = r"(?:/(?:site|dist)-packages|^/pkg|^/__modal/deps)/"
_MODULE = re.compile(_PLACES + r"((?:\w+/)*)(?:__pycache__/)?(\w+)\.(?:[\w-]+\.)*(?:pyc|py|so)$")

_libc = ctypes.CDLL(None, use_errno=True)


class Imports:
    """The containers that are looked at. `watch` may be called on any thread."""

    def __init__(self) -> None:
        self._watches: dict[str, int] = {}  # descriptor, by container
        self._looks: dict[tuple[Path, ...], int] = {}  # by what is below all functions of an image
        self._lock = threading.Lock()

    def watch(self, spec: ContainerSpec, root: Path) -> None:
        """Look at a container from now on, if there may be something to learn; `root` is where its file system is mounted."""
        if spec.recipe is None:
            return
        with self._lock:
            looks = self._looks[spec.recipe.layers] = self._looks.get(spec.recipe.layers, 0) + 1
        if looks > LOOKS:
            return
        try:
            descriptor = _watch(root)
        except OSError as error:  # a kernel without it: nothing is learned
            log.info("imports.not_seen", error=str(error))
            return
        self.forget(spec.container_id)  # its start is tried again, the ordinary way
        with self._lock:
            self._watches[spec.container_id] = descriptor

    def forget(self, container_id: str) -> None:
        """No more looking at a container, which never began. Safe to repeat."""
        with self._lock:
            descriptor = self._watches.pop(container_id, None)
        if descriptor is not None:
            os.close(descriptor)

    def finish(self, spec: ContainerSpec) -> list[str]:
        """The names of modules that were read, in order, and no more looking at this container. Blocks; safe to repeat."""
        with self._lock:
            descriptor = self._watches.pop(spec.container_id, None)
        if descriptor is None:
            return []
        try:
            return names_of(_opened(descriptor))
        finally:
            os.close(descriptor)

    def learned(self, spec: ContainerSpec) -> None:
        """Something new was seen: there may be more."""
        if spec.recipe is not None:
            with self._lock:
                self._looks[spec.recipe.layers] = 0

    def close(self) -> None:
        with self._lock:
            for descriptor in self._watches.values():
                os.close(descriptor)
            self._watches.clear()


def names_of(paths: Sequence[str]) -> list[str]:
    """The modules of installed packages among these files, in order."""
    found: dict[str, None] = {}
    for path in paths:
        if (match := _MODULE.search(path)) is None:
            continue
        directories = match[1].replace("__pycache__/", "").split("/")[:-1]
        name = ".".join([*directories, *([] if match[2] == "__init__" else [match[2]])])
        if name and not any(part == "__main__" or part[:1].isdigit() for part in name.split(".")):
            found[name] = None
    return list(found)[:MOST_NAMES]


def _watch(root: Path) -> int:
    descriptor = _libc.fanotify_init(_NOTIFY, os.O_RDONLY | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "fanotify_init")
    if _libc.fanotify_mark(descriptor, _FILESYSTEM, ctypes.c_uint64(_OPENED), -100, os.fsencode(root)) < 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, "fanotify_mark")
    return descriptor


def _opened(descriptor: int) -> list[str]:
    paths: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while data := os.read(descriptor, _READ_BYTES):
            offset = 0
            while offset + _EVENT.size <= len(data):
                length, _, _, _, _, opened, _ = _EVENT.unpack_from(data, offset)
                offset += length
                if opened >= 0:
                    with contextlib.suppress(OSError):
                        paths.append(os.readlink(f"/proc/self/fd/{opened}"))  # noqa: PTH115 (no path, but what the kernel calls it)
                    os.close(opened)
    return paths
